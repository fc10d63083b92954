// SPDX-License-Identifier: GPL-2.0
/*
 * Bios in, ciphertext out.
 *
 * A write is encrypted into bounce pages in the context it comes in, and these
 * go to the disk: there is no path on which the bio's own pages do.  A read is
 * decrypted in place where it completes, unless that context cannot run the
 * cipher; then a workqueue does it.  Other processors take parts of large bios.
 *
 * Cipher drivers may be asynchronous.  Requests beyond the first one, which lies
 * in the kc_part, come from a mempool then.
 */

#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <asm/simd.h>
#include <crypto/internal/simd.h>

#include "dm-keyed-crypt.h"

#define KC_MIN_IOS	64

/*
 * Bytes that are worth another processor: a hop costs some microseconds, the
 * fastest AES ten for this.
 */
#define KC_PART_MIN	65536U

/*
 * Two per cent of the memory, as much as dm-crypt takes, are for bounce pages,
 * the same share for each device.  Beyond that a write waits for pages of
 * others, or has to do with the reserve of its target.
 */
#define KC_PAGES_PERCENT 2

static atomic_t kc_page_users;

static void *kc_page_alloc(gfp_t gfp, void *data)
{
	unsigned long max = mult_frac(totalram_pages() - totalhigh_pages(),
				      KC_PAGES_PERCENT, 100);
	struct kc_dev *kd = data;
	struct page *page;

	/* mempool_alloc() sets this flag; what fills the reserve does not. */
	if (gfp & __GFP_NORETRY && percpu_counter_read_positive(&kd->nr_pages) >=
				   max / atomic_read(&kc_page_users))
		return NULL;
	page = alloc_page(gfp);
	if (page)
		percpu_counter_inc(&kd->nr_pages);
	return page;
}

static void kc_page_free(void *page, void *data)
{
	struct kc_dev *kd = data;

	__free_page(page);
	percpu_counter_dec(&kd->nr_pages);
}

/**
 * kc_crypt_init() - pools of a target
 * @t:		the target, its device open
 *
 * Process context.
 * Return: 0 or -ENOMEM.
 */
int kc_crypt_init(struct kc_target *t)
{
	int r;

	t->io_size = ALIGN(sizeof(struct kc_io) + t->kd->tfm_reqsize,
			   ARCH_KMALLOC_MINALIGN);
	mutex_init(&t->page_lock);
	r = bioset_init(&t->bs, KC_MIN_IOS, 0, BIOSET_NEED_BVECS);
	if (!r)
		r = bioset_init(&t->split_bs, KC_MIN_IOS, t->io_size, 0);
	if (!r)
		r = mempool_init_kmalloc_pool(&t->req_pool, KC_MIN_IOS,
					      sizeof(struct kc_req) +
					      t->kd->tfm_reqsize);
	if (!r)
		r = mempool_init(&t->page_pool, BIO_MAX_VECS, kc_page_alloc,
				 kc_page_free, t->kd);
	return r;
}

/**
 * kc_crypt_exit() - free the pools
 * @t:		the target, perhaps half set up
 */
void kc_crypt_exit(struct kc_target *t)
{
	mempool_exit(&t->page_pool);
	mempool_exit(&t->req_pool);
	bioset_exit(&t->split_bs);
	bioset_exit(&t->bs);
}

/**
 * kc_io_release() - drop what a bio holds
 * @io:		the bio; a change must have ended before
 *
 * Any context.
 */
void kc_io_release(struct kc_io *io)
{
	if (io->ks)
		kc_keyslot_put(io->ks);
	io->ks = NULL;
	if (io->mb && !io->change)
		kc_mapblk_put(io->t->kd, io->mb);
	io->mb = NULL;
}

/**
 * kc_io_end() - end a bio
 * @io:		the bio, with all released
 * @status:	how
 *
 * Any context.
 */
void kc_io_end(struct kc_io *io, blk_status_t status)
{
	if (status)
		io->bio->bi_status = status;
	bio_endio(io->bio);
}

/* ---- conversion ---- */

static void kc_convert_end(struct kc_io *io, bool may_submit);

