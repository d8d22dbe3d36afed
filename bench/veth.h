// SPDX-License-Identifier: BSD-2-Clause
// Two network namespaces joined by a veth pair, without a name: they live as long as the descriptors, whatever happens.
#ifndef BENCH_VETH_H
#define BENCH_VETH_H

#define VETH_SERVER_ADDRESS "10.202.0.1"

struct veth {
	int netns[2]; // client's, server's; -1: none
};

// 0, or -errno with the reason in *why. Needs root and iproute2.
int veth_init(struct veth *v, const char **why);
void veth_deinit(struct veth *v);

#endif
