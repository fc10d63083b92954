// SPDX-License-Identifier: GPL-2.0
/*
 * Load for benchmarks: direct I/O to a block device, timed to the nanosecond,
 * which under tests/vm --icount is to the instruction.  (fio gives its run time
 * in milliseconds, too coarse for runs of a tenth of a second, and takes seconds
 * to start on an emulated processor.)
 *
 * usage: io [option...] DEVICE
 *
 *   -r | -w | -m N | -d  reads, writes, N % reads, or discards
 *   -b BYTES             size of a request (4096)
 *   -q DEPTH             1: pread and pwrite; more: libaio
 *   -o BYTES  -l BYTES   the region: its offset (0) and its length
 *   -s BYTES             from one request to the next (the size of a request)
 *   -R                   in random order, each place once; the same one each time
 *   -n COUNT             so many requests (each place once, less those of -k)
 *   -k COUNT             so many more before them, not timed
 *   -p PASSES            do it all so many times (1)
 *   -t SECONDS           end a pass after that time, whatever is left of it
 *   -y                   fdatasync after each write
 *   -Y                   one fdatasync at the end, timed
 *   -u UID               as this user
 *   -U COUNT             block i of 4 KiB as user UID + i % COUNT
 *   -e                   each request must fail with EIO
 *   -j JOBS              so many processes, each with its part of the region, and
 *                        its own user with -U
 *
 * Prints a line "<ns> <requests>" for each pass, of all jobs together.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE		4096ul
#define MAX_DEPTH	256
/* Measurements begin where the timer interrupt has just been. */
#define TICK		4000000ull

enum op { READ_OP, WRITE_OP, MIX_OP, DISCARD_OP };

static enum op op = READ_OP;
static unsigned int percent, depth = 1, passes = 1, jobs = 1, owners;
static uint64_t size = 4096, offset, length, stride, count, before, limit, until;
static int random_order, sync_each, sync_end, must_fail, uid = -1;
static int fd;
static char *buffers;

