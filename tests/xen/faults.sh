# SPDX-License-Identifier: BSD-2-Clause
# shellcheck shell=bash
# Parts of run.sh: what is short, slow, absent or hostile.

# ring_to SERVER CLIENT: a short stream, and whether it went by ring
ring_to() {
	local before
	before=$(ring_bytes "$2")
	iperf3_run "$1" "$2" "$preload" -n $(volume 32) | gigabits
	at_least "bytes by ring, $2 to $1" $(($(ring_bytes "$2") - before)) $(volume 7) || return 1
}

# tcp_to SERVER CLIENT LOG-PATTERN HOST...: it arrives all the same, by TCP; HOSTs show why, and the first one's rlmd says more
tcp_to() {
	local server=$1 client=$2 pattern=$3 before host
	shift 3
	before=$(ring_bytes "$client")
	background "$server" iperf3 "env $preload iperf3 -s -1" && listens "$server" 5201 || return 1
	background "$client" client "env $preload iperf3 -c ${bed_address[$server]} -t 20 -b 1M -l 8K" || return 1
	for host in "$@"; do
		until_on 60 "$host" 'rlmctl connections | grep "limit reached"' || { on "$host" 'rlmctl connections'; return 1; }
		on "$host" 'rlmctl connections | grep "limit reached"'
	done
	ended "$client" client && on "$client" 'grep receiver /tmp/client.log' || { on "$client" 'cat /tmp/client.log'; return 1; }
	ended "$server" iperf3 || return 1
	[ $(($(ring_bytes "$client") - before)) = 0 ] || { echo "it went by ring"; return 1; }
	on "$1" "grep '$pattern' /tmp/rlmd.log" || { echo "no log line says \"$pattern\""; return 1; }
}

# xenstored does not answer for a while.
fault_slow() {
	background u1 iperf3 "env $preload iperf3 -s -1" && listens u1 5201 || return 1
	background u2 client "env $preload iperf3 -c 10.0.2.11 -t 15 -b 20M" || return 1
	until_on 60 u2 'rlmctl connections | grep -q " ring "' || return 1
	on dom0 'kill -STOP $(cat /run/xenstored.pid)'
	end u2 rlmd KILL # the broker wants to tidy up after it
	until_on 60 dom0 'grep "xenstored does not answer" /tmp/rlmd.log' || { on dom0 'kill -CONT $(cat /run/xenstored.pid)'; return 1; }
	on dom0 'sleep 2; kill -CONT $(cat /run/xenstored.pid)'
	until_on 60 dom0 'grep "xenstored answers again" /tmp/rlmd.log' || return 1
	ended u2 client && on u2 'grep receiver /tmp/client.log' || { on u2 'cat /tmp/client.log'; return 1; }
	end u1 iperf3
	rlmd_start u2 && registered
}

# A domain has used up what xenstore allows it.
fault_quota() {
	local status=0
	rlmd_end u2 || return 1
	# Fifty at a time, as long as these fit, and the last ones one by one. Several directories: these are limited, too.
	on u2 'fill() { xenstore-write $(i=0; while [ $i -lt $1 ]; do echo data/fill/$(((fit + i) / 100))/$(((fit + i) % 100)) x; i=$((i + 1)); done); }
		fit=0
		while [ $fit -lt 3000 ] && fill 50; do fit=$((fit + 50)); done
		while [ $fit -lt 3000 ] && fill 1; do fit=$((fit + 1)); done
		echo "$fit nodes fit"
		[ $fit -lt 3000 ]' || return 1
	rlmd_start u2 && tcp_to u1 u2 'cannot tell xenstore' u2 || status=1
	on u2 'xenstore-rm data/fill'
	registered && return $status
}

fault_pages() {
	on u1 'cat /sys/module/xen_gntalloc/parameters/limit >/tmp/limit; echo 1 >/sys/module/xen_gntalloc/parameters/limit'
	tcp_to u1 u2 'cannot grant a segment: No space left on device' u1 u2 || return 1
	on u1 'cat /tmp/limit >/sys/module/xen_gntalloc/parameters/limit'
}

fault_ports() {
	background u1 hog '/opt/xen-hostile ports' || return 1
	until_on 120 u1 'grep took /tmp/hog.log' || return 1
	on u1 'cat /tmp/hog.log'
	tcp_to u1 u2 'cannot make a doorbell: No space left on device' u1 u2 || return 1
	end u1 hog
}

part_faults() {
	local fault
	all_start || return 1
	for fault in slow quota pages ports; do
		echo "- $fault"
		"fault_$fault" || return 1
		ring_to u1 u2 || return 1
	done
	all_end && nothing_left
}

# What rlmd in HOST has open, and its memory in KiB
rlmd_size() {
	on "$1" 'pid=$(cat /tmp/rlmd.pid); echo $(ls /proc/$pid/fd | wc -l) $(sed -n "s/^VmRSS: *\([0-9]*\).*/\1/p" /proc/$pid/status)'
}

# While u2 does its worst the others go on, and afterwards nothing of it is left.
part_hostile() {
	local before after
	rlmd_start dom0 u1 || return 1
	background u1 redis "env $preload redis-server --save '' --bind 0.0.0.0 --protected-mode no" && listens u1 6379 || return 1
	until_is 60 1 registered_count || return 1
	before=$(rlmd_size dom0)
	redis_load dom0 1000 4 set || return 1
	background u2 hostile '/opt/xen-hostile channel' || return 1
	until_on 120 dom0 'rlmctl events | grep -q "domain:u2.*a message of impossible size"' || { on u2 'cat /tmp/hostile.log'; return 1; }
	# rlmctl has an answer all the while.
	on_timeout=600 on dom0 'slowest=0
		for i in $(seq 30); do
			start=$(cut -d . -f 1 /proc/uptime)
			rlmctl connections >/tmp/connections && rlmctl domains >/tmp/domains || exit 1
			grep -q "domain:u1 " /tmp/domains || { cat /tmp/domains; exit 1; }
			took=$(($(cut -d . -f 1 /proc/uptime) - start))
			[ $took -le $slowest ] || slowest=$took
			sleep 1
		done
		echo "the slowest answer took $slowest s"; [ $slowest -lt 20 ]' || return 1
	redis_load dom0 1000 4 set || return 1
	on_timeout=400 until_on 300 u2 '! kill -0 $(cat /tmp/hostile.pid)' || { on u2 'cat /tmp/hostile.log'; return 1; }
	on u2 'rm /tmp/hostile.pid; cat /tmp/hostile.log; ! grep -q xen-hostile: /tmp/hostile.log' || return 1
	on_timeout=400 on u2 'xen-hostile link 10.0.2.11 6379' || return 1
	# Both rlmds and the redis whose links it spoiled are there yet, and as big as before.
	on dom0 'kill -0 $(cat /tmp/rlmd.pid) && rlmctl domains' && on u1 'kill -0 $(cat /tmp/rlmd.pid) && kill -0 $(cat /tmp/redis.pid)' ||
		return 1
	rlmd_start u2 && registered || return 1
	redis_load u2 1000 4 set || return 1
	at_least "redis-benchmark from u2, bytes by ring" "$(ring_bytes u2)" $(volume 0.9) || return 1
	ring_to u1 dom0 || return 1
	after=$(rlmd_size dom0)
	echo "descriptors and KiB of dom0's rlmd: $before before, $after after"
	[ "${after% *}" -le $((${before% *} + 10)) ] && [ "${after#* }" -le $((${before#* } + 20000)) ] || { echo "it has grown"; return 1; }
	end u1 redis
	all_end && nothing_left
}
