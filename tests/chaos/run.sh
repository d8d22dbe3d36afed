#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Checked streams while connections are switched and processes killed at random; see chaos.c.
#
#   tests/chaos/run.sh [SECONDS [SEED [OPTION...]]]     60 seconds and a new seed by default; options as for chaos
#
# RLM_BUILD: the build directory (default: build). RLM_PRELOAD: what to preload instead. CHAOS_GDB=1: stacks on failure.
#
# With sanitizers, whose run-time library goes in front of librlm.so by itself; leaks are not looked for in what is killed:
#
#   cmake -B build-asan -DRLM_SANITIZE=address,undefined && cmake --build build-asan -j
#   ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1 RLM_BUILD=build-asan tests/chaos/run.sh
#
# Not with TSan: it does not see what other processes write, and takes the fences that membarrier(2) makes for none.
set -eu

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
build=$(realpath "${RLM_BUILD:-$here/../../build}")
[ "$(id -u)" = 0 ] || exec sudo -E "$0" "$@"
seconds=${1:-60}
seed=${2:-$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}
shift $(($# > 2 ? 2 : $#))
servers=rlm-chaos-$$-s
clients=rlm-chaos-$$-c
work=$(mktemp -d /tmp/rlm-chaos.XXXXXX)
pid=

cleanup() {
	trap - EXIT INT TERM HUP
	[ -z "$pid" ] || kill "$pid" 2>/dev/null || true
	wait
	ip netns del "$servers" 2>/dev/null || true
	ip netns del "$clients" 2>/dev/null || true
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

ip netns add "$servers"
ip netns add "$clients"
ip -n "$servers" link add veth0 type veth peer name veth0 netns "$clients"
ip -n "$servers" address add 10.79.0.1/24 dev veth0
ip -n "$clients" address add 10.79.0.2/24 dev veth0
ip -n "$servers" address add fd79::1/64 dev veth0 nodad
ip -n "$clients" address add fd79::2/64 dev veth0 nodad
for ns in "$servers" "$clients"; do
	ip -n "$ns" link set lo up
	ip -n "$ns" link set veth0 up
done

# A sanitizer's run-time library must come first in LD_PRELOAD.
sanitizer=$(ldd "$build/librlm.so" 2>/dev/null | sed -n 's/.*=> \(\/.*lib[at]san[^ ]*\).*/\1/p' | head -n 1)
preload=${RLM_PRELOAD:-${sanitizer:+$sanitizer }$build/librlm.so}

"$build/chaos" --build "$build" --dir "$work" --seconds "$seconds" --seed "$seed" --netns "$servers,$clients" --preload "$preload" "$@" &
pid=$!
status=0
wait "$pid" || status=$?
pid=
exit "$status"
