# SPDX-License-Identifier: BSD-2-Clause
# nginx with sendfile: edge-triggered epoll; curl polls, wrk has its own event loop.
# shellcheck shell=bash
packages=(nginx-light curl wrk openssl python3)

nginx_up() {
	local root=$work/www
	mkdir -p "$root"
	random_file "$root/200m" 200
	[ -e "$root/1k" ] || head -c 1024 /dev/urandom >"$root/1k"
	[ -e "$root/100k" ] || head -c 102400 /dev/urandom >"$root/100k"
	mkdir -p "$dir/nginx"
	cat >"$dir/nginx.conf" <<-END
		daemon ${nginx_daemon:-off};
		user root;
		worker_processes ${1:-1};
		pid $dir/nginx/pid;
		error_log $dir/nginx/error.log;
		# nginx clears its environment; a new binary gets what is named here.
		env LD_PRELOAD;
		env RLM_SOCKET;
		env RLM_PROMOTE;
		env RLM_LOG;
		events { worker_connections 1024; }
		http {
			access_log off;
			sendfile on;
			tcp_nopush on;
			keepalive_requests 1000000;
			client_body_temp_path $dir/nginx/body;
			proxy_temp_path $dir/nginx/proxy;
			fastcgi_temp_path $dir/nginx/fastcgi;
			uwsgi_temp_path $dir/nginx/uwsgi;
			scgi_temp_path $dir/nginx/scgi;
			client_max_body_size 300m;
			server {
				listen 8080 reuseport;
				listen [::]:8080;
				${2:-}
				root $root;
				location /put/ { root $dir; dav_methods PUT; create_full_put_path on; }
			}
		}
	END
	server 8080 "$(command -v nginx)" -e "$dir/nginx/error.log" -p "$dir/nginx" -c "$dir/nginx.conf"
}

nginx_curl() {
	nginx_up
	client curl -sS -f -o "$dir/200m" -w '%{speed_download}\n' "http://$server_address:8080/200m" >"$dir/speed" || fail "curl: status $?"
	same_file "$work/www/200m" "$dir/200m"
	need 1 50000000
	say "$(($(cut -d. -f1 "$dir/speed") / 1000000)) MB/s"
}

