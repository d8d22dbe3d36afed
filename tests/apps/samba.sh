# SPDX-License-Identifier: BSD-2-Clause
# Samba: a process per connection, which reads with recvmsg() as little as it needs and sends files with sendfile().
# shellcheck shell=bash
packages=(samba smbclient)

samba_up() {
	mkdir -p "$dir/share" "$dir/private" "$dir/state"
	chmod 777 "$dir/share"
	random_file "$work/50m" 50
	cp "$work/50m" "$dir/share/file"
	cat >"$dir/smb.conf" <<-END
		[global]
		private dir = $dir/private
		lock directory = $dir/state
		state directory = $dir/state
		cache directory = $dir/state
		pid directory = $dir/state
		ncalrpc dir = $dir/state/ncalrpc
		log file = $dir/log.%m
		smb ports = 1445
		bind interfaces only = yes
		interfaces = $server_address
		map to guest = Bad User
		disable spoolss = yes
		load printers = no
		use sendfile = yes
		[share]
		path = $dir/share
		guest ok = yes
		read only = no
	END
	server 1445 smbd -F --no-process-group -s "$dir/smb.conf"
}

samba_files() {
	local i

	samba_up
	for i in 1 2; do
		client smbclient -p 1445 -s "$dir/smb.conf" -N "//$server_address/share" -c "get file $dir/got; put $dir/got file$i" || fail "smbclient: status $?"
		same_file "$work/50m" "$dir/got"
		same_file "$work/50m" "$dir/share/file$i"
	done
	need 2 100000000
	say "200 MB"
}

row "samba, smbclient" ring samba_files promote=eager
