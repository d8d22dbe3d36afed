#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Programs nobody here wrote, in three domains that move at random between two hosts: network namespaces and two brokers (rlmctl move).
# Everything must go on as if nothing happened: no error of any program, every byte right, no move refused; afterwards, when all are on one
# host, connections are accelerated again within a second of their time, which is longer where all have to wait for a processor.
#
#   tests/chaos/move.sh [SECONDS [SEED]]     30 seconds and a new seed by default
#
# RLM_BUILD: the build directory (default: build). MOVES_PAUSE: most milliseconds between two moves (default: 250). MOVES_KEEP=1: keep logs.
set -eu

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/lib.sh
. "$here/../lib.sh"
build=$(realpath "${RLM_BUILD:-$here/../../build}")
[ "$(id -u)" = 0 ] || exec sudo -E "$0" "$@"
seconds=${1:-30}
RANDOM=${2:-$$}
seed=${2:-$$}
pause=${MOVES_PAUSE:-250}
work=$(mktemp -d /tmp/rlm-move.XXXXXX)
chmod 755 "$work"
base=rlm-move-$$
hub=$base-hub
domains=("$base-0" "$base-1" "$base-2")
where=(a a a)
brokers=()
pg_bin=/usr/lib/postgresql/15/bin
failed=0
wrong() {
	echo "FAILED: $*"
	failed=1
}

