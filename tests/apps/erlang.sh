# SPDX-License-Identifier: BSD-2-Clause
# Erlang's gen_tcp: sockets are driven by the run-time system's own threads, with epoll in one-shot mode.
# shellcheck shell=bash
packages=(erlang-base)

# erlang_echo SERVER
erlang_echo() {
	server 8650 env HOME="$dir" erl -noshell -noinput -pa "$work" -run echo server "$1" 8650
	client env HOME="$dir" erl -noshell -noinput -pa "$work" -run echo client "$server_address" 8650 >"$dir/out" || fail "$(tail -n 2 "$dir/out")"
	need 8 20000000
	say "$(tail -n 1 "$dir/out")"
}

erlang_passive() { erlang_echo passive; }
erlang_active() { erlang_echo active; }

[ -e "$work/echo.beam" ] || (cd "$work" && erlc "$here/echo.erl") || die "erlc fails"
row "erlang, passive sockets" ring erlang_passive
row "erlang, active sockets" ring erlang_active
