#!/bin/sh
# Every mode of rlm-bench for a moment, bare: it works, it verifies, and it finds what is wrong.
# usage: smoke.sh path/to/rlm-bench
set -u
bench=${1:?usage: smoke.sh path/to/rlm-bench}
dir=$(mktemp -d) || exit 1
server=
failed=0
trap 'test -n "$server" && kill "$server" 2>/dev/null; rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM

# start OPTION...: a server; $port is its port
start() {
	rm -f "$dir/port"
	mkfifo "$dir/port"
	"$bench" server --once --quiet --ready-fd 3 "$@" 3>"$dir/port" &
	server=$!
	read -r port <"$dir/port"
}

# check STATUS NAME OPTION...: a client that must end with this status; then its server must have ended
check() {
	want=$1
	name=$2
	shift 2
	timeout 30 "$bench" client --time 0.2 "$@" >"$dir/out" 2>&1
	got=$?
	timeout 10 tail --pid="$server" -f /dev/null || kill "$server"
	wait "$server"
	ended=$?
	server=
	if [ "$got" -eq "$want" ] && [ "$ended" -eq 0 ]; then
		echo "ok   $name"
	else
		echo "FAIL $name: status $got, expected $want; server's $ended"
		cat "$dir/out"
		failed=1
	fi
}

tcp() {
	want=$1
	shift
	start --bind 127.0.0.1 --port 0
	check "$want" "tcp: $*" --port "$port" "$@"
}

unix() {
	want=$1
	shift
	start --unix "$dir/socket"
	check "$want" "unix: $*" --unix "$dir/socket" "$@"
}

tcp 0 --size 64
tcp 0 --size 64K --verify --interval 0.05
tcp 0 --size 1000 --verify --reverse
tcp 0 --size 64K --verify --bidir --parallel 3
tcp 0 --size 4K --verify --bidir --parallel 4 --threads 2 --epoll
tcp 0 --size 64 --server-wait epoll --verify
tcp 0 --size 4K --verify --reverse --parallel 2 --busy
tcp 0 --mode rr --verify
tcp 0 --mode rr --size 100000 --response 7 --verify
tcp 0 --mode rr --epoll --parallel 5 --threads 2 --size 300K --verify
tcp 0 --mode rr --busy
tcp 0 --mode crr --verify
tcp 0 --mode crr --size 100K --response 16 --parallel 2 --verify --json
unix 0 --size 64K --verify
unix 0 --mode rr --verify --json
unix 0 --mode crr
unix 0 --ring --size 64 --verify
unix 0 --ring --size 1M --verify --reverse
unix 0 --ring --size 1000 --parallel 2
unix 0 --ring --mode rr --verify
tcp 3 --size 64 --corrupt 12345
tcp 3 --size 64 --epoll --corrupt 12345
tcp 3 --mode rr --corrupt 12345
tcp 3 --mode crr --corrupt 7
unix 3 --ring --size 64K --corrupt 123456

start --bind 127.0.0.1 --port 0
timeout 30 "$bench" client --port "$port" --bytes 10MB --size 1000 --json >"$dir/json" && wait "$server" || failed=1
server=
grep -q '"bytes": 1[0-9]\{7\},' "$dir/json" || { echo "FAIL --bytes"; failed=1; }
start --bind 127.0.0.1 --port 0
timeout 30 "$bench" client --port "$port" --mode rr --count 1000 --json >"$dir/json" && wait "$server" || failed=1
server=
grep -q '"count": 1000,' "$dir/json" || { echo "FAIL --count"; failed=1; }

for bad in "--mode xyz" "--size 0" "--size 1K:64" "--time -1" "--parallel 0" "--parallel 4 --threads 2" "--ring" \
	"--epoll --busy" "--mode rr --bidir" "--mode crr --size 8" "--port 70000" "--bytes 1M --time 1" "surplus"; do
	# shellcheck disable=SC2086
	"$bench" client $bad >/dev/null 2>&1
	[ $? -eq 2 ] || { echo "FAIL $bad is not refused"; failed=1; }
done
"$bench" client --port 1 >/dev/null 2>&1
[ $? -eq 1 ] || { echo "FAIL no server"; failed=1; }

if ! "$bench" compare --preset small --runs 2 --time 0.05 --columns tcp,unix,ring --quiet --svg "$dir/plot.svg" \
	--json "$dir/json" >"$dir/out" 2>&1; then
	echo "FAIL compare"
	cat "$dir/out"
	failed=1
fi
grep -q '</svg>' "$dir/plot.svg" && grep -q '"runs": 2' "$dir/json" || { echo "FAIL compare's files"; failed=1; }
exit $failed
