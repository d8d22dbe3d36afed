# SPDX-License-Identifier: BSD-2-Clause
# iperf (2): blocking threads; asks for timestamps on its sockets and never reads them.
# shellcheck shell=bash
packages=(iperf)

# iperf2_run CONNECTIONS OPTION...
iperf2_run() {
	server 5002 iperf -s -p 5002
	client iperf -c "$server_address" -p 5002 -f g "${@:2}" >"$dir/out" || fail "status $?"
	need "$1" 100000000
	say "$(awk '/bits\/sec/ { rate = $(NF - 1) } END { print rate }' "$dir/out") Gbit/s"
}

# With a number of bytes it sets a time-out that is no time, by mistake, and the kernel refuses it.
iperf2_4() { iperf2_run 4 -P 4 -n 1G; }
iperf2_duplex() { iperf2_run 1 -t 4 --full-duplex; } # a number of bytes ends it by SIGABRT

row "iperf -P 4" ring iperf2_4
row "iperf --full-duplex" ring iperf2_duplex
