# SPDX-License-Identifier: BSD-2-Clause
# Tomcat: a poller thread that hands sockets to many others, and the same with Java's asynchronous channels (one-shot epoll).
# shellcheck shell=bash
packages=(openjdk-17-jdk-headless tomcat10 curl wrk)

tomcat_connector() {
	echo "<Connector port='$1' address='$server_address' protocol='org.apache.coyote.http11.$2'/>"
}

tomcat_up() {
	mkdir -p "$dir"/base/{conf,webapps/ROOT,logs,temp,work}
	cp /etc/tomcat10/web.xml /etc/tomcat10/*.properties "$dir/base/conf"
	cat >"$dir/base/conf/server.xml" <<-END
		<Server port="-1"><Service name="Catalina">
		$(tomcat_connector 8021 Http11NioProtocol)
		$(tomcat_connector 8022 Http11Nio2Protocol)
		<Engine name="Catalina" defaultHost="localhost"><Host name="localhost" appBase="webapps"/></Engine>
		</Service></Server>
	END
	random_file "$work/20m" 20
	cp "$work/20m" "$dir/base/webapps/ROOT/file"
	cat >"$dir/base/webapps/ROOT/back.jsp" <<-'END'
		<%@page trimDirectiveWhitespaces="true"%><% request.getInputStream().transferTo(response.getOutputStream()); %>
	END
	server 8022 env CATALINA_BASE="$dir/base" JAVA_OPTS=-XX:+UseSerialGC bash /usr/share/tomcat10/bin/catalina.sh run
	wait_for listens 8021 || fail "tomcat does not listen on 8021"
}

tomcat_transfers() {
	local port i

	tomcat_up
	for port in 8021 8022; do
		for i in 1 2; do
			client curl -sS "http://$server_address:$port/file" -o "$dir/down" || fail "curl: status $?"
			same_file "$work/20m" "$dir/down"
			client curl -sS --data-binary "@$work/20m" "http://$server_address:$port/back.jsp" -o "$dir/back" || fail "curl: status $?"
			same_file "$work/20m" "$dir/back"
		done
		client wrk -t 2 -c 20 -d 2 --timeout 60 "http://$server_address:$port/file" >"$dir/wrk" || fail "wrk: status $?"
		grep -q '^Requests/sec' "$dir/wrk" || fail "wrk printed nothing"
		grep -E '^ +(Socket errors|Non-2xx)' "$dir/wrk" >>"$dir/why" && exit 1
	done
	need 20 200000000
	say "4 x 60 MB, wrk"
}

row "tomcat, NIO and NIO2" ring tomcat_transfers promote=eager
