// SPDX-License-Identifier: BSD-2-Clause
#include "lookup.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <libmnl/libmnl.h>
#include <linux/bpf.h>
#include <linux/net_namespace.h>
#include <linux/rtnetlink.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"
#include "naming.h"

#define TRIES		  200
#define OURS		  (-1) // rlmd's own namespace, as the program's helper calls it

// The program's input and output: a packet, since it is a packet filter, of an Ethernet header and one of these.
#define PACKET_HEADER 14

struct query {
	int32_t netns;
	struct bpf_sock_tuple tuple;
};

struct answer {
	uint32_t state;
	uint32_t snd_nxt;
	uint32_t rcv_nxt;
	uint32_t device;
	uint64_t bytes_received;
};

// Where they lie on the program's stack.
#define QUERY  (-(int)sizeof(struct query))
#define ANSWER (QUERY - (int)sizeof(struct answer))

#define MOVE(d, s)	  {.code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = (d), .src_reg = (s)}
#define SET(d, i)	  {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = (d), .imm = (i)}
#define ADD(d, i)	  {.code = BPF_ALU64 | BPF_ADD | BPF_K, .dst_reg = (d), .imm = (i)}
#define LOAD(sz, d, s, o) {.code = BPF_LDX | BPF_MEM | (sz), .dst_reg = (d), .src_reg = (s), .off = (short)(o)}
#define STORE(sz, o, s)	  {.code = BPF_STX | BPF_MEM | (sz), .dst_reg = BPF_REG_10, .src_reg = (s), .off = (short)(o)}
#define CALL(f)		  {.code = BPF_JMP | BPF_CALL, .imm = (f)}
#define IF_ZERO(d, n)	  {.code = BPF_JMP | BPF_JEQ | BPF_K, .dst_reg = (d), .off = (n)}
#define UNLESS_ZERO(d, n) {.code = BPF_JMP | BPF_JNE | BPF_K, .dst_reg = (d), .off = (n)}
#define EXIT		  {.code = BPF_JMP | BPF_EXIT}
#define COPY(sz, from, to)                                                                                             \
	LOAD(sz, BPF_REG_1, BPF_REG_0, offsetof(struct bpf_tcp_sock, from)),                                           \
		STORE(sz, ANSWER + (int)offsetof(struct answer, to), BPF_REG_1)

// Returns 0 when it has written an answer.
static int load(unsigned tuple_size)
{
	const struct bpf_insn program[] = {
		MOVE(BPF_REG_6, BPF_REG_1),
		SET(BPF_REG_8, 1),
		SET(BPF_REG_2, PACKET_HEADER),
		MOVE(BPF_REG_3, BPF_REG_10),
		ADD(BPF_REG_3, QUERY),
		SET(BPF_REG_4, sizeof(struct query)),
		CALL(BPF_FUNC_skb_load_bytes),
		UNLESS_ZERO(BPF_REG_0, 34),
		MOVE(BPF_REG_1, BPF_REG_6),
		MOVE(BPF_REG_2, BPF_REG_10),
		ADD(BPF_REG_2, QUERY + (int)offsetof(struct query, tuple)),
		SET(BPF_REG_3, (int)tuple_size),
		LOAD(BPF_W, BPF_REG_4, BPF_REG_10, QUERY + (int)offsetof(struct query, netns)),
		SET(BPF_REG_5, 0),
		CALL(BPF_FUNC_sk_lookup_tcp),
		IF_ZERO(BPF_REG_0, 26),
		MOVE(BPF_REG_7, BPF_REG_0),
		LOAD(BPF_W, BPF_REG_1, BPF_REG_7, offsetof(struct bpf_sock, state)),
		STORE(BPF_W, ANSWER + (int)offsetof(struct answer, state), BPF_REG_1),
		LOAD(BPF_W, BPF_REG_1, BPF_REG_7, offsetof(struct bpf_sock, bound_dev_if)),
		STORE(BPF_W, ANSWER + (int)offsetof(struct answer, device), BPF_REG_1),
		MOVE(BPF_REG_1, BPF_REG_7),
		CALL(BPF_FUNC_tcp_sock),
		IF_ZERO(BPF_REG_0, 14),
		COPY(BPF_W, snd_nxt, snd_nxt),
		COPY(BPF_W, rcv_nxt, rcv_nxt),
		COPY(BPF_DW, bytes_received, bytes_received),
		MOVE(BPF_REG_1, BPF_REG_6),
		SET(BPF_REG_2, PACKET_HEADER),
		MOVE(BPF_REG_3, BPF_REG_10),
		ADD(BPF_REG_3, ANSWER),
		SET(BPF_REG_4, sizeof(struct answer)),
		SET(BPF_REG_5, 0),
		CALL(BPF_FUNC_skb_store_bytes),
		MOVE(BPF_REG_8, BPF_REG_0),
		MOVE(BPF_REG_1, BPF_REG_7), // no answer, but a socket to let go
		CALL(BPF_FUNC_sk_release),
		MOVE(BPF_REG_0, BPF_REG_8),
		EXIT,
		SET(BPF_REG_0, 1), // nothing
		EXIT,
	};

	return bpf_prog_load(BPF_PROG_TYPE_SCHED_CLS, "rlm_lookup", "Dual BSD/GPL", program,
			     sizeof(program) / sizeof(*program), NULL);
}