cleanup() {
	local ns pid signal
	trap - EXIT INT TERM HUP
	touch "$work/stop"
	for signal in TERM KILL; do
		for ns in "${domains[@]}"; do
			for pid in $(ip netns pids "$ns" 2>/dev/null); do # nobody else's processes can be in there
				kill "-$signal" "$pid" 2>/dev/null || true
			done
		done
		sleep 0.2
	done
	for pid in "${brokers[@]}"; do
		kill "$pid" 2>/dev/null || true
	done
	wait
	for ns in "${domains[@]}" "$hub"; do
		ip netns del "$ns" 2>/dev/null || true
	done
	if [ -n "${MOVES_KEEP:-}" ]; then echo "logs: $work"; else rm -rf "$work"; fi
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# --- the scene

scene() {
	local i
	ip netns add "$hub"
	ip -n "$hub" link add br0 type bridge
	ip -n "$hub" link set br0 up
	for i in 0 1 2; do
		ip netns add "${domains[i]}"
		ip -n "$hub" link add "port$i" type veth peer name eth0 netns "${domains[i]}"
		ip -n "$hub" link set "port$i" master br0 up
		ip -n "${domains[i]}" address add "10.83.0.$((i + 1))/24" dev eth0
		ip -n "${domains[i]}" link set lo up
		ip -n "${domains[i]}" link set eth0 up
	done
	for i in a b; do
		nice -n -10 "$build/rlmd" --socket "$work/$i.sock" --host "$i" 2>"$work/$i.log" &
		brokers+=($!)
	done
	within 5 test -S "$work/a.sock" && within 5 test -S "$work/b.sock"
}

# inside DOMAIN COMMAND...: under librlm.so. These use all there is of the machine, so brokers and moves go first.
inside() {
	local domain=${domains[$1]}
	shift
	ip netns exec "$domain" env RLM_SOCKET="$work/a.sock" RLM_LOG="${RLM_LOG:-warn}" RLM_LOG_FILE="$work/rlm.log" \
		LD_PRELOAD="$build/librlm.so" "$@"
}

listens() {
	ip netns exec "${domains[$1]}" ss -Hltn "sport = :$2" | grep -q .
}

# server DOMAIN PORT COMMAND...
server() {
	local domain=$1 port=$2
	shift 2
	inside "$domain" "$@" >>"$work/server-$port.log" 2>&1 </dev/null &
	within 20 listens "$domain" "$port" || { wrong "nobody listens on $port: $(tail -n 3 "$work/server-$port.log")"; exit 1; }
}

# client NAME FUNCTION...: again and again until the end; what fails in it is told.
clients=()
client() {
	local name=$1
	shift
	(
		runs=0
		while [ ! -e "$work/stop" ]; do
			if ! "$@" >"$work/client-$name.log" 2>&1; then
				echo "$name, run $runs: $(tail -n 3 "$work/client-$name.log")" >>"$work/wrong"
				break
			fi
			runs=$((runs + 1))
		done
		echo "$runs" >"$work/runs-$name"
	) &
	clients+=($!)
}

servers() {
	server 0 6400 redis-server --port 6400 --bind 0.0.0.0 --protected-mode no --save '' --appendonly no --dir "$work"
	server 1 5201 iperf3 -s
	server 1 5202 iperf3 -s -p 5202
	mkdir -p "$work/www" "$work/nginx"
	head -c 30000000 /dev/urandom >"$work/www/file"
	cat >"$work/nginx.conf" <<-END
		daemon off;
		user root;
		pid $work/nginx/pid;
		error_log $work/nginx/error.log info;
		events { worker_connections 256; }
		http {
			access_log off;
			sendfile on;
			client_body_temp_path $work/nginx/body;
			proxy_temp_path $work/nginx/proxy;
			fastcgi_temp_path $work/nginx/fastcgi;
			uwsgi_temp_path $work/nginx/uwsgi;
			scgi_temp_path $work/nginx/scgi;
			server { listen 8080; root $work/www; }
		}
	END
	server 2 8080 nginx -e "$work/nginx/error.log" -p "$work/nginx" -c "$work/nginx.conf"
	for i in 0 1 2; do
		server $i 7000 python3 "$here/stream.py" serve 7000
	done
	server 1 7001 python3 "$here/stream.py" serve 7001
	if [ -x $pg_bin/pgbench ] && id postgres >/dev/null 2>&1; then
		postgres
	fi
}

postgres() {
	local as=(setpriv --reuid=postgres --regid=postgres --clear-groups)
	mkdir "$work/postgres"
	chown postgres "$work/postgres"
	(cd / && "${as[@]}" $pg_bin/initdb -D "$work/postgres" -A trust -N) >"$work/initdb.log" 2>&1
	echo "host all all 10.83.0.0/24 trust" >>"$work/postgres/pg_hba.conf"
	server 0 5440 "${as[@]}" $pg_bin/postgres -D "$work/postgres" -p 5440 -c listen_addresses='*' -c unix_socket_directories='' -c fsync=off
	within 20 inside 1 "$pg_bin/pgbench" -h 10.83.0.1 -p 5440 -U postgres -i -q postgres || { wrong "pgbench -i"; exit 1; }
}

do_redis() { inside 1 redis-benchmark -h 10.83.0.1 -p 6400 -c 10 -t set,get,lrange_100 -d 300 -n 20000 --csv; }
do_iperf() { inside 2 iperf3 -c 10.83.0.2 -t 5 "$@"; }
do_pgbench() { inside 2 "$pg_bin/pgbench" -h 10.83.0.1 -p 5440 -U postgres -n -c 4 -j 2 -T 5 postgres && ! grep -q "failed transactions: [1-9]" "$work/client-pgbench.log"; }
# do_stream FROM TO PORT SECONDS
do_stream() { inside "$1" python3 "$here/stream.py" run "10.83.0.$(($2 + 1))" "$3" "$RANDOM" "$4"; }
do_curl() {
	inside 0 curl -sS -f -o "$work/got" http://10.83.0.3:8080/file && cmp "$work/got" "$work/www/file"
}

# --- moves

# move DOMAIN HOST
move() {
	local from=${where[$1]}
	if ! nice -n -10 "$build/rlmctl" --socket "$work/$from.sock" --json --timeout 5 move "${domains[$1]}" "$work/$2.sock" >"$work/move" 2>&1; then
		echo "move: $(cat "$work/move")" >>"$work/wrong"
		return
	fi
	where[$1]=$2
	moves=$((moves + 1))
	jq -r .quiet_milliseconds "$work/move" >>"$work/quiet"
}

other() {
	if [ "$1" = a ]; then echo b; else echo a; fi
}

ctl() {
	timeout 5 "$build/rlmctl" --socket "$work/a.sock" --json "$@"
}

# The one stream that lasts from the beginning to the end, at both its ends.
steady() {
	ctl connections | jq -c '[.connections[] | select((.local // "") + (.remote // "") | test(":7001"))]'
}

is_accelerated() {
	steady | jq -e 'length == 2 and all(.[]; .tx_carrier == "ring" and .rx_carrier == "ring")'
}

# How many milliseconds a process has to wait, while the file is there, for a second of processor time.
waits() {
	python3 -c 'import os, sys, time
start, used = time.monotonic(), time.process_time()
while os.path.exists(sys.argv[1]):
    pass
print(round(1e3 * (time.monotonic() - start) / (time.process_time() - used)))' "$1"
}

moves=0
scene
servers
: >"$work/wrong"
client redis do_redis
client iperf do_iperf
client iperf-reverse do_iperf -p 5202 -R -b 500M
client curl do_curl
[ ! -d "$work/postgres" ] || client pgbench do_pgbench
client stream01 do_stream 0 1 7000 3
client stream12 do_stream 1 2 7000 2
client stream20 do_stream 2 0 7000 1
client steady do_stream 2 1 7001 $((seconds + 15))
within 60 is_accelerated || wrong "nothing was accelerated before the first move"
end=$((SECONDS + seconds))
while [ $SECONDS -lt $end ] && [ ! -s "$work/wrong" ]; do
	domain=$((RANDOM % 3))
	move $domain "$(other "${where[domain]}")"
	sleep "$(printf '0.%03d' $((RANDOM % pause)))"
done

# Together again.
for i in 0 1 2; do
	[ "${where[i]}" = a ] || move $i a
done
touch "$work/waiting"
waits "$work/waiting" >"$work/second" &
waiting=$!
start=$(date +%s%N)
if within 10 is_accelerated; then
	again=$((($(date +%s%N) - start) / 1000000))
	rm "$work/waiting"
	wait $waiting
	[ $again -le "$(cat "$work/second")" ] || wrong "accelerated again only after $again ms, a second took $(cat "$work/second")"
else
	rm "$work/waiting"
	wrong "not accelerated again: $(steady)"
fi
touch "$work/stop"
wait "${clients[@]}"
[ ! -s "$work/wrong" ] || wrong "$(cat "$work/wrong")"
[ ! -s "$work/rlm.log" ] || wrong "warnings: $(head -n 5 "$work/rlm.log")"
for i in "$work"/runs-*; do
	echo "${i##*runs-}: $(cat "$i") runs"
done
sort -n "$work/quiet" | awk '{ t[NR] = $1 } END { printf "%d moves; quiet after %.1f ms (median), %.1f ms (worst)\n", NR, t[int((NR + 1) / 2)], t[NR] }'
echo "accelerated again after ${again:--} ms; $(ctl stats | jq -r '"\(.totals.tx_bytes_ring / 1e6 | floor) MB by ring, \(.totals.tx_bytes_plain / 1e6 | floor) MB by TCP"')"
[ $failed = 0 ] && echo ok || { echo "seed $seed"; tail -n 5 "$work/nginx/error.log"; }
exit $failed