static KC_CRYPTO_DONE(kc_convert_done, arg)
{
	struct kc_req *req = kc_crypto_data(arg);
	struct kc_io *io = req->io;
	struct kc_dev *kd = io->t->kd;

	if (error == -EINPROGRESS)
		return;		/* out of the backlog, the end is to come */
	if (error)
		WRITE_ONCE(io->status, BLK_STS_IOERR);
	if (req->pooled)
		mempool_free(req, &io->t->req_pool);
	if (bio_data_dir(io->bio) == READ && atomic_dec_and_test(&io->ks->async))
		wake_up(&kd->wait_ref);
	if (atomic_dec_and_test(&io->pending))
		kc_convert_end(io, false);
}

/* What sg_init_table() does, with less ado */
static void kc_sg_init(struct scatterlist *sg)
{
	*sg = (struct scatterlist){};
	sg_init_marker(sg, 1);
}

static void kc_req_init(struct kc_req *req, struct kc_io *io, bool in_place)
{
	req->io = io;
	kc_sg_init(&req->sg_in);
	if (!in_place)
		kc_sg_init(&req->sg_out);
	skcipher_request_set_tfm(&req->req, io->ks->tfm);
	skcipher_request_set_callback(&req->req, CRYPTO_TFM_REQ_MAY_BACKLOG,
				      kc_convert_done, req);
}

/* Encrypts or decrypts one block; moves on. */
static int kc_convert_block(struct kc_part *part, struct kc_req *req,
			    struct bio *src, struct bio *dst)
{
	struct kc_dev *kd = part->io->t->kd;
	unsigned int size = kd->sector_size;
	struct bio_vec in = bio_iter_iovec(src, part->in), out = in;
	u64 sector = part->sector;

	if (src != dst)
		out = bio_iter_iovec(dst, part->out);
	/* The queue limits do not let such bios be built. */
	if (unlikely((in.bv_len | out.bv_len) & (size - 1)))
		return -EIO;
	bio_advance_iter_single(src, &part->in, size);
	part->sector += size >> SECTOR_SHIFT;
	if (kd->flags & KC_FLAG_IV_LARGE_SECTORS)
		sector >>= kd->block_shift;
	kc_iv_gen(&kd->cipher, req->iv, sector);
	sg_set_page(&req->sg_in, in.bv_page, size, in.bv_offset);
	if (src == dst) {
		skcipher_request_set_crypt(&req->req, &req->sg_in, &req->sg_in,
					   size, req->iv);
		return crypto_skcipher_decrypt(&req->req);
	}
	bio_advance_iter_single(dst, &part->out, size);
	sg_set_page(&req->sg_out, out.bv_page, size, out.bv_offset);
	skcipher_request_set_crypt(&req->req, &req->sg_in, &req->sg_out, size,
				   req->iv);
	return crypto_skcipher_encrypt(&req->req);
}

/*
 * Converts what part->in has left.  A read has the same source and destination.
 * @spare is a request from the pool, taken over, or NULL.  Return: false if there
 * was no memory for a request.
 */
static bool kc_convert(struct kc_part *part, struct bio *src, struct bio *dst,
		       struct kc_req *spare, gfp_t gfp)
{
	struct kc_io *io = part->io;
	struct kc_req *req;
	int r;

	while (part->in.bi_size) {
		if (!part->req_used) {
			part->req_used = true;
			req = &part->req;
			req->pooled = false;
		} else {
			req = spare ?: mempool_alloc(&io->t->req_pool, gfp);
			spare = NULL;
			if (!req)
				return false;
			req->pooled = true;
		}
		kc_req_init(req, io, src == dst);
		do
			r = kc_convert_block(part, req, src, dst);
		while (!r && part->in.bi_size);
		if (r == -EINPROGRESS || r == -EBUSY) {
			/*
			 * The driver has it, and kc_convert_done() frees it;
			 * perhaps it already has.  That is no matter: who waits
			 * for async begins after a grace period, and this is
			 * under RCU.
			 */
			part->handed++;
			if (src == dst)
				atomic_inc(&io->ks->async);
			continue;
		}
		if (req->pooled)
			mempool_free(req, &io->t->req_pool);
		if (unlikely(r)) {
			WRITE_ONCE(io->status, BLK_STS_IOERR);
			part->in.bi_size = 0;
		}
	}
	if (unlikely(spare))
		mempool_free(spare, &io->t->req_pool);
	return true;
}

