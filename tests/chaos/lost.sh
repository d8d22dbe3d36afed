#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Moves that nobody announced: a checked stream between two domains is on the ring when one of them is elsewhere all of a sudden. Half of the
# times its shared memory reads all ones from that moment on, as in a PVH guest. Both ends must see a reset, or the whole stream: never a
# wrong byte, and never an orderly end before the last one.
#
#   tests/chaos/lost.sh [ROUNDS]     10 by default
#
# RLM_BUILD: the build directory (default: build).
set -eu

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/lib.sh
. "$here/../lib.sh"
build=$(realpath "${RLM_BUILD:-$here/../../build}")
[ "$(id -u)" = 0 ] || exec sudo -E "$0" "$@"
rounds=${1:-10}
work=$(mktemp -d /tmp/rlm-lost.XXXXXX)
domains=("rlm-lost-$$-0" "rlm-lost-$$-1")
brokers=()
resets=0

cleanup() {
	trap - EXIT INT TERM HUP
	for pid in $(ip netns pids "${domains[0]}") $(ip netns pids "${domains[1]}") "${brokers[@]}"; do
		kill "$pid" 2>/dev/null || true
	done
	wait
	ip netns del "${domains[0]}"
	ip netns del "${domains[1]}"
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# wait_for SECONDS COMMAND...
wait_for() {
	within "$@" || { echo "FAILED: not within $1 s: ${*:2}"; exit 1; }
}

ip netns add "${domains[0]}"
ip netns add "${domains[1]}"
ip -n "${domains[0]}" link add eth0 type veth peer name eth0 netns "${domains[1]}"
for i in 0 1; do
	ip -n "${domains[i]}" address add "10.84.0.$((i + 1))/24" dev eth0
	ip -n "${domains[i]}" link set lo up
	ip -n "${domains[i]}" link set eth0 up
done
for i in a b; do
	"$build/rlmd" --socket "$work/$i.sock" --host "$i" 2>/dev/null &
	brokers+=($!)
done
wait_for 5 test -S "$work/a.sock"
wait_for 5 test -S "$work/b.sock"

inside() {
	local domain=${domains[$1]}
	shift
	exec ip netns exec "$domain" env RLM_SOCKET="$work/a.sock" RLM_PROMOTE=eager LOST="$work/lost" LD_PRELOAD="$build/librlm.so" "$@"
}

is_accelerated() {
	"$build/rlmctl" --socket "$work/a.sock" --json connections |
		jq -e '[.connections[] | select(.tx_carrier == "ring" and .rx_carrier == "ring")] | length == 2'
}

# The last line of what an end said is either a reset or the whole of the stream.
judge() {
	local last
	last=$(tail -n 1 "$1")
	case $last in
	*"Connection reset by peer"* | *"Broken pipe"*) resets=$((resets + 1)) ;;
	sent*) ;;
	*)
		echo "FAILED: round $round, $1: $last"
		exit 1
		;;
	esac
}

for round in $(seq "$rounds"); do
	(inside 0 python3 "$here/stream.py" serve $((7000 + round))) >"$work/server" 2>&1 &
	server=$!
	wait_for 10 sh -c "ip netns exec ${domains[0]} ss -Hltn 'sport = :$((7000 + round))' | grep -q ."
	(inside 1 python3 "$here/stream.py" run 10.84.0.1 $((7000 + round)) "$round" 6) >"$work/client" 2>&1 &
	client=$!
	wait_for 10 is_accelerated
	# Now one, now the other.
	victim=$([ $((round % 4)) -lt 2 ] && echo 1 || echo 0)
	if [ $((round % 2)) = 0 ]; then
		rm -f "$work/lost"
		kill -USR1 "$(ip netns pids "${domains[victim]}" | head -n 1)"
		wait_for 5 test -e "$work/lost"
	fi
	"$build/rlmctl" --socket "$work/a.sock" --unannounced move "${domains[victim]}" "$work/b.sock" >/dev/null
	wait $client || true
	wait_for 10 test -s "$work/server"
	judge "$work/client"
	judge "$work/server"
	# Back, so that they are together again.
	"$build/rlmctl" --socket "$work/b.sock" --unannounced move "${domains[victim]}" "$work/a.sock" >/dev/null
	kill $server
	wait $server 2>/dev/null || true
done
[ "$resets" -ge "$rounds" ] || { echo "FAILED: only $resets of $((2 * rounds)) ends were reset"; exit 1; }
echo "$rounds moves without notice: $resets of $((2 * rounds)) ends reset, no wrong byte, no early end"
