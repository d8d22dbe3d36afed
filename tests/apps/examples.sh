# SPDX-License-Identifier: BSD-2-Clause
# The programs of examples/: an echo server and client, and one that asks what carries its socket.
# shellcheck shell=bash
packages=()

examples_echo() {
	server 7000 "$build/echo-server" 7000
	client "$build/echo-client" "$server_address" 7000 30000 >"$dir/out" || fail "$(tail -n 1 "$dir/client.log")"
	need 1 2000000
	say "$(sed -n 's/.*, \([0-9.]* us\) each/\1/p' "$dir/out")"
}

# What rlm_socket_info() says at the beginning and at the end must agree with how the program was started.
examples_ask() {
	local carrier=TCP
	[ "$mode" = bare ] || carrier=ring
	server 7000 "$build/echo-server" 7000
	client "$build/ask" "$server_address" 7000 >"$dir/out" || fail "$(tail -n 1 "$dir/client.log")"
	grep -q "^connected: *sends by TCP, receives by TCP" "$dir/out" || fail "$(cat "$dir/out")"
	grep -q "^after 1000 messages: *sends by $carrier, receives by $carrier" "$dir/out" || fail "$(cat "$dir/out")"
	need 1 1000000
	say "by $carrier, as asked"
}

row "echo-client, echo-server" ring examples_echo
row "ask" ring examples_ask
