#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Programs that nobody here wrote, bare and with both ends preloaded, as a table.
#
#   tests/apps/run.sh [NAME...]     NAME as in tests/apps/NAME.sh; all without one
#
# RLM_BUILD: the build directory (default: build). RLM_PRELOAD: what to preload instead of librlm.so alone, for sanitizer builds.
# RLM_APPS_KEEP=1 keeps the logs. Needs root for its network namespaces.
set -u

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
build=${RLM_BUILD:-$root/build}
preload=${RLM_PRELOAD:-$build/librlm.so}
[ "$(id -u)" = 0 ] || exec sudo -E "$0" "$@"

# shellcheck source=tests/apps/lib.sh
. "$here/lib.sh"

all=(examples iperf3 redis nginx memcached socat asyncio alone)
[ $# -gt 0 ] || set -- "${all[@]}"

install_packages() {
	local package missing=()
	for package in "$@"; do
		dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
	done
	[ ${#missing[@]} = 0 ] && return
	# A package's own service must not start: the rows start their own servers on their own ports.
	[ -e /usr/sbin/policy-rc.d ] || { printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d && policy=yes; }
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
	[ -z "${policy:-}" ] || rm -f /usr/sbin/policy-rc.d
}

for file in librlm.so rlmd rlmctl; do
	[ -e "$build/$file" ] || die "$build/$file is missing: build first"
done
wanted=(iproute2 jq python3)
for name in "$@"; do
	[ -e "$here/$name.sh" ] || die "no such program: $name (there are: ${all[*]})"
	mapfile -t -O ${#wanted[@]} wanted < <(sed -n 's/^packages=(\(.*\))$/\1/p' "$here/$name.sh" | tr ' ' '\n')
done
install_packages "${wanted[@]}" || die "packages cannot be installed: ${wanted[*]}"

setup
header
for name in "$@"; do
	# shellcheck source=/dev/null
	. "$here/$name.sh"
done
[ ${#failures[@]} = 0 ] || printf 'failed: %s\n' "${failures[@]}"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
