// SPDX-License-Identifier: GPL-2.0
/*
 * Bios in, ciphertext out.
 *
 * A write is encrypted into bounce pages in the context it comes in, and these
 * go to the disk: there is no path on which the bio's own pages do.  A read is
 * decrypted in place where it completes, unless that context cannot run the
 * cipher; then a workqueue does it.
 *
 * Cipher drivers may be asynchronous.  Requests beyond the first one, which lies
 * in the kc_io, come from a mempool then.
 */

#include <linux/highmem.h>
#include <linux/slab.h>
#include <linux/xxhash.h>
#include <asm/simd.h>
#include <crypto/internal/simd.h>

#include "dm-keyed-crypt.h"

#define KC_MIN_IOS	64

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
		r = mempool_init_page_pool(&t->page_pool, BIO_MAX_VECS, 0);
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

static void kc_convert_finish(struct kc_io *io);

static KC_CRYPTO_DONE(kc_convert_done, arg)
{
	struct kc_req *req = kc_crypto_data(arg);
	struct kc_io *io = req->io;
	struct kc_dev *kd = io->t->kd;

	if (error == -EINPROGRESS)
		return;		/* out of the backlog, the end is to come */
	if (error)
		WRITE_ONCE(io->status, BLK_STS_IOERR);
	if (req != &io->req)
		mempool_free(req, &io->t->req_pool);
	if (bio_data_dir(io->bio) == READ && atomic_dec_and_test(&io->ks->async))
		wake_up(&kd->wait_ref);
	if (atomic_dec_and_test(&io->pending))
		kc_convert_finish(io);
}

/* Encrypts or decrypts one block; moves on. */
static int kc_convert_block(struct kc_io *io, struct kc_req *req,
			    struct bio *src, struct bio *dst)
{
	struct kc_dev *kd = io->t->kd;
	struct bio_vec in = bio_iter_iovec(src, io->in);
	struct bio_vec out = bio_iter_iovec(dst, io->out);
	u64 sector = io->sector;
	int r;

	/* The queue limits do not let such bios be built. */
	if (unlikely((in.bv_len | out.bv_len) & (kd->sector_size - 1)))
		return -EIO;
	if (kd->flags & KC_FLAG_IV_LARGE_SECTORS)
		sector >>= kd->block_shift;
	kc_iv_gen(&kd->cipher, req->iv, sector);
	sg_init_table(&req->sg_in, 1);
	sg_set_page(&req->sg_in, in.bv_page, kd->sector_size, in.bv_offset);
	sg_init_table(&req->sg_out, 1);
	sg_set_page(&req->sg_out, out.bv_page, kd->sector_size, out.bv_offset);
	skcipher_request_set_crypt(&req->req, &req->sg_in, &req->sg_out,
				   kd->sector_size, req->iv);
	if (src != dst)
		r = crypto_skcipher_encrypt(&req->req);
	else
		r = crypto_skcipher_decrypt(&req->req);
	bio_advance_iter_single(src, &io->in, kd->sector_size);
	bio_advance_iter_single(dst, &io->out, kd->sector_size);
	io->sector += kd->sector_size >> SECTOR_SHIFT;
	return r;
}

/*
 * Converts what io->in has left.  A read has the same source and destination.
 * @spare is the request to begin with, taken over, or NULL.  Return: false if
 * there was no memory for a request; io->in has what is left.
 */
static bool kc_convert(struct kc_io *io, struct bio *src, struct bio *dst,
		       struct kc_req *spare, gfp_t gfp)
{
	unsigned int left = io->in.bi_size / io->t->kd->sector_size;
	struct kc_req *req = NULL;
	bool complete = true;
	int r;

	/* All requests count until they are known to have been synchronous. */
	atomic_add(left, &io->pending);
	while (io->in.bi_size) {
		if (!req) {
			req = spare;
			spare = NULL;
			if (!req)
				req = mempool_alloc(&io->t->req_pool, gfp);
			if (!req) {
				complete = false;
				break;
			}
			req->io = io;
			skcipher_request_set_tfm(&req->req, io->ks->tfm);
			skcipher_request_set_callback(&req->req,
						      CRYPTO_TFM_REQ_MAY_BACKLOG,
						      kc_convert_done, req);
		}
		r = kc_convert_block(io, req, src, dst);
		if (!r)
			continue;
		if (r != -EINPROGRESS && r != -EBUSY) {
			WRITE_ONCE(io->status, BLK_STS_IOERR);
			io->in.bi_size = 0;
			break;
		}
		/*
		 * The driver has it, and kc_convert_done() frees it; perhaps it
		 * already has.  That is no matter: who waits for async begins
		 * after a grace period, and this is under RCU.
		 */
		if (src == dst)
			atomic_inc(&io->ks->async);
		req = NULL;
		left--;
	}
	if (req && req != &io->req)
		mempool_free(req, &io->t->req_pool);
	atomic_sub(left, &io->pending);
	return complete;
}

