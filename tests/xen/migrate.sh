#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Live migration, save and restore on real Xen, without a Xen host: two emulated machines, two domains that talk to one another.
#
#   tests/xen/migrate.sh [--type pvh|pv] [--long] [--keep] [PART...]
#
# PARTS: save old local refused broker lost hosts; all without one. All but the last take one machine, that of run.sh. save and hosts: redis under
# redis-benchmark, iperf3 and a checked stream both ways run between u1 and u2, while these are saved and restored, or move from host to host; 4 moves, or 12
# with --long, by xl migrate and rlmctl migrate in turn. The same without librlm (4 moves) is the yardstick; the table at the end compares.
# PV domains cannot be moved live, for Debian's hypervisor is built without what that takes; save, old and broker do without, and lost damages their memory.
# --keep, RLM_BUILD, RLM_XEN_NICE: as in run.sh. The last line is "N passed, N failed".
set -u

# shellcheck source=tests/xen/start.sh
. "$(dirname "${BASH_SOURCE[0]}")/start.sh"
# shellcheck source=tests/xen/moves.sh
. "$here/moves.sh"

options 'save old local refused broker lost hosts' '' '--type --keep --long' "$@"
as_root_again "$@"
moves=(u1 u2 u1 u2)
[ "$long" = no ] || moves+=(u2 u1 u2 u1 u1 u1 u2 u2)
on_timeout=300
needs rlmd rlmctl librlm.so xen-stream xen-hold
if [[ " ${parts[*]} " == *" hosts "* ]]; then
	# shellcheck source=tests/xen/hosts.sh
	. "$here/hosts.sh"
	dom0s+=(hostb)
	machines_stop() {
		hosts_stop
	}
	hosts_start "$work" || exit 1
	bed_domains+=(hostb) # installs there, too
else
	machines_stop() {
		bed_stop
	}
	bed_start "$work" "$type" || exit 1
fi
bed_install "$work"/opt/* || exit 1
bed_domains=(u1 u2)
bed_boot_seconds=300 # one that is up already and does not answer for so long has died
for name in "${dom0s[@]}"; do # slow machines
	on "$name" 'mkdir -p /etc/rlm && echo "quiesce_time = 20" >/etc/rlm/rlmd.conf' || exit 1
done
bed_say "programs are installed"
parts_run
