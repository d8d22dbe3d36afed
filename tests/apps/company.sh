# SPDX-License-Identifier: BSD-2-Clause
# Other preloaded libraries beside librlm.so, in front of it and behind it: an allocator, a false clock, others that know sockets. Programs
# that bring a run-time system of their own, and whole sessions in which everything is preloaded.
# shellcheck shell=bash disable=SC2016
packages=(python3 libjemalloc2 faketime proxychains4 torsocks libsocket-wrapper valgrind gcc git openssh-client perl)

libraries=/usr/lib/$(uname -m)-linux-gnu

# What runs a command with preloads in front of librlm.so and behind it, '' for none.
in_company='front=$1 behind=$2; shift 2; LD_PRELOAD="$front ${LD_PRELOAD-} $behind" exec "$@"'

company_echo() {
	local around=(sh -c "$in_company" company "$1" "$2")
	printf 'strict_chain\nlocalnet 10.0.0.0/255.0.0.0\n[ProxyList]\nsocks4 127.0.0.1 9\n' >"$dir/proxychains.conf"
	around=(env FAKETIME=+2d PROXYCHAINS_CONF_FILE="$dir/proxychains.conf" "${around[@]}")
	server 8600 "${around[@]}" /usr/bin/python3 "$here/echo.py" server "$server_address" 8600
	client "${around[@]}" /usr/bin/python3 "$here/echo.py" blocking "$server_address" 8600 >"$dir/out" ||
		fail "$(tail -n 1 "$dir/client.log")"
	need 8 50000000
	say "$(tail -n 1 "$dir/out")"
}

jemalloc_front() { company_echo "$libraries/libjemalloc.so.2" ''; }
jemalloc_behind() { company_echo '' "$libraries/libjemalloc.so.2"; }
faketime_front() { company_echo "$libraries/faketime/libfaketimeMT.so.1" ''; }
proxychains_front() { company_echo "$libraries/libproxychains.so.4" ''; }
proxychains_behind() { company_echo '' "$libraries/libproxychains.so.4"; }

# It lets no program talk to its own host, unless told; what it connects it does not let others see.
torsocks_echo() {
	local around=(sh -c "$in_company" company "$1" "$2")
	printf 'AllowOutboundLocalhost 1\nAllowInbound 1\n' >"$dir/torsocks.conf"
	around=(env TORSOCKS_CONF_FILE="$dir/torsocks.conf" "${around[@]}")
	server 8601 "${around[@]}" /usr/bin/python3 "$here/echo.py" server 127.0.0.1 8601
	local_client timeout 50 "${around[@]}" /usr/bin/python3 "$here/echo.py" blocking 127.0.0.1 8601 >"$dir/out" ||
		fail "$(tail -n 1 "$dir/client.log")"
	need 8 50000000
	say "$(tail -n 1 "$dir/out")"
}

torsocks_front() { torsocks_echo "$libraries/torsocks/libtorsocks.so" ''; }
torsocks_behind() { torsocks_echo '' "$libraries/torsocks/libtorsocks.so"; }

# It makes UNIX sockets of all TCP ones, in a directory.
wrapper_echo() {
	local around=(sh -c "$in_company" company "$1" "$2")
	mkdir -p "$dir/sockets"
	around=(env SOCKET_WRAPPER_DIR="$dir/sockets" SOCKET_WRAPPER_DEFAULT_IFACE=10 "${around[@]}")
	(in_namespace server "${around[@]}" /usr/bin/python3 "$here/echo.py" server 127.0.0.10 8602) >"$dir/server.log" 2>&1 &
	wait_for sh -c "ls '$dir'/sockets/T*" || fail "$(tail -n 1 "$dir/server.log")"
	client timeout 50 "${around[@]}" /usr/bin/python3 "$here/echo.py" blocking 127.0.0.10 8602 >"$dir/out" ||
		fail "$(tail -n 1 "$dir/client.log")"
	say "$(tail -n 1 "$dir/out")"
}

wrapper_front() { wrapper_echo "$libraries/libsocket_wrapper.so" ''; }
wrapper_behind() { wrapper_echo '' "$libraries/libsocket_wrapper.so"; }

# example_echo ROUNDS COMMAND...: the example's client and server under a command, or built with gcc's options FLAGS.
example_echo() {
	local rounds=$1 program
	shift
	for program in echo-server echo-client; do
		gcc -g ${flags:+"$flags"} -o "$dir/$program" "$here/../../examples/$program.c" || fail "does not build"
	done
	server 8603 "$@" "$dir/echo-server" 8603
	client timeout 50 "$@" "$dir/echo-client" "$server_address" 8603 "$rounds" >"$dir/out" || fail "$(tail -n 3 "$dir/client.log")"
	! grep -E '(Address|Thread)Sanitizer|Invalid (read|write)' "$dir"/*.log || fail "$(grep -m 1 -E 'Sanitizer|Invalid' "$dir"/*.log)"
	need 1 $((rounds * 50))
	say "$(sed -n 's/.*, \([0-9.]* us\) each/\1/p' "$dir/out")"
}

# AddressSanitizer wants to be the first of all preloads.
address_sanitizer() {
	flags=-fsanitize=address example_echo 10000 sh -c "$in_company" company "$(gcc -print-file-name=libasan.so)" ''
}
thread_sanitizer() { flags=-fsanitize=thread example_echo 10000; }
# It knows no futex_waitv().
under_valgrind() { flags='' example_echo 1000 valgrind -q; }

whole_session() {
	client env LANG=C LC_ALL=C HOME="$dir" timeout $patience bash "$here/session.txt" >"$dir/session" || fail "status $?: $(tail -n 1 "$dir/client.log")"
	[ "$mode" = preloaded ] || cp "$dir/session" "$work/session"
	cmp "$dir/session" "$work/session" || fail "$(diff "$work/session" "$dir/session" | head -n 5)"
	grep -q echoed "$dir/session" || fail "no container could be made: $(tail -n 3 "$dir/client.log")"
	say "$(wc -l <"$dir/session") lines"
}

row "jemalloc in front of us" ring jemalloc_front
row "jemalloc behind us" ring jemalloc_behind
row "faketime in front of us" ring faketime_front
row "proxychains in front of us" ring proxychains_front
row "proxychains behind us" ring proxychains_behind
row "torsocks in front of us" plain torsocks_front
row "torsocks behind us" ring torsocks_behind
row "socket_wrapper in front of us" plain wrapper_front
row "socket_wrapper behind us" plain wrapper_behind
row "built with AddressSanitizer" ring address_sanitizer
row "built with ThreadSanitizer" ring thread_sanitizer
row "under valgrind" ring under_valgrind
row "a shell session" any whole_session
row "a shell session, no broker" any whole_session broker=none
