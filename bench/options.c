// SPDX-License-Identifier: BSD-2-Clause
// Command lines.
#include "options.h"

#include <popt.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "clock.h"
#include "units.h"

#define DEFAULT_RING_SIZE (256u << 10) // as rlmd's
#define DEFAULT_RECV_SIZE (64u << 10)

__attribute__((noreturn, format(printf, 1, 2))) static void usage(const char *format, ...)
{
	va_list args;

	fputs("rlm-bench: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(EXIT_USAGE);
}

static void parse(const char *name, const char *usage_text, int argc, const char **argv, const struct poptOption *table)
{
	poptContext context;
	const char *extra;
	int r;

	argv[0] = name; // for --help
	context = poptGetContext(name, argc, argv, table, 0);

	poptSetOtherOptionHelp(context, usage_text);
	while ((r = poptGetNextOpt(context)) > 0)
		continue;
	if (r < -1)
		usage("%s: %s", poptBadOption(context, POPT_BADOPTION_NOALIAS), poptStrerror(r));
	extra = poptPeekArg(context);
	if (extra)
		usage("unexpected argument: %s", extra);
	poptFreeContext(context);
}

static void want_time(const char *option, const char *text, uint64_t *ns)
{
	if (text && units_parse_time(text, ns) < 0)
		usage("%s %s: must be seconds from 0 to 86400, such as 10, 0.5 or 200ms", option, text);
}

static void want_size(const char *option, const char *text, uint64_t *value)
{
	if (text && units_parse_size(text, value) < 0)
		usage("%s %s: must be a number, possibly with K, M, G or KB, MB, GB", option, text);
}

static void want_port(const char *port)
{
	char *end;
	unsigned long n = strtoul(port, &end, 10);

	if (!*port || *end || n > 65535)
		usage("--port %s: must be a number from 0 to 65535", port);
}

void options_server(int argc, const char **argv, struct server_options *o)
{
	static const char *bind, *port = BENCH_DEFAULT_PORT, *path;
	int once = 0, quiet = 0, threads = 1, ready_fd = -1;
	const struct poptOption table[] = {
	    {"bind", 'b', POPT_ARG_STRING, &bind, 0, "listen on this address only", "ADDR"},
	    {"port", 'p', POPT_ARG_STRING, &port, 0, "TCP port, " BENCH_DEFAULT_PORT " by default, 0: any free one",
	     "PORT"},
	    {"unix", 'u', POPT_ARG_STRING, &path, 0, "listen on a UNIX socket instead", "PATH"},
	    {"threads", 't', POPT_ARG_INT, &threads, 0, "threads that accept connections (they also serve crr)", "N"},
	    {"once", '1', POPT_ARG_NONE, &once, 0, "exit after one test", NULL},
	    {"quiet", 'q', POPT_ARG_NONE, &quiet, 0, "print nothing", NULL},
	    {"ready-fd", 0, POPT_ARG_INT, &ready_fd, 0, "write the port to this descriptor once listening", "FD"},
	    POPT_AUTOHELP POPT_TABLEEND};

	parse("rlm-bench server", "[OPTION...]", argc, argv, table);
	want_port(port);
	if (threads < 1 || threads > 256)
		usage("--threads %d: must be from 1 to 256", threads);
	*o = (struct server_options){.address = {bind, port, path},
				     .threads = (unsigned)threads,
				     .ready_fd = ready_fd,
				     .once = once,
				     .quiet = quiet};
}

// What the client's command line says, as text; NULL or 0: not given.
struct client_text {
	const char *host, *port, *path, *mode, *size, *response, *recv_size, *time, *warmup, *bytes, *count, *interval;
	const char *server_wait, *corrupt, *seed, *ring_size;
	int parallel, threads, epoll, busy, verify, bidir, reverse, json, nodelay, ring;
};

static uint64_t choose_seed(const char *text)
{
	uint64_t seed = 0;

	want_size("--seed", text, &seed);
	if (!text && getrandom(&seed, sizeof(seed), 0) == sizeof(seed))
		seed >>= 1; // stays positive in JSON
	return seed;
}

static void client_sizes(const struct client_text *t, struct client_options *o)
{
	struct bench_params *p = &o->params;

	p->size = p->mode == MODE_STREAM ? 128 << 10 : 64;
	o->size_to = p->size;
	if (t->size && (units_parse_range(t->size, &p->size, &o->size_to) < 0 || o->size_to > PARAMS_SIZE_MAX))
		usage("--size %s: must be a size or a range such as 64:128K, up to 64M", t->size);
	p->response = p->size;
	o->response_follows = !t->response;
	want_size("--response", t->response, &p->response);
	p->recv_size = DEFAULT_RECV_SIZE;
	o->recv_follows = !t->recv_size;
	want_size("--recv-size", t->recv_size, &p->recv_size);
}

static void client_length(const struct client_text *t, struct bench_params *p)
{
	uint64_t bytes = 0, count = 0, total;

	p->time_ns = 10 * NS_PER_S;
	want_time("--time", t->time, &p->time_ns);
	p->warmup_ns = p->time_ns / 10 < NS_PER_S / 2 ? p->time_ns / 10 : NS_PER_S / 2;
	want_time("--warmup", t->warmup, &p->warmup_ns);
	want_size("--bytes", t->bytes, &bytes);
	want_size("--count", t->count, &count);
	if ((t->bytes != NULL) + (t->count != NULL) + (t->time != NULL) > 1)
		usage("--time, --bytes and --count exclude one another");
	if (t->bytes && p->mode != MODE_STREAM)
		usage("--bytes is for streams, use --count");
	total = t->count && p->mode == MODE_STREAM ? count * p->size : t->count ? count : bytes;
	if ((t->bytes || t->count) && total == 0)
		usage("nothing to do");
	p->limit = (total + p->parallel - 1) / p->parallel;
	p->warmup_limit = p->limit / 20;
}

static void client_wait(const struct client_text *t, struct bench_params *p)
{
	enum bench_wait wait = t->epoll ? WAIT_EPOLL : t->busy ? WAIT_BUSY : WAIT_BLOCK;
	int server = (int)wait;

	if (t->epoll && t->busy)
		usage("--epoll and --busy exclude one another");
	if (t->server_wait)
		server = params_name(bench_wait_names, WAIT_COUNT, t->server_wait);
	if (server < 0)
		usage("--server-wait %s: must be block, epoll or busy", t->server_wait);
	p->wait[SIDE_CLIENT] = wait;
	p->wait[SIDE_SERVER] = (enum bench_wait)server;
}

static void client_fill(const struct client_text *t, struct client_options *o)
{
	struct bench_params *p = &o->params;
	int mode = params_name(bench_mode_names, MODE_COUNT, t->mode);
	uint64_t ring_size = t->ring || t->ring_size ? DEFAULT_RING_SIZE : 0;
	const char *wrong;

	if (mode < 0)
		usage("--mode %s: must be stream, rr or crr", t->mode);
	want_port(t->port);
	*o = (struct client_options){.address = {t->host, t->port, t->path}, .json = t->json};
	p->mode = (enum bench_mode)mode;
	p->parallel = t->parallel < 1 ? 0 : (uint32_t)t->parallel;
	p->threads = t->threads < 0 ? p->parallel : (uint32_t)t->threads;
	if (p->parallel < 1 || p->parallel > PARAMS_PARALLEL_MAX)
		usage("--parallel %d: must be from 1 to %u", t->parallel, PARAMS_PARALLEL_MAX);
	client_wait(t, p);
	client_sizes(t, o);
	client_length(t, p);
	p->corrupt = PARAMS_NONE;
	want_size("--corrupt", t->corrupt, &p->corrupt);
	want_size("--ring-size", t->ring_size, &ring_size);
	p->ring_size = ring_size > UINT32_MAX ? UINT32_MAX : (uint32_t)ring_size;
	p->seed = choose_seed(t->seed);
	p->verify = t->verify || t->corrupt;
	p->reverse = t->reverse;
	p->bidir = t->bidir;
	p->nodelay = t->nodelay || p->mode != MODE_STREAM;
	want_time("--interval", t->interval, &o->interval_ns);
	if (p->ring_size && !t->path)
		usage("--ring needs a server on a UNIX socket: --unix PATH");
	wrong = params_check(p);
	if (wrong)
		usage("%s", wrong);
}

void options_client(int argc, const char **argv, struct client_options *o)
{
	static struct client_text t = {.port = BENCH_DEFAULT_PORT, .mode = "stream", .parallel = 1, .threads = -1};
	const struct poptOption target[] = {
	    {"host", 'c', POPT_ARG_STRING, &t.host, 0, "where the server is, 127.0.0.1 by default", "HOST"},
	    {"port", 'p', POPT_ARG_STRING, &t.port, 0, "its TCP port, " BENCH_DEFAULT_PORT " by default", "PORT"},
	    {"unix", 'u', POPT_ARG_STRING, &t.path, 0, "a UNIX socket instead", "PATH"},
	    {"ring", 0, POPT_ARG_NONE, &t.ring, 0, "with --unix: a bare shared-memory ring carries the data", NULL},
	    {"ring-size", 0, POPT_ARG_STRING, &t.ring_size, 0, "its size, 256K by default", "SIZE"},
	    POPT_TABLEEND};
	const struct poptOption work[] = {
	    {"mode", 'm', POPT_ARG_STRING, &t.mode, 0,
	     "stream (default), rr: request and response, crr: with a connection each", "MODE"},
	    {"size", 's', POPT_ARG_STRING, &t.size, 0, "message size, or a range to double through", "SIZE[:TO]"},
	    {"response", 0, POPT_ARG_STRING, &t.response, 0, "size of a response, by default that of the request",
	     "SIZE"},
	    {"recv-size", 0, POPT_ARG_STRING, &t.recv_size, 0,
	     "bytes to ask of each receive of a stream, by default 64K or a message if that is more", "SIZE"},
	    {"parallel", 'P', POPT_ARG_INT, &t.parallel, 0, "connections", "N"},
	    {"threads", 't', POPT_ARG_INT, &t.threads, 0, "threads on each side, by default one per connection", "N"},
	    {"time", 'T', POPT_ARG_STRING, &t.time, 0, "how long to measure, 10 s by default", "SECONDS"},
	    {"bytes", 'n', POPT_ARG_STRING, &t.bytes, 0, "bytes to send instead, over all connections", "SIZE"},
	    {"count", 'k', POPT_ARG_STRING, &t.count, 0, "messages or transactions instead", "N"},
	    {"warmup", 'w', POPT_ARG_STRING, &t.warmup, 0, "time before measuring, by default a tenth, at most 0.5 s",
	     "SECONDS"},
	    {"reverse", 'R', POPT_ARG_NONE, &t.reverse, 0, "the server sends", NULL},
	    {"bidir", 'd', POPT_ARG_NONE, &t.bidir, 0, "both send", NULL},
	    {"nodelay", 'N', POPT_ARG_NONE, &t.nodelay, 0, "TCP_NODELAY for streams too", NULL},
	    POPT_TABLEEND};
	const struct poptOption ends[] = {
	    {"epoll", 'e', POPT_ARG_NONE, &t.epoll, 0, "both ends non-blocking, driven by epoll", NULL},
	    {"busy", 'B', POPT_ARG_NONE, &t.busy, 0, "both ends non-blocking, trying again at once", NULL},
	    {"server-wait", 0, POPT_ARG_STRING, &t.server_wait, 0, "block, epoll or busy, for the server alone", "HOW"},
	    POPT_TABLEEND};
	const struct poptOption output[] = {
	    {"interval", 'i', POPT_ARG_STRING, &t.interval, 0, "report every so often", "SECONDS"},
	    {"verify", 'v', POPT_ARG_NONE, &t.verify, 0, "check every byte, both ways", NULL},
	    {"seed", 0, POPT_ARG_STRING, &t.seed, 0, "of the bytes that --verify sends; random by default", "N"},
	    {"corrupt", 0, POPT_ARG_STRING, &t.corrupt, 0, "send one wrong byte there, to see that --verify finds it",
	     "POS"},
	    {"json", 'J', POPT_ARG_NONE, &t.json, 0, "print JSON", NULL},
	    POPT_TABLEEND};
	const struct poptOption table[] = {
	    {NULL, 0, POPT_ARG_INCLUDE_TABLE, (void *)target, 0, "Server:", NULL},
	    {NULL, 0, POPT_ARG_INCLUDE_TABLE, (void *)work, 0, "Work:", NULL},
	    {NULL, 0, POPT_ARG_INCLUDE_TABLE, (void *)ends, 0, "Waiting (blocking calls by default):", NULL},
	    {NULL, 0, POPT_ARG_INCLUDE_TABLE, (void *)output, 0, "Output and checks:", NULL},
	    POPT_AUTOHELP POPT_TABLEEND};

	parse("rlm-bench client", "[OPTION...]", argc, argv, table);
	client_fill(&t, o);
}

void options_compare(int argc, const char **argv, struct compare_options *o)
{
	static const char *time;
	int runs = 5, quiet = 0;

	*o = (struct compare_options){.preset = "default"};
	const struct poptOption table[] = {
	    {"preset", 'P', POPT_ARG_STRING, &o->preset, 0,
	     "default, paper, rr, small, epoll, oversubscribed or plain-cost", "NAME"},
	    {"runs", 'r', POPT_ARG_INT, &runs, 0, "interleaved runs of each point, 5 by default", "N"},
	    {"time", 'T', POPT_ARG_STRING, &time, 0, "time measured per point and run", "SECONDS"},
	    {"columns", 'c', POPT_ARG_STRING, &o->columns, 0, "only these, of tcp,veth,unix,ring,librlm", "LIST"},
	    {"lib", 'l', POPT_ARG_STRING, &o->lib, 0, "librlm.so, by default the one beside rlm-bench", "PATH"},
	    {"rlmd", 'd', POPT_ARG_STRING, &o->rlmd, 0, "rlmd, by default the one beside rlm-bench", "PATH"},
	    {"svg", 's', POPT_ARG_STRING, &o->svg, 0, "draw the results", "FILE"},
	    {"json", 'J', POPT_ARG_STRING, &o->json, 0, "write the results", "FILE"},
	    {"quiet", 'q', POPT_ARG_NONE, &quiet, 0, "no progress on standard error", NULL},
	    POPT_AUTOHELP POPT_TABLEEND};

	parse("rlm-bench compare", "[OPTION...]", argc, argv, table);
	want_time("--time", time, &o->time_ns);
	if (time && o->time_ns == 0)
		usage("--time %s: must be more than nothing", time);
	if (runs < 1 || runs > 1000)
		usage("--runs %d: must be from 1 to 1000", runs);
	o->runs = (unsigned)runs;
	o->quiet = quiet;
}
