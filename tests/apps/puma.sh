# SPDX-License-Identifier: BSD-2-Clause
# Ruby's puma: two forked workers, in each threads that answer and one with epoll for connections that wait; answers are corked.
# shellcheck shell=bash
packages=(puma curl apache2-utils)

puma_answers() {
	local url=http://$server_address:9004
	mkdir -p "$work/puma"
	random_file "$work/puma/20m" 20
	[ -e "$work/puma/1k" ] || head -c 1024 /dev/urandom >"$work/puma/1k"
	cat >"$dir/config.ru" <<-END
		run lambda { |env|
		  file = '$work/puma' + env['PATH_INFO']
		  [200, { 'content-type' => 'application/octet-stream', 'content-length' => File.size(file).to_s }, File.open(file, 'rb')]
		}
	END
	server 9004 env HOME="$dir" puma -b tcp://0.0.0.0:9004 -w 2 -t 4:4 "$dir/config.ru"
	client curl -sS -f -Z -o "$dir/1" "$url/20m" -o "$dir/2" "$url/20m" -o "$dir/3" "$url/1k" || fail "curl: status $?"
	same_file "$work/puma/20m" "$dir/1"
	same_file "$work/puma/20m" "$dir/2"
	same_file "$work/puma/1k" "$dir/3"
	client ab -q -k -c 8 -n 2000 "$url/1k" >"$dir/out" || fail "ab: status $?"
	grep -q '^Failed requests: *0$' "$dir/out" || fail "$(grep requests "$dir/out")"
	need 8 10000000
	say "$(awk '/^Requests per second/ { printf "%d req/s", $4 }' "$dir/out")"
}

row "puma, curl, ab" ring puma_answers promote=eager
