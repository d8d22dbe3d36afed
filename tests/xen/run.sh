#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# librlm on real Xen, without a Xen host: dom0 and two domUs under QEMU's software emulation, made from Debian packages.
#
#   tests/xen/run.sh [--type pv|pvh] [--keep] [PART...]
#
# Domains are PV by default. PVH ones run on the stock hypervisor as well, but without hardware virtualization their packets and wake-ups cost
# about four times as much, so less is sent there.
# PARTS: oracle register stream programs groups dom0 crash destroy restart faults hostile; all without one. Also: measure, which prints a table.
# --keep leaves the machine running and says how to give commands to it. RLM_BUILD: the build directory (default: build).
# The first run downloads and boots, later ones go on from a kept state (see bed.sh). The last line is "N passed, N failed".
set -u

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$here/../..
build=$(realpath "${RLM_BUILD:-$root/build}")
# shellcheck source=tests/lib.sh
. "$here/../lib.sh"
# shellcheck source=tests/xen/bed.sh
. "$here/bed.sh"
# shellcheck source=tests/xen/parts.sh
. "$here/parts.sh"
# shellcheck source=tests/xen/faults.sh
. "$here/faults.sh"
# shellcheck source=tests/xen/measure.sh
. "$here/measure.sh"

arguments=("$@")
type=pv
keep=no
parts=()
all='oracle register stream programs groups dom0 crash destroy restart faults hostile'
while [ $# -gt 0 ]; do
	case $1 in
	--type)
		type=$2
		shift
		;;
	--keep) keep=yes ;;
	*)
		[[ " $all measure " == *" $1 "* ]] || {
			echo "run.sh: no such part: $1; there are: $all measure" >&2
			exit 2
		}
		parts+=("$1")
		;;
	esac
	shift
done
[ ${#parts[@]} -gt 0 ] || read -ra parts <<<"$all"

[ "$(id -u)" = 0 ] || exec sudo -E "$0" "${arguments[@]}"
install_packages qemu-system-x86 qemu-utils seabios ipxe-qemu debootstrap cpio kmod e2fsprogs lz4 python3 jq || exit 1
for program in rlmd rlmctl rlm-bench librlm.so xen-oracle xen-hostile; do
	[ -e "$build/$program" ] || {
		echo "run.sh: no $build/$program: build first, with libxen-dev installed" >&2
		exit 1
	}
done

work=$(mktemp -d /tmp/rlm-xen.XXXXXX)
cleanup() {
	trap - EXIT INT TERM HUP
	bed_stop
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

bed_start "$work" "$type" || {
	echo "run.sh: the test bed does not run here; nothing was tested" >&2
	exit 1
}
mkdir "$work/opt"
cp "$build"/{rlmd,rlmctl,rlm-bench,librlm.so,xen-oracle,xen-hostile} "$work/opt/"
strip -g "$work"/opt/*
bed_install "$work"/opt/* || exit 1
bed_say "programs are installed"
tidily() {
	"$@" || {
		tidy
		return 1
	}
}

for name in "${parts[@]}"; do
	part "$name" tidily "part_$name"
done
if [ "$keep" = yes ]; then
	for name in dom0 "${bed_domains[@]}"; do
		echo "$name: $here/on.py ${bed_port[$name]} COMMAND"
	done
	echo "Press Enter to end it."
	read -r
fi
summary
