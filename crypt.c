// SPDX-License-Identifier: GPL-2.0
/*
 * Blocks in, ciphertext out.
 *
 * What is to be written is encrypted into bounce pages in the context it comes in, and
 * these go to the disk: there is no path on which the bio's own pages do.  What has been
 * read is decrypted in place where it completes, unless that context cannot run the
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

#include "compat.h"
#include "crypt.h"

#define KC_MIN_IOS	64

/*
 * Bytes that are worth another processor: a hop costs some microseconds, the
 * fastest AES ten for this.
 */
#define KC_PART_MIN	65536U

/*
 * Bytes decrypted in one RCU section, which who locks a key waits for, and in all in a
 * soft interrupt; some tens of microseconds to a millisecond.
 */
#define KC_DECRYPT_MAX	65536U

/* ---- bounce pages ---- */

/*
 * Two per cent of the memory, as much as dm-crypt takes, are for bounce pages,
 * the same share for each device.  Beyond that a write waits for pages of
 * others, or has to do with the reserve of its target.
 */
#define KC_PAGES_PERCENT 2

static atomic_t kc_page_users;

/* Large conversions, or parts of such, that a processor is at or about to begin */
static atomic_t kc_converting;

static void *kc_page_alloc(gfp_t gfp, void *data)
{
	unsigned long max = mult_frac(totalram_pages() - totalhigh_pages(),
				      KC_PAGES_PERCENT, 100);
	struct kc_crypt *crypt = data;
	struct page *page;

	/* mempool_alloc() sets this flag; what fills the reserve does not. */
	if (gfp & __GFP_NORETRY && percpu_counter_read_positive(&crypt->nr_pages) >=
				   max / atomic_read(&kc_page_users))
		return NULL;
	page = alloc_page(gfp);
	if (page)
		percpu_counter_inc(&crypt->nr_pages);
	return page;
}

static void kc_page_free(void *page, void *data)
{
	struct kc_crypt *crypt = data;

	__free_page(page);
	percpu_counter_dec(&crypt->nr_pages);
}

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
static struct page *kc_pages_get(struct kc_conv *conv, unsigned int nr)
{
	struct kc_page_cache *cache;
	struct page *pages = NULL;
	unsigned long flags;

	conv->cpu = raw_smp_processor_id();
	cache = per_cpu_ptr(conv->crypt->page_cache, conv->cpu);
	spin_lock_irqsave(&cache->lock, flags);
	cache->used = true;
	for (; cache->nr && nr; nr--, cache->nr--)
		kc_page_push(&pages, kc_page_pop(&cache->pages));
	spin_unlock_irqrestore(&cache->lock, flags);
	return pages;
}

