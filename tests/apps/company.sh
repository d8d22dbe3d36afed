# SPDX-License-Identifier: BSD-2-Clause
# Other preloaded libraries beside librlm.so, in front of it and behind it: an allocator, a false clock, another one that knows sockets.
# shellcheck shell=bash disable=SC2016
packages=(python3 libjemalloc2 faketime proxychains4)

libraries=/usr/lib/$(uname -m)-linux-gnu

# What runs a command with preloads in front of librlm.so and behind it, '' for none.
in_company='front=$1 behind=$2; shift 2; LD_PRELOAD="$front ${LD_PRELOAD-} $behind" exec "$@"'

company_echo() {
	local around=(sh -c "$in_company" company "$1" "$2")
	printf 'strict_chain\nlocalnet 10.0.0.0/255.0.0.0\n[ProxyList]\nsocks4 127.0.0.1 9\n' >"$dir/proxychains.conf"
	around=(env FAKETIME=+2d PROXYCHAINS_CONF_FILE="$dir/proxychains.conf" "${around[@]}")
	server 8600 "${around[@]}" /usr/bin/python3 "$here/echo.py" server "$server_address" 8600
	client "${around[@]}" /usr/bin/python3 "$here/echo.py" blocking "$server_address" 8600 >"$dir/out" ||
		fail "$(tail -n 1 "$dir/client.log")"
	need 8 50000000
	say "$(tail -n 1 "$dir/out")"
}

jemalloc_front() { company_echo "$libraries/libjemalloc.so.2" ''; }
jemalloc_behind() { company_echo '' "$libraries/libjemalloc.so.2"; }
faketime_front() { company_echo "$libraries/faketime/libfaketimeMT.so.1" ''; }
proxychains_front() { company_echo "$libraries/libproxychains.so.4" ''; }
proxychains_behind() { company_echo '' "$libraries/libproxychains.so.4"; }

row "jemalloc in front of us" ring jemalloc_front
row "jemalloc behind us" ring jemalloc_behind
row "faketime in front of us" ring faketime_front
row "proxychains in front of us" ring proxychains_front
row "proxychains behind us" ring proxychains_behind
