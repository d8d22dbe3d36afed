# SPDX-License-Identifier: BSD-2-Clause
# node's http server and client: libuv, edge-triggered epoll.
# shellcheck shell=bash
packages=(nodejs curl)

node_http() {
	server 8700 node "$here/http.js" server "$server_address" 8700
	client node "$here/http.js" client "$server_address" 8700 >"$dir/out" || fail "$(tail -n 1 "$dir/client.log")"
	random_file "$work/5m" 5
	client curl -sS -f --data-binary "@$work/5m" -o "$dir/5m" "http://$server_address:8700/echo" || fail "curl: status $?"
	same_file "$work/5m" "$dir/5m"
	need 8 20000000
	say "$(tail -n 1 "$dir/out")"
}

row "node http" ring node_http
