// SPDX-License-Identifier: BSD-2-Clause
// Sends messages to an echo server, checks the answers and tells how long a round trip takes. Nothing in here knows of
// librlm.
//
//   cc -O2 -o echo-client echo-client.c
//   LD_PRELOAD=$PWD/build/librlm.so ./echo-client 127.0.0.1 7000 100000
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

int main(int argc, char **argv)
{
	struct sockaddr_in address = {.sin_family = AF_INET,
				      .sin_port = htons((uint16_t)(argc > 2 ? atoi(argv[2]) : 7000))};
	long rounds = argc > 3 ? atol(argv[3]) : 100000;
	int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
	char message[64], answer[64];
	struct timespec start, end;

	if (inet_pton(AF_INET, argc > 1 ? argv[1] : "127.0.0.1", &address.sin_addr) != 1 ||
	    connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		perror("echo-client");
		return 1;
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	clock_gettime(CLOCK_MONOTONIC, &start);
	for (long i = 0; i < rounds; i++) {
		memset(message, (int)(i & 0xff), sizeof(message));
		if (send(fd, message, sizeof(message), MSG_NOSIGNAL) != sizeof(message) ||
		    recv(fd, answer, sizeof(answer), MSG_WAITALL) != sizeof(answer) ||
		    memcmp(message, answer, sizeof(answer)) != 0) {
			fprintf(stderr, "echo-client: wrong answer in round %ld\n", i);
			return 1;
		}
	}
	clock_gettime(CLOCK_MONOTONIC, &end);
	printf("%ld round trips of %zu bytes, %.2f us each\n", rounds, sizeof(message),
	       ((double)(end.tv_sec - start.tv_sec) * 1e6 + (double)(end.tv_nsec - start.tv_nsec) / 1e3) /
		   (double)rounds);
	return 0;
}