/*
 * Decrypts under RCU: kc_owner_lock() waits for that, so nothing comes out of a
 * key that has been locked.  Return: false to go on with memory.
 */
static bool kc_decrypt(struct kc_part *part, struct kc_req *spare)
{
	struct kc_io *io = part->io;
	bool complete;

	rcu_read_lock();
	if (unlikely(READ_ONCE(io->ks->dead))) {
		WRITE_ONCE(io->status, BLK_STS_IOERR);
		part->in.bi_size = 0;
	}
	complete = kc_convert(part, io->bio, io->bio, spare,
			      GFP_NOWAIT | __GFP_NOWARN);
	rcu_read_unlock();
	return complete;
}

/* Is there nothing left to wait for, after the conversion of a bio's own part? */
static bool kc_part_was_all(const struct kc_part *part)
{
	return likely(part == &part->io->part && !part->next && !part->handed);
}

/* A part has been converted, or handed to the driver. */
static void kc_part_end(struct kc_part *part, bool may_submit)
{
	struct kc_io *io = part->io;

	if (kc_part_was_all(part) ||
	    atomic_sub_and_test(part->nr - part->handed + 1, &io->pending))
		kc_convert_end(io, may_submit);
}

static void kc_part_work(struct work_struct *work)
{
	struct kc_part *part = container_of(work, struct kc_part, work);
	struct kc_io *io = part->io;
	struct kc_req *spare = NULL;

	if (bio_data_dir(io->bio) == WRITE)
		kc_convert(part, io->bio, io->clone, NULL, GFP_NOIO);
	else
		while (!kc_decrypt(part, spare))
			spare = mempool_alloc(&io->t->req_pool, GFP_NOIO);
	kc_part_end(part, true);
}

static void kc_part_queue(struct kc_part *part)
{
	INIT_WORK(&part->work, kc_part_work);
	queue_work(part->io->t->kd->crypt_wq, &part->work);
}

static void kc_part_init(struct kc_part *part, struct kc_io *io, unsigned int nr)
{
	part->io = io;
	part->next = NULL;
	part->nr = nr;
	part->handed = 0;
	part->req_used = false;
}

/*
 * Gives parts of a large bio to other processors, as many as there is memory for;
 * io->part is left with the rest.
 */
static void kc_convert_split(struct kc_io *io, struct bio *src, struct bio *dst)
{
	struct kc_target *t = io->t;
	unsigned int size = t->kd->sector_size, nr, n;
	struct kc_part *rest = &io->part, *part;

	n = min(io->part.in.bi_size / KC_PART_MIN, num_online_cpus());
	nr = io->part.nr / n;
	while (--n) {
		part = kmalloc(sizeof(*part) + t->kd->tfm_reqsize,
			       GFP_NOWAIT | __GFP_NOWARN);
		if (!part)
			break;
		kc_part_init(part, io, nr);
		part->in = rest->in;
		part->in.bi_size = nr * size;
		part->out = rest->out;
		part->sector = rest->sector;
		bio_advance_iter(src, &rest->in, nr * size);
		if (src != dst)
			bio_advance_iter(dst, &rest->out, nr * size);
		rest->sector += nr * (size >> SECTOR_SHIFT);
		rest->nr -= nr;
		part->next = rest->next;
		rest->next = part;
		atomic_inc(&io->pending);
	}
	for (part = rest->next; part; part = part->next)
		kc_part_queue(part);
}

/*
 * Begins the conversion of a bio's data: io->part.in, and for a write io->part.out,
 * have it all.
 */
