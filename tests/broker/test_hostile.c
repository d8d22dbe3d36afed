// SPDX-License-Identifier: BSD-2-Clause
// Processes that mean harm: they take what is others', hold rlmd up, or show what is not theirs.
#include "harness.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define NOBODY 65534


static int setup(void **state)
{
	broker_start(&rlmd, "ring_size = 4K\nslots = 2\nidle_time = 1000\nmemory_per_user = 40000\nsessions_per_user = 5\n");
	return 0;
}

// --- what one user takes from others ---

// Whose session it is, is who connects.
static void peer_open_as(uid_t uid, struct peer *peer, const char *command)
{
	assert_int_equal(seteuid(uid), 0);
	peer_open(peer, &rlmd, command);
	assert_int_equal(seteuid(0), 0);
}

static void test_sessions(void **state)
{
	struct peer peers[5], other;
	int sock;
	unsigned files;

	if (geteuid() != 0)
		skip();
	broker_works(&rlmd);
	files = broker_files_at_rest(&rlmd);
	for (int i = 0; i < 5; i++)
		peer_open_as(NOBODY, &peers[i], "many");
	assert_int_equal(seteuid(NOBODY), 0);
	sock = broker_connect(&rlmd);
	assert_int_equal(seteuid(0), 0);
	end_expect(sock);
	close(sock);
	peer_open_as(NOBODY - 1, &other, "another user");
	broker_works(&rlmd);
	peer_close(&peers[0]);
	broker_works(&rlmd);
	peer_open_as(NOBODY, &peers[0], "again");
	for (int i = 0; i < 5; i++)
		peer_close(&peers[i]);
	peer_close(&other);
	eventually(broker_open_files(&rlmd) == files);
}

static void test_memory(void **state)
{
	struct peer a, b, c;
	struct bound at_a, at_b;
	int first[2], second[2];
	unsigned files;

	if (geteuid() != 0)
		skip();
	broker_works(&rlmd);
	files = broker_files_at_rest(&rlmd);
	peer_open_as(NOBODY, &a, "a");
	peer_open_as(NOBODY, &b, "b");
	peer_open_as(NOBODY, &c, "c");
	tcp_pair(AF_INET, "127.0.0.1", first);
	both_offer(&a, &b, 0, first);
	both_bound(&a, &b, &at_a, &at_b);
	tcp_pair(AF_INET, "127.0.0.1", second);
	both_offer(&a, &c, 1, second);
	note_expect(&a, 1, RLM_WHY_LIMIT, false);
	note_expect(&c, 1, RLM_WHY_LIMIT, false);
	broker_works(&rlmd);
	// What two of its processes have together counts once, and until the second of them is gone.
	peer_close(&b);
	release(&a, &at_a);
	bound_close(&at_a);
	bound_close(&at_b);
	bound_expect(&c, &at_b);
	bound_close(&at_b);
	close_pair(first);
	close_pair(second);
	peer_close(&a);
	peer_close(&c);
	eventually(broker_open_files(&rlmd) == files);
}

// Answers that nobody reads take no more than so much memory.
static void test_unread(void **state)
{
	struct peer peer;
	struct {
		struct rlm_msg_header header;
		uint32_t more, length;
		char text[32];
	} msg = {.header = {.type = RLM_MSG_REQUEST}, .text = "{\"cmd\":\"connections\"}"};
	struct pollfd poller = {.events = POLLIN | POLLHUP};

	if (geteuid() != 0)
		skip();
	peer_open_as(NOBODY, &peer, "greedy");
	for (uint32_t i = 0; i < CAPACITY; i++)
		peer.entries[i].generation = 1;
	peer.table->used = CAPACITY;
	msg.length = (uint32_t)strlen(msg.text);
	msg.header.size = (uint16_t)(offsetof(struct rlm_msg_text, text) + msg.length);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(seteuid(NOBODY), 0);
		poller.fd = broker_connect(&rlmd);
		assert_int_equal(seteuid(0), 0);
		message_send(poller.fd, &msg, msg.header.size, NULL, 0);
		assert_int_equal(poll(&poller, 1, 20000), 1); // left open, unread
	}
	broker_works(&rlmd);
	peer_close(&peer);
	broker_stop(&rlmd);
	setup(NULL);
}

// --- what holds rlmd up ---

static void linger(int sock, int on)
{
	const struct linger linger = {.l_onoff = 1, .l_linger = on};

	assert_int_equal(setsockopt(sock, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)), 0);
}

// Its close waits for a minute, if it is the last one: there is more to be sent than the other end takes.
static void lingering_pair(int tcp[2])
{
	static char block[1 << 16];

	tcp_pair(AF_INET, "127.0.0.1", tcp);
	while (send(tcp[0], block, sizeof(block), MSG_DONTWAIT) > 0)
		;
	linger(tcp[0], 60);
}

static void lingering_close(int peers[], int count)
{
	double start = seconds();

	broker_works(&rlmd);
	assert_true(seconds() - start < 20);
	for (int i = 0; i < count; i++)
		close(peers[i]);
}

