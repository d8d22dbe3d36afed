# SPDX-License-Identifier: BSD-2-Clause
# shellcheck shell=bash
# The parts of run.sh. Each leaves the bed as it found it: no rlmd running, no process of its own.

preload='LD_PRELOAD=/opt/librlm.so RLM_PROMOTE=eager'

# until_on SECONDS HOST CONDITION: waits in the guest until the shell command succeeds.
until_on() {
	on "$2" "end=\$((\$(cut -d . -f 1 /proc/uptime) + $1))
		until { $3; } >/dev/null 2>&1; do
			[ \$(cut -d . -f 1 /proc/uptime) -lt \$end ] || { echo 'never true: $3'; exit 1; }
			sleep 0.1
		done"
}

domid() {
	on "$1" 'xenstore-read domid'
}

# background HOST NAME COMMAND: goes on after the agent's session; output in /tmp/NAME.log, process number in /tmp/NAME.pid.
background() {
	on "$1" "setsid sh -c 'echo \$\$ >/tmp/$2.pid; exec $3' >/tmp/$2.log 2>&1 </dev/null &
		while [ ! -s /tmp/$2.pid ]; do sleep 0.05; done"
}

# end HOST NAME [SIGNAL]
end() {
	on "$1" "[ -s /tmp/$2.pid ] || exit 0
		kill -${3:-TERM} \$(cat /tmp/$2.pid)
		while kill -0 \$(cat /tmp/$2.pid); do sleep 0.05; done 2>/dev/null
		rm -f /tmp/$2.pid"
}

rlmd_start() {
	local host
	for host in "$@"; do
		background "$host" rlmd "/opt/rlmd --log debug" || return 1
		until_on 20 "$host" 'grep -q ready /tmp/rlmd.log' || return 1
	done
}

rlmd_end() {
	local host
	for host in "$@"; do
		end "$host" rlmd || return 1
	done
}

# Both domUs have registered with the broker.
registered() {
	local tries
	for tries in {1..50}; do
		[ "$(on dom0 'rlmctl domains --json' | jq '[.domains[] | select(.registered)] | length')" = 2 ] && return
		sleep 0.2
	done
	echo "not registered:"
	on dom0 'rlmctl domains'
	on dom0 'tail -n 20 /tmp/rlmd.log'
	on u1 'tail -n 20 /tmp/rlmd.log'
	return 1
}

all_start() {
	rlmd_start dom0 u1 u2 && registered
}

all_end() {
	rlmd_end u1 u2 dom0
}

# After a part that failed: ends whatever it left.
tidy() {
	local host
	for host in dom0 "${bed_domains[@]}"; do
		on "$host" 'for file in /tmp/*.pid; do
				[ ! -s $file ] || kill -KILL $(cat $file) 2>/dev/null
				rm -f $file
			done'
	done
}

# ring_bytes HOST: bytes that its processes, present and gone, have sent and received by ring.
ring_bytes() {
	on "$1" 'rlmctl stats --json' | jq '.totals.tx_bytes_ring + .totals.rx_bytes_ring'
}

# at_least WHAT NUMBER LEAST
at_least() {
	echo "$1: $2"
	[ "${2:-0}" -ge "$3" ] || {
		echo "$1 must be at least $3"
		return 1
	}
}

# What may not be left after everything has ended: nodes in xenstore, domains that nobody can free.
nothing_left() {
	local left
	left=$(on dom0 'xenstore-ls -f | grep -E "^/local/domain/[1-9][0-9]*/(data/rlm|rlm/control)"; xl list | grep -E "\(null\)|--ps-d"')
	[ -z "$left" ] || {
		echo "left behind: $left"
		return 1
	}
}

