# SPDX-License-Identifier: BSD-2-Clause
# memcached: several threads, each with its own epoll, connections handed between them.
# shellcheck shell=bash
packages=(memcached python3)

memcached_load() {
	server 11300 memcached -u root -l 0.0.0.0 -p 11300 -U 0 -t 4 -m 256 -I 4m
	client /usr/bin/python3 "$here/memcached_load.py" "$server_address" 11300 >"$dir/out" || fail "$(tail -n 1 "$dir/client.log")"
	need 8 10000000
	say "$(tail -n 1 "$dir/out")"
}

row "memcached -t 4" ring memcached_load