static void test_lingering(void **state)
{
	enum { MANY = 20 };
	struct rlm_msg_offer msg = {.header = {.type = RLM_MSG_OFFER, .size = sizeof(msg)}, .conn = {0, 1}};
	unsigned files;
	int tcp[2], socks[MANY], peers[MANY];
	struct peer a;

	broker_works(&rlmd);
	files = broker_files_at_rest(&rlmd);
	peer_open(&a, &rlmd, "lingers");
	lingering_pair(tcp);
	kill(rlmd.pid, SIGSTOP);
	message_send(a.sock, &msg, sizeof(msg), tcp, 1);
	linger(tcp[0], 60);
	// With an end in no time the kernel would send a reset: only the descriptor on its way is left.
	close(tcp[0]);
	kill(rlmd.pid, SIGCONT);
	lingering_close(&tcp[1], 1);
	// More than a message may have, and one in a session that is over.
	for (int i = 0; i < MANY; i++) {
		lingering_pair(tcp);
		socks[i] = tcp[0];
		peers[i] = tcp[1];
	}
	kill(rlmd.pid, SIGSTOP);
	message_send(a.sock, &msg, sizeof(msg), socks, MANY - 1);
	message_send(a.sock, &msg, sizeof(msg), &socks[MANY - 1], 1);
	for (int i = 0; i < MANY; i++)
		close(socks[i]);
	kill(rlmd.pid, SIGCONT);
	end_expect(a.sock);
	lingering_close(peers, MANY);
	peer_close(&a);
	eventually(broker_open_files(&rlmd) == files);
}

static void fuse_answer(int fuse, const struct fuse_in_header *in, const void *data, size_t size, int error)
{
	char out[512];
	struct fuse_out_header header = {.len = (uint32_t)(sizeof(header) + size), .error = error, .unique = in->unique};

	memcpy(out, &header, sizeof(header));
	if (size)
		memcpy(out + sizeof(header), data, size);
	if (write(fuse, out, header.len) < 0)
		_exit(3);
}

// One file. It is found and opened, and closing it is never answered.
static void fuse_serve(int fuse)
{
	static char request[FUSE_MIN_READ_BUFFER * 32];
	const struct fuse_in_header *in = (const struct fuse_in_header *)request;
	const struct fuse_init_out init = {.major = 7, .minor = 31, .max_write = 4096};
	const struct fuse_attr attr = {.ino = 2, .mode = S_IFREG | 0666, .nlink = 1};
	const struct fuse_entry_out entry = {.nodeid = 2, .attr = attr};
	const struct fuse_open_out opened = {.fh = 1};
	const struct fuse_attr_out attributes = {.attr = attr};

	while (read(fuse, request, sizeof(request)) > 0) {
		switch (in->opcode) {
		case FUSE_INIT:
			fuse_answer(fuse, in, &init, sizeof(init), 0);
			break;
		case FUSE_LOOKUP:
			fuse_answer(fuse, in, &entry, sizeof(entry), 0);
			break;
		case FUSE_OPEN:
			fuse_answer(fuse, in, &opened, sizeof(opened), 0);
			break;
		case FUSE_GETATTR:
			fuse_answer(fuse, in, &attributes, sizeof(attributes), 0);
			break;
		case FUSE_FLUSH:
			break;
		default:
			fuse_answer(fuse, in, NULL, 0, -ENOSYS);
		}
	}
}

static void fuse_offer(const char *path, int ready)
{
	struct rlm_msg_offer msg = {.header = {.type = RLM_MSG_OFFER, .size = sizeof(msg)}, .conn = {0, 1}};
	struct peer peer;
	int file;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	file = open(path, O_RDWR | O_CLOEXEC);
	if (file < 0)
		_exit(3);
	peer_open(&peer, &rlmd, "fuse");
	message_send(peer.sock, &msg, sizeof(msg), &file, 1);
	if (write(ready, "", 1) != 1)
		_exit(3);
	close(ready);
	for (;;)
		pause();
}

// A file system served by one process, of which another one offers a file. When the first one ends all that waits for it goes on. 77: not
// possible here.
static void fuse_run(int ready)
{
	char options[100], directory[] = "/tmp/rlm-fuse-XXXXXX", path[64];
	int fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=0,group_id=0", fuse);
	if (fuse < 0 || !mkdtemp(directory) || unshare(CLONE_NEWNS) ||
	    mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) || mount("none", directory, "fuse", 0, options))
		_exit(77);
	snprintf(path, sizeof(path), "%s/file", directory);
	if (fork() == 0) {
		close(fuse);
		fuse_offer(path, ready);
	}
	close(ready);
	fuse_serve(fuse);
	_exit(0);
}

