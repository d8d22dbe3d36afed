#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# librlm on real Xen, without a Xen host: dom0 and two domUs under QEMU's software emulation, made from Debian packages.
#
#   tests/xen/run.sh [--type pvh|pv] [--keep] [PART...]
#
# Domains are PVH by default, on the stock hypervisor. Without hardware virtualization their packets and wake-ups cost several times what those of
# PV domains do, so less is sent between them.
# PARTS: oracle register stream programs groups dom0 crash destroy panic restart faults hostile; all without one. Also: measure, which prints a table.
# --keep leaves the machine running and says how to give commands to it. RLM_BUILD: the build directory (default: build). RLM_XEN_NICE: how nice
# all of it is to other programs. The first run downloads and boots, later ones go on from a kept state (see bed.sh). The last line is "N passed, N failed".
set -u

# shellcheck source=tests/xen/start.sh
. "$(dirname "${BASH_SOURCE[0]}")/start.sh"
# shellcheck source=tests/xen/faults.sh
. "$here/faults.sh"
# shellcheck source=tests/xen/measure.sh
. "$here/measure.sh"

options 'oracle register stream programs groups dom0 crash destroy panic restart faults hostile' measure '--type --keep' "$@"
as_root_again "$@"
machines_stop() {
	bed_stop
}
needs rlmd rlmctl rlm-bench librlm.so xen-oracle xen-hostile xen-stream
bed_start "$work" "$type" || {
	echo "run.sh: the test bed does not run here; nothing was tested" >&2
	exit 1
}
bed_install "$work"/opt/* || exit 1
bed_say "programs are installed"
parts_run
