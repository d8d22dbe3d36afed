#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Live migration, save and restore on real Xen, without a Xen host: two emulated machines, two domains that talk to one another.
#
#   tests/xen/migrate.sh [--long] [PART...]
#
# PARTS: save local refused broker hosts; all without one. The first four take one machine. hosts: redis under redis-benchmark, iperf3 and a checked
# stream both ways run between u1 and u2, while these move from host to host; 4 moves, or 12 with --long, by xl migrate and rlmctl migrate in turn.
# The same without librlm is the yardstick. RLM_BUILD: the build directory (default: build). The last line is "N passed, N failed".
set -u

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$here/../..
build=$(realpath "${RLM_BUILD:-$root/build}")
# shellcheck source=tests/lib.sh
. "$here/../lib.sh"
# shellcheck source=tests/xen/bed.sh
. "$here/bed.sh"
# shellcheck source=tests/xen/hosts.sh
. "$here/hosts.sh"
# shellcheck source=tests/xen/parts.sh
. "$here/parts.sh"
# shellcheck source=tests/xen/moves.sh
. "$here/moves.sh"

moves=4
on_timeout=300
parts=()
all='save local refused broker hosts'
while [ $# -gt 0 ]; do
	case $1 in
	--long) moves=12 ;;
	*)
		[[ " $all " == *" $1 "* ]] || {
			echo "migrate.sh: no such part: $1; there are: $all" >&2
			exit 2
		}
		parts+=("$1")
		;;
	esac
	shift
done
[ ${#parts[@]} -gt 0 ] || read -ra parts <<<"$all"

[ "$(id -u)" = 0 ] || exec sudo -E "$0" "${parts[@]}"
install_packages qemu-system-x86 qemu-utils seabios ipxe-qemu debootstrap cpio kmod e2fsprogs lz4 python3 jq || exit 1
for program in rlmd rlmctl librlm.so xen-stream; do
	[ -e "$build/$program" ] || {
		echo "migrate.sh: no $build/$program: build first, with libxen-dev installed" >&2
		exit 1
	}
done

work=$(mktemp -d /tmp/rlm-xen.XXXXXX)
cleanup() {
	trap - EXIT INT TERM HUP
	hosts_stop
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

machines=one
[[ " ${parts[*]} " != *" hosts "* ]] || machines=two
hosts_start "$work" $machines || exit 1
move_hosts=(dom0)
[ $machines = one ] || move_hosts+=(hostb)
mkdir "$work/opt"
cp "$build"/{rlmd,rlmctl,librlm.so,xen-stream} "$work/opt/"
strip -g "$work"/opt/*
[ $machines = one ] || bed_domains+=(hostb) # installs there, too
bed_install "$work"/opt/* || exit 1
bed_domains=(u1 u2)
for name in "${move_hosts[@]}"; do # slow machines
	on "$name" 'mkdir -p /etc/rlm && echo "quiesce_time = 20" >/etc/rlm/rlmd.conf' || exit 1
done
bed_say "programs are installed"
tidily() {
	"$@" && return
	stories
	tidy
	return 1
}

for name in "${parts[@]}"; do
	part "$name" tidily "part_$name"
done
summary
