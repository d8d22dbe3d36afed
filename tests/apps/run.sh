#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Programs that nobody here wrote, bare and with both ends preloaded, as a table.
#
#   tests/apps/run.sh [NAME...]     NAME as in tests/apps/NAME.sh; without one: all but the slow ones, which --all adds and tests/run.sh wants
#
# With --all several run at a time, each with namespaces and a broker of its own; RLM_APPS_JOBS says how many (default: 3, since many only wait).
# RLM_BUILD: the build directory (default: build). RLM_PRELOAD: what to preload instead of librlm.so alone, for sanitizer builds.
# RLM_APPS_KEEP=1 keeps the logs. Needs root for its network namespaces.
set -u
export LC_ALL=C

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
build=${RLM_BUILD:-$root/build}
[ "$(id -u)" = 0 ] || exec sudo -E "$0" "$@"

# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"
# shellcheck source=tests/apps/lib.sh
. "$here/lib.sh"

quick=(examples iperf3 iperf2 redis nginx memcached socat asyncio alone)
# Those that take longest come first.
slow=(cpython_socket cpython_asyncio cpython_ssl cpython cpython_processes company postgres ssh inetd rsync ftp haproxy proxies php puma mariadb apache java node erlang rabbitmq tomcat mpi samba nbd mosquitto)
jobs=1
[ $# -gt 0 ] || set -- "${quick[@]}"
if [ "$1" = --all ]; then
	jobs=${RLM_APPS_JOBS:-3}
	set -- "${slow[@]}" "${quick[@]}"
fi

install_what_is_needed() {
	local name wanted=(iproute2 jq python3)
	for name in "$@"; do
		[ -e "$here/$name.sh" ] || die "no such program: $name (there are: ${quick[*]} ${slow[*]})"
		mapfile -t -O ${#wanted[@]} wanted < <(sed -n 's/^packages=(\(.*\))$/\1/p' "$here/$name.sh" | tr ' ' '\n' | grep .)
	done
	install_packages "${wanted[@]}" || die "packages cannot be installed: ${wanted[*]}"
}

one_after_another() {
	local name
	setup
	# Where also servers that give up root can read it.
	cp "$build/librlm.so" "$work"
	preload=${RLM_PRELOAD:-$(sanitizer_library "$build/librlm.so") $work/librlm.so}
	for name in "$@"; do
		# shellcheck source=/dev/null
		. "$here/$name.sh"
	done
}

# What one says comes out in one piece when it is through; its last line is the sum.
one_of_several() {
	local name=$1 status=0
	RLM_APPS_PART=yes "$0" "$name" >"$outputs/$name" 2>&1 || status=$?
	grep -q '^[0-9]* passed, [0-9]* failed$' "$outputs/$name" || printf 'failed: %s\n0 passed, 1 failed\n' "$name, status $status" >>"$outputs/$name"
	flock "$outputs" grep -v -e '^[0-9]* passed, [0-9]* failed$' -e '^failed: ' "$outputs/$name"
}

several_at_a_time() {
	local name
	outputs=$(mktemp -d /tmp/rlm-apps.XXXXXX)
	trap 'rm -rf "$outputs"' EXIT
	set -m # each in a process group, which one signal ends
	trap 'for name in $(jobs -p); do kill -- "-$name"; done; wait; exit 143' INT TERM HUP
	for name in "$@"; do
		[ "$(jobs -pr | wc -l)" -lt "$jobs" ] || wait -n
		one_of_several "$name" &
	done
	wait
	mapfile -t failures < <(sed -n 's/^failed: //p' "$outputs"/*)
	read -r passed failed < <(awk '/^[0-9]+ passed, [0-9]+ failed$/ { p += $1; f += $3 } END { print p, f }' "$outputs"/*)
}

for file in librlm.so rlmd rlmctl; do
	[ -e "$build/$file" ] || die "$build/$file is missing: build first"
done
[ -n "${RLM_APPS_PART:-}" ] || install_what_is_needed "$@"
[ -n "${RLM_APPS_PART:-}" ] || header
if [ "$jobs" -gt 1 ]; then
	several_at_a_time "$@"
else
	one_after_another "$@"
fi
[ ${#failures[@]} = 0 ] || printf 'failed: %s\n' "${failures[@]}"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
