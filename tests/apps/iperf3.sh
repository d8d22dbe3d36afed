# SPDX-License-Identifier: BSD-2-Clause
# iperf3: select() and blocking writes, one control connection beside the measured ones.
# shellcheck shell=bash
packages=(iperf3)

# iperf_run STREAMS OPTION...
iperf_run() {
	local streams=$1 received
	shift
	server 5201 iperf3 -s -1
	client iperf3 -c "$server_address" -J "$@" >"$dir/out.json" ||
		fail "$(jq -r '.error // "no message"' "$dir/out.json")"
	jq -e '.error == null' "$dir/out.json" >/dev/null || fail "$(jq -r .error "$dir/out.json")"
	received=$(jq '.end | .sum_received.bytes + (.sum_received_bidir_reverse.bytes // 0)' "$dir/out.json")
	[ "$received" -gt 1000000 ] || fail "only $received bytes received"
	need "$streams" $((received * 8 / 10))
	say "$(jq -r '.end.sum_received.seconds as $s | '"$received"' * 8 / 1e9 / $s * 10 | round / 10' "$dir/out.json") Gbit/s"
}

# Numbers of bytes: in two seconds a busy machine moves next to nothing, and half of that before the promotion.
iperf_one() { iperf_run 1 -n 4G; }
iperf_parallel() { iperf_run 4 -n 4G -P 4; }
iperf_reverse() { iperf_run 1 -n 4G -R; }
iperf_bidir() { iperf_run 2 -n 4G --bidir; }
iperf_ipv6() { server_address=$server_address6 iperf_run 1 -n 4G -6; }
iperf_small() { iperf_run 1 -l 1000 -N -n 300M; }

row "iperf3" ring iperf_one
row "iperf3 -P 4" ring iperf_parallel
row "iperf3 -R" ring iperf_reverse
row "iperf3 --bidir" ring iperf_bidir
row "iperf3 -6" ring iperf_ipv6
row "iperf3 -l 1000 -N" ring iperf_small
