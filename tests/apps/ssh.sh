# SPDX-License-Identifier: BSD-2-Clause
# sshd executes itself anew for each connection, with the socket kept through exec; an earlier process of it is under seccomp.
# shellcheck shell=bash
packages=(openssh-server openssh-client)

ssh_init() {
	[ ! -e "$work/ssh" ] || return 0
	mkdir -m 700 "$work/ssh"
	mkdir -p /run/sshd
	ssh-keygen -q -t ed25519 -N '' -f "$work/ssh/host"
	ssh-keygen -q -t ed25519 -N '' -f "$work/ssh/user"
	cp "$work/ssh/user.pub" "$work/ssh/authorized"
	cat >"$work/ssh/config" <<-END
		Port 2200
		HostKey $work/ssh/host
		AuthorizedKeysFile $work/ssh/authorized
		PidFile none
		StrictModes no
		PermitRootLogin yes
		UsePAM no
		Subsystem sftp internal-sftp
	END
	cat >"$work/ssh/client" <<-END
		IdentityFile $work/ssh/user
		IdentitiesOnly yes
		StrictHostKeyChecking no
		UserKnownHostsFile /dev/null
		LogLevel ERROR
		Port 2200
		User root
	END
}

ssh_up() {
	random_file "$work/200m" 200
	server 2200 /usr/sbin/sshd -D -e -f "$work/ssh/config"
}

ssh_scp() {
	ssh_up
	client scp -F "$work/ssh/client" "$work/200m" "$server_address:$dir/up" || fail "scp: status $?"
	client scp -F "$work/ssh/client" "$server_address:$work/200m" "$dir/down" || fail "scp: status $?"
	same_file "$work/200m" "$dir/up"
	same_file "$work/200m" "$dir/down"
	need 2 100000000
	say "2 x 200 MB right"
}

ssh_sftp() {
	ssh_up
	printf 'put %s %s\nget %s %s\n' "$work/200m" "$dir/up" "$work/200m" "$dir/down" >"$dir/batch"
	client sftp -q -F "$work/ssh/client" -b "$dir/batch" "$server_address" >"$dir/out" || fail "sftp: status $?"
	same_file "$work/200m" "$dir/up"
	same_file "$work/200m" "$dir/down"
	need 1 100000000
	say "2 x 200 MB right"
}

ssh_command() {
	ssh_up
	client ssh -F "$work/ssh/client" "$server_address" "cat; echo end" <"$work/ssh/user.pub" >"$dir/out" || fail "ssh: status $?"
	(cat "$work/ssh/user.pub" && echo end) >"$dir/want"
	same_file "$dir/want" "$dir/out"
	say "right"
}

ssh_init
row "sshd, scp" ring ssh_scp promote=eager
row "sshd, sftp" ring ssh_sftp promote=eager
row "sshd, ssh" any ssh_command
