# SPDX-License-Identifier: BSD-2-Clause
# socat: files through TCP in both directions, an echo through a forked child.
# shellcheck shell=bash
packages=(socat)

# The end of the server is the end of the transfer: it has everything only then.
server_done() {
	! listens "$1" && [ -z "$(ip netns exec "$ns_server" ss -Htn state established "sport = :$1")" ]
}

socat_send() {
	random_file "$work/100m" 100
	server 7001 socat -u TCP-LISTEN:7001,reuseaddr OPEN:"$dir/got",creat,trunc
	client socat -u FILE:"$work/100m" TCP:"$server_address":7001 || fail "socat: status $?"
	wait_for server_done 7001 || fail "the server still has its connection"
	wait_for cmp -s "$work/100m" "$dir/got" || same_file "$work/100m" "$dir/got"
	need 1 20000000
	say "100 MB right"
}

socat_receive() {
	random_file "$work/100m" 100
	server 7002 socat -u FILE:"$work/100m" TCP-LISTEN:7002,reuseaddr
	client socat -u TCP:"$server_address":7002 OPEN:"$dir/got",creat,trunc || fail "socat: status $?"
	same_file "$work/100m" "$dir/got"
	need 1 20000000
	say "100 MB right"
}

socat_ipv6() {
	random_file "$work/100m" 100
	server 7003 socat -b 65536 -u FILE:"$work/100m" TCP6-LISTEN:7003,reuseaddr
	client socat -b 65536 -u TCP6:"[$server_address6]":7003 OPEN:"$dir/got",creat,trunc || fail "socat: status $?"
	same_file "$work/100m" "$dir/got"
	need 1 20000000
	say "100 MB right"
}

# The echo is a child per connection (fork) with a pipe to cat. The client half-closes and reads to the end.
socat_fork() {
	local i
	random_file "$work/5m" 5
	server 7004 socat TCP-LISTEN:7004,reuseaddr,fork EXEC:cat
	for i in 1 2 3; do
		client socat -t 10 STDIO TCP:"$server_address":7004 <"$work/5m" >"$dir/got.$i" || fail "socat: status $?"
		same_file "$work/5m" "$dir/got.$i"
	done
	say "3 x 5 MB right"
}

row "socat, file to server" ring socat_send
row "socat, file from server" ring socat_receive
row "socat, IPv6, 64 KiB blocks" ring socat_ipv6
row "socat, fork, EXEC:cat" any socat_fork