static void die(const char *what)
{
	fprintf(stderr, "io: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

/*
 * Neighbours in these buffers are not neighbours in memory, as in the page cache:
 * pages are handed out in order, so every other one is asked for first.
 */
static char *scattered(size_t bytes)
{
	char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	size_t i;

	if (p == MAP_FAILED)
		die("mmap");
	madvise(p, bytes, MADV_NOHUGEPAGE);
	for (i = 0; i < bytes; i += 2 * PAGE)
		memset(p + i, i >> 12, PAGE);
	for (i = PAGE; i < bytes; i += 2 * PAGE)
		memset(p + i, i >> 12, PAGE);
	if (mlock(p, bytes))
		die("mlock");
	return p;
}

/* A linear congruential generator of full period: every place once. */
struct order {
	uint64_t places, mask, state;
};

static uint64_t next(struct order *o)
{
	uint64_t place;

	if (!random_order) {
		place = o->state;
		o->state = (place + 1) % o->places;
		return place;
	}
	do {
		o->state = (o->state * 0x5851f42d4c957f2dull + 0x14057b7ef767814full) & o->mask;
		/* The low bits alone are not random: the high half is mixed into them. */
		place = o->state ^ (o->state >> ((64 - __builtin_clzll(o->mask | 1)) / 2));
	} while (place >= o->places);
	return place;
}

static int is_read(uint64_t i)
{
	if (op == MIX_OP)
		return (i * 2654435761u >> 16) % 100 < percent;
	return op == READ_OP;
}

static uint64_t place_of(struct order *o, uint64_t base)
{
	uint64_t at = base + next(o) * stride;

	if (owners && jobs == 1)
		setfsuid(uid + (int)(at / PAGE % owners));
	return at;
}

static void check(long got)
{
	if (must_fail ? got != -EIO : got != (long)size) {
		errno = got < 0 ? -got : 0;
		die(must_fail ? "a request did not fail with EIO" : "a request failed");
	}
}

static int late(uint64_t i)
{
	return until && i % 8 == 0 && now() > until;
}

/* Returns the number of requests, as does run_async(). */
static uint64_t run_sync(struct order *o, uint64_t base, uint64_t n)
{
	uint64_t i, at;
	long r;

	for (i = 0; i < n && !late(i); i++) {
		at = place_of(o, base);
		if (op == DISCARD_OP) {
			uint64_t range[2] = { at, size };

			r = ioctl(fd, BLKDISCARD, range) ? -errno : (long)size;
		} else if (is_read(i)) {
			r = pread(fd, buffers, size, at);
			r = r < 0 ? -errno : r;
		} else {
			r = pwrite(fd, buffers, size, at);
			r = r < 0 ? -errno : r;
		}
		check(r);
		if (sync_each && !is_read(i) && fdatasync(fd))
			die("fdatasync");
	}
	return i;
}

static uint64_t run_async(aio_context_t ctx, struct order *o, uint64_t base, uint64_t n)
{
	static struct iocb cbs[MAX_DEPTH];
	struct io_event events[MAX_DEPTH];
	struct iocb *idle[MAX_DEPTH], *cb;
	unsigned int nr_idle = 0, i;
	uint64_t started = 0, ended = 0;
	long got;

	for (i = 0; i < depth; i++)
		idle[nr_idle++] = &cbs[i];
	while (ended < n) {
		while (nr_idle && started < n) {
			if (late(started)) {
				n = started;
				break;
			}
			cb = idle[--nr_idle];
			memset(cb, 0, sizeof(*cb));
			cb->aio_fildes = fd;
			cb->aio_lio_opcode = is_read(started++) ? IOCB_CMD_PREAD : IOCB_CMD_PWRITE;
			cb->aio_buf = (uintptr_t)(buffers + (cb - cbs) * size);
			cb->aio_nbytes = size;
			cb->aio_offset = place_of(o, base);
			if (syscall(SYS_io_submit, ctx, 1, &cb) != 1)
				die("io_submit");
		}
		if (ended == n)
			break;
		got = syscall(SYS_io_getevents, ctx, 1, depth, events, NULL);
		if (got < 1)
			die("io_getevents");
		for (i = 0; (long)i < got; i++) {
			check(events[i].res);
			idle[nr_idle++] = (struct iocb *)(uintptr_t)events[i].obj;
		}
		ended += got;
	}
	return ended;
}

static uint64_t run(aio_context_t ctx, struct order *o, uint64_t base, uint64_t n)
{
	return depth > 1 ? run_async(ctx, o, base, n) : run_sync(o, base, n);
}

struct shared {
	unsigned int ready, passed;
	uint64_t start, end[256], done[256];
};

static void job(struct shared *s, unsigned int nr)
{
	uint64_t places = length / stride / jobs;
	uint64_t base = offset + nr * places * stride, t, n = count ? count : places - before;
	struct order o = { .places = places };
	aio_context_t ctx = 0;
	unsigned int pass;

	buffers = scattered(size * depth);
	for (o.mask = 1; o.mask < places; o.mask = o.mask << 1 | 1)
		;
	if (depth > 1 && syscall(SYS_io_setup, depth, &ctx))
		die("io_setup");
	if (uid >= 0)
		setfsuid(uid + (owners ? nr % owners : 0));
	for (pass = 1; pass <= passes; pass++) {
		o.state = 0;
		until = 0;
		run(ctx, &o, base, before);
		__atomic_add_fetch(&s->ready, 1, __ATOMIC_SEQ_CST);
		while (__atomic_load_n(&s->ready, __ATOMIC_SEQ_CST) < jobs * pass)
			sched_yield();
		if (!nr) {
			do
				t = now();
			while (t % TICK > TICK / 50);
			s->start = t;
			__atomic_store_n(&s->passed, pass, __ATOMIC_SEQ_CST);
		}
		while (__atomic_load_n(&s->passed, __ATOMIC_SEQ_CST) < pass)
			sched_yield();
		until = limit ? s->start + limit : 0;
		s->done[nr] = run(ctx, &o, base, n);
		if (sync_end && fdatasync(fd))
			die("fdatasync");
		s->end[nr] = now();
		if (jobs == 1)
			printf("%llu %llu\n", (unsigned long long)(s->end[0] - s->start),
			       (unsigned long long)s->done[0]);
	}
}

static uint64_t number(const char *text)
{
	char *end;
	uint64_t v = strtoull(text, &end, 0);

	switch (*end) {
	case 'G': v <<= 10; /* fall through */
	case 'M': v <<= 10; /* fall through */
	case 'K': v <<= 10; end++;
	}
	if (*end || end == text) {
		errno = EINVAL;
		die(text);
	}
	return v;
}

int main(int argc, char **argv)
{
	struct shared *s;
	unsigned int i;
	int c, status, bad = 0;

	while ((c = getopt(argc, argv, "rwdm:b:q:o:l:s:Rn:k:p:t:yYu:U:ej:")) != -1) {
		switch (c) {
		case 'r': op = READ_OP; break;
		case 'w': op = WRITE_OP; break;
		case 'd': op = DISCARD_OP; break;
		case 'm': op = MIX_OP; percent = number(optarg); break;
		case 'b': size = number(optarg); break;
		case 'q': depth = number(optarg); break;
		case 'o': offset = number(optarg); break;
		case 'l': length = number(optarg); break;
		case 's': stride = number(optarg); break;
		case 'R': random_order = 1; break;
		case 'n': count = number(optarg); break;
		case 'k': before = number(optarg); break;
		case 'p': passes = number(optarg); break;
		case 't': limit = number(optarg) * 1000000000ull; break;
		case 'y': sync_each = 1; break;
		case 'Y': sync_end = 1; break;
		case 'u': uid = number(optarg); break;
		case 'U': owners = number(optarg); break;
		case 'e': must_fail = 1; break;
		case 'j': jobs = number(optarg); break;
		default: return 2;
		}
	}
	if (!stride)
		stride = size;
	if (optind != argc - 1 || length < stride * jobs || depth < 1 ||
	    depth > MAX_DEPTH || jobs < 1 || jobs > 256 || (jobs > 1 && passes > 1)) {
		fprintf(stderr, "io: one device, -l a region, -q 1 to 256, -j 1 to 256, -p without -j\n");
		return 2;
	}
	/* Never through a file of that name: devices only, and not one that is in use. */
	fd = open(argv[optind], O_RDWR | O_DIRECT | O_CLOEXEC | O_EXCL);
	if (fd < 0)
		die(argv[optind]);
	s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (s == MAP_FAILED)
		die("mmap");
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (jobs == 1) {
		job(s, 0);
		return 0;
	}
	for (i = 0; i < jobs; i++) {
		pid_t pid = fork();

		if (pid < 0)
			die("fork");
		if (!pid) {
			job(s, i);
			_exit(0);
		}
	}
	while (wait(&status) > 0)
		bad |= status;
	if (bad)
		return 1;
	for (i = 1; i < jobs; i++) {
		if (s->end[i] > s->end[0])
			s->end[0] = s->end[i];
		s->done[0] += s->done[i];
	}
	printf("%llu %llu\n", (unsigned long long)(s->end[0] - s->start),
	       (unsigned long long)s->done[0]);
	return 0;
}
