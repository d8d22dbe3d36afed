# SPDX-License-Identifier: BSD-2-Clause
# Python: an asyncio server (non-blocking, level-triggered epoll) with an asyncio and with a blocking, threaded client.
# shellcheck shell=bash
packages=(python3)

python_echo() {
	server 8500 /usr/bin/python3 "$here/echo.py" server "$server_address" 8500
	client /usr/bin/python3 "$here/echo.py" "$1" "$server_address" 8500 >"$dir/out" || fail "$(tail -n 1 "$dir/client.log")"
	need 8 50000000
	say "$(tail -n 1 "$dir/out")"
}

asyncio_echo() { python_echo asyncio; }
blocking_echo() { python_echo blocking; }
select_echo() { python_echo selector; }

row "python asyncio, asyncio" ring asyncio_echo
row "python asyncio, threads" ring blocking_echo
row "python asyncio, poll" ring select_echo
