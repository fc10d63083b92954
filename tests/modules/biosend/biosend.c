// SPDX-License-Identifier: GPL-2.0
/*
 * Sends bios to a block device that no program can make, for tests: with vectors of
 * any length, slab memory, flags of the kernel's own.
 *
 * Writing
 *
 *	<fd> <op>[+<flag>]... <sector> <vector>...
 *
 * to @run sends one to the open device <fd> of the writing process, in its context,
 * and waits for it, @timeout ms at most.  A vector is
 *
 *	p:<bytes>[@<offset>][x<count>]
 *
 * so many times fresh pages, filled with 0xa5, from the offset on; or
 *
 *	s:<count>
 *
 * so many pages of as many slabs, each with one free object, as they lie on the
 * allocator's list of such slabs.
 *
 * @result then has "<status> <foreign>": a negative errno, zero, or "hangs"; and how
 * often folio_mapping() was asked meanwhile for a page that is not the bio's.
 *
 * A polled one that hangs is polled again behind the next one.
 */

#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/kprobes.h>
#include <linux/kref.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/slab.h>

#define BIO_SPARE	3	/* pages behind those of a vector that are nobody's */
#define BIO_OBJECTS	64

/**
 * struct sent - a bio on its way
 * @ref:	the sender's, and the bio's
 * @done:	it has ended
 * @bio:	it
 * @memory:	of each vector: pages, or an object
 * @order:	of the pages, or -1
 */
struct sent {
	struct kref ref;
	struct completion done;
	struct bio *bio;
	void *memory[BIO_MAX_VECS];
	int order[BIO_MAX_VECS];
};

static unsigned int timeout = 10000;
static char result[64];
static DEFINE_MUTEX(send_lock);
static struct kmem_cache *send_cache;
static void *objects[BIO_OBJECTS];
static struct task_struct *sender;
static struct sent *sending;
static struct sent *stuck;
static unsigned int foreign;

static void sent_free(struct kref *ref)
{
	struct sent *s = container_of(ref, struct sent, ref);
	unsigned int i;

	for (i = 0; i < s->bio->bi_vcnt; i++) {
		if (s->order[i] >= 0)
			__free_pages(s->memory[i], s->order[i]);
		else
			kmem_cache_free(send_cache, s->memory[i]);
	}
	bio_put(s->bio);
	kfree(s);
}

static void sent_endio(struct bio *bio)
{
	struct sent *s = bio->bi_private;

	complete(&s->done);
	kref_put(&s->ref, sent_free);
}

static bool sent_has(struct sent *s, const struct page *page)
{
	const struct bio_vec *bv = s->bio->bi_io_vec;
	unsigned int i;

	for (i = 0; i < s->bio->bi_vcnt; i++, bv++)
		if (page >= bv->bv_page &&
		    page < bv->bv_page + PFN_UP(bv->bv_offset + bv->bv_len))
			return true;
	return false;
}

static int send_asked(struct kprobe *p, struct pt_regs *regs)
{
	if (current == READ_ONCE(sender) &&
	    !sent_has(sending, (void *)regs_get_kernel_argument(regs, 0)))
		foreign++;
	return 0;
}

static struct kprobe send_probe = {
	.symbol_name = "folio_mapping",
	.pre_handler = send_asked,
};

/* An object's constructor keeps the cache from being merged with others. */
static void send_construct(void *object)
{
}

/* Gives the bio one object of each of @nr slabs, and frees another one of it. */
static int send_slabs(struct sent *s, unsigned int nr)
{
	struct page *seen[BIO_OBJECTS];
	unsigned int i, j, n = 0;

	for (i = 0; i < BIO_OBJECTS; i++) {
		objects[i] = kmem_cache_alloc(send_cache, GFP_KERNEL);
		if (!objects[i])
			return -ENOMEM;
	}
	migrate_disable();
	for (i = 0; i + 1 < BIO_OBJECTS && n < nr; i++) {
		struct page *slab = virt_to_head_page(objects[i]);

		for (j = 0; j < n && seen[j] != slab; j++)
			;
		/* Objects of a slab lie one behind the other in the table. */
		if (j < n || virt_to_head_page(objects[i + 1]) != slab)
			continue;
		seen[n++] = slab;
		s->memory[s->bio->bi_vcnt] = objects[i];
		s->order[s->bio->bi_vcnt] = -1;
		__bio_add_page(s->bio, virt_to_page(objects[i]), PAGE_SIZE, 0);
		kmem_cache_free(send_cache, objects[i + 1]);
		objects[i++] = NULL;
		objects[i] = NULL;
	}
	migrate_enable();
	return n == nr ? 0 : -EINVAL;
}

static int send_pages(struct sent *s, unsigned int len, unsigned int offset)
{
	unsigned int order = get_order(offset + len + BIO_SPARE * PAGE_SIZE);
	struct page *page = alloc_pages(GFP_KERNEL | __GFP_NOWARN, order);

	if (!page)
		return -ENOMEM;
	memset(page_address(page), 0xa5, PAGE_SIZE << order);
	s->memory[s->bio->bi_vcnt] = page;
	s->order[s->bio->bi_vcnt] = order;
	__bio_add_page(s->bio, page, len, offset);
	return 0;
}

