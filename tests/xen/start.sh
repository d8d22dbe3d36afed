# SPDX-License-Identifier: BSD-2-Clause
# shellcheck shell=bash disable=SC2034,SC2154
# What run.sh and migrate.sh have in common: their options, root, packages, the bed with our programs in it, and the parts in turn. Sourced by both.
#
#   options "ALL" "MORE" "SWITCHES" ARGUMENT...   parts: those asked for, or all; each switch that is given becomes yes, --type has a value
#   as_root_again ARGUMENT...
#   needs PROGRAM...                              of the build directory
#   parts_run                                     and the summary

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$here/../..
build=$(realpath "${RLM_BUILD:-$root/build}")
# shellcheck source=tests/lib.sh
. "$here/../lib.sh"
# shellcheck source=tests/xen/bed.sh
. "$here/bed.sh"
# shellcheck source=tests/xen/parts.sh
. "$here/parts.sh"

type=pvh keep=no long=no
parts=()
dom0s=(dom0) # of all machines
repeated=()  # parts
faults_known=0

options() {
	local all=$1 more=$2 switches=$3
	shift 3
	while [ $# -gt 0 ]; do
		if [ "$1" = --type ] && [[ ${2:-} =~ ^(pv|pvh)$ && " $switches " == *" --type "* ]]; then
			type=$2
			shift
		elif [[ $1 == --* && " $switches " == *" $1 "* && $1 != --type ]]; then
			declare -g "${1#--}=yes"
		elif [[ " $all $more " == *" $1 "* ]]; then
			parts+=("$1")
		else
			echo "$0: what is \"$1\"? Options: $switches. Parts: $all $more" >&2
			exit 2
		fi
		shift
	done
	[ ${#parts[@]} -gt 0 ] || read -ra parts <<<"$all"
}

as_root_again() {
	[ "$(id -u)" = 0 ] || exec sudo -E "$0" "$@"
}

needs() {
	local program
	install_packages qemu-system-x86 qemu-utils seabios ipxe-qemu debootstrap cpio kmod e2fsprogs lz4 python3 jq || exit 1
	for program in "$@"; do
		[ -e "$build/$program" ] || {
			echo "$0: no $build/$program: build first, with libxen-dev installed" >&2
			exit 1
		}
	done
	# A kernel that groups processes by session weighs sessions first, then the processes of one against each other.
	[ -z "${RLM_XEN_NICE:-}" ] || { renice -n "$RLM_XEN_NICE" $$ && echo "$RLM_XEN_NICE" >/proc/$$/autogroup; } >/dev/null 2>&1
	work=$(mktemp -d /tmp/rlm-xen.XXXXXX)
	trap cleanup EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP
	mkdir "$work/opt"
	for program in "$@"; do
		cp "$build/$program" "$work/opt/"
	done
	strip -g "$work"/opt/*
}

cleanup() {
	trap - EXIT INT TERM HUP
	machines_stop
	rm -rf "$work"
}

# After a part that failed: ends whatever it left. If the emulator has ended a domain meanwhile the part has proved nothing: it is repeated, at most twice.
tidily() {
	local tries=1 faults
	until "$@"; do
		evidence
		tidy
		faults=$(emulator_faults)
		[ "$faults" -gt "$faults_known" ] || return 1
		faults_known=$faults
		[ $tries -lt 3 ] || {
			echo "== the emulator has ended a domain for the third time (ARCHITECTURE.md): ${1#part_} is given up"
			return 1
		}
		echo "== the emulator has ended a domain (ARCHITECTURE.md): ${1#part_} does not count, and once more with new domains"
		domains_again || return 1
		repeated+=("${1#part_}")
		tries=$((tries + 1))
	done
}

parts_run() {
	local name
	for name in "${parts[@]}"; do
		part "$name" tidily "part_$name"
	done
	if [ "$keep" = yes ]; then
		for name in "${!bed_port[@]}"; do
			echo "$name: $here/on.py ${bed_port[$name]} COMMAND"
		done
		echo "Press Enter to end it."
		read -r
	fi
	[ ${#repeated[@]} = 0 ] || echo "repeated, for the emulator had ended a domain: ${repeated[*]}"
	summary
}
