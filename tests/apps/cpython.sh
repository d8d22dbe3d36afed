# SPDX-License-Identifier: BSD-2-Clause
# CPython's own suites for everything that uses sockets. Client and server are mostly in one process here. What fails bare may fail
# preloaded, nothing else.
# shellcheck shell=bash
packages=(python3 libpython3.11-testsuite)

# cpython_suites SUITE...
cpython_suites() {
	local suite log=$dir/out
	mkdir -m 777 "$dir/tmp"
	for suite in "$@"; do
		echo "suite $suite"
		(cd "$dir/tmp" && local_client TMPDIR="$dir/tmp" timeout 240 /usr/bin/python3 -m test -v -u network,-urlfetch --timeout 120 "test_$suite") 2>&1 || echo "suite test_$suite ended with status $?"
	done >"$log" </dev/null
	# unittest's verbose lines: "test_x (module.Class) ... ok"
	grep -E '^(ERROR|FAIL): ' "$log" | sort -u >"$dir/failures" || true
	grep -E '^suite test_.* ended' "$log" >>"$dir/failures" || true
	if [ "$mode" = preloaded ]; then
		comm -13 <(sort "$work/row-bare/failures") <(sort "$dir/failures") >"$dir/new"
		[ ! -s "$dir/new" ] || fail "$(head -n 20 "$dir/new")"
	fi
	need 1 1
	say "$(awk '/^Ran [0-9]+ test/ { n += $2 } END { print n + 0 }' "$log") tests, $(grep -c . "$dir/failures" || true) fail"
}

for cpython_suite in socket select poll epoll selectors asyncio ssl httplib httpservers ftplib smtplib poplib imaplib telnetlib socketserver xmlrpc asyncore asynchat urllib2_localnet; do
	eval "cpython_$cpython_suite() { cpython_suites $cpython_suite; }"
	case $cpython_suite in
	select | poll | selectors | epoll) cpython_want=any ;;
	*) cpython_want=ring ;;
	esac
	row "CPython test_$cpython_suite" $cpython_want "cpython_$cpython_suite" promote=eager seconds=260
done
