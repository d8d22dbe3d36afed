# SPDX-License-Identifier: BSD-2-Clause
# shellcheck shell=bash
# The parts of run.sh. Each leaves the bed as it found it: no rlmd running, no process of its own.

preload='LD_PRELOAD=/opt/librlm.so RLM_PROMOTE=eager'

# volume MEGABYTES: in bytes; less for PVH domains, which are slow without hardware virtualization. Not much less: until a connection is on
# the ring, which takes half a second there, TCP's buffers have taken two megabytes.
volume() {
	awk "BEGIN { printf \"%d\", $1 * 1000000 / (\"$type\" == \"pvh\" ? 4 : 1) }"
}

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
		until_on 60 "$host" 'grep -q ready /tmp/rlmd.log' || return 1
	done
}

rlmd_end() {
	local host
	for host in "$@"; do
		end "$host" rlmd || return 1
	done
}

registered_count() {
	on dom0 'rlmctl domains --json' | jq '[.domains[] | select(.registered)] | length'
}

# Both domUs have registered with the broker.
registered() {
	local host
	until_is 60 2 registered_count && return
	echo "not registered:"
	on dom0 'rlmctl domains; xenstore-ls -f | grep -E "^/local/domain/[1-9][0-9]*/(data|rlm)/"'
	for host in dom0 u1 u2; do
		on $host 'grep -v "session ends" /tmp/rlmd.log | tail -n 20'
	done
	return 1
}

all_start() {
	rlmd_start dom0 u1 u2 && registered
}

all_end() {
	rlmd_end u1 u2 dom0
}

# After a part that failed: what there is to see of it.
evidence() {
	local host
	for host in "${dom0s[@]}" "${bed_domains[@]}"; do
		echo "--- $host"
		on "$host" 'tail -n 40 /tmp/rlmd.log; rlmctl connections; rlmctl events | tail -n 30'
	done
	for host in "${dom0s[@]}"; do
		on "$host" 'xl list; xl dmesg | grep -A 3 "Triple fault"; grep -h -B 30 "Kernel panic" /tmp/guest-*.log; true'
	done
}

