// SPDX-License-Identifier: BSD-2-Clause
// What the chaos test's supervisor and its workers share.
//
// The supervisor starts pairs of workers, a server and a client each, under librlm.so, and interferes with them and
// with the broker. A client keeps a few connections to its server. Each direction of a connection carries bytes that
// follow from a seed and their position, so a receiver knows at once whether a byte is right. What else one end must
// know of the other (how much was sent, where the stream ends, whether the other end was killed) is on the board,
// memory that supervisor and workers share, and not in the stream.
//
// One record on the board is one connection, written by its two ends. Records are not used twice.
#ifndef CHAOS_H
#define CHAOS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BOARD_RECORDS	   65536
#define BOARD_INCARNATIONS 4096
#define PAIRS_MAX	   8
#define BOARD_FD	   200 // where workers find the board
#define STOP_FD		   201 // a pipe that is readable from the moment when workers shall come to an end
#define HEADER_MAGIC	   0x63686130u

enum side {
	CLIENT,
	SERVER,
};

// How a worker uses its sockets.
enum style {
	THREADS,     // two blocking threads per connection
	MIXED,	     // two threads per connection: the sender blocks in send, the receiver in poll
	POLL,	     // one thread, poll
	SELECT,	     // one thread, select
	EPOLL_LEVEL, // one thread, level-triggered
	EPOLL_EDGE,  // one thread, edge-triggered
	STYLES,
};
extern const char *const style_names[STYLES];

// A direction is numbered by its sender's side.
struct direction {
	_Atomic uint64_t sent;	   // bytes that send calls accepted
	_Atomic uint64_t received; // bytes received, all of them right
	_Atomic uint64_t final;	   // where the stream ends, plus one; 0: not known yet
	_Atomic uint64_t moved;	   // milliseconds: when one of these last changed
	_Atomic bool ended;	   // the receiver saw the end of the stream
};

struct end {
	_Atomic uint32_t incarnation; // of the worker; 0: none yet
	_Atomic bool abandoned;	      // set before this end closes in mid-stream
	_Atomic bool closed;
	_Atomic uint8_t tx_carrier; // from here on as rlm_socket_info() told
	_Atomic uint8_t rx_carrier;
	_Atomic uint16_t why;
	_Atomic uint32_t switches;
	_Atomic uint64_t ring_bytes; // sent and received by ring
};

struct record {
	_Atomic uint64_t seed; // 0: not in use yet
	uint32_t kills;	       // the pair's server_kills when the client began to connect
	struct direction direction[2];
	struct end end[2];
};

// One worker process. Written by the supervisor before it starts.
struct incarnation {
	_Atomic bool killed; // set before SIGKILL is sent
	enum side side;
	enum style style;
	unsigned pair;
	int pid;
	uint64_t flap; // RLM_TEST_FLAP; 0: none
};

struct board {
	_Atomic bool stop; // no new connections; senders come to their ends
	_Atomic bool failed;
	_Atomic uint32_t records;
	_Atomic uint32_t server_kills[PAIRS_MAX];	    // counted before and after each: odd while one is at it
	_Atomic long failed_record; // -1: none in particular
	char error[512];				    // by the first that failed
	struct incarnation incarnation[BOARD_INCARNATIONS]; // [0] is not used
	struct record record[BOARD_RECORDS];
};

// What a client sends first. It belongs to neither direction's stream.
struct header {
	uint32_t magic;
	uint32_t record;
};

struct worker {
	struct board *board;
	uint32_t self; // incarnation
	enum side side;
	enum style style;
	unsigned pair;
	const char *address;
	const char *port;
	unsigned connections; // that a client keeps
	uint64_t seed;
	bool calm; // never waits on purpose, so that no time-out of its own hides a lost wake-up
};

// --- random.c: decisions and streams that follow from a seed

struct rng {
	uint64_t state;
};

uint64_t mix(uint64_t x);
uint64_t rng_next(struct rng *rng);
// Evenly in [0, n).
uint64_t rng_below(struct rng *rng, uint64_t n);
// In [1, max], small numbers as likely as large ones: evenly in its logarithm.
uint64_t rng_size(struct rng *rng, uint64_t max);

// The stream's bytes at [position, position + size).
void stream_fill(uint64_t seed, uint64_t position, uint8_t *bytes, size_t size);
// Index of the first wrong byte, or size.
size_t stream_check(uint64_t seed, uint64_t position, const uint8_t *bytes, size_t size);
// Where in the stream these bytes belong, within a few MiB of position; UINT64_MAX when nowhere.
uint64_t stream_locate(uint64_t seed, uint64_t position, const uint8_t *bytes, size_t size);

uint64_t now_ms(void);

// --- flow.c: one end of one connection

enum flow_result {
	FLOW_MOVED,
	FLOW_BLOCKED,
	FLOW_END,  // send: all sent and shut down; receive: end of stream, where it had to be
	FLOW_DEAD, // the connection broke, and had a reason to
};

// tx_* and rx_* belong to the thread that sends and the one that receives.
struct flow {
	struct worker *worker;
	struct record *record;
	enum side side;
	int fd;
	uint64_t tx_seed, rx_seed;
	struct rng tx_rng, rx_rng;
	uint8_t *tx_buffer, *rx_buffer;
	uint64_t limit;	  // the sender ends here
	uint64_t abandon; // the receiver gives up here; UINT64_MAX: never
	size_t tx_left;	  // of a message that was accepted in part
	unsigned tx_calls, rx_calls;
	uint64_t tx_until, rx_until; // milliseconds: waits on purpose until then
	bool tx_ready, rx_ready;     // edge-triggered: the last call was not refused
	uint32_t interest;	     // level-triggered: what epoll was told last
	_Atomic bool tx_done, rx_done;
	_Atomic bool broke; // a call returned an error
	_Atomic bool unheard; // the last send may have met an error that no call told
};

// NULL after the supervisor's records ran out. Owns fd.
struct flow *flow_new(struct worker *worker, uint32_t record, int fd);
void flow_free(struct flow *flow);
// One send of a random size by a random call; or the end. Blocking socket and not `wait`: does not block.
enum flow_result flow_send(struct flow *flow, bool wait);
// One receive of a random size by a random call, checked byte by byte.
enum flow_result flow_receive(struct flow *flow, bool wait);
// Milliseconds to wait before the next call, mostly none.
unsigned flow_pause(struct flow *flow, struct rng *rng);

// --- worker.c: connections of a worker, one or two threads for each

// With the arguments that the supervisor gives.
int worker_main(int argc, char **argv);
// A connected socket whose header is sent; -1: it did not come about.
int worker_connect(struct worker *worker, uint32_t *record);
// A socket from the listener whose header was read; -1: none.
int worker_accept(struct worker *worker, int listener, uint32_t *record);
// Tells what is wrong and ends the process.
_Noreturn void worker_fail(struct board *board, const char *format, ...) __attribute__((format(printf, 2, 3)));

// --- loop.c: all connections of a worker in one thread. listener is -1 in a client.

void loop_run(struct worker *worker, int listener);

// --- report.c: what the supervisor tells

void report_record(const struct board *board, uint32_t number);
void report_open(const struct board *board);
// Switches of both directions, counted once.
uint64_t report_switches(const struct board *board);
void report_summary(const struct board *board);
// The number of a record that has stood still for too long; -1: all move.
long report_stuck(const struct board *board, uint64_t patience_ms);

#endif
