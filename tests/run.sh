#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Builds everything and runs all tests, on a fresh Debian 12, as root or with sudo at hand.
#
#   tests/run.sh [PART...]     build unit preload model apps chaos moves asan tsan; all without one. asan-preload and xen only by name
#
# The last line is "N passed, N failed", counted in parts; the exit status is 0 if none failed.
# RLM_BUILD: the build directory (default: build). CHAOS_SECONDS: how long the chaos test runs (default: 60).
# MOVES_SECONDS: how long programs run in domains that move (default: 30).
set -u

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"
build=${RLM_BUILD:-$root/build}
export RLM_BUILD=$build

unit() {
	ctest --test-dir "$build" --output-on-failure
}

moves() {
	"$root/tests/chaos/move.sh" "${MOVES_SECONDS:-30}" && "$root/tests/chaos/lost.sh"
}

asan_build() {
	build_in "$build-asan" -DRLM_SANITIZE=address,undefined
}

# The suite needs the run-time library in front of librlm.so; run.py sees to that. Leaks are the business of the unit tests:
# a differential test that fails half-way, or a forked child that leaves by _exit(), frees nothing.
asan_preload() {
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
		"$root/tests/preload/run.py" --build "$build-asan" --states ring test_bulk test_hostile test_poll test_poll_sleep test_recv &&
		ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 RLM_BUILD=$build-asan \
			"$root/tests/chaos/run.sh" 30
}

asan_unit() {
	ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
		ctest --test-dir "$build-asan" --output-on-failure
}

tsan() {
	build_in "$build-tsan" -DRLM_SANITIZE=thread -DCMAKE_C_COMPILER=clang && # gcc refuses fences under TSan
		TSAN_OPTIONS=halt_on_error=1 ctest --test-dir "$build-tsan" -L unit --output-on-failure
}

wanted() {
	[ ${#parts[@]} = 0 ] || [[ " ${parts[*]} " == *" $1 "* ]]
}

all='build unit preload model apps chaos moves asan asan-preload tsan xen'
parts=("$@")
for name in "${parts[@]}"; do
	[[ " $all " == *" $name "* ]] || {
		echo "run.sh: no such part: $name; there are: $all" >&2
		exit 2
	}
done

# Build as whoever called, so that the files are his; the rest needs root.
if [ "${RLM_TESTS_BUILT:-}" != yes ]; then
	install_packages "${build_packages[@]}" "${test_packages[@]}" || exit 1
	echo "== build in $build"
	build_in "$build" -DRLM_WERROR=ON || exit 1
	as_root env RLM_TESTS_BUILT=yes RLM_BUILD="$build" "$root/tests/run.sh" "$@"
	exit
fi

start=$SECONDS
wanted unit && part unit twice unit
if wanted preload; then
	part preload twice "$root/tests/preload/run.py" --build "$build" --jobs 6
	part preload-no-waitv twice "$root/tests/preload/run.py" --build "$build" --jobs 6 --no-waitv --states ring,flap
fi
wanted model && part_script model "$root/tests/model/run.sh"
wanted apps && part apps "$root/tests/apps/run.sh" --all # each row that fails is tried once more there
wanted chaos && part chaos twice "$root/tests/chaos/run.sh" "${CHAOS_SECONDS:-60}"
wanted moves && part moves twice moves
if wanted asan; then
	part asan-build asan_build
	part asan-unit twice asan_unit
fi
if [[ " ${parts[*]:-} " == *" asan-preload "* ]]; then
	part asan-build asan_build
	part asan-preload asan_preload
fi
wanted tsan && part tsan tsan
[[ " ${parts[*]:-} " != *" xen "* ]] || part_script xen "$root/tests/xen/run.sh"
echo "All in $((SECONDS - start)) s."
summary