static void test_fuse(void **state)
{
	int ready[2], status = 0;
	unsigned files;
	char byte;
	pid_t pid;

	if (geteuid() != 0)
		skip();
	broker_works(&rlmd);
	files = broker_files_at_rest(&rlmd);
	assert_int_equal(pipe(ready), 0);
	pid = fork();
	if (pid == 0) {
		close(ready[0]);
		fuse_run(ready[1]);
	}
	close(ready[1]);
	if (read(ready[0], &byte, 1) == 1) {
		broker_works(&rlmd);
		broker_works(&rlmd);
		kill(pid, SIGKILL);
	}
	close(ready[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	shell("rmdir /tmp/rlm-fuse-* 2>/dev/null");
	eventually(broker_open_files(&rlmd) == files);
	if (WIFEXITED(status))
		skip();
}

// --- what is not a socket, and not theirs ---

static void refused(struct peer *peer, int fd, enum rlm_why why)
{
	struct rlm_msg_repair repair = {.header = {.type = RLM_MSG_REPAIR, .size = sizeof(repair)}, .conn = {0, 1}};
	union rlm_msg msg;
	int fds[RLM_MSG_FDS_MAX];

	offer_named(peer, 0, RLM_NAME_TUPLE, fd, why);
	if (geteuid() == 0)
		offer_named(peer, 0, RLM_NAME_ISN, fd, why);
	message_send(peer->sock, &repair, sizeof(repair), &fd, 1);
	message_expect(peer, RLM_MSG_NAMED, &msg, fds);
}

static void test_descriptors(void **state)
{
	int listener = tcp_listen(AF_INET, "127.0.0.1", 0), pipes[2], connecting, sock;
	unsigned files;
	struct sockaddr_in nowhere = {.sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = htonl(0xc0000201)};
	sigset_t set;
	struct peer a;

	sigemptyset(&set);
	assert_int_equal(pipe(pipes), 0);
	connecting = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	if (connect(connecting, (struct sockaddr *)&nowhere, sizeof(nowhere)) == 0)
		fail();
	broker_works(&rlmd);
	files = broker_files_at_rest(&rlmd);
	peer_open(&a, &rlmd, "kinds");
	const int kinds[] = {pipes[0],
			     pipes[1],
			     epoll_create1(0),
			     eventfd(0, 0),
			     timerfd_create(CLOCK_MONOTONIC, 0),
			     signalfd(-1, &set, 0),
			     memfd_create("m", 0),
			     open("/", O_RDONLY | O_DIRECTORY),
			     open("/", O_PATH),
			     open("/dev/null", O_RDWR),
			     open("/proc/self/maps", O_RDONLY),
			     socket(AF_UNIX, SOCK_STREAM, 0),
			     socket(AF_NETLINK, SOCK_RAW, 0),
			     socket(AF_INET, SOCK_DGRAM, 0),
			     a.sock};

	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
		refused(&a, kinds[i], RLM_WHY_NOT_TCP);
	refused(&a, listener, RLM_WHY_CLOSING);
	refused(&a, connecting, RLM_WHY_CLOSING);
	for (size_t i = 0; i + 1 < sizeof(kinds) / sizeof(*kinds); i++) {
		sock = broker_connect(&rlmd);
		hello_send(sock, kinds[i], kinds[i], "kinds");
		end_expect(sock);
		close(sock);
		close(kinds[i]);
	}
	close(listener);
	close(connecting);
	peer_close(&a);
	broker_works(&rlmd);
	eventually(broker_open_files(&rlmd) == files);
}

// One socket, offered twice by its own process: nobody can tell which of the two is to be joined.
static void test_twice(void **state)
{
	struct couple c;

	couple_open(&c, &rlmd);
	offer_named(&c.a, 0, RLM_NAME_TUPLE, c.tcp[0], 0);
	offer_named(&c.a, 1, RLM_NAME_TUPLE, c.tcp[0], 0);
	note_expect(&c.a, 1, RLM_WHY_UNNAMED, false);
	note_expect(&c.a, 0, RLM_WHY_UNNAMED, false);
	offer_named(&c.b, 0, RLM_NAME_TUPLE, c.tcp[1], 0);
	note_expect(&c.b, 0, RLM_WHY_UNNAMED, false);
	couple_close(&c);
}

// Links, slots and sides of others are out of reach, by whatever number they are called.
static void test_others(void **state)
{
	struct couple c;
	struct peer thief;
	struct bound taken;

	couple_open(&c, &rlmd);
	couple_bind(&c);
	peer_open(&thief, &rlmd, "thief");
	for (uint32_t side = 0; side < 2; side++) {
		taken = c.at_a;
		taken.bind.side = side;
		release(&thief, &taken);
		left(&thief, &taken);
	}
	silence_expect(&thief);
	silence_expect(&c.a);
	silence_expect(&c.b);
	peer_close(&thief);
	silence_expect(&c.a);
	couple_close(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_sessions),  cmocka_unit_test(test_memory), cmocka_unit_test(test_unread),
	    cmocka_unit_test(test_lingering), cmocka_unit_test(test_fuse),   cmocka_unit_test(test_descriptors),
	    cmocka_unit_test(test_twice),     cmocka_unit_test(test_others),
	};

	return cmocka_run_group_tests(tests, setup, broker_teardown);
}