static int send_vector(struct sent *s, const char *word)
{
	unsigned int len, offset = 0, count = 1, n;
	int r = 0;

	if (sscanf(word, "s:%u", &count) == 1)
		return send_slabs(s, count);
	if (sscanf(word, "p:%u@%ux%u", &len, &offset, &count) < 2 &&
	    sscanf(word, "p:%ux%u", &len, &count) < 1)
		return -EINVAL;
	for (n = 0; !r && n < count; n++)
		r = s->bio->bi_vcnt < BIO_MAX_VECS ? send_pages(s, len, offset) : -E2BIG;
	return r;
}

static const struct {
	const char *name;
	blk_opf_t opf;
} send_words[] = {
	{ "read", REQ_OP_READ }, { "write", REQ_OP_WRITE }, { "polled", REQ_POLLED },
	{ "sync", REQ_SYNC }, { "idle", REQ_IDLE }, { "fua", REQ_FUA }, { "meta", REQ_META },
};

static int send_opf(char *words, blk_opf_t *opf)
{
	unsigned int i;
	char *word;

	while ((word = strsep(&words, "+"))) {
		for (i = 0; i < ARRAY_SIZE(send_words); i++)
			if (!strcmp(word, send_words[i].name))
				break;
		if (i == ARRAY_SIZE(send_words))
			return -EINVAL;
		*opf |= send_words[i].opf;
	}
	return 0;
}

static bool send_wait(struct sent *s)
{
	unsigned long end = jiffies + msecs_to_jiffies(timeout);

	if (!(s->bio->bi_opf & REQ_POLLED))
		return wait_for_completion_timeout(&s->done, msecs_to_jiffies(timeout));
	while (!completion_done(&s->done) && time_before(jiffies, end)) {
		bio_poll(s->bio, NULL, 0);
		usleep_range(100, 200);
	}
	return completion_done(&s->done);
}

/* Words of @line: what is sent.  With send_lock held. */
static int send(char *line)
{
	struct block_device *bdev;
	blk_opf_t opf = 0;
	unsigned int fd;
	struct sent *s;
	struct file *file;
	u64 sector;
	char *word;
	int r;

	word = strsep(&line, " ");
	if (!line || kstrtouint(word, 0, &fd))
		return -EINVAL;
	word = strsep(&line, " ");
	if (!line || send_opf(word, &opf))
		return -EINVAL;
	word = strsep(&line, " ");
	if (!line || kstrtou64(word, 0, &sector))
		return -EINVAL;
	file = fget(fd);
	if (!file)
		return -EBADF;
	r = -ENOTBLK;
	if (!S_ISBLK(file_inode(file)->i_mode))
		goto put_file;
	bdev = I_BDEV(file->f_mapping->host);
	r = -ENOMEM;
	s = kzalloc(sizeof(*s), GFP_KERNEL);
	if (!s)
		goto put_file;
	kref_init(&s->ref);
	init_completion(&s->done);
	s->bio = bio_alloc(bdev, BIO_MAX_VECS, opf, GFP_KERNEL);
	s->bio->bi_iter.bi_sector = sector;
	s->bio->bi_private = s;
	s->bio->bi_end_io = sent_endio;
	memset(objects, 0, sizeof(objects));
	for (r = 0; !r && (word = strsep(&line, " "));)
		r = send_vector(s, word);
	if (!r) {
		foreign = 0;
		sending = s;
		kref_get(&s->ref);
		WRITE_ONCE(sender, current);
		submit_bio(s->bio);
		WRITE_ONCE(sender, NULL);
		if (send_wait(s))
			scnprintf(result, sizeof(result), "%d %u",
				  blk_status_to_errno(s->bio->bi_status), foreign);
		else
			scnprintf(result, sizeof(result), "hangs %u", foreign);
		if (stuck) {
			send_wait(stuck);
			kref_put(&stuck->ref, sent_free);
			stuck = NULL;
		}
		if (!completion_done(&s->done)) {
			kref_get(&s->ref);
			stuck = s;
		}
	}
	kref_put(&s->ref, sent_free);
put_file:
	fput(file);
	return r;
}

static int send_run(const char *value, const struct kernel_param *kp)
{
	char *line = kstrdup(value, GFP_KERNEL);
	unsigned int i;
	int r;

	if (!line)
		return -ENOMEM;
	mutex_lock(&send_lock);
	r = send(strim(line));
	for (i = 0; i < BIO_OBJECTS; i++)
		if (objects[i])
			kmem_cache_free(send_cache, objects[i]);
	mutex_unlock(&send_lock);
	kfree(line);
	return r;
}

static const struct kernel_param_ops send_run_ops = {
	.set = send_run,
};

module_param_cb(run, &send_run_ops, NULL, 0200);
MODULE_PARM_DESC(run, "the bio to send");
module_param(timeout, uint, 0600);
MODULE_PARM_DESC(timeout, "ms to wait for it");
module_param_string(result, result, sizeof(result), 0400);
MODULE_PARM_DESC(result, "how the last one ended, and pages not its own that were looked at");

static int __init send_init(void)
{
	int r;

	send_cache = kmem_cache_create("biosend", PAGE_SIZE, PAGE_SIZE, 0, send_construct);
	if (!send_cache)
		return -ENOMEM;
	r = register_kprobe(&send_probe);
	if (r)
		kmem_cache_destroy(send_cache);
	return r;
}

static void __exit send_exit(void)
{
	unregister_kprobe(&send_probe);
	kmem_cache_destroy(send_cache);
}

module_init(send_init);
module_exit(send_exit);

MODULE_DESCRIPTION("Sends bios to a block device that no program can make");
MODULE_AUTHOR("dm-keyed-crypt maintainers");
MODULE_LICENSE("GPL");
