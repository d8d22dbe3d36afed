# SPDX-License-Identifier: BSD-2-Clause
# Whenever one of the two ends cannot take part, everything works as if librlm were not there, and rlmctl says why.
# shellcheck shell=bash
packages=(redis-server redis-tools python3)

alone_redis() {
	server 6400 redis-server --port 6400 --bind 0.0.0.0 --protected-mode no --save '' --dir "$dir"
	client redis-benchmark -h "$server_address" -p 6400 -c 10 -t set,get -n 30000 --csv >"$dir/out.csv" || fail "status $?"
	say "$(sed -n 's/^"GET","\([0-9]*\).*/\1/p' "$dir/out.csv") get/s"
	alone_hold
}

alone_files() {
	random_file "$work/100m" 100
	server 7005 socat -u FILE:"$work/100m" TCP-LISTEN:7005,reuseaddr
	client socat -u TCP:"$server_address":7005 OPEN:"$dir/got",creat,trunc || fail "socat: status $?"
	same_file "$work/100m" "$dir/got"
	say "100 MB right"
}

# A connection that is still there, and has been used for a while, when rlmctl is asked.
alone_hold() {
	server 8500 /usr/bin/python3 "$here/echo.py" server "$server_address" 8500
	client /usr/bin/python3 "$here/echo.py" hold "$server_address" 8500 >"$dir/hold" || true &
	wait_for grep -q ok "$dir/hold" || fail "no echo: $(tail -n 1 "$dir/client.log")"
	# An offer to find the peer stands for a second.
	[ "$mode" = bare ] || sleep 1.5
}

cat >"$work/groups.conf" <<-END
	group left { domain = { "netns:$ns_server" } }
	group right { domain = { "netns:$ns_client" } }
END
# Room for a few of the ten connections only.
cat >"$work/limits.conf" <<-END
	ring_size = 64K
	slots = 2
	memory_per_link = 300K
END

row "only the server preloaded" plain alone_redis sides=server why="peer has no librlm"
row "only the client preloaded" plain alone_redis sides=client why="peer has no librlm"
row "no broker" plain alone_redis broker=none
row "no broker, socat" plain alone_files broker=none
row "two brokers, as on two hosts" plain alone_redis broker=two
row "only the client preloaded, socat" plain alone_files sides=client
row "different groups" plain alone_redis config="$work/groups.conf" why="other group"
row "different groups, socat" plain alone_files config="$work/groups.conf"
row "memory for few connections" any alone_redis config="$work/limits.conf"
