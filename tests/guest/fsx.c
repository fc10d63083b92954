// SPDX-License-Identifier: GPL-2.0-only
/*
 * Random operations on a file, or on a range of a block device, every read of
 * which is compared with what must be there: an exerciser of the kind of fsx,
 * written for these tests.
 *
 *   fsx [-e] [-b OFFSET] -l LENGTH -s SEED -t SECONDS -m MODEL FILE
 *	works on FILE, at most LENGTH bytes long, then stores in MODEL what must
 *	be in it.  -b: FILE is a block device, and only LENGTH bytes from OFFSET
 *	on are used.  -e: EIO is an answer like any other.
 *   fsx [-b OFFSET] -c -m MODEL FILE
 *	compares FILE with MODEL
 *
 * Operations: read, write, mmap for both, with the page cache and directly;
 * truncate, punch a hole, preallocate or discard; fsync, close and open, drop
 * the page cache.  The last line is
 * "<operations> <EIO> <bytes compared> <bytes unknown at the end>".
 *
 * With -e, what a failed operation was to change is unknown until it is written
 * again, and so are all blocks written to since the last fsync when one fails.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define BLOCK	4096
#define MAX_IO	(128 * 1024)

static const char *path;
static off_t base;		/* of the range on a device */
static bool device, errors;
static size_t limit, size;	/* longest, and now */
static uint8_t *model;		/* what must be there, zeros behind the end */
static uint8_t *unknown;	/* 1: anything may be there */
static uint8_t *dirty;		/* 1: changed since the last fsync */
static uint8_t *buf;
static int fd = -1, dfd = -1;
static unsigned long nr_ops, nr_errors;
static unsigned long long compared;
static uint64_t rng;

static char history[32][100];

static void __attribute__((format(printf, 1, 2))) note(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(history[nr_ops++ % 32], sizeof(history[0]), fmt, ap);
	va_end(ap);
}

static void __attribute__((format(printf, 1, 2), noreturn)) fail(const char *fmt, ...)
{
	unsigned long i;
	va_list ap;

	printf("%s: operation %lu: ", path, nr_ops);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
	for (i = nr_ops > 32 ? nr_ops - 32 : 0; i < nr_ops; i++)
		printf("  %lu: %s\n", i + 1, history[i % 32]);
	exit(1);
}

static uint64_t random64(void)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return rng;
}

static size_t below(size_t n)
{
	return (random64() >> 16) % n;
}

static size_t smaller(size_t a, size_t b)
{
	return a < b ? a : b;
}

static void open_file(void)
{
	int flags = device ? O_RDWR : O_RDWR | O_CREAT;

	fd = open(path, flags, 0644);
	dfd = open(path, flags | O_DIRECT, 0644);
	if (fd < 0 || dfd < 0)
		fail("open: %m");
}

/* ---- the model ---- */

/* What was written since the last fsync may be lost, with the rest of its blocks. */
static void lose_dirty(void)
{
	size_t i;

	for (i = 0; i < limit; i++)
		if (dirty[i])
			memset(unknown + i - i % BLOCK, 1,
			       smaller(BLOCK, limit - (i - i % BLOCK)));
}

/* [at, at + len) with the blocks it begins and ends in */
static void lose(size_t at, size_t len)
{
	size_t end = smaller(limit, (at + len + BLOCK - 1) / BLOCK * BLOCK);

	at -= at % BLOCK;
	memset(unknown + at, 1, end - at);
	memset(dirty + at, 1, end - at);
}

static void changed(size_t at, size_t len)
{
	memset(unknown + at, 0, len);
	memset(dirty + at, 1, len);
	if (at + len > size)
		size = at + len;
}

/*
 * An operation on this range failed with EIO, or ended early.  The file is
 * then as long as before, as it was to be, or anything between.
 */
static void failed(const char *what, size_t at, size_t len, size_t new_size)
{
	struct stat st;
	size_t is;

	if (!errors || errno != EIO)
		fail("%s: %m", what);
	nr_errors++;
	lose(at, len);
	if (device)
		return;
	if (fstat(fd, &st))
		fail("fstat: %m");
	is = st.st_size;
	if (is < smaller(size, new_size) || (is > size && is > new_size))
		fail("%s failed, and left a size of %zu", what, is);
	if (is < size)
		memset(model + is, 0, size - is);
	else
		lose(size, is - size);
	size = is;
}

static void sync_file(void)
{
	if (random64() % 2 ? fsync(fd) : fdatasync(fd)) {
		if (!errors || errno != EIO)
			fail("fsync: %m");
		nr_errors++;
		lose_dirty();
	}
	memset(dirty, 0, limit);
}

static void compare(const char *what, size_t at, const uint8_t *got, size_t len)
{
	bool synced = false;
	size_t i;

	for (i = 0; i < len; i++) {
		if (got[i] == model[at + i] || unknown[at + i])
			continue;
		/* Writeback may have failed, which only fsync tells. */
		if (errors && !synced && dirty[at + i]) {
			synced = true;
			sync_file();
			i--;
			continue;
		}
		fail("%s of %zu at 0x%zx: at 0x%zx is %02x, expected %02x%s", what, len,
		     at, at + i, got[i], model[at + i], dirty[at + i] ? " (not synced)" : "");
	}
	compared += len;
}

