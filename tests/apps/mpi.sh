# SPDX-License-Identifier: BSD-2-Clause
# MPI over TCP between two hosts: MPICH's ranks, one in each namespace, poll without end and never sleep.
# shellcheck shell=bash
packages=(mpich libmpich-dev)

# mpi_rank SIDE: what starts a rank there, in `rank`. It inherits a connection to mpiexec.
mpi_rank() {
	local env=() ns=$ns_server
	[ "$1" = server ] || ns=$ns_client
	[ "$mode" = bare ] || env=(RLM_SOCKET="$work/one.sock" RLM_PROMOTE="$promote" RLM_LOG="${RLM_LOG:-error}" LD_PRELOAD="$preload")
	rank=(ip netns exec "$ns" env "${env[@]}" "$work/mpi")
}

mpi_exchange() {
	local one
	mpi_rank server
	one=("${rank[@]}")
	mpi_rank client
	UCX_TLS=tcp,self UCX_NET_DEVICES=veth0 MPIR_CVAR_NOLOCAL=1 HYDRA_LAUNCHER=fork \
		mpiexec.mpich -n 1 "${one[@]}" : -n 1 "${rank[@]}" >"$dir/out" 2>&1 || fail "$(tail -n 3 "$dir/out")"
	need 1 50000000
	say "$(tail -n 1 "$dir/out")"
}

[ -e "$work/mpi" ] || mpicc.mpich -O2 -o "$work/mpi" "$here/mpi.c" || die "mpicc fails"
row "mpich" ring mpi_exchange