static bool run(int program, const struct query *query, struct answer *answer)
{
	uint8_t in[PACKET_HEADER + sizeof(*query)] = {0}, out[sizeof(in)];
	LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = in, .data_size_in = sizeof(in), .data_out = out,
		    .data_size_out = sizeof(out), .repeat = 1);

	memcpy(in + PACKET_HEADER, query, sizeof(*query));
	if (bpf_prog_test_run_opts(program, &options) || options.retval)
		return false;
	memcpy(answer, out + PACKET_HEADER, sizeof(*answer));
	return true;
}

void rlmd_lookup_init(struct rlmd_lookup *lookup)
{
	const char *test = getenv("RLM_TEST_LOOKUP");

	*lookup = (struct rlmd_lookup){{-1, -1}, -1};
	if (test && !strcmp(test, "off"))
		return;
	libbpf_set_print(NULL);
	lookup->program[0] = load(sizeof(((struct bpf_sock_tuple *)0)->ipv4));
	lookup->program[1] = load(sizeof(((struct bpf_sock_tuple *)0)->ipv6));
	if (!rlmd_lookup_possible(lookup))
		log_info("no sockets can be looked up by BPF: busy connections may get their names late");
	lookup->netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
}

void rlmd_lookup_deinit(struct rlmd_lookup *lookup)
{
	const int fds[] = {lookup->program[0], lookup->program[1], lookup->netlink};

	for (unsigned i = 0; i < sizeof(fds) / sizeof(*fds); i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

bool rlmd_lookup_possible(const struct rlmd_lookup *lookup)
{
	return lookup->program[0] >= 0 && lookup->program[1] >= 0;
}

// --- namespaces: the helper knows them by numbers that rtnetlink gives, each relative to our own ---

static int number_found(const struct nlattr *attribute, void *data)
{
	if (mnl_attr_get_type(attribute) == NETNSA_NSID)
		*(int32_t *)data = (int32_t)mnl_attr_get_u32(attribute);
	return MNL_CB_OK;
}

static int number_in(const struct nlmsghdr *reply, void *data)
{
	return mnl_attr_parse(reply, sizeof(struct rtgenmsg), number_found, data);
}

// RTM_NEWNSID gives the namespace a number, RTM_GETNSID asks for it. False: refused.
static bool ask(struct rlmd_lookup *lookup, uint16_t type, int netns, int32_t *number)
{
	char buffer[512] __attribute__((aligned(NLMSG_ALIGNTO)));
	struct nlmsghdr *message = mnl_nlmsg_put_header(buffer);
	struct rtgenmsg *body;
	ssize_t size;

	message->nlmsg_type = type;
	message->nlmsg_flags = type == RTM_NEWNSID ? NLM_F_REQUEST | NLM_F_ACK : NLM_F_REQUEST;
	body = mnl_nlmsg_put_extra_header(message, sizeof(*body));
	body->rtgen_family = AF_UNSPEC;
	mnl_attr_put_u32(message, NETNSA_FD, (uint32_t)netns);
	if (type == RTM_NEWNSID)
		mnl_attr_put_u32(message, NETNSA_NSID, (uint32_t)-1); // any
	if (send(lookup->netlink, message, message->nlmsg_len, 0) < 0)
		return false;
	size = recv(lookup->netlink, buffer, sizeof(buffer), 0);
	return size > 0 && mnl_cb_run(buffer, (size_t)size, 0, 0, number_in, number) >= 0;
}

static bool number_of(struct rlmd_lookup *lookup, int sock, struct rlmd_domain *domain)
{
	int32_t number = -1;
	int netns;

	if (domain->host || domain->numbered)
		return true;
	netns = rlmd_domain_namespace(sock);
	if (netns < 0)
		return false;
	if (ask(lookup, RTM_GETNSID, netns, &number) && number < 0 && ask(lookup, RTM_NEWNSID, netns, &number))
		ask(lookup, RTM_GETNSID, netns, &number);
	close(netns);
	domain->number = number;
	domain->numbered = number >= 0;
	return domain->numbered;
}

// --- reading ---

static bool addresses(const struct rlmd_tuple *tuple, struct bpf_sock_tuple *addresses)
{
	bool six = tuple->local.family == AF_INET6;

	memset(addresses, 0, sizeof(*addresses));
	// As in a packet that arrives: it comes from the peer.
	if (six) {
		memcpy(addresses->ipv6.saddr, tuple->remote.address, 16);
		memcpy(addresses->ipv6.daddr, tuple->local.address, 16);
		addresses->ipv6.sport = htons(tuple->remote.port);
		addresses->ipv6.dport = htons(tuple->local.port);
	} else {
		memcpy(&addresses->ipv4.saddr, tuple->remote.address, 4);
		memcpy(&addresses->ipv4.daddr, tuple->local.address, 4);
		addresses->ipv4.sport = htons(tuple->remote.port);
		addresses->ipv4.dport = htons(tuple->local.port);
	}
	return six;
}

static uint64_t sent(const struct tcp_info *info)
{
	return info->tcpi_bytes_sent - info->tcpi_bytes_retrans;
}

bool rlmd_lookup_isn(struct rlmd_lookup *lookup, int sock, const struct rlmd_tuple *tuple, struct rlmd_domain *domain,
		     struct rlmd_isn *isn)
{
	bool own = false, peer = false;
	struct tcp_info before, after;
	struct answer answer;
	struct query query;
	int program;

	// Addresses mean one socket of a namespace, as long as no device is part of them.
	if (!rlmd_lookup_possible(lookup) || rlmd_option_int(sock, SOL_SOCKET, SO_BINDTOIFINDEX) > 0 ||
	    !number_of(lookup, sock, domain))
		return false;
	query.netns = domain->host ? OURS : domain->number;
	program = lookup->program[addresses(tuple, &query.tuple)];
	for (int i = 0; i < TRIES && !(own && peer); i++) {
		if (!rlmd_tcp_info(sock, &before) || !run(program, &query, &answer) || !rlmd_tcp_info(sock, &after) ||
		    after.tcpi_state != STATE_ESTABLISHED || answer.state != STATE_ESTABLISHED || answer.device)
			return false;
		if (!own && sent(&before) == sent(&after) && before.tcpi_bytes_sent == after.tcpi_bytes_sent) {
			isn->own = answer.snd_nxt - (uint32_t)sent(&after) - 1;
			own = true;
		}
		if (!peer && before.tcpi_bytes_received == after.tcpi_bytes_received &&
		    answer.bytes_received == after.tcpi_bytes_received) {
			isn->peer = answer.rcv_nxt - (uint32_t)after.tcpi_bytes_received - 1;
			peer = true;
		}
	}
	return own && peer;
}
