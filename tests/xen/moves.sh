# SPDX-License-Identifier: BSD-2-Clause
# shellcheck shell=bash disable=SC2154
# The parts of migrate.sh, beside what parts.sh has.

# --- what runs between the domains

# Both ends have had all of it, exactly.
stream_end() {
	local host name
	on u1 'kill -TERM $(cat /tmp/stream.pid)'
	until_on 120 u1 '! kill -0 $(cat /tmp/stream.pid)' && until_on 30 u2 '! kill -0 $(cat /tmp/stream-server.pid)' || {
		echo "the stream does not end"
		return 1
	}
	for host in u1 u2; do
		name=stream
		[ $host = u1 ] || name=stream-server
		echo "$host: $(on $host "tail -n 1 /tmp/$name.log; rm /tmp/$name.pid")"
		on $host "grep -q '^exact' /tmp/$name.log" || return 1
	done
}

# HOST: a connection of its is on the ring both ways.
on_ring() {
	on "$1" "rlmctl connections --json" | jq -e '[.connections[] | select(.tx_carrier == "ring" and .rx_carrier == "ring")] | length > 0' >/dev/null
}

# ring_within SECONDS HOST: and how soon it was, in $work/noted.
ring_within() {
	local start took
	start=$(date +%s%N)
	until on_ring "$2"; do
		[ $((($(date +%s%N) - start) / 1000000000)) -lt "$1" ] || {
			echo "$2 has nothing on the ring after $1 s"
			return 1
		}
		sleep 0.1
	done
	# By the broker's own clock, for an emulated machine is slow to answer.
	took=$(on "${where[u1]:-dom0}" 'rlmctl events --json' | jq -r '[.events[] | select(.event == "registered" or .event == "matched")] |
		(map(select(.event == "registered")) | last.time) as $here | (map(select(.event == "matched" and .time >= $here)) | first.time // empty) |
		(. - $here) * 1000 | round')
	[ -z "$took" ] || note "matched again after the last registration" "$took"
}

# --- what is to be true afterwards

# Kernels complain of channels that were open across a suspend. And of a processor that stood still, which an emulated one does now and then.
kernels_quiet() {
	local host status=0
	for host in "$@"; do
		if on "$host" 'dmesg | grep -E "BUG|WARNING|Oops|general protection|unreaped" | grep -v "soft lockup"'; then
			echo "that is the kernel of $host"
			status=1
		fi
	done
	return $status
}

# No domain is left that somebody maps.
no_zombies() {
	local host
	for host in "$@"; do
		until_on 20 "$host" '! xl list | grep -E "\(null\)|--ps-d"' || {
			on "$host" 'xl list'
			return 1
		}
	done
}

# --- all that runs at a time, and how long it stands still

declare -A seen # of each log, how much has been looked at

# SETTINGS: the environment of the programs.
load_start() {
	seen=()
	background u1 redis "env $1 redis-server --save '' --bind 0.0.0.0 --protected-mode no" && listens u1 6379 &&
		background u2 iperf3 "env $1 iperf3 -s -1 -i 0.1 --forceflush" && listens u2 5201 &&
		background u2 benchmark "env $1 redis-benchmark -h 10.0.2.11 -c 4 -d 256 -t set,get -n 500 -q -l" &&
		background u1 client "env $1 iperf3 -c 10.0.2.12 -b 2M -l 8K -t 86400 -i 1 --forceflush" &&
		stream_start "$1"
}

# Everything has to be as alive as it was.
load_end() {
	local status=0
	on u1 'kill -0 $(cat /tmp/client.pid)' || { on u1 'tail -n 5 /tmp/client.log'; status=1; }
	on u2 'kill -0 $(cat /tmp/benchmark.pid)' || { on u2 'tail -n 5 /tmp/benchmark.log'; status=1; }
	if on u2 'tr "\r" "\n" </tmp/benchmark.log | grep -iE "error|reset|refused|closed"'; then status=1; fi
	if on u1 'grep -iE "error|reset" /tmp/client.log'; then status=1; fi
	end u1 client INT || status=1
	end u2 benchmark || status=1
	end u1 redis || status=1
	on u2 'rm -f /tmp/iperf3.pid'
	stream_end || status=1
	return $status
}

# note WHAT MILLISECONDS: for noted_table.
note() {
	echo "$1: $2 ms"
	printf '%s\t%s\t%s\n' "${run:-with}" "$1" "$2" >>"$work/noted"
}

# pause HOST NAME ALIVE AWK: the longest one, in ms, by what the program has written since the last time, and until it is alive
pause() {
	local from=${seen[$1 $2]:-0} size longest
	read -r size longest < <(on "$1" "cd /tmp; lines() { tail -c +\$((\$1 + 1)) $2.log 2>/dev/null | tr '\\r' '\\n'; }
		size=\$(wc -c <$2.log); tries=0
		until lines \$size | grep -q '$3' || [ \$tries = 600 ]; do tries=\$((tries + 1)); sleep 0.1; done
		lines $from | awk '$4 { if (now > longest) longest = now } END { printf \"%d %d\\n\", '\$size', longest }'")
	[[ $size =~ ^[0-9]+$ && $longest =~ ^[0-9]+$ ]] || { # it does not answer in time; the next look covers this one
		echo "pause of $2: $size $longest"
		return
	}
	seen[$1 $2]=$size
	note "pause of $2" "$longest"
}

# Of all streams since the last time. They are looked at from where bytes arrive; the clock of a domain stands still while it is suspended, so what counts is
# the end of the stream that stayed. What iperf3 and redis-benchmark tell is in steps of 100 and 250 ms.
pauses() {
	pause u1 stream ^at '/^pause/ { now = $2 }'
	pause u2 stream-server ^at '/^pause/ { now = $2 }'
	pause u2 iperf3 ' [KM]bits/sec' '/bits\/sec/ { split($3, t, "-"); if (/ 0\.00 bits/) now += (t[2] - t[1]) * 1000; else now = 0 }'
	pause u2 benchmark 'rps=\([1-9]\|0\.[1-9]\)' '/rps=/ { if (/rps=0\.0 /) now += 250; else now = 0 }'
}

# Medians of all that was noted.
noted_table() {
	jq -rRn 'def median: sort | (.[(length - 1) / 2 | floor] + .[length / 2 | floor]) / 2;
		[inputs | split("\t") | {run: .[0], what: .[1], ms: (.[2] | tonumber)}] | group_by(.what)[] | . as $all |
		"\(.[0].what), ms: " + ([("without", "with") as $run | [$all[] | select(.run == $run).ms] | select(length > 0) |
		"\($run) librlm \(median | round) (\(min) to \(max), \(length) times)"] | join("; "))' "$work/noted"
}

# How the bytes of u1's connections went, present ones and all.
shares() {
	on u1 'rlmctl stats --json' | jq -r '.totals | (.tx_bytes_ring + .rx_bytes_ring) as $ring | (.tx_bytes_plain + .rx_bytes_plain) as $tcp |
		"u1: \($ring) bytes by ring, \($tcp) by TCP: \(1000 * $ring / ($ring + $tcp) | round / 10) % by ring"'
	on u1 'rlmctl connections --json' | jq -r '.connections[] | select(.tx_bytes_ring + .rx_bytes_ring > 0) | . as {$command, $remote} |
		(.tx_bytes_ring + .rx_bytes_ring) as $ring | ($ring + .tx_bytes_plain + .rx_bytes_plain) as $all |
		"  \(.command) to \(.remote): \($all) bytes, \(1000 * $ring / $all | round / 10) % by ring"'
}

# --- parts

# quietly HOST COMMAND: what the tool stack does, without its progress.
quietly() {
	on_timeout=400 on "$1" "$2 >/tmp/tool.log 2>&1; status=\$?; grep -vE 'Frames|^xc: ' /tmp/tool.log; exit \$status"
}

# saves_with SETTINGS: u1 is saved and restored, twice; u2 goes on after it was saved.
saves_with() {
	local settings=$1 domain run=with
	[ -n "$settings" ] || run=without
	load_start "$settings" || return 1
	[ -z "$settings" ] || run=idle ring_within 60 u1 || return 1
	for domain in u1 u1 u2; do
		run=idle pauses >/dev/null
		if [ $domain = u1 ]; then
			quietly dom0 'xl save u1 /root/u1.save' && quietly dom0 'xl restore /root/u1.save' && bed_answers u1 || return 1
		else
			quietly dom0 'xl save -c u2 /root/u2.save' || return 1
		fi
		[ -z "$settings" ] || ring_within 60 u1 || return 1
		pauses
	done
	[ -z "$settings" ] || shares
	load_end
}

part_save() {
	: >"$work/noted"
	echo "without librlm:"
	saves_with '' || return 1
	echo "with librlm:"
	all_start && saves_with "$preload" || return 1
	noted_table
	at_least "bytes by ring" "$(ring_bytes u1)" 100000 || return 1
	on dom0 'rlmctl events | grep -E " (quiesce|quiet|departs|tool-ended|domain-gone|registered) "'
	kernels_quiet u1 u2 dom0 && no_zombies dom0 && all_end && nothing_left
}

# An old save is restored, after the domain has gone on and was destroyed: its connections of then have no peer, which is TCP's to tell, and new ones
# go by ring.
part_old() {
	local before
	all_start && stream_start "$preload" && ring_within 60 u1 || return 1
	quietly dom0 'xl save -c u1 /root/u1.save' && bed_answers u1 && ring_within 60 u1 && stream_end || return 1
	on dom0 'xl destroy u1' && quietly dom0 'xl restore /root/u1.save' && bed_answers u1 && registered && stream_reset u1 stream || return 1
	background u1 redis "env $preload redis-server --save '' --bind 0.0.0.0 --protected-mode no" && listens u1 6379 || return 1
	before=$(ring_bytes u1)
	redis_load u2 1000 4 set || return 1
	at_least "bytes by ring" $(($(ring_bytes u1) - before)) 100000 || return 1
	end u1 stream && end u1 redis || return 1
	kernels_quiet u1 u2 dom0 && no_zombies dom0 && all_end && nothing_left
}

part_local() {
	local domain
	all_start && stream_start "$preload" && ring_within 60 u1 || return 1
	for domain in u1 u2; do
		quietly dom0 "xl migrate -s '' $domain 'xl migrate-receive'" || return 1
		bed_answers $domain && ring_within 60 u1 || return 1
	done
	quietly dom0 "rlmctl migrate --ssh '' u1 'xl migrate-receive'" || return 1
	bed_answers u1 && ring_within 60 u1 || return 1
	stream_end || return 1
	kernels_quiet u1 u2 dom0 && no_zombies dom0 && all_end && nothing_left
}

# stays WHY: neither u1, in which the stream's process does not answer, nor its peer can be made quiet; that process is named.
stays() {
	local out
	out=$(on_timeout=180 on dom0 'xl save u1 /root/u1.save 2>&1 && echo SAVED')
	echo "$out"
	[[ $out != *SAVED* && $out == *"rlmd: domain:u1 stays"*"xen-stream"*"($1)"* ]] || { echo "the process is not named"; return 1; }
	out=$(on_timeout=180 on dom0 'rlmctl migrate --timeout 2 u2 nowhere 2>&1 && echo MOVED')
	echo "$out"
	[[ $out != *MOVED* && $out == *"domain:u1 xen-stream"*"($1)"* ]] || { echo "the peer's process is not named"; return 1; }
}

# What does not come off leaves everything as it was.
part_refused() {
	all_start && stream_start "$preload" && ring_within 60 u1 || return 1
	on u1 'kill -STOP $(cat /tmp/stream.pid)'
	stays stopped || return 1
	on u1 'kill -CONT $(cat /tmp/stream.pid)'
	ring_within 60 u1 || return 1
	background u1 hold 'xen-hold $(cat /tmp/stream.pid)' && until_on 30 u1 'grep held /tmp/hold.log' || return 1
	stays 'held by a debugger' || return 1
	end u1 hold KILL
	ring_within 60 u1 || return 1
	# Nobody at the other end: the tool stack fails after the domain has become quiet.
	on_timeout=180 on dom0 "xl migrate -s '' u1 'sleep 1' 2>&1 && echo MOVED" | tee "$work/out"
	! grep -q MOVED "$work/out" || return 1
	ring_within 60 u1 || return 1
	on_timeout=180 on dom0 "rlmctl migrate --ssh '' u1 false 2>&1 && echo MOVED" | tee "$work/out"
	! grep -q MOVED "$work/out" || return 1
	ring_within 60 u1 || return 1
	stream_end || return 1
	kernels_quiet u1 u2 dom0 && all_end && nothing_left
}

# The broker is killed and the domain saved at once: the guard, which lives, lets that happen when all channels are closed.
part_broker() {
	all_start && stream_start "$preload" && ring_within 60 u1 || return 1
	end dom0 rlmd KILL || return 1
	quietly dom0 'xl save u1 /root/u1.save' || return 1
	quietly dom0 'xl restore /root/u1.save' || return 1
	bed_answers u1 || return 1
	rlmd_start dom0 && registered && ring_within 60 u1 || return 1
	# The domain's own rlmd is killed: its processes leave by themselves. Until the next one has looked the domain stays.
	end u1 rlmd KILL || return 1
	on_timeout=180 on dom0 'xl save u1 /root/u1.save 2>&1 && echo SAVED' | tee "$work/out"
	! grep -q SAVED "$work/out" && grep -q "rlmd is gone" "$work/out" || return 1
	rlmd_start u1 && registered && ring_within 60 u1 || return 1
	quietly dom0 'xl save u1 /root/u1.save' || return 1
	quietly dom0 'xl restore /root/u1.save' || return 1
	bed_answers u1 && ring_within 60 u1 || return 1
	stream_end || return 1
	kernels_quiet u1 u2 dom0 && no_zombies dom0 && all_end && nothing_left
}

# HOST NAME: the stream was reset, and all that came before was right.
stream_reset() {
	until_on 120 $1 "grep -q ^failed /tmp/$2.log" || return 1
	echo "$1: $(on $1 "grep ^failed /tmp/$2.log" | xargs -d '\n')"
	on $1 "grep -q '^failed: .*: Connection reset by peer' /tmp/$2.log && ! grep -vE '^(at|pause) |: (Connection reset by peer|Broken pipe)$' /tmp/$2.log"
}

# Shared memory is lost with nobody asked: the tool stack executes a copy of its helper that the guard does not know.
lose_u1() {
	on dom0 'cp /usr/lib/xen-*/bin/libxl-save-helper /root/unguarded'
	quietly dom0 'LIBXL_SAVE_HELPER=/root/unguarded xl save u1 /root/u1.save' || return 1
	quietly dom0 'xl restore /root/u1.save' || return 1
	bed_answers u1 && until_on 30 u1 'rlmctl events | grep " lost "'
}

part_lost() {
	local before
	all_start && stream_start "$preload" && ring_within 60 u1 || return 1
	# Broker and guard at once, and a save in the same moment: the domains have to leave before they are suspended.
	on dom0 'kill -KILL $(cat /tmp/rlmd.pid) $(pgrep -x rlmd-guard); rm /tmp/rlmd.pid'
	quietly dom0 'xl save u1 /root/u1.save' || return 1
	quietly dom0 'xl restore /root/u1.save' || return 1
	bed_answers u1 && rlmd_start dom0 && registered && ring_within 60 u1 && stream_end || return 1
	kernels_quiet u1 u2 dom0 || return 1
	background u1 redis "env $preload redis-server --save '' --bind 0.0.0.0 --protected-mode no" && listens u1 6379 || return 1
	stream_start "$preload" && ring_within 60 u1 && redis_load u2 1000 4 set || return 1
	lose_u1 && stream_reset u1 stream && stream_reset u2 stream-server || return 1
	# What cannot be given back any more is left alone: who lives goes on living, and meets others on the ring again.
	registered && before=$(ring_bytes u1) && redis_load u2 1000 4 set || return 1
	at_least "bytes by ring, of a server that had lost a link" $(($(ring_bytes u1) - before)) 100000 || return 1
	kernels_quiet u1 u2 dom0 && no_zombies dom0 || return 1
	# With the end of a process the kernel itself gives back what it has: that is the BUG that the guard is there to prevent.
	on u1 'kill -TERM $(cat /tmp/stream.pid /tmp/redis.pid); sleep 1; dmesg | grep -E "BUG|WARNING"'
	end u2 stream-server
	on dom0 'xl destroy u1' && bed_create u1 && bed_install "$work"/opt/* && kernels_quiet u2 dom0 && no_zombies dom0 || return 1
	rlmd_end u2 dom0 && nothing_left
}

# --- two hosts

declare -A where private=([dom0]=10.9.0.10 [hostb]=10.9.0.20)

# move DOMAIN xl|rlmctl: to the other host.
move() {
	local domain=$1 from=${where[$1]} to=dom0 status=0
	[ "$from" = hostb ] || to=hostb
	local carrier="socat -b262144 - TCP:${private[$to]}:8002"
	if [ "$2" = xl ]; then
		quietly "$from" "xl migrate -s '' $domain '$carrier'" || status=1
	else
		quietly "$from" "rlmctl migrate --ssh '' $domain '$carrier'" || status=1
	fi
	[ $status = 0 ] || return 1
	where[$domain]=$to
	bed_answers "$domain"
}

# moves_with SETTINGS DOMAIN...: moves, with what runs meanwhile.
moves_with() {
	local settings=$1 domain way=xl start run=with
	shift
	[ -n "$settings" ] || run=without
	where=([u1]=dom0 [u2]=dom0)
	load_start "$settings" || return 1
	[ -z "$settings" ] || run=idle ring_within 60 u1 || return 1
	for domain in "$@"; do
		run=idle pauses >/dev/null
		sleep $((RANDOM % 3)).$((RANDOM % 10)) # at any moment
		start=$SECONDS
		move $domain $way || return 1
		echo "$domain is at ${where[$domain]} after $((SECONDS - start)) s, by $way migrate"
		[ -z "$settings" ] || [ "${where[u1]}" != "${where[u2]}" ] || ring_within 60 u1 || return 1
		pauses
		if [ -z "$settings" ] || [ $way = rlmctl ]; then way=xl; else way=rlmctl; fi
	done
	[ -z "$settings" ] || shares
	load_end
}

part_hosts() {
	local host
	: >"$work/noted"
	for host in dom0 hostb; do
		background $host receiver "socat -b262144 TCP-LISTEN:8002,fork,reuseaddr EXEC:\"xl migrate-receive\"" || return 1
	done
	echo "without librlm:"
	moves_with '' u1 u2 u1 u2 || return 1
	rlmd_start hostb && all_start || return 1
	echo "with librlm:"
	moves_with "$preload" "${moves[@]}" || return 1
	noted_table
	at_least "bytes by ring" "$(ring_bytes u1)" 100000 || return 1
	on hostb 'rlmctl events | grep -E " (quiesce|quiet|departs|tool-ended|domain-gone|registered) "'
	kernels_quiet u1 u2 dom0 hostb && no_zombies dom0 hostb || return 1
	all_end && rlmd_end hostb && end dom0 receiver && end hostb receiver && nothing_left
}
