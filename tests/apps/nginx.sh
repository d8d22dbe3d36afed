# SPDX-License-Identifier: BSD-2-Clause
# nginx with sendfile: edge-triggered epoll; curl polls, wrk has its own event loop.
# shellcheck shell=bash
packages=(nginx-light curl wrk)

nginx_up() {
	local root=$work/www
	mkdir -p "$root"
	random_file "$root/200m" 200
	[ -e "$root/1k" ] || head -c 1024 /dev/urandom >"$root/1k"
	[ -e "$root/100k" ] || head -c 102400 /dev/urandom >"$root/100k"
	mkdir -p "$dir/nginx"
	cat >"$dir/nginx.conf" <<-END
		daemon off;
		user root;
		worker_processes ${1:-1};
		pid $dir/nginx/pid;
		error_log $dir/nginx/error.log;
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
				root $root;
				location /put/ { root $dir; dav_methods PUT; create_full_put_path on; }
			}
		}
	END
	server 8080 nginx -e "$dir/nginx/error.log" -p "$dir/nginx" -c "$dir/nginx.conf"
}

nginx_curl() {
	nginx_up
	client timeout 40 curl -sS -f -o "$dir/200m" -w '%{speed_download}\n' "http://$server_address:8080/200m" >"$dir/speed" || fail "curl: status $?"
	same_file "$work/www/200m" "$dir/200m"
	need 1 150000000
	say "$(($(cut -d. -f1 "$dir/speed") / 1000000)) MB/s"
}

# Many files over one connection, a range, a missing file.
nginx_curl_many() {
	local i urls=()
	nginx_up
	for i in $(seq 100); do
		urls+=(-o "$dir/got.$((i % 2))" "http://$server_address:8080/$([ $((i % 2)) = 0 ] && echo 1k || echo 100k)")
	done
	client timeout 40 curl -sS -f -w '%{num_connects}\n' "${urls[@]}" >"$dir/connects" || fail "curl: status $?"
	[ "$(grep -c 1 "$dir/connects")" = 1 ] || fail "curl used $(grep -c 1 "$dir/connects") connections, not one"
	same_file "$work/www/1k" "$dir/got.0"
	same_file "$work/www/100k" "$dir/got.1"
	client curl -sS -r 1000000-2999999 -o "$dir/range" "http://$server_address:8080/200m"
	tail -c +1000001 "$work/www/200m" | head -c 2000000 >"$dir/want"
	same_file "$dir/want" "$dir/range"
	[ "$(client curl -s -o "$dir/none" -w '%{http_code}' "http://$server_address:8080/missing")" = 404 ] || fail "no 404"
	need 1 4000000 # the range is over before it can be matched
	say "100 files right"
}

nginx_put() {
	nginx_up
	client timeout 40 curl -sS -f -T "$work/www/200m" "http://$server_address:8080/put/200m" || fail "curl: status $?"
	same_file "$work/www/200m" "$dir/put/200m"
	need 1 150000000
	say "200 MB right"
}

# wrk_run PATH BYTES
wrk_run() {
	nginx_up
	client timeout 30 wrk -t 1 -c 16 -d 3 "http://$server_address:8080/$1" >"$dir/out" || fail "wrk: status $?"
	! grep -E 'Socket errors|Non-2xx' "$dir/out" || fail "$(grep -E 'Socket errors|Non-2xx' "$dir/out")"
	need 16 "$2"
	say "$(awk '/^Requests\/sec/ { printf "%d req/s", $2 }' "$dir/out")"
}

wrk_1k() { wrk_run 1k 1000000; }
wrk_100k() { wrk_run 100k 100000000; }

[ "${1:-}" != --functions ] || return 0
row "nginx, curl 200 MB" ring nginx_curl
row "nginx, curl 100 files, keep-alive" ring nginx_curl_many
nginx -V 2>&1 | grep -q http_dav && row "nginx, curl upload 200 MB" ring nginx_put
row "nginx, wrk 1 KiB" ring wrk_1k
row "nginx, wrk 100 KiB" ring wrk_100k
