# SPDX-License-Identifier: BSD-2-Clause
# shellcheck shell=bash
# The part of run.sh that measures: TCP over netfront and netback against rings, between u1 and u2. The two take turns, several times over;
# measure.py makes the table of medians, and says which goals are missed. That alone is no failure: how fast an emulated machine is depends on
# what else this one does. Fails when something does not work, or is not accelerated.
#
#   RLM_XEN_ROUNDS   how often (default: 3)
#   RLM_XEN_ROWS     a pattern: only these rows, as 'stream 64K*'
#   RLM_XEN_SPIN     RLM_SPIN of the programs (librlm(7)). To wake another domain takes more than a millisecond under emulation, tens of
#                    microseconds elsewhere: the default, 8000000, is to the one what the library's own is to the other
#
# Connections that end with their first request are never moved with the settings that users get: what is measured is whether librlm slows them down.
# RLM_PROMOTE=eager offers each of them to the broker all the same, which does; that is a row of its own.

# Processor seconds that Xen gave to each domain, and the time: "u2 u1 dom0 now"
processor_seconds() {
	on dom0 "xl list | awk '{ t[\$1] = \$NF } END { printf \"%s %s %s \", t[\"u2\"], t[\"u1\"], t[\"Domain-0\"] }'; cut -d ' ' -f 1 /proc/uptime"
}

# noted NAME CARRIER VALUE BEFORE AFTER
noted() {
	printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" \
		"$(echo "$4 $5" | awk '{ for (i = 1; i <= 3; i++) printf "%s%.1f", (i > 1 ? "\t" : ""), ($(i + 4) - $i) * 100 / ($8 - $4) }')" \
		>>"$work/measure"
}

# What looking at the time itself takes, and the domains with nothing to do.
measure_idle() {
	local before after
	before=$(processor_seconds)
	on u2 'sleep 5'
	after=$(processor_seconds)
	noted idle none 0 "$before" "$after"
}

# measure_one NAME JQ-FILTER CARRIER OPTION...: appends "name carrier value, percent of a processor: u2, u1, dom0", tab-separated.
measure_one() {
	local name=$1 filter=$2 carrier=$3 settings='' before after
	shift 3
	[ "$carrier" = tcp ] || settings="$preload $spin"
	[ "$name $carrier" != "$defaults ring" ] || settings="LD_PRELOAD=/opt/librlm.so $spin"
	background u1 bench "env $settings rlm-bench server -1 -q" && listens u1 5301 || return 1
	before=$(processor_seconds)
	on_timeout=400 on u2 "env $settings timeout 360 rlm-bench client -c 10.0.2.11 --json $*" >"$work/measure.json" || return 1
	after=$(processor_seconds)
	ended u1 bench || return 1
	if [ "$carrier" = ring ] && [[ $name != connections* ]] && [ "$(jq '.tests[0].client.carrier.ring_bytes' "$work/measure.json")" = 0 ]; then
		echo "$name was not accelerated"
		return 1
	fi
	noted "$name" "$carrier" "$(jq -r ".tests[0] | $filter" "$work/measure.json")" "$before" "$after"
}

# Both carriers, one after the other.
measure_pair() {
	local name=$1 filter=$2
	shift 2
	# shellcheck disable=SC2053
	[[ $name == ${RLM_XEN_ROWS:-*} ]] || return 0
	measure_one "$name" "$filter" tcp "$@" && measure_one "$name" "$filter" ring "$@"
}

part_measure() {
	local size round name defaults='connections, 1/s' spin=RLM_SPIN=${RLM_XEN_SPIN:-8000000}
	all_start || return 1
	: >"$work/measure"
	for ((round = 1; round <= ${RLM_XEN_ROUNDS:-3}; round++)); do
		measure_idle
		for size in 64 512 4K 64K 1M; do
			measure_pair "stream $size, MB/s" '.client.tx.bytes / .client.cpu.wall_s / 1e6' -T 5 -s $size || return 1
		done
		for size in 64 1K 16K; do
			measure_pair "round trip $size, us" '.client.times.mean_ns / 1000' -m rr -T 5 -s $size || return 1
		done
		for name in "$defaults" 'connections eager'; do
			measure_pair "$name" '.client.times.per_second' -m crr -T 5 -s 64 || return 1
		done
		echo "round $round is done"
	done
	"$here/measure.py" "$work/measure" || return 1
	all_end && nothing_left
}
