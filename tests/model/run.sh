#!/bin/bash
# Checks the models exhaustively: correct variants must pass, broken ones must fail in the expected way.
# usage: run.sh [full]    full: larger configurations, too (several minutes, 4 GB)
set -u
cd "$(dirname "$0")" || exit 1
here=$PWD
for tool in spin gcc; do
	command -v $tool >/dev/null || { echo "$tool not found"; exit 77; }
done
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' INT TERM

# model, expected result, flags. pass: no error; halts: no cycle either; wrong: an assertion; stuck: invalid end state
variants() {
	cat <<-END
	cutover pass  -DREADERS=1 -DBYTES=3
	cutover pass  -DREADERS=1 -DCAP=2 -DRING=3
	cutover pass  -DREADERS=2 -DROUNDS=1 -DBYTES=5
	cutover pass  -DREADERS=2 -DSTAYS
	cutover halts -DREADERS=2 -DROUNDS=1 -DBYTES=2
	cutover wrong -DREADERS=1 -DBROKEN_FREE_BEFORE_READ
	cutover stuck -DREADERS=1 -DSTAYS -DBROKEN_NO_CUT
	cutover stuck -DBROKEN_END_BEFORE_PAST
	END
	for v in $(grep -o 'BROKEN_[A-Z_]*' cutover.pml | sort -u | grep -v -e NO_CUT -e FREE_BEFORE_READ -e END_BEFORE_PAST); do
		echo "cutover wrong -D$v"
	done
	cat <<-END
	wakeup  pass  -DBLOCKED=1 -DPOLLING=0 -DITEMS=3
	wakeup  pass  -DBLOCKED=1 -DPOLLING=1 -DITEMS=1
	wakeup  pass  -DRING=2 -DBLOCKED=2 -DPOLLING=0
	wakeup  pass  -DRING=2 -DBLOCKED=0 -DPOLLING=2
	wakeup  pass  -DRING=2 -DBLOCKED=0 -DPOLLING=2 -DONE_INSTANCE
	wakeup  pass  -DLIGHT_OFFERS -DBLOCKED=1 -DPOLLING=0 -DITEMS=3
	wakeup  pass  -DLIGHT_OFFERS -DRING=2 -DBLOCKED=2 -DPOLLING=0
	wakeup  pass  -DLIGHT_OFFERS -DRING=2 -DBLOCKED=0 -DPOLLING=2 -DONE_INSTANCE
	wakeup  halts -DBLOCKED=1 -DPOLLING=0
	wakeup  wrong -DRING=2 -DBLOCKED=2 -DPOLLING=0 -DBROKEN_CLEAR_FOR_ALL
	wakeup  wrong -DRING=2 -DBLOCKED=2 -DPOLLING=0 -DBROKEN_WAKE_ONE
	wakeup  wrong -DRING=2 -DBLOCKED=0 -DPOLLING=2 -DBROKEN_DRAINED
	wakeup  wrong -DRING=2 -DBLOCKED=0 -DPOLLING=2 -DONE_INSTANCE -DBROKEN_NO_PASS_ON
	wakeup  wrong -DLIGHT_OFFERS -DBLOCKED=1 -DPOLLING=0 -DBROKEN_NO_BARRIER
	wakeup  wrong -DLIGHT_OFFERS -DRING=2 -DBLOCKED=2 -DPOLLING=0 -DBROKEN_BARRIER_UNLOCKED
	END
	for v in BELL_AFTER_CHECK BELL_ONLY HELPER_SILENT LISTEN_AFTER_CHECK NO_FENCE_PUBLISHER NO_FENCE_WAITER NO_SEQUENCE SLEEP_AGAIN; do
		echo "wakeup  wrong -DBLOCKED=1 -DPOLLING=0 -DITEMS=3 -DBROKEN_$v"
	done
	echo "lock    pass"
	for v in $(grep -o 'BROKEN_[A-Z_]*' lock.pml | sort -u); do
		echo "lock    wrong -D$v"
	done
	if [ "${1:-}" = full ]; then
		echo "cutover pass  -DREADERS=2"
		echo "cutover pass  -DREADERS=2 -DBYTES=3 -DCAP=3"
		echo "wakeup  pass  -DRING=2 -DBLOCKED=1 -DPOLLING=1"
		echo "cutover pass  -DREADERS=1 -DROUNDS=3 -DCAP=2 -DBYTES=5"
		echo "wakeup  pass  -DRING=1 -DITEMS=2 -DBLOCKED=1 -DPOLLING=1"
	fi
}

# One variant in a directory of its own; the last line of its log is the verdict.
check() { # directory model expected flags...
	local d=$1 model=$2 expected=$3 result safety=-DSAFETY optimize=-O0 run=
	shift 3
	mkdir "$d" && cd "$d" || return
	if [ "$expected" = halts ]; then
		safety=-DNP # no progress states at all: every cycle is an error
		run=-l
	fi
	case $expected in
	pass | halts) optimize=-O2 ;; # the long searches
	esac
	if ! { spin -a "$@" "$here/$model.pml" && gcc -w $optimize $safety -DCOLLAPSE -DMEMLIM=1900 -o pan pan.c; } >build 2>&1; then
		result=unbuilt
	else
		./pan -m20000 -w22 $run >log 2>&1
		if grep -q '^pan.*assertion violated' log; then result=wrong
		elif grep -q '^pan.*invalid end state' log; then result=stuck
		elif grep -q '^pan.*non-progress cycle' log; then result=cycle
		elif grep -qE 'Search not completed|max search depth too small|reached -DMEMLIM|out of memory' log; then result=truncated
		elif ! grep -q 'errors: 0' log; then result=failed
		elif [ "$expected" = halts ]; then result=halts
		else result=pass
		fi
	fi
	printf '%-7s %-68s %9s states  %-6s expected %-6s %s\n' "$model" "$*" "$(awk '/states, stored/ { print $1 }' log 2>/dev/null)" \
		"$result" "$expected" "$([ "$result" = "$expected" ] && echo ok || echo FAILED)" >verdict
	cat verdict
	rm -f pan pan.*
}

n=0
while read -r model expected flags; do
	while [ "$(jobs -rp | wc -l)" -ge 2 ]; do
		wait -n
	done
	check "$dir/$n" "$model" "$expected" $flags &
	n=$((n + 1))
done < <(variants "${1:-}")
wait

passed=$(cat "$dir"/*/verdict | grep -c ' ok$')
echo "$passed passed, $((n - passed)) failed"
[ "$n" -gt 0 ] && [ "$passed" -eq "$n" ]
