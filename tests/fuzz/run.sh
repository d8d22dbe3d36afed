#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Builds the fuzz targets with clang and runs each for some seconds, with ASan and UBSan.
#
#   tests/fuzz/run.sh [SECONDS]    seconds for each target (default: 20)
#
# What was found is kept in the build directory (RLM_FUZZ_BUILD, default: build-fuzz) along with the corpus, which the next run goes on
# with. Exits 77 without clang or its fuzzer library.
set -u

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=${RLM_FUZZ_BUILD:-$root/build-fuzz}
seconds=${1:-20}
flags=(-std=gnu11 -O1 -g -Wall -D_GNU_SOURCE "-fsanitize=fuzzer,address,undefined" -fno-sanitize-recover=all
	-I"$root/include" -I"$root/lib/core" -I"$root/tests/unit")

mkdir -p "$build"
if ! echo 'int LLVMFuzzerTestOneInput(void) { return 0; }' |
	clang -fsanitize=fuzzer -x c - -o "$build/probe" 2>/dev/null; then
	echo "fuzz: skipped, there is no clang with libFuzzer"
	exit 77
fi

failed=0
for source in "$root"/tests/fuzz/fuzz_*.c; do
	name=$(basename "$source" .c)
	log=$build/$name.log
	mkdir -p "$build/$name.corpus"
	if [ "$name" = fuzz_session ]; then # all of rlmd but Xen and main()
		rlmd=("$root/daemon/xen_none.c")
		for part in "$root"/daemon/*.c; do
			case ${part##*/} in main.c | xen*) ;; *) rlmd+=("$part") ;; esac
		done
		clang "${flags[@]}" -I"$root/daemon" -DRLM_VERSION='"fuzz"' -fno-strict-aliasing "$source" "${rlmd[@]}" -o "$build/$name" \
			-lev -ljansson -lconfuse -lcap-ng -lseccomp -lbpf -lmnl -lmicrohttpd -lpthread || exit 1
	else
		meanwhile=()
		[ "$name" = fuzz_peer ] && meanwhile=(-include "$root/tests/fuzz/before_load.h")
		clang "${flags[@]}" "${meanwhile[@]}" "$source" "$root/tests/unit/ends.c" "$root"/lib/core/*.c -o "$build/$name" -lpthread || exit 1
	fi
	if "$build/$name" -max_total_time="$seconds" -timeout=10 -max_len=2048 -len_control=0 -print_final_stats=1 -close_fd_mask=1 \
		-artifact_prefix="$build/$name." "$build/$name.corpus" >"$log" 2>&1; then
		echo "$name: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs in $seconds s," \
			"$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1) edges, nothing found"
	else
		echo "$name: FAILED, see $log"
		tail -n 40 "$log"
		failed=1
	fi
done
exit $failed
