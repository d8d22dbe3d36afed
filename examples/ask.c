// SPDX-License-Identifier: BSD-2-Clause
// A program that asks what carries its own socket, by the one header rlm.h: no library to link, and it works without
// librlm, too.
//
//   cc -O2 -I include -o ask examples/ask.c
//   ./ask 127.0.0.1 7000                                           an echo server is at the other end
//   LD_PRELOAD=$PWD/build/librlm.so ./ask 127.0.0.1 7000
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "rlm/rlm.h"

static void tell(int fd, const char *when)
{
	struct rlm_info info;

	if (rlm_socket_info(fd, &info) < 0) {
		perror("ask");
		exit(1);
	}
	printf("%-22s sends by %s, receives by %s (%s); by ring %llu + %llu bytes, by TCP %llu + %llu\n", when,
	       info.tx_carrier == RLM_CARRIER_RING ? "ring" : "TCP",
	       info.rx_carrier == RLM_CARRIER_RING ? "ring" : "TCP", rlm_why_words(info.why),
	       (unsigned long long)info.tx_bytes_ring, (unsigned long long)info.rx_bytes_ring,
	       (unsigned long long)info.tx_bytes_plain, (unsigned long long)info.rx_bytes_plain);
}

int main(int argc, char **argv)
{
	struct sockaddr_in address = {.sin_family = AF_INET,
				      .sin_port = htons((uint16_t)(argc > 2 ? atoi(argv[2]) : 7000))};
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	char message[1000] = {0};

	if (inet_pton(AF_INET, argc > 1 ? argv[1] : "127.0.0.1", &address.sin_addr) != 1 ||
	    connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		perror("ask");
		return 1;
	}
	tell(fd, "connected:");
	for (int i = 1; i <= 1000; i++) {
		if (send(fd, message, sizeof(message), MSG_NOSIGNAL) != sizeof(message) ||
		    recv(fd, message, sizeof(message), MSG_WAITALL) != sizeof(message)) {
			fprintf(stderr, "ask: the other end is gone\n");
			return 1;
		}
		if (i == 10 || i == 1000)
			tell(fd, i == 10 ? "after 10 messages:" : "after 1000 messages:");
		if (i == 100)
			usleep(100000);
	}
	close(fd);
	return 0;
}
