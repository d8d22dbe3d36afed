#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Programs that nobody here wrote, bare and with both ends preloaded, as a table.
#
#   tests/apps/run.sh [NAME...]     NAME as in tests/apps/NAME.sh; without one: all but the slow ones, which --all adds
#
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
slow=(postgres ssh inetd rsync haproxy java node cpython)
[ $# -gt 0 ] || set -- "${quick[@]}"
[ "$1" != --all ] || set -- "${quick[@]}" "${slow[@]}"

for file in librlm.so rlmd rlmctl; do
	[ -e "$build/$file" ] || die "$build/$file is missing: build first"
done
wanted=(iproute2 jq python3)
for name in "$@"; do
	[ -e "$here/$name.sh" ] || die "no such program: $name (there are: ${quick[*]} ${slow[*]})"
	mapfile -t -O ${#wanted[@]} wanted < <(sed -n 's/^packages=(\(.*\))$/\1/p' "$here/$name.sh" | tr ' ' '\n' | grep .)
done
install_packages "${wanted[@]}" || die "packages cannot be installed: ${wanted[*]}"

setup
# Where also servers that give up root can read it.
cp "$build/librlm.so" "$work"
preload=${RLM_PRELOAD:-$(sanitizer_library "$build/librlm.so") $work/librlm.so}
header
for name in "$@"; do
	# shellcheck source=/dev/null
	. "$here/$name.sh"
done
[ ${#failures[@]} = 0 ] || printf 'failed: %s\n' "${failures[@]}"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
