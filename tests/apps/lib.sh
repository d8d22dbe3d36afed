# SPDX-License-Identifier: BSD-2-Clause
# shellcheck shell=bash
# What the files of this directory share: two network namespaces joined by a veth pair, a broker per row, and servers and clients that are
# started bare or under librlm.so as the row in hand says. Sourced by run.sh.
#
# A program's file names its Debian packages in `packages`, defines functions, and calls for each line of the table
#
#   row TITLE WANT FUNCTION [SETTING=VALUE...]
#
# FUNCTION is run twice, bare and preloaded, in a shell of its own with `set -e`; whatever fails in it fails the row. In it:
#
#   server PORT COMMAND...   starts COMMAND in the server's namespace and waits until it listens on PORT
#   client COMMAND...        runs COMMAND in the client's namespace
#   local_client COMMAND...  runs COMMAND in the server's namespace
#   say TEXT                 the result that the table shows
#   need CONNECTIONS BYTES   the least that must have been accelerated (checked in the preloaded run when WANT is "ring")
#   fail TEXT                ends the row with an explanation
#   $dir $server_address $client_address $mode
#
# WANT: ring   connections must be accelerated, and the broker's counters must show it
#       plain  nothing may be accelerated
#       any    not checked
# SETTING: sides=both|server|client   who is preloaded
#          broker=one|none|two        two: each namespace has its own, as on two hosts
#          config=FILE                rlmd's configuration
#          promote=auto|eager         RLM_PROMOTE of both sides
#          seconds=N                  bound for one run of FUNCTION
#          why=WORDS                  the reason that rlmctl must give for a connection, asked when FUNCTION has returned

server_address=10.78.0.1
client_address=10.78.0.2
server_address6=fd78::1

passed=0
failed=0
failures=()

die() {
	echo "apps: $*" >&2
	exit 1
}

setup() {
	local ns
	work=$(mktemp -d /tmp/rlm-apps.XXXXXX)
	# Servers that give up root still have to reach their files here.
	chmod 755 "$work"
	ns_server=rlm-apps-$$-s
	ns_client=rlm-apps-$$-c
	trap teardown EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP
	ip netns add "$ns_server"
	ip netns add "$ns_client"
	ip -n "$ns_server" link add veth0 type veth peer name veth0 netns "$ns_client"
	ip -n "$ns_server" address add $server_address/24 dev veth0
	ip -n "$ns_client" address add $client_address/24 dev veth0
	ip -n "$ns_server" address add $server_address6/64 dev veth0 nodad
	ip -n "$ns_client" address add fd78::2/64 dev veth0 nodad
	for ns in "$ns_server" "$ns_client"; do
		ip -n "$ns" link set lo up
		ip -n "$ns" link set veth0 up
	done
	# The kernel may take a second to say that it runs, and UCX uses no interface that does not.
	for ns in "$ns_server" "$ns_client"; do
		wait_for sh -c "ip -n '$ns' -j link show dev veth0 | grep -q '\"operstate\":\"UP\"'" || die "veth0 does not come up"
	done
}

# The run-time library of a sanitizer that FILE was built with; it must come first in LD_PRELOAD.
sanitizer_library() {
	ldd "$1" 2>/dev/null | sed -n 's/.*=> \(\/.*lib[at]san[^ ]*\).*/\1/p' | head -n 1
}

# Ends what runs in our two namespaces. Nobody else's processes can be in there.
end_all() {
	local ns pid signal
	for signal in TERM KILL; do
		local any=no tries=0
		for ns in "$ns_server" "$ns_client"; do
			for pid in $(ip netns pids "$ns" 2>/dev/null); do
				any=yes
				kill -CONT "$pid" 2>/dev/null || true
				kill -$signal "$pid" 2>/dev/null || true
			done
		done
		[ $any = yes ] || return 0
		while [ $((tries++)) -lt 40 ] && [ -n "$(ip netns pids "$ns_server" 2>/dev/null)$(ip netns pids "$ns_client" 2>/dev/null)" ]; do
			sleep 0.05
		done
	done
}

teardown() {
	trap - EXIT INT TERM HUP
	end_all
	broker_stop
	ip netns del "$ns_server" 2>/dev/null
	ip netns del "$ns_client" 2>/dev/null
	if [ -n "${RLM_APPS_KEEP:-}" ]; then echo "logs: $work"; else rm -rf "$work"; fi
}

# Long enough for a busy machine; it is spent on failures only.
patience=120

# wait_for COMMAND...
wait_for() {
	within "$patience" "$@"
}

# --- broker