static void kc_convert_init(struct kc_io *io, struct bio *src, struct bio *dst)
{
	struct kc_dev *kd = io->t->kd;
	struct kc_part *part = &io->part;
	unsigned int size = part->in.bi_size;

	kc_part_init(part, io, size >> (kd->block_shift + SECTOR_SHIFT));
	part->sector = (io->block << kd->block_shift) + kd->iv_offset;
	io->status = BLK_STS_OK;
	atomic_set(&io->pending, part->nr + 1);
	if (size >= 2 * KC_PART_MIN && num_online_cpus() > 1)
		kc_convert_split(io, src, dst);
}

/* ---- writes ---- */

/*
 * Bounce pages are kept for the next write, some for each processor: they have
 * ciphertext in them, so a write need not wait for the page allocator, nor for it
 * to clear them.  They go back to where they came from, whichever processor
 * completes the write, and are freed when no write has used them for a while.
 * The mempool's reserve comes first.
 */
struct kc_page_cache {
	spinlock_t lock;
	struct page *pages;	/* linked by page_private() */
	unsigned int nr;
	bool used;
};

#define KC_PAGE_CACHE_MAX	(SZ_1M / PAGE_SIZE)

/* Takes a page off a list. */
static struct page *kc_page_pop(struct page **pages)
{
	struct page *page = *pages;

	*pages = (struct page *)page_private(page);
	set_page_private(page, 0);
	return page;
}

static void kc_page_push(struct page **pages, struct page *page)
{
	set_page_private(page, (unsigned long)*pages);
	*pages = page;
}

/* Up to @nr pages of this processor's. */
static struct page *kc_pages_get(struct kc_io *io, unsigned int nr)
{
	struct kc_page_cache *cache;
	struct page *pages = NULL;
	unsigned long flags;

	io->cpu = raw_smp_processor_id();
	cache = per_cpu_ptr(io->t->kd->page_cache, io->cpu);
	spin_lock_irqsave(&cache->lock, flags);
	cache->used = true;
	for (; cache->nr && nr; nr--, cache->nr--)
		kc_page_push(&pages, kc_page_pop(&cache->pages));
	spin_unlock_irqrestore(&cache->lock, flags);
	return pages;
}

static void kc_pages_put(struct kc_io *io, struct page *pages)
{
	struct kc_page_cache *cache = per_cpu_ptr(io->t->kd->page_cache, io->cpu);
	mempool_t *pool = &io->t->page_pool;
	unsigned long flags;

	if (likely(READ_ONCE(pool->curr_nr) >= pool->min_nr)) {
		spin_lock_irqsave(&cache->lock, flags);
		for (; pages && cache->nr < KC_PAGE_CACHE_MAX; cache->nr++)
			kc_page_push(&cache->pages, kc_page_pop(&pages));
		spin_unlock_irqrestore(&cache->lock, flags);
	}
	while (unlikely(pages))
		mempool_free(kc_page_pop(&pages), pool);
}

/**
 * kc_crypt_trim() - free bounce pages that nobody has used lately
 * @kd:		the device
 * @all:	and all others
 *
 * Process context.
 */
void kc_crypt_trim(struct kc_dev *kd, bool all)
{
	struct kc_page_cache *cache;
	struct page *pages;
	int cpu;

	for_each_possible_cpu(cpu) {
		cache = per_cpu_ptr(kd->page_cache, cpu);
		pages = NULL;
		spin_lock_irq(&cache->lock);
		if (all || !cache->used) {
			swap(pages, cache->pages);
			cache->nr = 0;
		}
		cache->used = false;
		spin_unlock_irq(&cache->lock);
		while (pages)
			kc_page_free(kc_page_pop(&pages), kd);
	}
}

/**
 * kc_crypt_cache_init() - the bounce pages a device keeps
 * @kd:		the device
 *
 * Process context.
 * Return: 0 or -ENOMEM.
 */
int kc_crypt_cache_init(struct kc_dev *kd)
{
	int cpu;

	if (percpu_counter_init(&kd->nr_pages, 0, GFP_KERNEL))
		return -ENOMEM;
	kd->page_cache = alloc_percpu(struct kc_page_cache);
	if (!kd->page_cache)
		return -ENOMEM;
	for_each_possible_cpu(cpu)
		spin_lock_init(&per_cpu_ptr(kd->page_cache, cpu)->lock);
	atomic_inc(&kc_page_users);
	return 0;
}

