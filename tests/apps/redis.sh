# SPDX-License-Identifier: BSD-2-Clause
# redis: one epoll loop in the server, request and response; redis-cli blocks.
# shellcheck shell=bash
packages=(redis-server redis-tools)

redis_up() {
	server 6400 redis-server --port 6400 --bind 0.0.0.0 --protected-mode no --save '' --dir "$dir" --daemonize no "$@"
}

redis_cli() {
	client redis-cli -h "$server_address" -p 6400 "$@"
}

# redis_bench CLIENTS OPTION...
redis_bench() {
	local clients=$1
	shift
	redis_up
	client redis-benchmark -h "$server_address" -p 6400 -c "$clients" -t set,get --csv "$@" >"$dir/out.csv" || fail "status $?"
	[ "$(grep -c -E '^"(SET|GET)","[0-9.]+"' "$dir/out.csv")" = 2 ] || fail "$(tail -n 3 "$dir/out.csv")"
	redis_cli ping | grep -qx PONG || fail "no PONG after the run"
	need "$clients" 1000000
	say "$(sed -n 's/^"GET","\([0-9]*\).*/\1/p' "$dir/out.csv") get/s"
}

redis_bench_1() { redis_bench 1 -n 30000; }
redis_bench_50() { redis_bench 50 -n 200000; }
redis_bench_pipeline() { redis_bench 8 -n 500000 -P 16 -d 1000; }

# Values of all sizes, set and read back by redis-cli; the answers are compared byte by byte.
redis_values() {
	local i value got
	redis_up
	random_file "$work/value" 1
	base64 -w 0 "$work/value" >"$dir/value"
	for i in 1 100 4000 65000 1000000; do
		head -c $i "$dir/value" >"$dir/want"
		redis_cli -x set "key $i" <"$dir/want" | grep -qx OK || fail "set of $i bytes"
		redis_cli --raw get "key $i" | head -c -1 >"$dir/got"
		same_file "$dir/want" "$dir/got"
	done
	for i in $(seq 2000); do
		echo "set counter:$i $((i * 7919))"
		echo "get counter:$i"
	done >"$dir/commands"
	redis_cli <"$dir/commands" >"$dir/answers"
	[ "$(wc -l <"$dir/answers")" = 4000 ] || fail "$(wc -l <"$dir/answers") answers, not 4000"
	seq 2000 | while read -r i; do printf 'OK\n%d\n' $((i * 7919)); done >"$dir/want"
	same_file "$dir/want" "$dir/answers"
	need 1 100000
	say "4010 answers right"
}

redis_says() {
	redis_cli info "$1" | tr -d '\r' | grep -qx "$2:$3"
}

# The replica is in the client's namespace, and asked without librlm.
replica_cli() {
	ip netns exec "$ns_client" redis-cli -p 6401 "$@"
}

replica_is_up_to_date() {
	[ "$(redis_cli debug digest)" = "$(replica_cli debug digest)" ]
}

# A master that rewrites its append-only file in a forked child while it is written to, and a replica that joins in the middle (a full
# synchronization, another fork) and is thrown out once.
redis_replication() {
	local load i
	redis_up --appendonly yes --auto-aof-rewrite-percentage 0 --repl-diskless-sync-delay 0 --enable-debug-command yes
	client redis-benchmark -h "$server_address" -p 6400 -c 8 -t set -r 20000 -d 500 -n 300000 -q >"$dir/out" &
	load=$!
	mkdir "$dir/replica"
	(in_namespace client redis-server --port 6401 --save '' --dir "$dir/replica" --replicaof "$server_address" 6400 \
		--enable-debug-command yes) >"$dir/replica.log" 2>&1 &
	for i in 1 2 3; do
		redis_cli bgrewriteaof >/dev/null
		wait_for redis_says persistence aof_rewrite_in_progress 0 || fail "rewriting does not end"
		redis_says persistence aof_last_bgrewrite_status ok || fail "rewriting failed"
		[ $i != 2 ] || redis_cli client kill type replica >/dev/null
	done
	kill -0 $load || fail "the load was over too soon"
	wait $load || fail "redis-benchmark: status $?"
	wait_for replica_is_up_to_date || fail "the replica differs: $(tail -n 2 "$dir/replica.log")"
	redis_cli debug loadaof | grep -qx OK || fail "the append-only file cannot be read"
	replica_is_up_to_date || fail "the append-only file has other contents"
	need 9 100000000
	say "$(replica_cli dbsize) keys right"
}

row "redis-benchmark -c 1" ring redis_bench_1
row "redis-benchmark -c 50" ring redis_bench_50
row "redis-benchmark -c 8 -P 16 -d 1000" ring redis_bench_pipeline
row "redis-cli" ring redis_values promote=eager
row "redis, replica, AOF rewritten" ring redis_replication promote=eager
