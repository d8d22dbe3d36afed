# SPDX-License-Identifier: BSD-2-Clause
# Java: blocking sockets (which the JDK polls) and NIO (epoll).
# shellcheck shell=bash
packages=(openjdk-17-jdk-headless)

java_init() {
	[ -e "$work/java" ] || { mkdir "$work/java" && javac -d "$work/java" "$here/Echo.java" || die "javac failed"; }
}

java_echo() {
	server 8600 java -XX:+UseSerialGC -cp "$work/java" Echo "$1" "$server_address" 8600
	client java -XX:+UseSerialGC -cp "$work/java" Echo "$2" "$server_address" 8600 >"$dir/out" || fail "$(tail -n 1 "$dir/client.log")"
	need 8 50000000
	say "$(tail -n 1 "$dir/out")"
}

java_blocking() { java_echo blocking-server blocking-client; }
java_nio() { java_echo nio-server nio-client; }

java_init
row "java, blocking" ring java_blocking
row "java, NIO" ring java_nio