part_oracle() {
	local first second
	first=$(domid u1) second=$(domid u2)
	background u1 oracle "/opt/xen-oracle serve $second" || return 1
	until_on 20 u1 'grep -q serving /tmp/oracle.log' || { on u1 'cat /tmp/oracle.log'; return 1; }
	on u2 "xen-oracle view $first && xen-oracle attach $first" || { on u1 'cat /tmp/oracle.log'; return 1; }
	until_on 20 u1 'grep -q "there and back" /tmp/oracle.log' || return 1
	on u1 'cat /tmp/oracle.log'
}

part_register() {
	all_start || return 1
	on dom0 'rlmctl domains; rlmctl groups; rlmctl events'
	[ "$(on dom0 'rlmctl domains --json' | jq -r '[.domains[] | select(.registered) | .addresses[] | select(startswith("10.0.2."))] | sort | join(" ")')" = \
		"10.0.2.11 10.0.2.12" ] || return 1
	all_end && nothing_left
}

# bench SERVER CLIENT SETTINGS OPTION...: rlm-bench between two domains, prints JSON
bench() {
	local server=$1 client=$2 settings=$3
	shift 3
	background "$server" bench "env $settings rlm-bench server -1 -q" || return 1
	listens "$server" 5301 || return 1
	on_timeout=200 on "$client" "env $settings timeout 180 rlm-bench client -c ${bed_address[$server]} --json $*" || return 1
	ended "$server" bench
}

listens() {
	until_on 30 "$1" "cat /proc/net/tcp /proc/net/tcp6 | grep -q ':$(printf '%04X' "$2") [0-9A-F]*:0000 0A'"
}

# A background program has ended by itself.
ended() {
	until_on 60 "$1" "! kill -0 \$(cat /tmp/$2.pid)" && on "$1" "rm -f /tmp/$2.pid"
}

iperf3_run() {
	local server=$1 client=$2 settings=$3
	shift 3
	background "$server" iperf3 "env $settings iperf3 -s -1" || return 1
	listens "$server" 5201 || return 1
	on_timeout=180 on "$client" "env $settings timeout 150 iperf3 -c ${bed_address[$server]} $* --json"
}

gigabits() {
	jq -r '.end.sum_received.bits_per_second / 1e6 | floor | "\(.) Mbit/s"'
}

part_stream() {
	all_start || return 1
	echo "iperf3, TCP:  $(iperf3_run u1 u2 '' -n 16M | gigabits)"
	echo "iperf3, ring: $(iperf3_run u1 u2 "$preload" -n 64M | gigabits)"
	at_least "bytes by ring" "$(ring_bytes u2)" 32000000 || { evidence; return 1; }
	bench u1 u2 "$preload" --verify --bidir --bytes 16M >"$work/verify.json" || { cat "$work/verify.json"; evidence; return 1; }
	at_least "bytes by ring, each of them checked" "$(jq '.tests[0].client.carrier.ring_bytes' "$work/verify.json")" 16000000 ||
		{ evidence; return 1; }
	all_end && nothing_left
}