# Many files over one connection, a range, a missing file.
nginx_curl_many() {
	local i urls=()
	nginx_up
	for i in $(seq 200); do
		urls+=(-o "$dir/got.$((i % 2))" "http://$server_address:8080/$([ $((i % 2)) = 0 ] && echo 1k || echo 100k)")
	done
	client curl -sS -f -w '%{num_connects}\n' "${urls[@]}" >"$dir/connects" || fail "curl: status $?"
	[ "$(grep -c 1 "$dir/connects")" = 1 ] || fail "curl used $(grep -c 1 "$dir/connects") connections, not one"
	same_file "$work/www/1k" "$dir/got.0"
	same_file "$work/www/100k" "$dir/got.1"
	client curl -sS -r 1000000-2999999 -o "$dir/range" "http://$server_address:8080/200m"
	tail -c +1000001 "$work/www/200m" | head -c 2000000 >"$dir/want"
	same_file "$dir/want" "$dir/range"
	[ "$(client curl -s -o "$dir/none" -w '%{http_code}' "http://$server_address:8080/missing")" = 404 ] || fail "no 404"
	need 1 4000000 # the range is over before it can be matched
	say "200 files right"
}

nginx_put() {
	nginx_up
	client curl -sS -f -T "$work/www/200m" "http://$server_address:8080/put/200m" || fail "curl: status $?"
	same_file "$work/www/200m" "$dir/put/200m"
	need 1 50000000
	say "200 MB right"
}

# wrk_run PATH BYTES
wrk_run() {
	nginx_up
	client wrk -t 1 -c 16 -d 3 "http://$server_address:8080/$1" >"$dir/out" || fail "wrk: status $?"
	! grep -E 'Socket errors|Non-2xx' "$dir/out" || fail "$(grep -E 'Socket errors|Non-2xx' "$dir/out")"
	need 16 "$2"
	say "$(awk '/^Requests\/sec/ { printf "%d req/s", $2 }' "$dir/out")"
}

# nginx_pids: of all that belong to this server
nginx_pids() {
	local pid
	for pid in $(ip netns pids "$ns_server"); do
		[ "$(cat "/proc/$pid/comm" 2>/dev/null)" != nginx ] || echo "$pid"
	done
}

pid_changed() {
	[ -s "$dir/nginx/pid" ] && [ "$(cat "$dir/nginx/pid")" != "$1" ]
}

gone() {
	! kill -0 "$1"
}

# None of the pids is there any more, nginx has given them up one by one.
all_gone() {
	local pid
	for pid in "$@"; do
		gone "$pid" || return 1
	done
}

# Four workers under load; three times new workers, then a new binary that takes the listening sockets over.
nginx_renewed() {
	local load old workers i nginx_daemon=on # otherwise nginx takes no new binary
	nginx_up 4
	wait_for test -s "$dir/nginx/pid"
	client /usr/bin/python3 "$here/http_load.py" "$server_address" 8080 8 "$dir/stop" \
		"/1k=$work/www/1k" "/100k=$work/www/100k" >"$dir/out" &
	load=$!
	old=$(cat "$dir/nginx/pid")
	for i in 1 2 3; do
		sleep 0.7
		mapfile -t workers < <(nginx_pids | grep -vx "$old")
		kill -HUP "$old"
		wait_for all_gone "${workers[@]}" || fail "workers stay after reload $i"
	done
	sleep 0.7
	kill -USR2 "$old"
	wait_for pid_changed "$old" || fail "no new nginx: $(tail -n 3 "$dir/nginx/error.log")"
	sleep 0.7
	kill -QUIT "$old"
	wait_for gone "$old" || fail "the old nginx stays"
	sleep 0.7
	touch "$dir/stop"
	wait $load || fail "$(tail -n 3 "$dir/client.log")"
	need 8 10000000
	say "$(cat "$dir/out")"
}

# What carries TLS is bytes like any, as long as the kernel does not encrypt them (TCP_ULP).
nginx_tls() {
	[ -e "$work/tls.key" ] || openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=rlm -addext "subjectAltName=IP:$server_address" \
		-keyout "$work/tls.key" -out "$work/tls.pem" 2>/dev/null || fail "openssl: status $?"
	nginx_up 1 "listen 8443 ssl; ssl_certificate $work/tls.pem; ssl_certificate_key $work/tls.key;"
	client curl -sS -f --cacert "$work/tls.pem" -o "$dir/200m" -w '%{speed_download}\n' "https://$server_address:8443/200m" >"$dir/speed" ||
		fail "curl: status $?"
	same_file "$work/www/200m" "$dir/200m"
	client curl -sS -f --cacert "$work/tls.pem" -T "$work/www/200m" "https://$server_address:8443/put/200m" || fail "curl: status $?"
	same_file "$work/www/200m" "$dir/put/200m"
	need 2 100000000
	say "$(($(cut -d. -f1 "$dir/speed") / 1000000)) MB/s"
}

wrk_1k() { wrk_run 1k 100000; }
wrk_100k() { wrk_run 100k 10000000; }

[ "${1:-}" != --functions ] || return 0
row "nginx, curl 200 MB" ring nginx_curl
row "nginx, curl 200 files, keep-alive" ring nginx_curl_many
nginx -V 2>&1 | grep -q http_dav && row "nginx, curl upload 200 MB" ring nginx_put
row "nginx, TLS, curl 2 x 200 MB" ring nginx_tls
row "nginx, 3 reloads, new binary" ring nginx_renewed promote=eager
row "nginx, wrk 1 KiB" ring wrk_1k
row "nginx, wrk 100 KiB" ring wrk_100k