static void kc_pages_put(struct kc_conv *conv, struct page *pages)
{
	struct kc_page_cache *cache = per_cpu_ptr(conv->crypt->page_cache, conv->cpu);
	mempool_t *pool = &conv->pools->pages;
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
 * @crypt:	of the device
 * @all:	and all others
 *
 * Process context.
 */
void kc_crypt_trim(struct kc_crypt *crypt, bool all)
{
	struct kc_page_cache *cache;
	struct page *pages;
	int cpu;

	for_each_possible_cpu(cpu) {
		cache = per_cpu_ptr(crypt->page_cache, cpu);
		pages = NULL;
		spin_lock_irq(&cache->lock);
		if (all || !cache->used) {
			swap(pages, cache->pages);
			cache->nr = 0;
		}
		cache->used = false;
		spin_unlock_irq(&cache->lock);
		while (pages)
			kc_page_free(kc_page_pop(&pages), crypt);
	}
}

static void kc_bounce_free_pages(struct kc_conv *conv)
{
	struct page *pages = NULL;
	struct bvec_iter_all iter;
	struct bio_vec *bv;

	bio_for_each_segment_all(bv, conv->dst, iter)
		kc_page_push(&pages, bv->bv_page);
	if (pages)
		kc_pages_put(conv, pages);
}

/* Gives a conversion all its bounce pages, or none if there is no memory. */
static bool kc_bounce_fill(struct kc_conv *conv, gfp_t gfp)
{
	unsigned int size = conv->src->bi_iter.bi_size, len;
	struct page *pages, *page;

	pages = kc_pages_get(conv, DIV_ROUND_UP(size, PAGE_SIZE));
	for (; size; size -= len) {
		if (pages)
			page = kc_page_pop(&pages);
		else
			page = mempool_alloc(&conv->pools->pages, gfp | __GFP_HIGHMEM);
		if (!page) {
			kc_bounce_free_pages(conv);
			conv->dst->bi_vcnt = 0;
			conv->dst->bi_iter.bi_size = 0;
			return false;
		}
		len = min_t(unsigned int, size, PAGE_SIZE);
		__bio_add_page(conv->dst, page, len, 0);
	}
	return true;
}

/**
 * kc_bounce_alloc() - make conv->dst, a bio of bounce pages
 * @conv:	with src and pools set
 * @bdev:	where it is to go
 *
 * It is as large as conv->src, and has its operation and priority.  Two allocators
 * that each have half of the pool would wait for each other for ever, so only one at
 * a time may wait.  Process context, ->map() too.
 */
void kc_bounce_alloc(struct kc_conv *conv, struct block_device *bdev)
{
	unsigned int nr = DIV_ROUND_UP(conv->src->bi_iter.bi_size, PAGE_SIZE);
	blk_opf_t opf = conv->src->bi_opf & ~REQ_POLLED;
	struct kc_crypt_pools *pools = conv->pools;

	if (nr <= ARRAY_SIZE(conv->small_vecs)) {
		conv->dst = &conv->small_bio;
		bio_init(conv->dst, bdev, conv->small_vecs, nr, opf);
	} else {
		conv->dst = bio_alloc_bioset(bdev, nr, opf, GFP_NOIO, &pools->bios);
	}
	conv->dst->bi_ioprio = conv->src->bi_ioprio;
	if (unlikely(!kc_bounce_fill(conv, GFP_NOWAIT | __GFP_NOWARN))) {
		mutex_lock(&pools->page_lock);
		kc_bounce_fill(conv, GFP_NOIO);
		mutex_unlock(&pools->page_lock);
	}
}

/**
 * kc_bounce_free() - free conv->dst
 * @conv:	from kc_bounce_alloc()
 *
 * Any context.
 */
void kc_bounce_free(struct kc_conv *conv)
{
	kc_bounce_free_pages(conv);
	if (conv->dst == &conv->small_bio)
		bio_uninit(conv->dst);
	else
		bio_put(conv->dst);
	conv->dst = NULL;
}

/* ---- conversion ---- */

static bool kc_conv_decrypts(const struct kc_conv *conv)
{
	return conv->src == conv->dst;
}

static void kc_conv_done_work(struct work_struct *work)
{
	struct kc_conv *conv = container_of(work, struct kc_conv, work);

	conv->done(conv);
}

/* All parts of a conversion are done. */
static void kc_conv_free_parts(struct kc_conv *conv)
{
	struct kc_part *part, *next;

	for (part = conv->part.next; part; part = next) {
		next = part->next;
		kfree(part);
	}
}

static KC_CRYPTO_DONE(kc_convert_done, arg)
{
	struct kc_req *req = kc_crypto_data(arg);
	struct kc_conv *conv = req->conv;

	if (error == -EINPROGRESS)
		return;		/* out of the backlog, the end is to come */
	if (error)
		WRITE_ONCE(conv->status, BLK_STS_IOERR);
	if (req->pooled)
		mempool_free(req, &conv->pools->reqs);
	if (kc_conv_decrypts(conv))
		kc_keyslot_async_end(conv->ks);
	if (!atomic_dec_and_test(&conv->pending))
		return;
	kc_conv_free_parts(conv);
	if (kc_conv_decrypts(conv)) {
		conv->done(conv);
	} else {
		INIT_WORK(&conv->work, kc_conv_done_work);
		queue_work(conv->crypt->wq, &conv->work);
	}
}

/* What sg_init_table() does, with less ado */
static void kc_sg_init(struct scatterlist *sg)
{
	*sg = (struct scatterlist){};
	sg_init_marker(sg, 1);
}

static void kc_req_init(struct kc_req *req, struct kc_conv *conv)
{
	req->conv = conv;
	kc_sg_init(&req->sg_in);
	if (!kc_conv_decrypts(conv))
		kc_sg_init(&req->sg_out);
	skcipher_request_set_tfm(&req->req, conv->ks->tfm);
	skcipher_request_set_callback(&req->req, CRYPTO_TFM_REQ_MAY_BACKLOG,
				      kc_convert_done, req);
}

/* Encrypts or decrypts one block; moves on. */
static int kc_convert_block(struct kc_part *part, struct kc_req *req)
{
	struct kc_conv *conv = part->conv;
	const struct kc_crypt *crypt = conv->crypt;
	struct bio *src = conv->src, *dst = conv->dst;
	unsigned int size = crypt->block_size;
	struct bio_vec in = bio_iter_iovec(src, part->in), out = in;
	u64 sector = part->sector;

	if (src != dst)
		out = bio_iter_iovec(dst, part->out);
	/* The queue limits do not let such bios be built. */
	if (unlikely((in.bv_len | out.bv_len) & (size - 1)))
		return -EIO;
	bio_advance_iter_single(src, &part->in, size);
	part->sector += size >> SECTOR_SHIFT;
	if (crypt->iv_large_sectors)
		sector >>= crypt->block_shift;
	kc_iv_gen(&crypt->cipher, req->iv, sector);
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
 * Converts what part->in has left.  @spare is a request from the pool, taken
 * over, or NULL.  Return: false if there was no memory for a request.
 */
static bool kc_convert(struct kc_part *part, struct kc_req *spare, gfp_t gfp)
{
	struct kc_conv *conv = part->conv;
	mempool_t *pool = &conv->pools->reqs;
	struct kc_req *req;
	int r;

	while (part->in.bi_size) {
		if (!part->req_used) {
			part->req_used = true;
			req = &part->req;
			req->pooled = false;
		} else {
			req = spare ?: mempool_alloc(pool, gfp);
			spare = NULL;
			if (!req)
				return false;
			req->pooled = true;
		}
		kc_req_init(req, conv);
		do
			r = kc_convert_block(part, req);
		while (!r && part->in.bi_size);
		if (r == -EINPROGRESS || r == -EBUSY) {
			/*
			 * The driver has it, and kc_convert_done() frees it;
			 * perhaps it already has.  That is no matter: who waits
			 * for async begins after a grace period, and this is
			 * under RCU.
			 */
			part->handed++;
			if (kc_conv_decrypts(conv))
				atomic_inc(&conv->ks->async);
			continue;
		}
		if (req->pooled)
			mempool_free(req, pool);
		if (unlikely(r)) {
			WRITE_ONCE(conv->status, BLK_STS_IOERR);
			part->in.bi_size = 0;
		}
	}
	if (unlikely(spare))
		mempool_free(spare, pool);
	return true;
}

/*
 * Decrypts up to KC_DECRYPT_MAX bytes under RCU: who locks a key waits for that, so nothing
 * comes out of a key that has been locked.  What is left is in part->in.  Return: false to
 * go on with memory.
 */
static inline bool kc_decrypt_part(struct kc_part *part, struct kc_req *spare)
{
	struct kc_conv *conv = part->conv;
	unsigned int rest = 0;
	bool complete;

	if (unlikely(part->in.bi_size > KC_DECRYPT_MAX)) {
		rest = part->in.bi_size - KC_DECRYPT_MAX;
		part->in.bi_size = KC_DECRYPT_MAX;
	}
	rcu_read_lock();
	if (unlikely(READ_ONCE(conv->ks->dead))) {
		WRITE_ONCE(conv->status, BLK_STS_IOERR);
		part->in.bi_size = 0;
	}
	complete = kc_convert(part, spare, GFP_NOWAIT | __GFP_NOWARN);
	rcu_read_unlock();
	/* After an error nothing is left. */
	if (unlikely(rest) && (part->in.bi_size || !READ_ONCE(conv->status)))
		part->in.bi_size += rest;
	return complete;
}

/* A part is done, or handed to the driver.  Return: whether it was the last. */
static inline bool kc_part_end(struct kc_part *part)
{
	struct kc_conv *conv = part->conv;

	if (unlikely(part->large))
		atomic_dec(&kc_converting);
	/* nothing left to wait for, after the conversion of all in one part */
	if (likely(part == &conv->part && !part->next && !part->handed))
		return true;
	if (!atomic_sub_and_test(part->nr - part->handed + 1, &conv->pending))
		return false;
	kc_conv_free_parts(conv);
	return true;
}

static void kc_part_work(struct work_struct *work)
{
	struct kc_part *part = container_of(work, struct kc_part, work);
	struct kc_conv *conv = part->conv;
	struct kc_req *spare = NULL;

	while (kc_conv_decrypts(conv) && part->in.bi_size) {
		if (kc_decrypt_part(part, spare))
			spare = NULL;
		else
			spare = mempool_alloc(&conv->pools->reqs, GFP_NOIO);
		cond_resched();
	}
	if (!kc_conv_decrypts(conv))
		kc_convert(part, NULL, GFP_NOIO);
	if (kc_part_end(part))
		conv->done(conv);
}

static void kc_part_queue(struct kc_part *part)
{
	INIT_WORK(&part->work, kc_part_work);
	queue_work(part->conv->crypt->wq, &part->work);
}

static void kc_part_init(struct kc_part *part, struct kc_conv *conv, unsigned int nr)
{
	part->conv = conv;
	part->next = NULL;
	part->nr = nr;
	part->handed = 0;
	part->req_used = false;
	part->large = false;
}

/*
 * Gives parts of a large bio to other processors that are not at a large conversion themselves,
 * as many as there is memory for; conv->part is left with the rest.  Where all are busy,
 * parts would only cost, and keep the bio waiting.
 */
static void kc_conv_split(struct kc_conv *conv)
{
	unsigned int size = conv->crypt->block_size, nr, n;
	struct kc_part *rest = &conv->part, *part;
	int busy = atomic_inc_return(&kc_converting);

	rest->large = true;
	n = max_t(int, num_online_cpus() - busy + 1, 1);
	n = min(rest->in.bi_size / KC_PART_MIN, n);
	nr = rest->nr / n;
	while (--n) {
		part = kmalloc(sizeof(*part) + conv->pools->reqsize,
			       GFP_NOWAIT | __GFP_NOWARN);
		if (!part)
			break;
		kc_part_init(part, conv, nr);
		part->large = true;
		atomic_inc(&kc_converting);
		part->in = rest->in;
		part->in.bi_size = nr * size;
		part->out = rest->out;
		part->sector = rest->sector;
		bio_advance_iter(conv->src, &rest->in, nr * size);
		if (!kc_conv_decrypts(conv))
			bio_advance_iter(conv->dst, &rest->out, nr * size);
		rest->sector += nr * (size >> SECTOR_SHIFT);
		rest->nr -= nr;
		part->next = rest->next;
		rest->next = part;
		atomic_inc(&conv->pending);
	}
	for (part = rest->next; part; part = part->next)
		kc_part_queue(part);
}

/* Begins a conversion: conv->part.in, and to encrypt conv->part.out, have it all. */
static void kc_conv_begin(struct kc_conv *conv)
{
	const struct kc_crypt *crypt = conv->crypt;
	unsigned int size = conv->part.in.bi_size;

	kc_part_init(&conv->part, conv, size >> (crypt->block_shift + SECTOR_SHIFT));
	conv->part.sector = (conv->block << crypt->block_shift) + crypt->iv_offset;
	conv->status = BLK_STS_OK;
	atomic_set(&conv->pending, conv->part.nr + 1);
	if (size >= 2 * KC_PART_MIN && num_online_cpus() > 1)
		kc_conv_split(conv);
}

/**
 * kc_encrypt() - encrypt conv->src into conv->dst
 * @conv:	from kc_bounce_alloc(), with ks, block and done set
 *
 * Process context, ->map() too.
 * Return: true if it is done, with conv->status; or false, and conv->done() comes in
 * process context, or has come and @conv is gone.
 */
bool kc_encrypt(struct kc_conv *conv)
{
	conv->part.in = conv->src->bi_iter;
	conv->part.out = conv->dst->bi_iter;
	kc_conv_begin(conv);
	kc_convert(&conv->part, NULL, GFP_NOIO);
	return kc_part_end(&conv->part);
}

/**
 * kc_decrypt() - decrypt conv->src in place
 * @conv:	prepared by kc_conv_read(), with ks, block and done set
 *
 * Any context.
 * Return: true if it is done, with conv->status; or false, and conv->done() comes in
 * any context, or has come and @conv is gone.
 */
bool kc_decrypt(struct kc_conv *conv)
{
	struct kc_part *part = &conv->part;

	kc_conv_begin(conv);
	/* In other contexts ciphers do not work, or only asynchronously. */
	if (unlikely(in_hardirq() || irqs_disabled() || !crypto_simd_usable()))
		goto elsewhere;
	do {
		if (unlikely(!kc_decrypt_part(part, NULL)))
			goto elsewhere;
		if (unlikely(part->in.bi_size && in_serving_softirq()))
			goto elsewhere;
	} while (part->in.bi_size);
	return kc_part_end(part);

elsewhere:
	kc_part_queue(part);
	return false;
}

/* ---- set-up ---- */

/**
 * kc_crypt_init() - set up what a device's conversions share
 * @crypt:	zeroed, but for wq and cipher
 *
 * Process context.
 * Return: 0 or -ENOMEM; kc_crypt_exit() in any case.
 */
int kc_crypt_init(struct kc_crypt *crypt)
{
	int cpu;

	if (percpu_counter_init(&crypt->nr_pages, 0, GFP_KERNEL))
		return -ENOMEM;
	crypt->page_cache = alloc_percpu(struct kc_page_cache);
	if (!crypt->page_cache)
		return -ENOMEM;
	for_each_possible_cpu(cpu)
		spin_lock_init(&per_cpu_ptr(crypt->page_cache, cpu)->lock);
	atomic_inc(&kc_page_users);
	return 0;
}

/**
 * kc_crypt_exit() - free it
 * @crypt:	of a device without bios and pools
 */
void kc_crypt_exit(struct kc_crypt *crypt)
{
	if (crypt->page_cache) {
		kc_crypt_trim(crypt, true);
		/* a page lost, or a pool that is to be freed later */
		WARN_ON_ONCE(percpu_counter_sum(&crypt->nr_pages));
		free_percpu(crypt->page_cache);
		atomic_dec(&kc_page_users);
	}
	percpu_counter_destroy(&crypt->nr_pages);
}

/**
 * kc_crypt_pools_init() - pools of a table
 * @pools:	zeroed
 * @crypt:	of the device
 * @reqsize:	request context of its transforms, in bytes
 *
 * Process context.
 * Return: 0 or -ENOMEM; kc_crypt_pools_exit() in any case.
 */
int kc_crypt_pools_init(struct kc_crypt_pools *pools, struct kc_crypt *crypt,
			unsigned int reqsize)
{
	int r;

	pools->reqsize = reqsize;
	mutex_init(&pools->page_lock);
	r = bioset_init(&pools->bios, KC_MIN_IOS, 0, BIOSET_NEED_BVECS);
	if (!r)
		r = mempool_init_kmalloc_pool(&pools->reqs, KC_MIN_IOS,
					      sizeof(struct kc_req) + reqsize);
	if (!r)
		r = mempool_init(&pools->pages, BIO_MAX_VECS, kc_page_alloc,
				 kc_page_free, crypt);
	return r;
}

/**
 * kc_crypt_pools_exit() - free the pools
 * @pools:	perhaps half set up
 */
void kc_crypt_pools_exit(struct kc_crypt_pools *pools)
{
	mempool_exit(&pools->pages);
	mempool_exit(&pools->reqs);
	bioset_exit(&pools->bios);
}
