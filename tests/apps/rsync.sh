# SPDX-License-Identifier: BSD-2-Clause
# An rsync daemon forks for each connection, and the child goes into a chroot; both ends use select with data in both directions.
# shellcheck shell=bash
packages=(rsync)

rsync_up() {
	local i
	if [ ! -e "$work/tree" ]; then
		mkdir -p "$work/tree"
		for i in $(seq 200); do
			mkdir -p "$work/tree/$((i % 10))"
			head -c $((i * i * 20)) /dev/urandom >"$work/tree/$((i % 10))/$i"
		done
		random_file "$work/tree/large" 100
	fi
	mkdir -p "$dir/up"
	cat >"$dir/rsyncd.conf" <<-END
		uid = root
		gid = root
		[tree]
		path = $work/tree
		[up]
		path = $dir/up
		read only = no
	END
	server 8730 rsync --daemon --no-detach --port 8730 --config "$dir/rsyncd.conf"
}

rsync_both() {
	rsync_up
	client rsync -a --port 8730 "$server_address::tree/" "$dir/down/" || fail "rsync: status $?"
	client rsync -a --port 8730 "$work/tree/" "$server_address::up/" || fail "rsync: status $?"
	diff -r "$work/tree" "$dir/down" >/dev/null || fail "what was fetched differs"
	diff -r "$work/tree" "$dir/up" >/dev/null || fail "what was sent differs"
	# Once more, with a change in the middle of the large file.
	printf changed | dd of="$dir/up/large" bs=1 seek=50000000 conv=notrunc status=none
	client rsync -a --checksum --port 8730 "$work/tree/" "$server_address::up/" || fail "rsync: status $?"
	diff -r "$work/tree" "$dir/up" >/dev/null || fail "what was updated differs"
	need 3 100000000
	say "3 trees right"
}

row "rsync daemon" ring rsync_both
