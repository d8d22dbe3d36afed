# SPDX-License-Identifier: BSD-2-Clause
# Shared by the scripts that run tests, and by the demonstration: Debian packages, root, progress, waiting.
# shellcheck shell=bash disable=SC2034,SC2154

# What building needs, and what the tests need on top.
build_packages=(build-essential cmake pkg-config libev-dev libjansson-dev libconfuse-dev libpopt-dev libncurses-dev
	uthash-dev libbpf-dev libmnl-dev libcap-ng-dev libseccomp-dev libmicrohttpd-dev libxen-dev)
test_packages=(clang libclang-rt-dev libcmocka-dev python3 spin iproute2 nftables jq curl iperf3 redis-server redis-tools nginx-light memcached
	socat wrk util-linux procps liburing-dev)

as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo -E "$@"
	else
		echo "This needs root or sudo: $*" >&2
		return 1
	fi
}

installed() {
	dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'ok installed'
}

# Installs those that are missing. No service is started by it.
install_packages() {
	local package guard='' missing=() status=0

	for package in "$@"; do
		installed "$package" || missing+=("$package")
	done
	[ ${#missing[@]} = 0 ] && return
	echo "Installing ${missing[*]}"
	if [ ! -e /usr/sbin/policy-rc.d ]; then
		guard=yes
		printf '#!/bin/sh\nexit 101\n' | as_root tee /usr/sbin/policy-rc.d >/dev/null
		as_root chmod +x /usr/sbin/policy-rc.d
	fi
	as_root apt-get -o DPkg::Lock::Timeout=300 update -qq &&
		as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
		status=1
	[ -z "$guard" ] || as_root rm -f /usr/sbin/policy-rc.d
	return $status
}

# build_in DIRECTORY CMAKE-OPTION...: quiet unless it fails.
build_in() {
	local directory=$1 log status=0

	shift
	log=$(mktemp)
	{ cmake -S "$root" -B "$directory" "$@" && cmake --build "$directory" -j"$(nproc)"; } >"$log" 2>&1 || status=1
	[ $status = 0 ] || tail -n 60 "$log" >&2
	rm -f "$log"
	return $status
}

# within SECONDS COMMAND...: tries until it succeeds. For what no event tells.
within() {
	local end=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.05
	done
}

parts_passed=0
parts_failed=()

# part NAME COMMAND...: runs it, says how it went and how long it took, and counts it.
part() {
	local name=$1 start=$SECONDS

	shift
	echo "== $name"
	if "$@"; then
		parts_passed=$((parts_passed + 1))
		echo "== $name: passed ($((SECONDS - start)) s)"
	else
		parts_failed+=("$name")
		echo "== $name: FAILED ($((SECONDS - start)) s)"
	fi
}

# twice COMMAND...: what depends on time and chance. Once more then, and both outcomes are in the log.
twice() {
	"$@" || {
		echo "== FAILED once, and once more: ${1#"$root"/}"
		"$@"
	}
}

# part_script NAME SCRIPT ARGUMENT...: the same, if there is such a script.
part_script() {
	if [ -x "$2" ]; then
		part "$@"
	else
		echo "== $1: skipped, there is no ${2#"$root"/}"
	fi
}

summary() {
	[ ${#parts_failed[@]} = 0 ] || echo "failed: ${parts_failed[*]}"
	echo "$parts_passed passed, ${#parts_failed[@]} failed"
	[ ${#parts_failed[@]} = 0 ]
}
