// SPDX-License-Identifier: BSD-2-Clause
// What every differential test shares: connected TCP pairs in a carrier state, and checks that work in any thread.
//
// A test program is an ordinary socket program. The runner (run.py) starts it once for each carrier state and tells it
// which by RLM_TEST_CARRIER:
//
//   bare          no librlm: the kernel is the oracle
//   plain         preloaded, no broker
//   ring          preloaded; pair_settle() returns when both directions of both ends are on the ring
//   ring-small    the same with rings of 4096 bytes
//   promote-mid   preloaded; promotion happens at some point of the test, often exactly at its first send
//   demote-mid    settled on the ring; RLM_TEST_DEMOTE_AFTER=<bytes> makes each direction leave it in mid-test
//   flap          RLM_TEST_FLAP=<bytes>: each direction leaves the ring after so many bytes, comes back, and so on
//
// Expectations are the same in all of them.
#ifndef RLM_TEST_PAIR_H
#define RLM_TEST_PAIR_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
// cmocka wants the four above first.
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum carrier {
	CARRIER_BARE,
	CARRIER_PLAIN,
	CARRIER_RING,
	CARRIER_RING_SMALL,
	CARRIER_PROMOTE_MID,
	CARRIER_DEMOTE_MID,
	CARRIER_FLAP,
};

#define DEADLINE_MS 10000 // nothing that should happen takes longer, on however slow a machine
#define QUIET_MS 60       // what should not happen is looked for that long

enum carrier carrier(void);
bool carrier_accelerates(void); // some bytes of this run must go through shared memory
bool carrier_is_ring(void);     // ring or ring-small: everything after pair_settle()

struct pair {
	int a; // connected
	int b; // accepted
	int family;
};

// A listening socket on the loopback address of the family; -1 when the family is not configured here.
int listener_open(int family);
int listener_port(int listener);
int listener_connect(int listener); // a blocking socket connected to it
int tcp_socket(int family);

void pair_open(struct pair *pair, int family);
void pair_settle(struct pair *pair);
// A byte each way: librlm sees that the connection is used and looks for its other end.
void pair_touch(struct pair *pair);
// Accelerated states, after pair_touch(): waits until promotion needs nothing but the next send.
void pair_wait_bound(struct pair *pair);
// Questions from a, answers from b.
void pair_talk(struct pair *pair, int rounds);
void close_end(int *fd); // one end, which is -1 then
// Closes what is not -1.
void pair_close(struct pair *pair);
// Ring states: nothing has left the ring up to here.
void pair_check_ring(struct pair *pair);
// Both directions have carried `bytes`: on the ring in ring states, some of them there in the other accelerated ones.
void pair_check_used(struct pair *pair, uint64_t bytes);

// A peer in a process of its own: it connects, settles with the parent and runs `fn`. It exits with 0 if no check failed.
struct peer {
	pid_t pid;
	int fd; // the parent's end
};
void peer_start(struct peer *peer, int family, void (*fn)(int fd, void *arg), void *arg);
void peer_settle(int fd, bool leads); // both ends call it, one leads
void peer_finish(struct peer *peer); // close the parent's end, wait for the peer, check that all was well
void child_finish(pid_t pid);

// Checks for calls: the value is right, or it is -1 with that errno. In the test's own thread a failure ends the test,
// in a child process the process, in another thread the program.
#define assert_returns(call, value) check_returns((errno = 0, (long)(call)), (long)(value), #call, __FILE__, __LINE__)
#define assert_fails(call, error) check_fails((errno = 0, (long)(call)), error, #call, __FILE__, __LINE__)
#define assert_that(condition) ((condition) ? (void)0 : check_failed(__FILE__, __LINE__, "%s is false", #condition))
#define assert_bytes(actual, expected, size) check_bytes(actual, expected, size, __FILE__, __LINE__)
void check_returns(long got, long want, const char *call, const char *file, int line);
void check_fails(long got, int error, const char *call, const char *file, int line);
void check_bytes(const void *actual, const void *expected, size_t size, const char *file, int line);
void check_failed(const char *file, int line, const char *format, ...) __attribute__((format(printf, 3, 4)));