# The marks that the emulator's fault leaves, see ARCHITECTURE.md: in the hypervisor's console, and an interrupt at the first instruction of an
# interrupt's handler, where there can be none, in a domain's.
emulator_faults() {
	local host
	{
		cat "$work"/console "$work"/*/console 2>/dev/null | grep 'Triple fault'
		for host in "${dom0s[@]}"; do
			on "$host" 'cat /tmp/guest-*.log' | grep 'RIP: 0010:asm_sysvec_xen_hvm_callback+0x0/'
		done
	} | wc -l
}

# Both domains anew, on the first machine. One that ended may have been started again by xl, without our programs.
domains_again() {
	local host name
	for name in u1 u2; do
		for host in "${dom0s[@]}"; do
			on "$host" "xl destroy $name 2>/dev/null; true"
		done
		bed_create "$name" || return 1
	done
	bed_install "$work"/opt/*
}

# Ends whatever it left.
tidy() {
	local host
	for host in "${dom0s[@]}" "${bed_domains[@]}"; do
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

# oracle_pair SERVER CLIENT...: in u1 and u2, each of CLIENT in turn
oracle_pair() {
	local server=$1 client
	shift
	background u1 oracle "/opt/xen-oracle $server $(domid u2)" || return 1
	until_on 60 u1 'grep -q serving /tmp/oracle.log' || { on u1 'cat /tmp/oracle.log'; return 1; }
	for client in "$@"; do
		on u2 "xen-oracle $client $(domid u1)" || { on u1 'cat /tmp/oracle.log'; return 1; }
	done
	ended u1 oracle && on u1 'cat /tmp/oracle.log; grep -q "answered\|there and back" /tmp/oracle.log'
}

part_oracle() {
	oracle_pair serve view attach && oracle_pair native join
}

# addresses DOMAIN: those in 10.0.2.0/24 that the broker believes it has
addresses() {
	on dom0 'rlmctl domains --json' |
		jq -r --arg name "domain:$1" '[.domains[] | select(.name == $name) | .addresses[] | select(startswith("10.0.2."))] | sort | join(" ")'
}

# until_is SECONDS EXPECTED COMMAND...: until it prints that
until_is() {
	local seconds=$1 expected=$2 end
	shift 2
	end=$((SECONDS + seconds))
	until [ "$("$@")" = "$expected" ]; do
		[ $SECONDS -lt $end ] || { echo "$*: \"$("$@")\", not \"$expected\""; return 1; }
		sleep 0.2
	done
}

part_register() {
	all_start || return 1
	on dom0 'rlmctl domains; rlmctl groups; rlmctl events'
	until_is 20 10.0.2.11 addresses u1 && until_is 20 10.0.2.12 addresses u2 || return 1
	# An address that comes later, one that is not on an interface that xenstore knows, and one that is another's.
	on u2 'ip address add 10.0.2.13/24 dev eth0; ip link add name other type dummy 2>/dev/null && ip address add 10.0.2.14/24 dev other'
	until_is 20 '10.0.2.12 10.0.2.13' addresses u2 || return 1
	on dom0 "xenstore-write /local/domain/$(domid u1)/rlm/addresses '10.0.2.11 10.0.2.15'"
	on u2 'ip address add 10.0.2.15/24 dev eth0 && ip address del 10.0.2.13/24 dev eth0'
	until_is 20 10.0.2.12 addresses u2 || return 1
	on dom0 'rlmctl events | grep foreign-address' || { echo "no event tells of the foreign address"; return 1; }
	on u2 'ip address del 10.0.2.15/24 dev eth0; ip link del other 2>/dev/null; true'
	on dom0 "xenstore-rm /local/domain/$(domid u1)/rlm/addresses"
	all_end && nothing_left
}

# bench SERVER CLIENT SETTINGS OPTION...: rlm-bench between two domains, prints JSON
bench() {
	local server=$1 client=$2 settings=$3
	shift 3
	background "$server" bench "env $settings rlm-bench server -1 -q" || return 1
	listens "$server" 5301 || return 1
	on_timeout=400 on "$client" "env $settings timeout 360 rlm-bench client -c ${bed_address[$server]} --json $*" || return 1
	ended "$server" bench
}

listens() {
	until_on 90 "$1" "cat /proc/net/tcp /proc/net/tcp6 | grep -q ':$(printf '%04X' "$2") [0-9A-F]*:0000 0A'"
}

# A background program has ended by itself.
ended() {
	until_on 300 "$1" "! kill -0 \$(cat /tmp/$2.pid)" && on "$1" "rm -f /tmp/$2.pid"
}

# stream_start SETTINGS [NAME PORT]: the checked stream, from u1 to u2 and back.
stream_start() {
	local name=${2:-stream} port=${3:-5400}
	background u2 $name-server "env $1 xen-stream serve $port" && listens u2 $port &&
		background u1 $name "env $1 xen-stream run 10.0.2.12 $port 100000"
}

iperf3_run() {
	local server=$1 client=$2 settings=$3
	shift 3
	background "$server" iperf3 "env $settings iperf3 -s -1" || return 1
	listens "$server" 5201 || return 1
	on_timeout=400 on "$client" "env $settings timeout 360 iperf3 -c ${bed_address[$server]} $* --json"
}

gigabits() {
	jq -r '.end.sum_received.bits_per_second / 1e6 | floor | "\(.) Mbit/s"'
}

part_stream() {
	all_start || return 1
	echo "iperf3, TCP:  $(iperf3_run u1 u2 '' -n $(volume 16) | gigabits)"
	# As any user: what is in /dev/xen is root's.
	echo "iperf3, ring: $(iperf3_run u1 u2 "$preload su -p -s /bin/env -- nobody" -n $(volume 64) | gigabits)"
	at_least "bytes by ring" "$(ring_bytes u2)" $(volume 30) || return 1
	bench u1 u2 "$preload" --verify --bidir --bytes $(volume 64) >"$work/verify.json" || { cat "$work/verify.json"; return 1; }
	at_least "bytes by ring, each of them checked" "$(jq '.tests[0].client.carrier.ring_bytes' "$work/verify.json")" $(volume 15) ||
		return 1
	all_end && nothing_left
}

# redis_load HOST REQUESTS CLIENTS COMMANDS: of the redis in u1, preloaded; prints the rates without the progress
redis_load() {
	on "$1" "env $preload redis-benchmark -h 10.0.2.11 -n $2 -c $3 -d 1024 -t $4 -q | tr \"\\r\" \"\\n\" | grep second"
}

part_programs() {
	local before
	all_start || return 1
	background u1 redis "env $preload redis-server --save '' --bind 0.0.0.0 --protected-mode no" || return 1
	listens u1 6379 || return 1
	before=$(ring_bytes u2)
	redis_load u2 $(volume 0.008) 8 set,get || return 1
	at_least "redis-benchmark, bytes by ring" $(($(ring_bytes u2) - before)) $(volume 3) || return 1
	end u1 redis || return 1
	on u1 "head -c $(volume 32) /dev/urandom >/tmp/file"
	on u1 'mkdir -p /run/nginx
		printf "daemon off; user root; pid /run/nginx.pid; error_log stderr; events {} http { access_log off; server { listen 8080; root /tmp; } }" >/tmp/nginx.conf'
	background u1 nginx "env $preload nginx -c /tmp/nginx.conf" || return 1
	listens u1 8080 || return 1
	before=$(ring_bytes u2)
	[ "$(on u2 "env $preload curl -s http://10.0.2.11:8080/file | sha256sum")" = "$(on u1 'sha256sum </tmp/file')" ] || { echo "curl got something else"; return 1; }
	at_least "nginx and curl, bytes by ring" $(($(ring_bytes u2) - before)) $(volume 3) || return 1
	end u1 nginx || return 1
	on u1 'rm -f /tmp/file'
	all_end && nothing_left
}

# group DOMAIN NAME: as an administrator puts a domain into a group; "" takes it out.
group() {
	on dom0 "path=/local/domain/$(domid "$1")/rlm/group
		if [ -n '$2' ]; then xenstore-write \$path '$2'; else xenstore-rm \$path; fi"
	until_on 30 dom0 "rlmctl domains | grep 'domain:$1 ' | grep -q ' ${2:-default} '"
}

part_groups() {
	local before
	all_start || return 1
	group u1 blue || return 1
	before=$(ring_bytes u2)
	iperf3_run u1 u2 "$preload" -n $(volume 8) | gigabits
	[ $(($(ring_bytes u2) - before)) = 0 ] || { echo "accelerated between groups"; return 1; }
	on dom0 'rlmctl events | grep -q other-group' || { echo "no event tells that the groups differ"; return 1; }
	group u2 blue || return 1
	iperf3_run u1 u2 "$preload" -n $(volume 64) | gigabits
	at_least "bytes by ring within the group" $(($(ring_bytes u2) - before)) $(volume 15) || return 1
	group u1 '' && group u2 '' || return 1
	all_end && nothing_left
}

part_dom0() {
	local before
	all_start || return 1
	before=$(ring_bytes dom0)
	iperf3_run dom0 u1 "$preload" -n $(volume 64) | gigabits
	iperf3_run u2 dom0 "$preload" -n $(volume 64) | gigabits
	at_least "bytes by ring from and to dom0" $(($(ring_bytes dom0) - before)) $(volume 30) || return 1
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
	until_on 90 u2 'rlmctl connections | grep -q " ring "' || return 1
	for server in u1 u2; do # the broker shows those of the whole host
		until_on 30 dom0 "rlmctl connections | grep -q 'domain:$server .* ring '" || return 1
	done
	end u1 iperf3 KILL || return 1
	ended u2 client || { echo "the client does not notice"; return 1; }
	on u2 'tail -n 2 /tmp/client.log'
	background u1 client "env $preload iperf3 -c 10.0.2.12 -t 8" || return 1
	until_on 90 u1 'rlmctl connections | grep -q " ring "' || return 1
	for server in u1 u2 dom0; do
		end $server rlmd KILL || return 1
	done
	ended u1 client || { echo "the client does not end"; return 1; }
	on u1 'tail -n 4 /tmp/client.log; grep -q receiver /tmp/client.log' || { echo "the stream broke when rlmd was killed"; return 1; }
	all_start || return 1
	iperf3_run u1 u2 "$preload" -n $(volume 64) | gigabits
	at_least "bytes by ring after the restart" "$(ring_bytes u2)" $(volume 15) || return 1
	all_end && nothing_left
}

# u1 has ended, and nobody maps its memory any more, or it would stay in the list without a name.
u1_gone() {
	until_on 60 dom0 'rlmctl events | grep -q domain-gone' || return 1
	until_on 60 dom0 '[ $(xl list | tail -n +2 | wc -l) = 2 ]' || { on dom0 'xl list'; return 1; }
	on dom0 'xl list'
}

u1_again() {
	bed_create u1 || return 1
	bed_install "$work"/opt/* || return 1
	rlmd_start u1 && registered || return 1
	iperf3_run u1 u2 "$preload" -n $(volume 64) | gigabits
	at_least "bytes by ring with the new domain" "$(ring_bytes u1)" $(volume 15)
}

# A domain is destroyed in the middle of a stream.
part_destroy() {
	all_start || return 1
	background u1 iperf3 "env $preload iperf3 -s -1" || return 1
	listens u1 5201 || return 1
	background u2 client "env $preload iperf3 -c 10.0.2.11 -t 300" || return 1
	until_on 90 u2 'rlmctl connections | grep -q " ring "' || return 1
	on dom0 'xl destroy u1' && u1_gone || return 1
	# The stream is on TCP now, where nobody answers.
	until_on 60 u2 'rlmctl connections | grep -q plain' || return 1
	on u2 'kill -0 $(cat /tmp/client.pid)' || { echo "the client saw an error that TCP does not show"; on u2 'tail /tmp/client.log'; return 1; }
	end u2 client KILL || return 1
	u1_again && all_end && nothing_left
}

# dev_xen HOST NAME: how much of /dev/xen a background program has open or mapped.
dev_xen() {
	on "$1" "cd /proc/\$(cat /tmp/$2.pid) && { cat maps; ls -l fd; } | grep -c /dev/xen/"
}

# HOST NAME: TCP gave the stream up for nobody answers; all that came before was right.
stream_unanswered() {
	until_on 180 $1 "grep -q -e timed.out$ -e No.route.to.host$ /tmp/$2.log" || { on $1 "tail -n 5 /tmp/$2.log"; return 1; }
	echo "$2: $(on $1 "grep ^failed /tmp/$2.log" | xargs -d '\n')"
	on $1 "! grep -vE '^(at|pause) |: (Connection timed out|No route to host|Connection reset by peer|Broken pipe)$' /tmp/$2.log"
}

# A domain's kernel panics in the middle of checked streams. What one with librlm sees is what the other sees, without: time runs out.
part_panic() {
	local lost before status=0
	all_start || return 1
	lost=$(domid u1) before=$(dev_xen u2 rlmd)
	stream_start "$preload" && stream_start '' plain 5401 || return 1
	until_on 90 u2 'rlmctl connections | grep -q " ring .* ring "' || return 1
	on u2 'cat /proc/sys/net/ipv4/tcp_retries2 >/tmp/retries; echo 5 >/proc/sys/net/ipv4/tcp_retries2'
	on u1 'echo 1 >/proc/sys/kernel/sysrq; (sleep 1; echo c >/proc/sysrq-trigger) >/dev/null 2>&1 &'
	u1_gone && on dom0 'grep -a "Kernel panic.*sysrq" /tmp/guest-u1.log' || return 1
	stream_unanswered u2 plain-server && stream_unanswered u2 stream-server || status=1
	on u2 'cat /tmp/retries >/proc/sys/net/ipv4/tcp_retries2'
	[ $status = 0 ] || return 1
	# Both programs are there yet. What the domains had in common is not.
	until_is 30 "$before" dev_xen u2 rlmd && until_is 30 0 dev_xen u2 stream-server || return 1
	on dom0 "! lsevtchn $(domid u2) | grep 'Remote Domain $lost,'" || return 1
	end u2 stream-server && end u2 plain-server || return 1
	u1_again && all_end && nothing_left
}

# The broker comes late, goes, and comes back; guests do, too.
part_restart() {
	rlmd_start u1 u2 dom0 && registered || return 1
	rlmd_end dom0 || return 1
	until_on 60 u1 'grep -q "broker is gone" /tmp/rlmd.log' || return 1
	iperf3_run u1 u2 "$preload" -n $(volume 4) | gigabits
	rlmd_start dom0 && registered || return 1
	rlmd_end u2 && rlmd_start u2 && registered || return 1
	iperf3_run u1 u2 "$preload" -n $(volume 64) | gigabits
	at_least "bytes by ring" "$(ring_bytes u2)" $(volume 15) || return 1
	all_end && nothing_left
}
