// SPDX-License-Identifier: BSD-2-Clause
// Two ranks of MPI: messages of all sizes to and fro, then in both directions at once, every byte compared; then the time of small ones.
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST (4 << 20)
#define REPEAT 10
#define SMALL 2000

static unsigned char *out, *in, *want;
static int rank;

static void fill(unsigned char *bytes, int n, unsigned seed)
{
	for (int i = 0; i < n; i++) {
		seed = seed * 1103515245u + 12345u;
		bytes[i] = (unsigned char)(seed >> 16);
	}
}

static void check(int n, unsigned seed)
{
	fill(want, n, seed);
	if (!memcmp(in, want, (size_t)n))
		return;
	fprintf(stderr, "rank %d: wrong bytes in a message of %d\n", rank, n);
	MPI_Abort(MPI_COMM_WORLD, 1);
}

static void to_and_fro(int n, unsigned seed)
{
	if (rank == 0) {
		fill(out, n, seed);
		MPI_Send(out, n, MPI_BYTE, 1, 1, MPI_COMM_WORLD);
	}
	MPI_Recv(in, n, MPI_BYTE, !rank, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
	check(n, seed);
	if (rank == 1)
		MPI_Send(in, n, MPI_BYTE, 0, 1, MPI_COMM_WORLD);
}

static void at_once(int n, unsigned seed)
{
	fill(out, n, seed + (unsigned)rank);
	MPI_Sendrecv(out, n, MPI_BYTE, !rank, 2, in, n, MPI_BYTE, !rank, 2, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
	check(n, seed + !rank);
}

int main(int argc, char **argv)
{
	double start;

	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	out = malloc(MOST);
	in = malloc(MOST);
	want = malloc(MOST);
	if (!out || !in || !want)
		MPI_Abort(MPI_COMM_WORLD, 1);
	for (int n = 1; n <= MOST; n = n * 3 + 1)
		for (unsigned i = 0; i < REPEAT; i++) {
			to_and_fro(n, i);
			at_once(n, i);
		}
	start = MPI_Wtime();
	for (unsigned i = 0; i < SMALL; i++)
		to_and_fro(8, i);
	if (rank == 0)
		printf("%.1f us right\n", (MPI_Wtime() - start) / SMALL * 1e6);
	MPI_Finalize();
	return 0;
}
