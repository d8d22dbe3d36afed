# SPDX-License-Identifier: BSD-2-Clause
# PHP's FastCGI server behind nginx: its answer comes faster than nginx may pass it on, so nginx waits for room, by edges alone.
# shellcheck shell=bash
packages=(php-fpm nginx-light curl)

declare -F nginx_up >/dev/null || . "$here/nginx.sh" --functions

php_answers() {
	local i program=(/usr/sbin/php-fpm*)
	mkdir -p "$work/php"
	echo '<?php for ($i = 0; $i < 500000; $i++) echo substr("$i 0123456789abcdef", 0, 16);' >"$work/php/much.php"
	[ -e "$work/much" ] || php_answer >"$work/much"
	cat >"$dir/fpm.conf" <<-END
		[global]
		error_log = $dir/fpm.log
		daemonize = no
		[www]
		user = daemon
		listen = 0.0.0.0:9000
		pm = static
		pm.max_children = 4
	END
	server 9000 "${program[0]}" -y "$dir/fpm.conf" -F
	nginx_up 1 "location /much { fastcgi_pass $server_address:9000; include /etc/nginx/fastcgi_params;
		fastcgi_param SCRIPT_FILENAME $work/php/much.php; }"
	for i in $(seq 30); do
		client curl -sS -f --max-time 50 -o "$dir/got" "http://$server_address:8080/much" || fail "curl $i: status $?"
		same_file "$work/much" "$dir/got"
	done
	need 10 20000000
	say "30 x 8 MB right"
}

php_answer() {
	awk 'BEGIN { for (i = 0; i < 500000; i++) printf "%s", substr(i " 0123456789abcdef", 1, 16) }'
}

row "php-fpm, nginx, curl" ring php_answers