/* ---- operations ---- */

static sigjmp_buf on_bus;

static void bus(int sig)
{
	(void)sig;
	siglongjmp(on_bus, 1);
}

static void choose(bool direct, size_t end, size_t *at, size_t *len)
{
	size_t unit = direct ? BLOCK : 1;
	size_t max = below(4) ? MAX_IO / 16 : MAX_IO;

	*at = below(end / unit) * unit;
	*len = (1 + below(max / unit)) * unit;
	if (*at + *len > end)
		*len = end - *at;
}

static void op_read(bool direct)
{
	size_t at, len, want;
	ssize_t n;

	if (size < BLOCK)
		return;
	choose(direct, limit, &at, &len);
	note("read%s 0x%zx at 0x%zx, size 0x%zx", direct ? " direct" : "", len, at, size);
	want = at >= size ? 0 : smaller(len, size - at);
	n = pread(direct ? dfd : fd, buf, len, base + at);
	if (n < 0) {
		if (!errors || errno != EIO)
			fail("read: %m");
		nr_errors++;
		return;
	}
	/* Only an error further on cuts a read short. */
	if ((size_t)n != want && (!errors || (size_t)n > want))
		fail("read: %zd bytes, expected %zu", n, want);
	compare(direct ? "direct read" : "read", at, buf, n);
}

static void fill(uint8_t *to, size_t len)
{
	size_t i;

	for (i = 0; i + 8 <= len; i += 8)
		*(uint64_t *)(buf + i) = random64();
	for (; i < len; i++)
		buf[i] = random64();
	if (to)
		memcpy(to, buf, len);
}

static void op_write(bool direct)
{
	size_t at, len;
	ssize_t n;

	choose(direct, limit, &at, &len);
	note("write%s 0x%zx at 0x%zx, size 0x%zx", direct ? " direct" : "", len, at, size);
	fill(NULL, len);
	n = pwrite(direct ? dfd : fd, buf, len, base + at);
	if (n != (ssize_t)len) {
		if (n >= 0)
			errno = EIO;
		failed("write", at, len, at + len > size ? at + len : size);
		return;
	}
	memcpy(model + at, buf, len);
	changed(at, len);
}

static void op_mmap(bool writing)
{
	size_t at, len, start;
	uint8_t *p;

	if (size < BLOCK)
		return;
	choose(false, size, &at, &len);
	note("mmap %s 0x%zx at 0x%zx, size 0x%zx", writing ? "write" : "read", len, at, size);
	start = at % BLOCK;
	p = mmap(NULL, start + len, writing ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED,
		 fd, base + at - start);
	if (p == MAP_FAILED)
		fail("mmap: %m");
	if (sigsetjmp(on_bus, 1)) {
		errno = EIO;
		if (writing)
			failed("mmap write", at, len, size);
		else if (!errors)
			fail("mmap read: SIGBUS");
		else
			nr_errors++;
	} else if (writing) {
		fill(p + start, len);
		memcpy(model + at, buf, len);
		changed(at, len);
	} else {
		/* Out of the mapping first: comparing may fsync. */
		memcpy(buf, p + start, len);
		compare("mmap read", at, buf, len);
	}
	if (munmap(p, start + len))
		fail("munmap: %m");
}

/*
 * Zeros where they are.  A filesystem may not tell that it could not read a
 * block to make zeros in part of it.
 */
static void zeroed(size_t at, size_t len)
{
	memset(model + at, 0, len);
	memset(unknown + at, 0, len);
	memset(dirty + at, 1, len);
	if (errors && at % BLOCK)
		lose(at, smaller(len, BLOCK - at % BLOCK));
	if (errors && (at + len) % BLOCK && len)
		lose(at + len - 1, 1);
}

static void op_truncate(void)
{
	size_t old = size, new = below(limit + 1);

	/*
	 * Within a block it would read the block, and for ext4 of 7.x it is an
	 * error of the filesystem, not of the call, if it cannot.
	 */
	if (errors)
		new = new / BLOCK * BLOCK;
	note("truncate 0x%zx to 0x%zx", size, new);
	if (ftruncate(fd, new)) {
		failed("truncate", smaller(old, new), 1, new);
		return;
	}
	size = new;
	/* to the end of the block it ends in, which later may be seen */
	zeroed(smaller(old, new), smaller(limit, ((old > new ? old : new) + BLOCK - 1) /
					  BLOCK * BLOCK) - smaller(old, new));
	memset(model + new, 0, limit - new);
}

static void op_punch(void)
{
	size_t at, len;

	if (!size)
		return;
	choose(false, size, &at, &len);
	note("punch 0x%zx at 0x%zx, size 0x%zx", len, at, size);
	if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, len))
		failed("punch", at, len, size);
	else
		zeroed(at, len);
}