// A byte stream whose every byte is known from its position.
void pattern_fill(void *buffer, uint32_t seed, uint64_t offset, size_t size);
void pattern_check(const void *buffer, uint32_t seed, uint64_t offset, size_t size);
void send_pattern(int fd, uint32_t seed, uint64_t offset, size_t size); // blocking or not
void recv_pattern(int fd, uint32_t seed, uint64_t offset, size_t size);
void recv_end(int fd); // the end of the stream is next
unsigned next_random(unsigned *seed);

// A thread that sends the pattern on one socket and receives it on another, over and over.
struct flow {
	pthread_t thread;
	int from, to;
	_Atomic bool stop;
	_Atomic uint64_t moved;
};
void flow_start(struct flow *flow, int from, int to); // returns when bytes have arrived
void flow_stop(struct flow *flow);

void send_text(int fd, const char *text);
void recv_text(int fd, const char *text); // exactly this, in as many pieces as it takes
int readable_bytes(int fd); // FIONREAD
void wait_readable_bytes(int fd, int want); // until it says this
bool wait_for(int fd, short events, int timeout_ms); // poll says one of these
size_t fill_socket(int fd, uint32_t seed); // non-blocking writes until EAGAIN; returns the bytes taken
// Somebody says that there is room again, though nothing was read. On TCP that may be so at any time: the kernel moves what it has queued when
// an acknowledgement or a probe is due, much later than QUIET_MS on a crowded machine, and takes what leaves a ring. Then there has to be
// room. Goes on filling, returns the sum.
size_t fill_more(int fd, uint32_t seed, size_t filled);
void drain_socket(int fd, uint32_t seed, uint64_t offset, size_t size);

char *edge_open(size_t size); // so many bytes with nothing behind them; returns where they end
void edge_close(char *edge, size_t size);

int64_t now_ms(void);
void nap_ms(int ms); // only to give something that must not happen the time to happen
void set_nonblocking(int fd, bool on);
void set_int(int fd, int level, int option, int value); // a socket option
void set_timeout(int fd, int option, int ms);
void set_linger(int fd, int seconds); // 0: its close is a reset, and leaves no TIME_WAIT
int socket_error(int fd); // and takes it

// A thread that is about to make one call which sleeps.
struct sleeper {
	pthread_t thread;
	int (*fn)(void *arg);
	void *arg;
	_Atomic int tid;
	int result;
	int error;
	int64_t took_ms;
};
void sleeper_start(struct sleeper *sleeper, int (*fn)(void *), void *arg); // returns when it sleeps
int sleeper_join(struct sleeper *sleeper);                                  // its result; errno is its errno
bool sleeper_done(struct sleeper *sleeper, int timeout_ms);
void kick(struct sleeper *sleeper, int signal, int count); // sends it a signal that is caught, for the count-th time
void wait_asleep(pid_t pid, pid_t tid);
// What it may call; `arg` points to the socket.
int call_recv(void *arg); // one byte
int call_read(void *arg);
int call_send_much(void *arg); // until it fails
int call_poll(void *arg); // until there is something to read
int call_select(void *arg);
// `arg` points to a struct pattern.
struct pattern { // its first bytes
	int fd;
	uint32_t seed;
	size_t size;
};
int call_send_pattern(void *arg);
int call_recv_pattern(void *arg);

void catch_signal(int signal, int flags); // counts it in signal_count
extern volatile sig_atomic_t signal_count;

// Tests run for both families; *state is a settled pair, or one on which no byte was sent yet, or just the family.
extern int pair_family_4, pair_family_6;
int setup_settled(void **state);
int setup_fresh(void **state);
int teardown_pair(void **state);
#define TEST_EACH(fn, setup, teardown)                                                                                 \
	{#fn "/4", fn, setup, teardown, &pair_family_4},                                                               \
	{                                                                                                              \
#fn "/6", fn, setup, teardown, &pair_family_6                                                                  \
	}
#define TEST_SETTLED(fn) TEST_EACH(fn, setup_settled, teardown_pair)
#define TEST_FRESH(fn) TEST_EACH(fn, setup_fresh, teardown_pair)
#define TEST_FAMILY(fn) TEST_EACH(fn, NULL, NULL)

// Options: --list prints the tests' names; a name runs only this test.
#define SUITE_MAIN(tests)                                                                                              \
	int main(int argc, char **argv)                                                                                \
	{                                                                                                              \
		return suite_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));                                \
	}
int suite_main(int argc, char **argv, const struct CMUnitTest *tests, size_t count);

#endif
