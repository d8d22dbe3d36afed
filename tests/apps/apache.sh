# SPDX-License-Identifier: BSD-2-Clause
# Apache: event (threads, edge-triggered epoll, idle connections in the hands of one thread) and prefork (accept in children); ab and curl.
# shellcheck shell=bash
packages=(apache2-bin apache2-utils curl)

apache_up() {
	local root=$work/www modules=/usr/lib/apache2/modules
	mkdir -p "$root"
	random_file "$root/200m" 200
	[ -e "$root/1k" ] || head -c 1024 /dev/urandom >"$root/1k"
	chmod -R a+rX "$root"
	cat >"$dir/apache.conf" <<-END
		ServerRoot $dir
		ServerName $server_address
		PidFile $dir/pid
		ErrorLog $dir/error.log
		Listen 8180
		LoadModule mpm_$1_module $modules/mod_mpm_$1.so
		LoadModule authz_core_module $modules/mod_authz_core.so
		LoadModule alias_module $modules/mod_alias.so
		User daemon
		Group daemon
		DocumentRoot $root
		MaxKeepAliveRequests 0
		# Prefork: a child for each of ab's connections from the start.
		StartServers ${2:-4}
		EnableSendfile On
		<Directory $root>
			Require all granted
		</Directory>
	END
	server 8180 apache2 -DFOREGROUND -f "$dir/apache.conf"
}

# apache_all_right REQUESTS OUTPUT
apache_all_right() {
	grep -q "^Complete requests: *$1\$" "$2" && grep -q '^Failed requests: *0$' "$2" || fail "$(grep requests "$2")"
}

# apache_load MPM [PROCESSES]
apache_load() {
	apache_up "$@"
	client curl -sS -f -o "$dir/200m" "http://$server_address:8180/200m" || fail "curl: status $?"
	same_file "$work/www/200m" "$dir/200m"
	client ab -q -k -c 16 -n 20000 "http://$server_address:8180/1k" >"$dir/out" || fail "ab: status $?"
	apache_all_right 20000 "$dir/out"
	client ab -q -c 16 -n 3000 "http://$server_address:8180/1k" >"$dir/out2" || fail "ab without -k: status $?"
	apache_all_right 3000 "$dir/out2"
	need 16 50000000
	say "$(awk '/^Requests per second/ { printf "%d", $4 }' "$dir/out") and $(awk '/^Requests per second/ { printf "%d req/s", $4 }' "$dir/out2")"
}

apache_event() { apache_load event; }
apache_prefork() { apache_load prefork 20; }

row "apache event, curl, ab" ring apache_event
row "apache prefork, curl, ab" ring apache_prefork promote=eager