# broker_start NAME [CONFIG]
broker_start() {
	local config=$work/$1.conf
	: >"$config"
	[ -z "${2:-}" ] || cp "$2" "$config"
	"$build/rlmd" --socket "$work/$1.sock" --config "$config" >"$work/$1.log" 2>&1 &
	brokers+=($!)
	wait_for test -S "$work/$1.sock" || die "rlmd does not start: $(cat "$work/$1.log")"
}

broker_stop() {
	local pid
	for pid in "${brokers[@]}"; do
		kill "$pid" 2>/dev/null
		wait "$pid" 2>/dev/null
	done
	brokers=()
	rm -f "$work"/*.sock
}
brokers=()

ctl() {
	timeout $patience "$build/rlmctl" --socket "$work/one.sock" "$@"
}

# --- what a row's function calls

# in_namespace SIDE COMMAND...: replaces this shell by COMMAND, preloaded when the row says so.
in_namespace() {
	local side=$1 env=()
	shift
	if [ "$mode" = preloaded ] && { [ "$sides" = both ] || [ "$sides" = "$side" ]; }; then
		env=(RLM_SOCKET="$work/$(broker_name "$side").sock" RLM_PROMOTE="$promote" RLM_LOG="${RLM_LOG:-error}" LD_PRELOAD="$preload")
	fi
	case $side in
	server) exec ip netns exec "$ns_server" env "${env[@]}" "$@" ;;
	client) exec ip netns exec "$ns_client" env "${env[@]}" "$@" ;;
	esac
}

broker_name() {
	if [ "$broker" = two ] && [ "$1" = client ]; then echo two; else echo one; fi
}

listens() {
	ip netns exec "$ns_server" ss -Hltn "sport = :$1" | grep -q .
}

server() {
	local port=$1 pid
	shift
	# In a session of its own: some servers end by a signal to their whole process group.
	(in_namespace server setsid "$@") >>"$dir/server.log" 2>&1 </dev/null &
	pid=$!
	until listens "$port"; do
		kill -0 "$pid" 2>/dev/null || listens "$port" || fail "server ended: $(tail -n 3 "$dir/server.log")"
		sleep 0.05
	done
}

# A client that hangs is ended by the row's bound, not here: what hangs shall be seen.
client() {
	(in_namespace client "$@") 2>>"$dir/client.log"
}

local_client() {
	(in_namespace server "$@") 2>>"$dir/client.log"
}

say() {
	echo "$*" >"$dir/result"
}

need() {
	echo "$1 $2" >"$dir/need"
}

fail() {
	echo "$*" >>"$dir/why"
	exit 1
}

same_file() {
	cmp -s "$1" "$2" || fail "$2 differs from $1"
}

# random_file FILE MEGABYTES: made once, kept for all rows.
random_file() {
	[ -e "$1" ] || head -c "$2"000000 /dev/urandom >"$1"
}

# --- rows

wire_bytes() {
	ip -n "$ns_server" -s -j link show dev veth0 | jq '.[0].stats64 | .rx.bytes + .tx.bytes'
}

# run_once MODE FUNCTION: leaves result, why, need and counters in $work/row-MODE.
run_once() {
	local wire pid status deadline
	mode=$1
	dir=$work/row-$mode
	rm -rf "$dir"
	mkdir -m 777 "$dir"
	if [ "$mode" = preloaded ] && [ "$broker" != none ]; then
		broker_start one "$config"
		[ "$broker" != two ] || broker_start two "$config"
	fi
	wire=$(wire_bytes)
	(
		set -eE
		trap '[ -s "$dir/why" ] || echo "line ${BASH_LINENO[0]} (${FUNCNAME[0]}): $BASH_COMMAND: status $?; $(tail -n 2 "$dir/client.log" 2>/dev/null)" >>"$dir/why"' ERR
		"$2"
	) >"$dir/log" 2>&1 </dev/null &
	pid=$!
	deadline=$((SECONDS + seconds))
	while kill -0 $pid 2>/dev/null; do
		if [ $SECONDS -ge $deadline ]; then
			echo "not done after $seconds s" >>"$dir/why"
			evidence
			kill $pid 2>/dev/null
			break
		fi
		sleep 0.05
	done
	if [ "$mode" = preloaded ] && [ "$broker" != none ]; then
		ctl connections --json >"$dir/connections.json" 2>>"$dir/log" || echo "rlmctl connections failed" >>"$dir/why"
	fi
	end_all
	wait $pid 2>/dev/null
	status=$?
	[ $status = 0 ] || [ -s "$dir/why" ] || echo "status $status: $(tail -n 2 "$dir/log")" >>"$dir/why"
	echo $(($(wire_bytes) - wire)) >"$dir/wire"
	if [ "$mode" = preloaded ] && [ "$broker" != none ]; then
		ctl stats --json >"$dir/stats.json" 2>>"$dir/log" || echo "rlmctl stats failed" >>"$dir/why"
	fi
	broker_stop
}

# Where everybody stands when a row did not end.
evidence() {
	local ns pid task
	{
		echo "--- still running:"
		for ns in "$ns_server" "$ns_client"; do
			for pid in $(ip netns pids "$ns"); do
				echo "$pid $(tr '\0' ' ' <"/proc/$pid/cmdline")"
				for task in /proc/"$pid"/task/*; do
					echo "   $(cat "$task/wchan" 2>/dev/null) $(cat "$task/syscall" 2>/dev/null)"
				done
			done
			ip netns exec "$ns" ss -Htnp
		done
		[ "$mode" != preloaded ] || [ "$broker" = none ] || ctl connections
	} >>"$dir/evidence" 2>&1
}

# Fills accelerated, ring, plain from the counters. A connection is counted by each of its ends.
counters() {
	local file=$work/row-preloaded/stats.json
	accelerated=- ring=- plain=-
	[ -s "$file" ] || return 0
	read -r accelerated ring plain < <(jq -r '.totals // error("no totals") | "\(.promoted) \(.tx_bytes_ring) \(.tx_bytes_plain)"' "$file") || true
	# Both ends know of an accelerated connection.
	[ "$accelerated" = - ] || accelerated=$(((accelerated + 1) / 2))
}

# Prints why the counters contradict what the row wants, or nothing.
contradiction() {
	local conns=1 bytes=1
	[ ! -s "$work/row-preloaded/need" ] || read -r conns bytes <"$work/row-preloaded/need"
	case $1 in
	ring)
		[ "$accelerated" != - ] || { echo "no counters"; return; }
		[ "$accelerated" -ge "$conns" ] || echo "$accelerated connections accelerated, at least $conns expected"
		[ "$ring" -ge "$bytes" ] || echo "$ring bytes by ring, at least $bytes expected"
		;;
	plain)
		[ "$accelerated" = - ] || [ "$accelerated$ring" = 00 ] || echo "$accelerated connections accelerated, none expected"
		;;
	esac
	[ -z "$why" ] || [ ! -s "$work/row-preloaded/connections.json" ] ||
		jq -e --arg why "$why" '[.connections[] | select(.why == $why)] | length > 0' "$work/row-preloaded/connections.json" >/dev/null ||
		echo "no connection says \"$why\": $(jq -c '[.connections[].why] | unique' "$work/row-preloaded/connections.json")"
}

mega() {
	[ "$1" = - ] && echo - || echo "$(($1 / 1000000)).$(($1 / 100000 % 10))"
}

header() {
	printf '%-34s %-22s %-22s %8s %12s %12s  %s\n' program bare preloaded accel. 'ring MB' 'TCP MB' verdict
}

# try_row TITLE WANT FUNCTION: both runs, with the settings of row(). Prints the line, what was wrong below it, and leaves verdict.
try_row() {
	local title=$1 want=$2 function=$3 bare preloaded wrong=() text
	run_once bare "$function"
	bare=$(cat "$work/row-bare/result" 2>/dev/null || echo -)
	[ ! -s "$work/row-bare/why" ] || wrong+=("bare: $(cat "$work/row-bare/why")")
	run_once preloaded "$function"
	preloaded=$(cat "$work/row-preloaded/result" 2>/dev/null || echo -)
	[ ! -s "$work/row-preloaded/why" ] || wrong+=("preloaded: $(cat "$work/row-preloaded/why")")
	counters
	text=$(contradiction "$want")
	[ -z "$text" ] || wrong+=("$text")
	verdict=ok
	[ ${#wrong[@]} = 0 ] || verdict=FAILED
	printf '%-34s %-22s %-22s %8s %12s %12s  %s\n' "$title" "$bare" "$preloaded" "$accelerated" "$(mega "$ring")" "$(mega "$plain")" "$verdict"
	for text in "${wrong[@]}"; do
		echo "$text" | sed 's/^/    /'
	done
	[ $verdict = FAILED ] || return 0
	cat "$work"/row-*/evidence 2>/dev/null | head -n 60 | sed 's/^/    | /'
	kept=$((kept + 1))
	[ -z "${RLM_APPS_KEEP:-}" ] || cp -r "$work/row-preloaded" "$work/failed-$kept"
}
kept=0

# What fails may depend on time and chance: it is tried once more, and both outcomes are in the table.
row() {
	local setting verdict
	local sides=both broker=one config='' promote=auto seconds=300 why=''
	for setting in "${@:4}"; do
		# shellcheck disable=SC2163
		local "$setting"
	done
	# Not as a condition: set -e would mean nothing in the function.
	try_row "${@:1:3}"
	[ $verdict = ok ] || try_row "${@:1:3}"
	if [ $verdict = ok ]; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
		failures+=("$1")
	fi
}
