# SPDX-License-Identifier: BSD-2-Clause
# RabbitMQ: Erlang's sockets, with small frames and windows of acknowledgements, and Python's pika, which waits with select, poll or epoll.
# shellcheck shell=bash
packages=(rabbitmq-server python3-pika)

# The server has its name and its scratch files for itself; it finds itself through epmd, in its own namespace.
rabbitmq_up() {
	echo '[].' >"$dir/plugins"
	server 5673 env HOME="$dir" RABBITMQ_NODENAME=rlm@localhost RABBITMQ_MNESIA_BASE="$dir/mnesia" RABBITMQ_LOG_BASE="$dir/logs" \
		RABBITMQ_NODE_PORT=5673 RABBITMQ_NODE_IP_ADDRESS="$server_address" RABBITMQ_PID_FILE="$dir/pid" \
		RABBITMQ_ENABLED_PLUGINS_FILE="$dir/plugins" RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-setcookie rlm -rabbit loopback_users []" \
		/usr/lib/rabbitmq/bin/rabbitmq-server
}

rabbitmq_messages() {
	rabbitmq_up
	client /usr/bin/python3 "$here/rabbitmq_load.py" "$server_address" 5673 >"$dir/out" || fail "$(tail -n 1 "$dir/client.log")"
	need 8 10000000
	say "$(cat "$dir/out")"
}

row "rabbitmq, pika" ring rabbitmq_messages promote=eager
