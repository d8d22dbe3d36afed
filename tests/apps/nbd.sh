# SPDX-License-Identifier: BSD-2-Clause
# Network block devices: many requests under way at once, over several connections, answered by threads.
# shellcheck shell=bash
packages=(nbdkit libnbd-bin)

nbd_copy() {
	local uri=nbd://$server_address:1809

	random_file "$work/64m" 64
	server 1809 nbdkit -f -p 1809 memory 64000000
	client nbdcopy --connections=4 --requests=32 "$work/64m" "$uri" || fail "nbdcopy to the server: status $?"
	client nbdcopy --connections=4 --requests=32 "$uri" "$dir/got" || fail "nbdcopy: status $?"
	same_file "$work/64m" "$dir/got"
	need 2 100000000
	say "128 MB"
}

row "nbdkit, nbdcopy" ring nbd_copy promote=eager