part_programs() {
	local before
	all_start || return 1
	background u1 redis "env $preload redis-server --save '' --bind 0.0.0.0 --protected-mode no" || return 1
	listens u1 6379 || return 1
	before=$(ring_bytes u2)
	on u2 "env $preload redis-benchmark -h 10.0.2.11 -n 4000 -c 8 -d 1024 -t set,get -q" || return 1
	at_least "redis-benchmark, bytes by ring" $(($(ring_bytes u2) - before)) 4000000 || { evidence; return 1; }
	end u1 redis || return 1
	on u1 'head -c 8000000 /dev/urandom >/tmp/file; mkdir -p /run/nginx
		printf "daemon off; user root; pid /run/nginx.pid; error_log stderr; events {} http { access_log off; server { listen 8080; root /tmp; } }" >/tmp/nginx.conf'
	background u1 nginx "env $preload nginx -c /tmp/nginx.conf" || return 1
	listens u1 8080 || return 1
	before=$(ring_bytes u2)
	[ "$(on u2 "env $preload curl -s http://10.0.2.11:8080/file | sha256sum")" = "$(on u1 'sha256sum </tmp/file')" ] || { echo "curl got something else"; return 1; }
	at_least "nginx and curl, bytes by ring" $(($(ring_bytes u2) - before)) 4000000 || { evidence; return 1; }
	end u1 nginx || return 1
	on u1 'rm -f /tmp/file'
	all_end && nothing_left
}

# group DOMAIN NAME: as an administrator puts a domain into a group; "" takes it out.
group() {
	on dom0 "path=/local/domain/$(domid "$1")/rlm/group
		if [ -n '$2' ]; then xenstore-write \$path '$2'; else xenstore-rm \$path; fi"
	until_on 10 dom0 "rlmctl domains | grep 'domain:$1 ' | grep -q ' ${2:-default} '"
}

part_groups() {
	local before
	all_start || return 1
	group u1 blue || return 1
	before=$(ring_bytes u2)
	iperf3_run u1 u2 "$preload" -n 8M | gigabits
	[ $(($(ring_bytes u2) - before)) = 0 ] || { echo "accelerated between groups"; return 1; }
	on dom0 'rlmctl events | grep -q other-group' || { echo "no event tells that the groups differ"; return 1; }
	group u2 blue || return 1
	iperf3_run u1 u2 "$preload" -n 32M | gigabits
	at_least "bytes by ring within the group" $(($(ring_bytes u2) - before)) 16000000 || { evidence; return 1; }
	group u1 '' && group u2 '' || return 1
	all_end && nothing_left
}

part_dom0() {
	local before
	all_start || return 1
	before=$(ring_bytes dom0)
	iperf3_run dom0 u1 "$preload" -n 32M | gigabits
	iperf3_run u2 dom0 "$preload" -n 32M | gigabits
	at_least "bytes by ring from and to dom0" $(($(ring_bytes dom0) - before)) 32000000 || { evidence; return 1; }
	all_end && nothing_left
}

# A process is killed, then an rlmd: the rest goes on, and what they had is given back.
part_crash() {
	local server
	all_start || return 1
	for server in u1 u2; do
		background $server iperf3 "env $preload iperf3 -s -1" || return 1
		listens $server 5201 || return 1
	done
	background u2 client "env $preload iperf3 -c 10.0.2.11 -t 60" || return 1
	until_on 30 u2 'rlmctl connections | grep -q " ring "' || { evidence; return 1; }
	end u1 iperf3 KILL || return 1
	ended u2 client || { echo "the client does not notice"; evidence; return 1; }
	on u2 'tail -n 2 /tmp/client.log'
	background u1 client "env $preload iperf3 -c 10.0.2.12 -t 8" || return 1
	until_on 30 u1 'rlmctl connections | grep -q " ring "' || { evidence; return 1; }
	for server in u1 u2 dom0; do
		end $server rlmd KILL || return 1
	done
	ended u1 client || { echo "the client does not end"; evidence; return 1; }
	on u1 'tail -n 4 /tmp/client.log; grep -q receiver /tmp/client.log' || { echo "the stream broke when rlmd was killed"; return 1; }
	all_start || return 1
	iperf3_run u1 u2 "$preload" -n 32M | gigabits
	at_least "bytes by ring after the restart" "$(ring_bytes u2)" 16000000 || { evidence; return 1; }
	all_end && nothing_left
}

# A domain is destroyed in the middle of a stream.
part_destroy() {
	all_start || return 1
	background u1 iperf3 "env $preload iperf3 -s -1" || return 1
	listens u1 5201 || return 1
	background u2 client "env $preload iperf3 -c 10.0.2.11 -t 300" || return 1
	until_on 30 u2 'rlmctl connections | grep -q " ring "' || { evidence; return 1; }
	on dom0 'xl destroy u1' || return 1
	until_on 20 dom0 'rlmctl events | grep -q domain-gone' || { evidence; return 1; }
	# Nobody maps its memory any more, or it would stay in the list without a name.
	until_on 20 dom0 '[ $(xl list | tail -n +2 | wc -l) = 2 ]' || { on dom0 'xl list'; evidence; return 1; }
	on dom0 'xl list'
	# The stream is on TCP now, where nobody answers.
	until_on 20 u2 'rlmctl connections | grep -q plain' || { evidence; return 1; }
	on u2 'kill -0 $(cat /tmp/client.pid)' || { echo "the client saw an error that TCP does not show"; on u2 'tail /tmp/client.log'; return 1; }
	end u2 client KILL || return 1
	bed_create u1 || return 1
	bed_install "$work"/opt/* || return 1
	rlmd_start u1 && registered || return 1
	iperf3_run u1 u2 "$preload" -n 32M | gigabits
	at_least "bytes by ring with the new domain" "$(ring_bytes u1)" 16000000 || { evidence; return 1; }
	all_end && nothing_left
}

# The broker comes late, goes, and comes back; guests do, too.
part_restart() {
	rlmd_start u1 u2 dom0 && registered || return 1
	rlmd_end dom0 || return 1
	until_on 20 u1 'grep -q "broker is gone" /tmp/rlmd.log' || { evidence; return 1; }
	iperf3_run u1 u2 "$preload" -n 4M | gigabits
	rlmd_start dom0 && registered || return 1
	rlmd_end u2 && rlmd_start u2 && registered || return 1
	iperf3_run u1 u2 "$preload" -n 32M | gigabits
	at_least "bytes by ring" "$(ring_bytes u2)" 16000000 || { evidence; return 1; }
	all_end && nothing_left
}

evidence() {
	local host
	for host in dom0 u1 u2; do
		echo "--- $host"
		on "$host" 'tail -n 25 /tmp/rlmd.log; rlmctl connections; rlmctl events | tail -n 15'
	done
}

# One line of the table: NAME JQ-FILTER OPTION..., by TCP and by ring. CPU: of both programs, and of dom0, in percent of one processor.
measure_line() {
	local name=$1 filter=$2 settings before after seconds row='' values=()
	shift 2
	for settings in '' "$preload"; do
		before=$(dom0_seconds)
		seconds=$SECONDS
		bench u1 u2 "$settings" "$@" >"$work/measure.json" || return 1
		seconds=$((SECONDS - seconds))
		after=$(dom0_seconds)
		values+=("$(jq -r ".tests[0] | $filter" "$work/measure.json")")
		row+=$(jq -r --argjson dom0 "$(awk "BEGIN { print ($after - $before) * 100 / ($seconds ? $seconds : 1) }")" \
			".tests[0] | [($filter), .client.cpu.percent, .server.cpu.percent, \$dom0] | map(. * 10 | round / 10 | tostring) | join(\" \")" "$work/measure.json")' '
	done
	# shellcheck disable=SC2086
	printf '%-22s %10s %6s %6s %6s   %10s %6s %6s %6s   %6s\n' "$name" $row "$(jq -n "${values[1]} / ${values[0]} * 10 | round / 10")"
}

dom0_seconds() {
	on dom0 "xl list | awk '\$1 == \"Domain-0\" { print \$NF }'"
}

part_measure() {
	local size
	all_start || return 1
	printf '%-22s %31s   %31s   %6s\n' '' 'TCP  (CPU %: u2, u1, dom0)' 'ring  (CPU %: u2, u1, dom0)' ratio
	for size in 512 4K 64K; do
		measure_line "stream $size, MB/s" '.client.tx.bytes / .client.cpu.wall_s / 1e6' -T 4 -s $size || return 1
	done
	for size in 64 1K 16K; do
		measure_line "round trip $size, us" '.client.times.mean_ns / 1000' -m rr -T 4 -s $size || return 1
	done
	measure_line "connections per second" '.client.times.per_second' -m crr -T 4 -s 64 || return 1
	all_end && nothing_left
}