static void kc_convert_init(struct kc_io *io, struct bvec_iter in,
			    struct bvec_iter out)
{
	struct kc_dev *kd = io->t->kd;

	io->in = in;
	io->out = out;
	io->sector = (io->block << kd->block_shift) + kd->iv_offset;
	io->status = BLK_STS_OK;
	atomic_set(&io->pending, 1);
}

/* ---- writes ---- */

static void kc_free_pages(struct kc_io *io)
{
	struct bio_vec *bv;
	struct bvec_iter_all iter;

	bio_for_each_segment_all(bv, io->clone, iter)
		mempool_free(bv->bv_page, &io->t->page_pool);
}

static void kc_free_clone(struct kc_io *io)
{
	kc_free_pages(io);
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
	struct page *page;

	for (; size; size -= len) {
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
	struct kc_target *t = io->t;

	io->clone = bio_alloc_bioset(t->dev->bdev,
				     DIV_ROUND_UP(io->bio->bi_iter.bi_size, PAGE_SIZE),
				     io->bio->bi_opf & ~REQ_POLLED, GFP_NOIO,
				     &t->bs);
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

/**
 * kc_crypt_sum() - checksum of a block of ciphertext, for an intent
 * @kd:		the device
 * @block:	kd->sector_size bytes
 *
 * Any context.
 * Return: the checksum.
 */
u64 kc_crypt_sum(struct kc_dev *kd, const void *block)
{
	return xxh64(block, kd->sector_size, kd->intent_seed);
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

	kc_convert_init(io, io->bio->bi_iter, clone->bi_iter);
	kc_convert(io, io->bio, clone, &io->req, GFP_NOIO);
	if (atomic_dec_and_test(&io->pending))
		kc_write_submit(io);
}

/* ---- reads ---- */

static void kc_read_end(struct kc_io *io)
{
	kc_io_release(io);
	kc_io_end(io, io->status);
}

static void kc_write_work(struct work_struct *work)
{
	kc_write_submit(container_of(work, struct kc_io, work));
}

/* The last request of an asynchronous driver is done; any context. */
static void kc_convert_finish(struct kc_io *io)
{
	if (bio_data_dir(io->bio) == WRITE) {
		INIT_WORK(&io->work, kc_write_work);
		queue_work(io->t->kd->crypt_wq, &io->work);
	} else {
		kc_read_end(io);
	}
}

/*
 * Decrypts under RCU: kc_owner_lock() waits for that, so nothing comes out of a
 * key that has been locked.  Return: false to go on with memory.
 */
static bool kc_decrypt(struct kc_io *io, struct kc_req *spare)
{
	bool complete = true;

	rcu_read_lock();
	if (likely(!READ_ONCE(io->ks->dead))) {
		complete = kc_convert(io, io->bio, io->bio, spare,
				      GFP_NOWAIT | __GFP_NOWARN);
	} else {
		WRITE_ONCE(io->status, BLK_STS_IOERR);
		if (spare && spare != &io->req)
			mempool_free(spare, &io->t->req_pool);
	}
	rcu_read_unlock();
	return complete;
}

static void kc_decrypt_work(struct work_struct *work)
{
	struct kc_io *io = container_of(work, struct kc_io, work);
	struct kc_req *spare = io->first_req_used ? NULL : &io->req;

	io->first_req_used = true;
	while (!kc_decrypt(io, spare))
		spare = mempool_alloc(&io->t->req_pool, GFP_NOIO);
	if (atomic_dec_and_test(&io->pending))
		kc_read_end(io);
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
	kc_convert_init(io, io->iter, io->iter);
	io->first_req_used = false;
	/* In other contexts ciphers do not work, or only asynchronously. */
	if (likely(!in_hardirq() && !irqs_disabled() && crypto_simd_usable())) {
		io->first_req_used = true;
		if (likely(kc_decrypt(io, &io->req))) {
			if (atomic_dec_and_test(&io->pending))
				kc_read_end(io);
			return;
		}
	}
	INIT_WORK(&io->work, kc_decrypt_work);
	queue_work(io->t->kd->crypt_wq, &io->work);
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

	io->iter = bio->bi_iter;
	io->end_io = bio->bi_end_io;
	io->private = bio->bi_private;
	bio->bi_end_io = kc_read_endio;
	bio->bi_private = io;
	bio_set_dev(bio, io->t->dev->bdev);
	bio->bi_iter.bi_sector = io->t->start + (io->block << io->t->kd->block_shift);
}
