# SPDX-License-Identifier: BSD-2-Clause
# FTP: a process per session, in a chroot and without privileges, and a connection per file, opened by either side. vsftpd's sessions get theirs from
# another process of theirs and may have no threads: they stay on TCP. proftpd's make their own.
# shellcheck shell=bash
packages=(proftpd-core curl libwrap0)

ftp_files() {
	random_file "$work/50m" 50
	mkdir -p "$dir/pub/in" "$dir/empty" "$dir/run"
	chmod 777 "$dir/pub/in"
	cp "$work/50m" "$dir/pub/file"
}

# Debian's packages of the two exclude each other.
vsftpd_unpack() {
	[ -e "$work/vsftpd" ] || (cd "$work" && apt-get download -qq vsftpd && dpkg-deb -x vsftpd_*.deb vsftpd)
}

vsftpd_up() {
	ftp_files
	vsftpd_unpack || fail "vsftpd cannot be had"
	cat >"$dir/vsftpd.conf" <<-END
		listen=YES
		listen_port=2100
		background=NO
		anonymous_enable=YES
		anon_root=$dir/pub
		anon_upload_enable=YES
		anon_umask=022
		write_enable=YES
		port_enable=YES
		connect_from_port_20=NO
		secure_chroot_dir=$dir/empty
	END
	server 2100 "$work/vsftpd/usr/sbin/vsftpd" "$dir/vsftpd.conf"
}

proftpd_up() {
	ftp_files
	cat >"$dir/proftpd.conf" <<-END
		ServerType standalone
		Port 2100
		DefaultAddress $server_address
		User nobody
		Group nogroup
		UseIPv6 off
		PidFile $dir/run/pid
		ScoreboardFile $dir/run/scoreboard
		DelayEngine off
		UseFtpUsers off
		AuthOrder mod_auth_unix.c
		AllowForeignAddress on
		<Anonymous $dir/pub>
		  User nobody
		  Group nogroup
		  UserAlias anonymous nobody
		  RequireValidShell off
		</Anonymous>
	END
	server 2100 proftpd -n -q -c "$dir/proftpd.conf"
}

# ftp_get and ftp_put NAME CURL-OPTION...: with -P the server makes the connection for the file.
ftp_get() {
	client curl -sS "${@:2}" -o "$dir/$1" "ftp://$server_address:2100/file" || fail "curl: status $?"
	same_file "$work/50m" "$dir/$1"
}

ftp_put() {
	client curl -sS "${@:2}" -T "$work/50m" "ftp://$server_address:2100/in/$1" || fail "curl: status $?"
	same_file "$work/50m" "$dir/pub/in/$1"
}

ftp_all() {
	"$1_up"
	ftp_get got
	ftp_get got.active -P "$client_address"
	ftp_put put
	ftp_put put.active -P "$client_address"
	say "4 x 50 MB right"
}

ftp_vsftpd() { ftp_all vsftpd; }

ftp_proftpd() {
	ftp_all proftpd
	need 4 100000000
}

row "vsftpd, curl" plain ftp_vsftpd
row "proftpd, curl" ring ftp_proftpd
