# SPDX-License-Identifier: BSD-2-Clause
# Connections between processes that multiprocessing has forked, spawned, or had forked by a server.
# shellcheck shell=bash
packages=(python3 libpython3.11-testsuite)

. "$here/cpython.sh" --functions

cpython_connections='*Listener*,*Connection*,*Remote*,*TestPoll*,*TestWait*,*Authkey*'
cpython_row "multiprocessing connections" ring "multiprocessing_fork:$cpython_connections" "multiprocessing_spawn:$cpython_connections" \
	"multiprocessing_forkserver:$cpython_connections"
