# SPDX-License-Identifier: BSD-2-Clause
# haproxy between curl and nginx: two connections for each of curl's, edge-triggered epoll, splice where it pays, and chroot as in Debian's configuration.
# shellcheck shell=bash
packages=(haproxy nginx-light curl wrk)

declare -F nginx_up >/dev/null || . "$here/nginx.sh" --functions

haproxy_up() {
	nginx_up
	mkdir -p "$work/jail"
	cat >"$dir/haproxy.cfg" <<-END
		global
		  maxconn 200
		  chroot $work/jail
		defaults
		  mode $1
		  timeout connect 5s
		  timeout client 30s
		  timeout server 30s
		  option splice-auto
		frontend in
		  bind :8090
		  default_backend out
		backend out
		  server nginx $server_address:8080
	END
	server 8090 haproxy -db -f "$dir/haproxy.cfg"
}

haproxy_curl() {
	haproxy_up "$1"
	client curl -sS -f -o "$dir/200m" -w '%{speed_download}\n' "http://$server_address:8090/200m" >"$dir/speed" || fail "curl: status $?"
	same_file "$work/www/200m" "$dir/200m"
	need 2 100000000
	say "$(($(cut -d. -f1 "$dir/speed") / 1000000)) MB/s"
}

haproxy_tcp() { haproxy_curl tcp; }
haproxy_http() { haproxy_curl http; }

haproxy_wrk() {
	haproxy_up http
	client wrk -t 1 -c 16 -d 3 "http://$server_address:8090/1k" >"$dir/out" || fail "wrk: status $?"
	! grep -E 'Socket errors|Non-2xx' "$dir/out" || fail "$(grep -E 'Socket errors|Non-2xx' "$dir/out")"
	need 17 100000
	say "$(awk '/^Requests\/sec/ { printf "%d req/s", $2 }' "$dir/out")"
}

row "haproxy, tcp, curl 200 MB" ring haproxy_tcp
row "haproxy, http, curl 200 MB" ring haproxy_http
row "haproxy, http, wrk" ring haproxy_wrk
