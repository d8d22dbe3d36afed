# SPDX-License-Identifier: BSD-2-Clause
# PostgreSQL: a process per connection, forked from the one that accepted it; psql and pgbench use poll.
# shellcheck shell=bash
packages=(postgresql-15 postgresql-client-15 postgresql-contrib util-linux)

pg_bin=/usr/lib/postgresql/15/bin

postgres_up() {
	cp -r "$work/postgres" "$dir/data"
	chown -R postgres "$dir/data"
	server 5440 setpriv --reuid=postgres --regid=postgres --clear-groups "$pg_bin/postgres" -D "$dir/data" -p 5440 \
		-c listen_addresses='*' -c unix_socket_directories='' -c fsync=off
}

postgres_init() {
	[ ! -e "$work/postgres" ] || return 0
	mkdir "$work/postgres"
	chown postgres "$work/postgres"
	(cd / && setpriv --reuid=postgres --regid=postgres --clear-groups "$pg_bin/initdb" -D "$work/postgres" -A trust -N >"$work/initdb.log" 2>&1) ||
		die "initdb: $(tail -n 3 "$work/initdb.log")"
	echo "host all all 10.78.0.0/24 trust" >>"$work/postgres/pg_hba.conf"
}

postgres_pgbench() {
	postgres_up
	client "$pg_bin/pgbench" -h "$server_address" -p 5440 -U postgres -i -q -s 2 postgres >"$dir/out" || fail "$(tail -n 1 "$dir/client.log")"
	client "$pg_bin/pgbench" -h "$server_address" -p 5440 -U postgres -n -S -c 16 -j 2 -t 2500 postgres >"$dir/out" || fail "$(tail -n 1 "$dir/client.log")"
	grep -q 'number of failed transactions: 0 ' "$dir/out" || fail "$(grep failed "$dir/out")"
	need 16 1000000
	say "$(awk '/^tps/ { printf "%d tps", $3 }' "$dir/out")"
}

postgres_copy() {
	local psql=("$pg_bin/psql" -q -h "$server_address" -p 5440 -U postgres -v ON_ERROR_STOP=1 postgres)
	postgres_up
	[ -e "$work/table" ] || seq 1000000 | awk '{ printf "%d\t%080d\t%d\n", $1, $1 * 7919, $1 % 97 }' >"$work/table"
	client "${psql[@]}" -c 'create unlogged table t (a int, b text, c int)' -c "\\copy t from '$work/table'" || fail "$(tail -n 1 "$dir/client.log")"
	client "${psql[@]}" -c "\\copy (select * from t order by a) to '$dir/table'" || fail "$(tail -n 1 "$dir/client.log")"
	same_file "$work/table" "$dir/table"
	need 2 50000000
	say "2 x $(($(stat -c %s "$work/table") / 1000000)) MB right"
}

postgres_init
row "postgres, pgbench -c 16" ring postgres_pgbench
row "postgres, psql copy" ring postgres_copy
