# SPDX-License-Identifier: BSD-2-Clause
# Mosquitto: one thread with epoll that passes what one client publishes on to others, and many small messages with answers to each.
# shellcheck shell=bash
packages=(mosquitto mosquitto-clients)

mosquitto_up() {
	cat >"$dir/mosquitto.conf" <<-END
		listener 1884 $server_address
		allow_anonymous true
		max_inflight_messages 0
		max_queued_messages 0
		log_type error
		log_type subscribe
		log_type notice
	END
	server 1884 mosquitto -c "$dir/mosquitto.conf"
}

# mosquitto_subscribe NUMBER TOPIC OPTION...: returns when the server has the subscription.
mosquitto_subscribe() {
	client mosquitto_sub -h "$server_address" -p 1884 -t "$2" -q 2 "${@:3}" >"$dir/got.$2" &
	subscribers+=($!)
	wait_for sh -c "[ \$(grep -c ' 2 $2\$' '$dir/server.log') = $1 ]" || fail "no subscription to $2"
}

mosquitto_messages() {
	local qos pid subscribers

	mosquitto_up
	random_file "$work/20m" 20
	seq 5000 >"$dir/lines"
	for qos in 0 1 2; do
		subscribers=()
		mosquitto_subscribe $((qos + 1)) lines -C 5000
		mosquitto_subscribe $((qos + 1)) file -C 1 -N
		client mosquitto_pub -h "$server_address" -p 1884 -t lines -q $qos -l <"$dir/lines" || fail "mosquitto_pub: status $?"
		client mosquitto_pub -h "$server_address" -p 1884 -t file -q $qos -f "$work/20m" || fail "mosquitto_pub: status $?"
		for pid in "${subscribers[@]}"; do
			wait "$pid" || fail "mosquitto_sub: status $?"
		done
		same_file "$dir/lines" "$dir/got.lines"
		same_file "$work/20m" "$dir/got.file"
	done
	need 9 100000000
	say "15000 and 3 x 20 MB"
}

row "mosquitto" ring mosquitto_messages promote=eager