static void op_allocate(void)
{
	size_t at, len, end;

	choose(false, limit, &at, &len);
	note("allocate 0x%zx at 0x%zx, size 0x%zx", len, at, size);
	end = at + len > size ? at + len : size;
	if (fallocate(fd, 0, at, len))
		failed("allocate", at, len, end);
	else
		size = end;
}

static void op_discard(void)
{
	uint64_t range[2];
	size_t at, len;

	choose(true, size, &at, &len);
	note("discard 0x%zx at 0x%zx", len, at);
	range[0] = base + at;
	range[1] = len;
	if (ioctl(fd, BLKDISCARD, range))
		fail("discard: %m");
	memset(model + at, 0, len);
	changed(at, len);
}

static void op_reopen(void)
{
	note("close and open");
	if (close(fd) || close(dfd))
		fail("close: %m");
	open_file();
}

static void op_drop(void)
{
	note("drop the page cache");
	posix_fadvise(fd, base, limit, POSIX_FADV_DONTNEED);
}

static void op_sync(void)
{
	note("fsync");
	sync_file();
}

static void step(void)
{
	switch (below(20)) {
	case 0 ... 2:
		op_read(false);
		break;
	case 3 ... 4:
		op_read(true);
		break;
	case 5 ... 7:
		op_write(false);
		break;
	case 8 ... 10:
		op_write(true);
		break;
	case 11:
		op_mmap(false);
		break;
	case 12 ... 13:
		op_mmap(true);
		break;
	case 14:
		if (device)
			op_discard();
		else if (below(3))
			op_punch();
		else
			op_allocate();
		break;
	case 15:
		if (!device)
			op_truncate();
		break;
	case 16 ... 17:
		op_sync();
		break;
	case 18:
		op_drop();
		break;
	case 19:
		op_reopen();
		break;
	}
}

/* ---- the model in a file ---- */

static void store(const char *name)
{
	FILE *f = fopen(name, "w");

	if (!f || fwrite(&size, sizeof(size), 1, f) != 1 ||
	    fwrite(model, 1, limit, f) != limit || fwrite(unknown, 1, limit, f) != limit ||
	    fclose(f))
		fail("%s: %m", name);
}

static void load(const char *name)
{
	FILE *f = fopen(name, "r");
	struct stat st;

	if (!f || fstat(fileno(f), &st) || fread(&size, sizeof(size), 1, f) != 1)
		fail("%s: %m", name);
	limit = (st.st_size - sizeof(size)) / 2;
	model = malloc(limit);
	unknown = malloc(limit);
	dirty = calloc(1, limit);
	if (fread(model, 1, limit, f) != limit || fread(unknown, 1, limit, f) != limit)
		fail("%s: %m", name);
	fclose(f);
}

static void check_all(void)
{
	struct stat st;
	size_t at, len;

	if (fstat(fd, &st))
		fail("fstat: %m");
	if (!device && (size_t)st.st_size != size)
		fail("size is 0x%zx, expected 0x%zx", (size_t)st.st_size, size);
	for (at = 0; at < size; at += len) {
		len = smaller(size - at, MAX_IO);
		if (pread(fd, buf, len, base + at) != (ssize_t)len)
			fail("read at 0x%zx: %m", at);
		compare("read", at, buf, len);
	}
}

int main(int argc, char **argv)
{
	const char *model_name = NULL;
	unsigned long nr_unknown = 0;
	struct sigaction sa = { .sa_handler = bus };
	bool check = false;
	time_t end = 0;
	size_t i;
	int c;

	while ((c = getopt(argc, argv, "b:cel:m:s:t:")) != -1) {
		switch (c) {
		case 'b':
			device = true;
			base = strtoull(optarg, NULL, 0);
			break;
		case 'c':
			check = true;
			break;
		case 'e':
			errors = true;
			break;
		case 'l':
			limit = strtoull(optarg, NULL, 0) / BLOCK * BLOCK;
			break;
		case 'm':
			model_name = optarg;
			break;
		case 's':
			rng = strtoull(optarg, NULL, 0) * 0x9e3779b97f4a7c15 + 1;
			break;
		case 't':
			end = time(NULL) + atoi(optarg);
			break;
		default:
			return 2;
		}
	}
	path = argv[optind];
	if (!path || !model_name)
		return 2;
	buf = mmap(NULL, MAX_IO, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	open_file();
	if (check) {
		load(model_name);
	} else {
		model = calloc(1, limit);
		unknown = calloc(1, limit);
		dirty = calloc(1, limit);
		sigaction(SIGBUS, &sa, NULL);
		if (device) {
			/* Whatever was there */
			size = limit;
			memset(unknown, 1, limit);
		}
		while (time(NULL) < end)
			step();
		sync_file();
		store(model_name);
	}
	if (check || !errors)
		check_all();
	for (i = 0; i < size; i++)
		nr_unknown += unknown[i];
	printf("%lu %lu %llu %lu\n", nr_ops, nr_errors, compared, nr_unknown);
	return 0;
}
