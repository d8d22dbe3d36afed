# SPDX-License-Identifier: BSD-2-Clause
# Between curl and nginx: squid (one process, cache in memory), varnish (threads that poll, a child that serves), two stunnels
# (TLS, a thread for each connection).
# shellcheck shell=bash
packages=(squid varnish stunnel4 nginx-light curl openssl)

declare -F nginx_up >/dev/null || . "$here/nginx.sh" --functions

# proxied_files URL CURL-OPTION...: large, small, many over one connection.
proxied_files() {
	local i urls=()
	for i in $(seq 100); do
		urls+=(-o "$dir/got.$((i % 2))" "$1/$([ $((i % 2)) = 0 ] && echo 1k || echo 100k)")
	done
	client curl -sS -f "${@:2}" -o "$dir/200m" -w '%{speed_download}\n' "$1/200m" >"$dir/speed" || fail "curl: status $?"
	same_file "$work/www/200m" "$dir/200m"
	client curl -sS -f "${@:2}" "${urls[@]}" || fail "curl, many files: status $?"
	same_file "$work/www/1k" "$dir/got.0"
	same_file "$work/www/100k" "$dir/got.1"
	need 2 100000000
	say "$(($(cut -d. -f1 "$dir/speed") / 1000000)) MB/s"
}

squid_files() {
	nginx_up
	chmod 777 "$dir"
	cat >"$dir/squid.conf" <<-END
		http_port 3128
		http_access allow all
		cache_mem 64 MB
		pid_filename none
		access_log none
		cache_log $dir/squid.log
		coredump_dir $dir
		shutdown_lifetime 0 seconds
		visible_hostname rlm
	END
	server 3128 squid -N -f "$dir/squid.conf"
	proxied_files "http://$server_address:8080" -x "http://$server_address:3128"
}

varnish_files() {
	nginx_up
	server 6081 varnishd -F -n "$dir/varnish" -a :6081 -b "$server_address:8080" -s malloc,400m
	proxied_files "http://$server_address:6081"
}

stunnel_files() {
	nginx_up
	[ -e "$work/stunnel.pem" ] || openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=rlm -keyout "$work/stunnel.key" \
		-out "$work/stunnel.pem" 2>/dev/null || fail "openssl: status $?"
	printf '%s\n' 'foreground = yes' 'pid =' "key = $work/stunnel.key" "cert = $work/stunnel.pem" \
		'[far]' 'accept = 7443' "connect = $server_address:8080" >"$dir/far.conf"
	printf '%s\n' 'foreground = yes' 'pid =' '[near]' 'client = yes' 'accept = 7080' "connect = $server_address:7443" >"$dir/near.conf"
	server 7443 stunnel4 "$dir/far.conf"
	server 7080 stunnel4 "$dir/near.conf"
	proxied_files "http://$server_address:7080"
}

row "squid, curl" ring squid_files
row "varnish, curl" ring varnish_files
row "stunnel twice, curl" ring stunnel_files
