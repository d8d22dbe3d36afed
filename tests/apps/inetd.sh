# SPDX-License-Identifier: BSD-2-Clause
# inetd: a program per connection, with the socket as its standard input and output. These stay on TCP; the bytes must be right.
# shellcheck shell=bash
packages=(openbsd-inetd socat)

inetd_cat() {
	local i
	random_file "$work/5m" 5
	echo "7100 stream tcp nowait root /bin/cat cat" >"$dir/inetd.conf"
	server 7100 inetd -i "$dir/inetd.conf"
	for i in 1 2 3; do
		client socat -t 10 STDIO TCP:"$server_address":7100 <"$work/5m" >"$dir/got.$i" || fail "socat: status $?"
		same_file "$work/5m" "$dir/got.$i"
	done
	say "3 x 5 MB right"
}

row "inetd, cat" any inetd_cat promote=eager
