# SPDX-License-Identifier: BSD-2-Clause
# MariaDB: a thread for each connection, which polls and receives without waiting. With native AIO it makes an io_uring, and all its
# connections stay on TCP.
# shellcheck shell=bash
packages=(mariadb-server mariadb-client)

mariadb_up() {
	if [ ! -e "$work/mariadb" ]; then
		mariadb-install-db --no-defaults --datadir="$work/mariadb" --user=root >"$dir/install.log" 2>&1 || fail "mariadb-install-db: status $?"
	fi
	cp -r "$work/mariadb" "$dir/data"
	server 9101 mariadbd --no-defaults --user=root --datadir="$dir/data" --port=9101 --socket="$dir/socket" --bind-address=0.0.0.0 \
		--innodb-use-native-aio=0 --innodb-flush-method=nosync --max-allowed-packet=64M --skip-grant-tables --skip-name-resolve
}

# Rows of 11 MB, in and out, and eight clients at a time.
mariadb_rows() {
	local at=(--no-defaults -h "$server_address" -P 9101 -u root) i
	mariadb_up
	random_file "$work/8m" 8
	base64 -w 0 "$work/8m" >"$dir/want"
	client mariadb "${at[@]}" -e "create database d; create table d.t (i int primary key, b longblob)" || fail "mariadb: status $?"
	for i in 1 2 3; do
		{ printf "insert into t values (%d, '" $i && cat "$dir/want" && echo "');"; } >"$dir/query"
		client mariadb "${at[@]}" --max-allowed-packet=64M d <"$dir/query" || fail "mariadb, row $i: status $?"
	done
	client mariadb "${at[@]}" --max-allowed-packet=64M -N -r --quick -e "select b from t order by i" d | split -l 1 - "$dir/got." ||
		fail "mariadb, select: status $?"
	echo >>"$dir/want"
	for i in a b c; do
		same_file "$dir/want" "$dir/got.a$i"
	done
	client mariadb-slap "${at[@]}" --concurrency=8 --iterations=1 --number-of-queries=2000 --auto-generate-sql >"$dir/out" || fail "mariadb-slap: status $?"
	need 8 20000000
	say "3 x 11 MB right, $(awk '/Average.*to run/ { print $(NF - 1) }' "$dir/out") s"
}

row "mariadb, mariadb-slap" ring mariadb_rows promote=eager
