# SPDX-License-Identifier: BSD-2-Clause
# shellcheck shell=bash
# The part of run.sh that measures: TCP over netfront and netback against rings, between u1 and u2. The two take turns, several times over;
# measure.py makes the table of medians. RLM_XEN_ROUNDS: how often (default: 3).

# Processor seconds that Xen gave to each domain, and the time: "u2 u1 dom0 now"
processor_seconds() {
	on dom0 "xl list | awk '{ t[\$1] = \$NF } END { printf \"%s %s %s \", t[\"u2\"], t[\"u1\"], t[\"Domain-0\"] }'; cut -d ' ' -f 1 /proc/uptime"
}

# measure_one NAME JQ-FILTER CARRIER OPTION...: appends "name carrier value, percent of a processor: u2, u1, dom0", tab-separated.
measure_one() {
	local name=$1 filter=$2 carrier=$3 settings='' before after
	shift 3
	[ "$carrier" = tcp ] || settings=$preload
	background u1 bench "env $settings rlm-bench server -1 -q" && listens u1 5301 || return 1
	before=$(processor_seconds)
	on_timeout=400 on u2 "env $settings timeout 360 rlm-bench client -c 10.0.2.11 --json $*" >"$work/measure.json" || return 1
	after=$(processor_seconds)
	ended u1 bench || return 1
	# Connections that end with their first request end before they could be moved: what counts is that they do not become slower.
	if [ "$carrier" = ring ] && [[ $name != connections* ]] && [ "$(jq '.tests[0].client.carrier.ring_bytes' "$work/measure.json")" = 0 ]; then
		echo "$name was not accelerated"
		return 1
	fi
	printf '%s\t%s\t%s\t%s\n' "$name" "$carrier" "$(jq -r ".tests[0] | $filter" "$work/measure.json")" \
		"$(echo "$before $after" | awk '{ for (i = 1; i <= 3; i++) printf "%s%.1f", (i > 1 ? "\t" : ""), ($(i + 4) - $i) * 100 / ($8 - $4) }')" \
		>>"$work/measure"
}

# Both carriers, one after the other.
measure_pair() {
	local name=$1 filter=$2
	shift 2
	measure_one "$name" "$filter" tcp "$@" && measure_one "$name" "$filter" ring "$@"
}

part_measure() {
	local size round
	all_start || return 1
	: >"$work/measure"
	for ((round = 1; round <= ${RLM_XEN_ROUNDS:-3}; round++)); do
		for size in 64 512 4K 64K 1M; do
			measure_pair "stream $size, MB/s" '.client.tx.bytes / .client.cpu.wall_s / 1e6' -T 3 -s $size || return 1
		done
		for size in 64 1K 16K; do
			measure_pair "round trip $size, us" '.client.times.mean_ns / 1000' -m rr -T 3 -s $size || return 1
		done
		measure_pair 'connections, 1/s' '.client.times.per_second' -m crr -T 3 -s 64 || return 1
		echo "round $round is done"
	done
	"$here/measure.py" "$work/measure" || return 1
	all_end && nothing_left
}
