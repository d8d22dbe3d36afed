#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# What is installed, the launcher, and bash completion.
#
#   tests/launch.sh BUILD-DIRECTORY
set -eu

build=$(realpath "$1")
work=$(mktemp -d /tmp/rlm-launch.XXXXXX)
trap 'rm -rf "$work"' EXIT

wrong() {
	echo "FAILED: $*"
	exit 1
}

# is_status EXPECTED COMMAND...
is_status() {
	local expected=$1 status=0
	shift
	"$@" >"$work/out" 2>&1 || status=$?
	[ $status = "$expected" ] || wrong "$*: status $status, not $expected: $(cat "$work/out")"
}

DESTDIR=$work/root cmake --install "$build" --prefix /usr >"$work/install" || wrong "$(cat "$work/install")"
for file in bin/rlm-run bin/rlmctl bin/rlm-bench sbin/rlmd include/rlm/rlm.h share/man/man1/rlm-run.1 share/man/man1/rlmctl.1 \
	share/man/man5/rlmd.conf.5 share/man/man7/librlm.7 share/man/man8/rlmd.8 share/bash-completion/completions/rlmctl; do
	[ -s "$work/root/usr/$file" ] || wrong "$file is not installed"
done
[ -n "$(find "$work/root" -name librlm.so -size +0)" ] || wrong "librlm.so is not installed"
[ -n "$(find "$work/root" -name rlmd.service -size +0)" ] || wrong "rlmd.service is not installed"

run=$build/rlm-run
is_status 7 "$run" sh -c 'exit 7'
is_status 127 "$run" "$work/nothing"
is_status 125 "$run"
is_status 125 "$run" -x true
is_status 125 env RLM_LIBRARY="$work/nothing" "$run" true
# Others' libraries stay, behind ours.
[ "$(LD_PRELOAD='' "$run" printenv LD_PRELOAD)" = "$build/librlm.so" ] || wrong "LD_PRELOAD is $(cat "$work/out")"
[ "$(LD_PRELOAD=libc.so.6 "$run" printenv LD_PRELOAD)" = "$build/librlm.so libc.so.6" ] || wrong "an existing LD_PRELOAD is lost"
[ "$("$run" -s /nowhere/sock -o "$work/log" -d sh -c 'echo $RLM_SOCKET $RLM_LOG $RLM_LOG_FILE')" = "/nowhere/sock debug $work/log" ] ||
	wrong "options are not passed on"

# shellcheck source=/dev/null
. "$work/root/usr/share/bash-completion/completions/rlmctl"
complete_is() {
	local expected=$1
	shift
	COMP_WORDS=("$@")
	COMP_CWORD=$(($# - 1))
	_rlmctl
	[ "${COMPREPLY[*]}" = "$expected" ] || wrong "completion of '$*' is '${COMPREPLY[*]}', not '$expected'"
}
complete_is "status stats" rlmctl st
complete_is "--json" rlmctl --j
complete_is "connections" rlmctl --socket /x co
echo ok
