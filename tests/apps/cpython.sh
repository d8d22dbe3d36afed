# SPDX-License-Identifier: BSD-2-Clause
# CPython's own suites for everything that uses sockets. Client and server are mostly in one process here. What fails or hangs bare may do
# so preloaded, nothing else. Those that take long are in files of their own.
# shellcheck shell=bash
packages=(python3 libpython3.11-testsuite)

# cpython_suites SUITE[:PATTERN,...]...: these at the same time
cpython_suites() {
	local bare=() count
	[ "$mode" = bare ] || bare=(--bare "$work/row-bare/suites.json")
	mkdir -m 777 "$dir/tmp"
	(cd "$dir/tmp" && local_client TMPDIR="$dir/tmp" /usr/bin/python3 "$here/cpython_suite.py" "$dir/suites.json" "$@" "${bare[@]}") >"$dir/out" </dev/null ||
		fail "status $?: $(tail -n 2 "$dir/client.log")"
	if [ "$mode" = preloaded ]; then
		jq -rn --slurpfile bare "$work/row-bare/suites.json" --slurpfile now "$dir/suites.json" \
			'(($now[0].failed - $bare[0].failed)[] | "fails: " + .), (($now[0].hung - $bare[0].hung)[] | "hangs: " + .)' >"$dir/new"
		[ ! -s "$dir/new" ] || fail "$(head -n 20 "$dir/new")"
	fi
	need 1 1
	count=$(jq -r '"\(.ran) ran \(.failed + .hung | length) bad \(.skipped) skip"' "$dir/suites.json")
	say "$count"
}

# cpython_row TITLE WANT SUITE...
cpython_row() {
	cpython_wanted=("${@:3}")
	cpython_wanted_suites() { cpython_suites "${cpython_wanted[@]}"; }
	row "CPython $1" "$2" cpython_wanted_suites promote=eager seconds=900
}

[ "${1:-}" != --functions ] || return 0
# These look at readiness of pipes, or at connections that are closed before a broker could hear of them.
cpython_row "select, poll, epoll, selectors" any select poll epoll selectors
cpython_row "asyncore, telnetlib" any asyncore telnetlib
# Together those of which one alone may be through before anything is matched, when the machine is busy.
cpython_row "http, xmlrpc" ring httplib httpservers xmlrpc urllib2_localnet
cpython_row "ftp, smtp, pop, imap" ring ftplib smtplib poplib imaplib
cpython_row "socketserver, asynchat" ring socketserver asynchat
