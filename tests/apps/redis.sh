# SPDX-License-Identifier: BSD-2-Clause
# redis: one epoll loop in the server, request and response; redis-cli blocks.
# shellcheck shell=bash
packages=(redis-server redis-tools)

redis_up() {
	server 6400 redis-server --port 6400 --bind 0.0.0.0 --protected-mode no --save '' --appendonly no --dir "$dir" --daemonize no
}

redis_cli() {
	client timeout 20 redis-cli -h "$server_address" -p 6400 "$@"
}

# redis_bench CLIENTS OPTION...
redis_bench() {
	local clients=$1
	shift
	redis_up
	client timeout 40 redis-benchmark -h "$server_address" -p 6400 -c "$clients" -t set,get --csv "$@" >"$dir/out.csv" || fail "status $?"
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

row "redis-benchmark -c 1" ring redis_bench_1
row "redis-benchmark -c 50" ring redis_bench_50
row "redis-benchmark -c 8 -P 16 -d 1000" ring redis_bench_pipeline
row "redis-cli" ring redis_values promote=eager