/**
 * kc_crypt_cache_exit() - free them
 * @kd:		the device, without bios and targets
 */
void kc_crypt_cache_exit(struct kc_dev *kd)
{
	if (kd->page_cache) {
		kc_crypt_trim(kd, true);
		/* a page lost, or a pool that is to be freed later */
		WARN_ON_ONCE(percpu_counter_sum(&kd->nr_pages));
		free_percpu(kd->page_cache);
		atomic_dec(&kc_page_users);
	}
	percpu_counter_destroy(&kd->nr_pages);
}

static void kc_free_pages(struct kc_io *io)
{
	struct page *pages = NULL;
	struct bvec_iter_all iter;
	struct bio_vec *bv;

	bio_for_each_segment_all(bv, io->clone, iter)
		kc_page_push(&pages, bv->bv_page);
	if (pages)
		kc_pages_put(io, pages);
}

static void kc_free_clone(struct kc_io *io)
{
	kc_free_pages(io);
	if (io->clone == &io->small_clone)
		bio_uninit(io->clone);
	else
		bio_put(io->clone);
	io->clone = NULL;
}

static void kc_write_end(struct kc_io *io)
{
	struct kc_dev *kd = io->t->kd;
	bool fua = io->bio->bi_opf & REQ_FUA && !io->status;
	const unsigned long not_in_place = BIT(KC_MB_UNLOGGED) | BIT(KC_MB_DIRTY) |
					   BIT(KC_MB_WRITING);

	if (fua && !io->change)
		fua = READ_ONCE(io->mb->flags) & not_in_place;
	if (io->change)
		kc_mapblk_end_change(io, !io->status);
	if (io->intent && atomic_dec_and_test(&kd->journal.live))
		wake_up_all(&kd->keymap.wait);
	kc_io_release(io);
	if (fua && !kc_journal_durable(kd))
		kc_journal_wait_io(kd, io);
	else
		kc_io_end(io, io->status);
}

static void kc_write_endio(struct bio *clone)
{
	struct kc_io *io = clone->bi_private;

	io->status = clone->bi_status;
	kc_free_clone(io);
	kc_write_end(io);
}

/* Gives a bio all its bounce pages, or none if there is no memory. */
static bool kc_fill_clone(struct kc_io *io, gfp_t gfp)
{
	unsigned int size = io->bio->bi_iter.bi_size, len;
	struct page *pages, *page;

	pages = kc_pages_get(io, DIV_ROUND_UP(size, PAGE_SIZE));
	for (; size; size -= len) {
		if (pages)
			page = kc_page_pop(&pages);
		else
			page = mempool_alloc(&io->t->page_pool, gfp | __GFP_HIGHMEM);
		if (!page) {
			kc_free_pages(io);
			io->clone->bi_vcnt = 0;
			io->clone->bi_iter.bi_size = 0;
			return false;
		}
		len = min_t(unsigned int, size, PAGE_SIZE);
		__bio_add_page(io->clone, page, len, 0);
	}
	return true;
}

/*
 * A bio of bounce pages.  Two allocators that each have half of the pool would
 * wait for each other for ever, so only one at a time may wait.
 */
static struct bio *kc_alloc_clone(struct kc_io *io)
{
	unsigned int nr = DIV_ROUND_UP(io->bio->bi_iter.bi_size, PAGE_SIZE);
	blk_opf_t opf = io->bio->bi_opf & ~REQ_POLLED;
	struct kc_target *t = io->t;

	if (nr <= ARRAY_SIZE(io->small_vecs)) {
		io->clone = &io->small_clone;
		bio_init(io->clone, t->dev->bdev, io->small_vecs, nr, opf);
	} else {
		io->clone = bio_alloc_bioset(t->dev->bdev, nr, opf, GFP_NOIO, &t->bs);
	}
	io->clone->bi_ioprio = io->bio->bi_ioprio;
	io->clone->bi_private = io;
	io->clone->bi_end_io = kc_write_endio;
	if (unlikely(!kc_fill_clone(io, GFP_NOWAIT | __GFP_NOWARN))) {
		mutex_lock(&t->page_lock);
		kc_fill_clone(io, GFP_NOIO);
		mutex_unlock(&t->page_lock);
	}
	return io->clone;
}

