#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# iperf3 in two network namespaces, bare and with librlm, on a fresh Debian 12. Run it as root or with sudo at hand.
# It installs what is missing, builds, measures both ways in turn, and leaves nothing running behind.
#
#   examples/demo.sh [ROUNDS [SECONDS]]      3 rounds of 3 seconds by default
set -euo pipefail
export LC_ALL=C

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=${RLM_BUILD:-$root/build}
rounds=${1:-3}
seconds=${2:-3}

# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"

die() {
	echo "demo: $*" >&2
	exit 1
}

# First half, as the user who called: packages and build. Second half, as root: namespaces.
if [ "${RLM_DEMO_BUILT:-}" != yes ]; then
	[ "$(id -u)" = 0 ] || command -v sudo >/dev/null || die "needs root or sudo"
	install_packages "${build_packages[@]}" iproute2 iperf3 jq || die "packages cannot be installed"
	echo "Building in $build"
	build_in "$build" || die "the build failed"
	as_root env RLM_DEMO_BUILT=yes RLM_BUILD="$build" "$root/examples/demo.sh" "$rounds" "$seconds"
	exit
fi

for file in librlm.so rlmd rlmctl; do
	[ -e "$build/$file" ] || die "$build/$file is missing"
done

work=$(mktemp -d /tmp/rlm-demo.XXXXXX)
a=rlm-demo-$$-a
b=rlm-demo-$$-b
server_address=10.77.0.1
pids=()
export RLM_SOCKET=$work/rlmd.sock

cleanup() {
	trap - EXIT INT TERM HUP
	local pid
	for pid in "${pids[@]}"; do
		kill "$pid" 2>/dev/null || true
	done
	wait 2>/dev/null || true
	ip netns del "$a" 2>/dev/null || true
	ip netns del "$b" 2>/dev/null || true
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

namespaces() {
	ip netns add "$a"
	ip netns add "$b"
	ip -n "$a" link add veth0 type veth peer name veth0 netns "$b"
	ip -n "$a" address add "$server_address/24" dev veth0
	ip -n "$b" address add 10.77.0.2/24 dev veth0
	for ns in "$a" "$b"; do
		ip -n "$ns" link set lo up
		ip -n "$ns" link set veth0 up
	done
}

start_broker() {
	: >"$work/rlmd.conf"
	"$build/rlmd" --socket "$RLM_SOCKET" --config "$work/rlmd.conf" >"$work/rlmd.log" 2>&1 &
	pids+=($!)
	within 5 test -S "$RLM_SOCKET" || die "rlmd does not start: $(cat "$work/rlmd.log")"
}

ctl() {
	"$build/rlmctl" --socket "$RLM_SOCKET" "$@"
}

# Bytes that the kernel's network between the two namespaces has carried so far, both directions.
wire_bytes() {
	ip -n "$a" -s -j link show dev veth0 | jq '.[0].stats64 | .rx.bytes + .tx.bytes'
}

# measure MODE: one iperf3 run; sets gbit, moved (bytes iperf3 says it received) and wire (bytes the network carried).
measure() {
	local env=() server before client
	[ "$1" = bare ] || env=(env LD_PRELOAD="$build/librlm.so")

	ip netns exec "$a" "${env[@]}" iperf3 -s -1 >"$work/server.log" 2>&1 &
	server=$!
	pids+=("$server")
	within 5 eval "ip netns exec $a ss -Hltn 'sport = :5201' | grep -q ." || die "the iperf3 server does not start: $(cat "$work/server.log")"
	before=$(wire_bytes)
	ip netns exec "$b" "${env[@]}" timeout $((seconds + 10)) iperf3 -c "$server_address" -t "$seconds" -J >"$work/client.json" &
	client=$!
	pids+=("$client")
	if [ "$1" != bare ]; then
		sleep "$(jq -n "$seconds * 0.7")"
		ctl connections --json >"$work/connections.json" || true
	fi
	wait "$client" || die "iperf3 failed: $(jq -r '.error // "no message"' "$work/client.json" 2>/dev/null || cat "$work/client.json")"
	wire=$(($(wire_bytes) - before))
	wait "$server" || true
	pids=("${pids[0]}")
	gbit=$(jq '.end.sum_received.bits_per_second / 1e9' "$work/client.json")
	moved=$(jq '.end.sum_received.bytes' "$work/client.json")
}

median() {
	jq -n '[inputs] | sort | if length % 2 == 1 then .[length / 2 | floor] else (.[length / 2 - 1] + .[length / 2]) / 2 end'
}

megabytes() {
	jq -nr "($1) / 1e6 * 10 | round / 10"
}

# What the connection table of each process says in the middle of the last run, and the totals of all runs.
proof() {
	echo
	echo "Proof that the bytes went through shared memory:"
	jq -r '.connections[] | select(.tx_bytes_ring + .rx_bytes_ring > 1e6) |
		"  library, in mid-run: \(.command) (pid \(.pid)) \(.local) -> \(.remote): sends by \(.tx_carrier), receives by \(.rx_carrier), "
		+ "\((.tx_bytes_ring + .rx_bytes_ring) / 1e6 | floor) MB by ring, \((.tx_bytes_plain + .rx_bytes_plain) / 1e6 * 10 | round / 10) MB by TCP"' \
		"$work/connections.json"
	ctl stats --json >"$work/stats.json"
	jq -r '"  broker, all '"$rounds"' runs: \(.counters.matches) connections joined; \(.totals.tx_bytes_ring / 1e6 | floor) MB sent by ring, "
		+ "\(.totals.tx_bytes_plain / 1e6 * 10 | round / 10) MB by TCP"' "$work/stats.json"
	echo "  kernel, last run: iperf3 received $(megabytes "$moved") MB; the network between the namespaces carried $(megabytes "$wire") MB"
	[ "$(jq '.totals | .tx_bytes_ring > 10 * .tx_bytes_plain and .tx_bytes_ring > 1e6' "$work/stats.json")" = true ] ||
		die "most bytes did not go through shared memory"
}

namespaces
start_broker
echo "iperf3 between two network namespaces, $rounds rounds of $seconds s each way:"
for ((round = 1; round <= rounds; round++)); do
	measure bare
	echo "$gbit" >>"$work/bare"
	printf '  round %d   bare %6.1f Gbit/s' "$round" "$gbit"
	measure librlm
	echo "$gbit" >>"$work/librlm"
	printf '   librlm %6.1f Gbit/s\n' "$gbit"
done
bare=$(median <"$work/bare")
librlm=$(median <"$work/librlm")
echo
printf 'median: bare %.1f Gbit/s, with librlm %.1f Gbit/s, ratio %.2f\n' "$bare" "$librlm" "$(jq -n "$librlm / $bare")"
proof