/**
 * kc_crypt_write_go() - send an encrypted write to the disk
 * @io:		the write
 * @status:	or end it with this error
 *
 * Process context.
 */
void kc_crypt_write_go(struct kc_io *io, blk_status_t status)
{
	struct kc_dev *kd = io->t->kd;

	if (unlikely(status)) {
		io->status = status;
		kc_free_clone(io);
		kc_write_end(io);
		return;
	}
	io->clone->bi_iter.bi_sector = io->t->start + (io->block << kd->block_shift);
	dm_submit_bio_remap(io->base, io->clone);
}

static void kc_write_submit(struct kc_io *io)
{
	if (io->reassign && !io->t->lazy && !io->status)
		kc_journal_intent(io->t->kd, io);
	else
		kc_crypt_write_go(io, io->status);
}

/**
 * kc_crypt_write() - encrypt a write and send it to the disk
 * @io:		the write, its blocks claimed and its key held
 *
 * Process context, ->map() too.  Ends @io.
 */
void kc_crypt_write(struct kc_io *io)
{
	struct bio *clone = kc_alloc_clone(io);

	io->part.in = io->bio->bi_iter;
	io->part.out = clone->bi_iter;
	kc_convert_init(io, io->bio, clone);
	kc_convert(&io->part, io->bio, clone, NULL, GFP_NOIO);
	kc_part_end(&io->part, true);
}

/* ---- reads ---- */

/*
 * bio_endio() has been through with dm's clone once and need not see it again.  A
 * part of it is chained to it: that is for bio_endio() to see to.
 */
static void kc_read_end(struct kc_io *io)
{
	kc_io_release(io);
	if (unlikely(io->status))
		io->bio->bi_status = io->status;
	if (likely(io->bio == io->base))
		io->bio->bi_end_io(io->bio);
	else
		bio_endio(io->bio);
}

static void kc_write_work(struct work_struct *work)
{
	kc_write_submit(container_of(work, struct kc_io, part.work));
}

/* All parts are converted; any context, in that of a process with @may_submit. */
static void kc_convert_end(struct kc_io *io, bool may_submit)
{
	struct kc_part *part, *next;

	for (part = io->part.next; part; part = next) {
		next = part->next;
		kfree(part);
	}
	if (bio_data_dir(io->bio) == READ) {
		kc_read_end(io);
	} else if (may_submit) {
		kc_write_submit(io);
	} else {
		INIT_WORK(&io->part.work, kc_write_work);
		queue_work(io->t->kd->crypt_wq, &io->part.work);
	}
}

static void kc_read_endio(struct bio *bio)
{
	struct kc_io *io = bio->bi_private;

	bio->bi_end_io = io->end_io;
	bio->bi_private = io->private;
	if (unlikely(bio->bi_status)) {
		io->status = bio->bi_status;
		kc_read_end(io);
		return;
	}
	kc_convert_init(io, bio, bio);
	/* In other contexts ciphers do not work, or only asynchronously. */
	if (unlikely(in_hardirq() || irqs_disabled() || !crypto_simd_usable()) ||
	    unlikely(!kc_decrypt(&io->part, NULL)))
		kc_part_queue(&io->part);
	else if (kc_part_was_all(&io->part))
		kc_read_end(io);
	else
		kc_part_end(&io->part, false);
}

/**
 * kc_crypt_read() - prepare a read to go down and be decrypted
 * @io:		the read, relying on its map entries and its key held
 *
 * The caller submits io->bio.  Any context.
 */
void kc_crypt_read(struct kc_io *io)
{
	struct bio *bio = io->bio;

	io->part.in = bio->bi_iter;
	io->end_io = bio->bi_end_io;
	io->private = bio->bi_private;
	bio->bi_end_io = kc_read_endio;
	bio->bi_private = io;
	bio_set_dev(bio, io->t->dev->bdev);
	bio->bi_iter.bi_sector = io->t->start + (io->block << io->t->kd->block_shift);
}
