// SPDX-License-Identifier: GPL-2.0
/*
 * dm's bios: whose, split, claim, convert, end.
 *
 * A bio is cut to what one map block, and for a write one owner, has a say in.  A
 * read or an own-block write goes its way from kc_request_map(); what must wait
 * for a map block, or for others who use it, goes on in a workqueue.  Flushes,
 * and FUA writes whose map entry is not durable yet, wait for the journal.
 */

#include <linux/slab.h>

#include "compat.h"
#include "error.h"
#include "request.h"
#include "trace.h"

#define KC_MIN_SPLITS	64

/**
 * struct kc_io - a bio under way, in its per-bio data
 * @t:		the target
 * @bio:	the bio: dm's clone, or a part of it
 * @base:	dm's clone
 * @claim:	its blocks; claim.mb while it has a map block
 * @end_io:	the bio's completion, saved
 * @private:	its bi_private, saved
 * @work:	going on where it may sleep
 * @waiter:	a flush, or a FUA write whose data is durable
 * @seq:	a flush: journal blocks before it become durable
 * @flush_turn:	from kc_journal_flush_begin()
 * @conv:	conversion; conv.ks is its key
 */
struct kc_io {
	struct kc_target *t;
	struct bio *bio;
	struct bio *base;
	struct kc_claim claim;
	bio_end_io_t *end_io;
	void *private;
	struct work_struct work;
	struct kc_waiter waiter;
	u64 seq;
	unsigned int flush_turn;
	struct kc_conv conv;	/* last */
};

/* ---- ends ---- */

/* Drops what a bio holds; a change must have ended before.  Any context. */
static inline void kc_io_release(struct kc_io *io)
{
	if (io->conv.ks)
		kc_keyslot_put(io->conv.ks);
	io->conv.ks = NULL;
	if (io->claim.mb)
		kc_mapblk_put(&io->t->kd->map, io->claim.mb);
	io->claim.mb = NULL;
}

/* Ends a bio that has released all.  Any context. */
static void kc_io_end(struct kc_io *io, blk_status_t status)
{
	if (status)
		io->bio->bi_status = status;
	bio_endio(io->bio);
}

static void kc_io_fail(struct kc_io *io, int error)
{
	kc_io_release(io);
	kc_io_end(io, errno_to_blk_status(error == -ENOMEM ? error : -EIO));
}

static void kc_io_queue(struct kc_io *io, struct workqueue_struct *wq,
			work_func_t func)
{
	INIT_WORK(&io->work, func);
	queue_work(wq, &io->work);
}

static void kc_count_locked(struct kc_io *io, u16 slot)
{
	struct kc_dev *kd = io->t->kd;
	bool write = bio_data_dir(io->bio) == WRITE;

	if (!kc_keyslot_valid(&kd->keys.slots, KC_SLOT_DEVICE))
		slot = KC_SLOT_DEVICE;
	atomic64_inc(write ? &kd->locked_writes : &kd->locked_reads);
	trace_keyed_crypt_io(kd->area.md, write, io->claim.block, io->claim.nr, slot,
			     KC_TRACE_LOCKED);
}

static int kc_kill_locked(struct kc_io *io, u16 slot)
{
	kc_count_locked(io, slot);
	return DM_MAPIO_KILL;
}

/* The bio goes to the disk as it is, and comes back to @end_io. */
static inline void kc_io_remap(struct kc_io *io, bio_end_io_t *end_io)
{
	struct bio *bio = io->bio;

	io->end_io = bio->bi_end_io;
	io->private = bio->bi_private;
	bio->bi_end_io = end_io;
	bio->bi_private = io;
	bio_set_dev(bio, io->t->dev->bdev);
}

static inline void kc_io_remap_data(struct kc_io *io, bio_end_io_t *end_io)
{
	kc_io_remap(io, end_io);
	io->bio->bi_iter.bi_sector = io->t->start +
				     (io->claim.block << io->t->kd->area.block_shift);
}

/* It is back. */
static inline struct kc_io *kc_io_back(struct bio *bio)
{
	struct kc_io *io = bio->bi_private;

	bio->bi_end_io = io->end_io;
	bio->bi_private = io->private;
	return io;
}

/* ---- flushes ---- */

static void kc_flush_failed(struct work_struct *work)
{
	struct kc_io *io = container_of(work, struct kc_io, work);

	kc_journal_lost(&io->t->kd->journal, blk_status_to_errno(io->bio->bi_status));
	bio_endio(io->bio);
}

static void kc_flush_endio(struct bio *bio)
{
	struct kc_io *io = kc_io_back(bio);
	struct kc_journal *j = &io->t->kd->journal;

	kc_journal_flush_end(j, io->flush_turn, bio->bi_status);
	if (bio->bi_status) {
		kc_io_queue(io, io->t->kd->slow_wq, kc_flush_failed);
		return;
	}
	if (kc_journal_flushed(j, io->seq))
		bio->bi_status = BLK_STS_IOERR;
	bio_endio(bio);
}

static void kc_flush_remap(struct kc_io *io)
{
	io->flush_turn = kc_journal_flush_begin(&io->t->kd->journal);
	kc_io_remap(io, kc_flush_endio);
}

/* The commit a flush waited for. */
static void kc_flush_committed(struct kc_waiter *waiter, int error, u64 seq)
{
	struct kc_io *io = container_of(waiter, struct kc_io, waiter);

	if (error) {
		kc_io_end(io, BLK_STS_IOERR);
		return;
	}
	io->seq = seq;
	kc_flush_remap(io);
	dm_submit_bio_remap(io->bio, NULL);
}

/* dm core has taken the data off a flush. */
static int kc_flush_map(struct kc_io *io)
{
	struct kc_dev *kd = io->t->kd;

	if (!kc_keyslot_valid(&kd->keys.slots, KC_SLOT_DEVICE))
		return DM_MAPIO_KILL;
	if (!kc_journal_idle(&kd->journal, &io->seq)) {
		io->waiter = (struct kc_waiter) { .done = kc_flush_committed };
		kc_journal_wait(&kd->journal, &io->waiter);
		return DM_MAPIO_SUBMITTED;
	}
	kc_flush_remap(io);
	return DM_MAPIO_REMAPPED;
}

/* ---- writes ---- */

static void kc_fua_committed(struct kc_waiter *waiter, int error, u64 seq)
{
	kc_io_end(container_of(waiter, struct kc_io, waiter),
		  error ? BLK_STS_IOERR : BLK_STS_OK);
}

static void kc_write_end(struct kc_io *io)
{
	struct kc_dev *kd = io->t->kd;
	blk_status_t status = io->conv.status;
	bool fua = io->bio->bi_opf & REQ_FUA && !status;

	if (io->claim.flags & KC_CLAIM_CHANGE)
		kc_claim_end_change(&kd->claims, &io->claim, !status);
	else if (fua)
		fua = !kc_mapblk_in_place(io->claim.mb);
	kc_io_release(io);
	if (fua && !kc_journal_durable(&kd->journal)) {
		io->waiter = (struct kc_waiter) {
			.durable = true,
			.done = kc_fua_committed,
		};
		kc_journal_wait(&kd->journal, &io->waiter);
	} else {
		kc_io_end(io, status);
	}
}

static void kc_write_endio(struct bio *clone)
{
	struct kc_io *io = clone->bi_private;

	io->conv.status = clone->bi_status;
	kc_bounce_free(&io->conv);
	kc_write_end(io);
}

/* Sends an encrypted write to the disk, or ends it if that cannot be. */
static void kc_write_go(struct kc_io *io)
{
	struct bio *clone = io->conv.dst;

	if (unlikely(io->conv.status)) {
		kc_bounce_free(&io->conv);
		kc_write_end(io);
		return;
	}
	clone->bi_iter.bi_sector = io->t->start +
				   (io->claim.block << io->t->kd->area.block_shift);
	dm_submit_bio_remap(io->base, clone);
}

static void kc_write_intended(struct kc_claim *claim, int error)
{
	struct kc_io *io = container_of(claim, struct kc_io, claim);

	if (error)
		io->conv.status = BLK_STS_IOERR;
	kc_write_go(io);
}

static void kc_write_sums(struct kc_claim *claim, unsigned int at, unsigned int nr,
			  __le64 *sums)
{
	struct kc_io *io = container_of(claim, struct kc_io, claim);
	struct kc_area *area = &io->t->kd->area;
	struct bio *clone = io->conv.dst;
	struct bvec_iter iter = clone->bi_iter;
	struct bio_vec bv;
	void *p;

	bio_advance_iter(clone, &iter, at * area->sector_size);
	for (; nr; nr--, sums++) {
		bv = bio_iter_iovec(clone, iter);
		p = kmap_local_page(bv.bv_page);
		*sums = cpu_to_le64(kc_sum(&area->sealer, p + bv.bv_offset,
					   area->sector_size));
		kunmap_local(p);
		bio_advance_iter_single(clone, &iter, area->sector_size);
	}
}

static void kc_write_encrypted(struct kc_io *io)
{
	if (io->claim.flags & KC_CLAIM_REASSIGN && !io->t->lazy && !io->conv.status)
		kc_journal_intend(&io->t->kd->journal, &io->claim);
	else
		kc_write_go(io);
}

static void kc_write_converted(struct kc_conv *conv)
{
	kc_write_encrypted(container_of(conv, struct kc_io, conv));
}

/* A claimed write with nothing to wait for. */
static void kc_write(struct kc_io *io)
{
	struct kc_conv *conv = &io->conv;

	conv->src = io->bio;
	conv->block = io->claim.block;
	conv->done = kc_write_converted;
	kc_bounce_alloc(conv, io->t->dev->bdev);
	conv->dst->bi_private = io;
	conv->dst->bi_end_io = kc_write_endio;
	if (kc_encrypt(conv))
		kc_write_encrypted(io);
}

/* ---- discards, and what they have in common with writes ---- */

static void kc_discard_endio(struct bio *bio)
{
	struct kc_io *io = kc_io_back(bio);

	kc_claim_end_change(&io->t->kd->claims, &io->claim, false);
	kc_io_release(io);
	kc_io_end(io, bio->bi_status);
}

/* A claimed write or discard; with nothing to wait for. */
static void kc_change_go(struct kc_io *io)
{
	struct kc_claim *claim = &io->claim;

	trace_keyed_crypt_io(io->t->kd->area.md, true, claim->block, claim->nr,
			     claim->slot, claim->flags & KC_CLAIM_CHANGE ?
					  KC_TRACE_CHANGE : KC_TRACE_OWN);
	if (claim->slot == KC_SLOT_NONE) {
		kc_io_remap_data(io, kc_discard_endio);
		dm_submit_bio_remap(io->base, NULL);
	} else {
		kc_write(io);
	}
}

static void kc_drain_work(struct work_struct *work)
{
	struct kc_io *io = container_of(work, struct kc_io, work);
	struct kc_claims *claims = &io->t->kd->claims;

	kc_claim_drain(claims, &io->claim);
	/* What is discarded is gone from now on. */
	if (io->claim.slot == KC_SLOT_NONE)
		kc_claim_assign(claims, &io->claim);
	kc_change_go(io);
}

static void kc_change_go_work(struct work_struct *work)
{
	kc_change_go(container_of(work, struct kc_io, work));
}

/* What became of the claim of a write or discard; it may have been parked. */
static void kc_change_claimed(struct kc_claim *claim, enum kc_claimed claimed)
{
	struct kc_io *io = container_of(claim, struct kc_io, claim);

	switch (claimed) {
	case KC_CLAIMED:
	case KC_CLAIMED_BUSY:
		kc_io_queue(io, io->t->kd->go_wq, kc_change_go_work);
		break;
	case KC_CLAIMED_DRAINING:
		kc_io_queue(io, io->t->kd->drain_wq, kc_drain_work);
		break;
	case KC_CLAIMED_PARKED:
		break;		/* may be going on already */
	case KC_CLAIMED_FAILED:
		claim->mb = NULL;
		kc_io_fail(io, -EIO);
		break;
	}
}

static const struct kc_claim_ops kc_change_ops = {
	.claimed = kc_change_claimed,
	.intended = kc_write_intended,
	.sums = kc_write_sums,
};

/* Claims the blocks of a write or discard that has its map block; it ends by itself. */
static void kc_change_claim(struct kc_io *io)
{
	enum kc_claimed claimed = kc_claim_write(&io->t->kd->claims, &io->claim,
						 &kc_change_ops);

	if (claimed == KC_CLAIMED || claimed == KC_CLAIMED_BUSY)
		kc_change_go(io);
	else
		kc_change_claimed(&io->claim, claimed);
}

/* A write or discard that has to look for its map block */
static void kc_change_work(struct work_struct *work)
{
	struct kc_io *io = container_of(work, struct kc_io, work);
	struct kc_keymap *map = &io->t->kd->map;
	struct kc_mapblk *mb;
	unsigned int first;
	u32 index;

	index = kc_map_index(io->claim.block, &first);
	mb = kc_mapblk_get_fast(map, index);
	if (!mb)
		mb = kc_mapblk_get(map, index);
	if (IS_ERR(mb)) {
		kc_io_fail(io, PTR_ERR(mb));
		return;
	}
	io->claim.mb = mb;
	kc_change_claim(io);
}

/* ---- reads ---- */

/*
 * bio_endio() has been through with dm's clone once and need not see it again.  A
 * part of it is chained to it: that is for bio_endio() to see to.
 */
static void kc_read_end(struct kc_io *io)
{
	kc_io_release(io);
	if (unlikely(io->conv.status))
		io->bio->bi_status = io->conv.status;
	if (likely(io->bio == io->base))
		io->bio->bi_end_io(io->bio);
	else
		bio_endio(io->bio);
}

static void kc_read_converted(struct kc_conv *conv)
{
	kc_read_end(container_of(conv, struct kc_io, conv));
}

static void kc_read_endio(struct bio *bio)
{
	struct kc_io *io = kc_io_back(bio);

	if (unlikely(bio->bi_status)) {
		io->conv.status = bio->bi_status;
		kc_read_end(io);
		return;
	}
	if (kc_decrypt(&io->conv))
		kc_read_end(io);
}

/* Looks at what a read's blocks have.  Return: false if @io has been ended. */
static bool kc_read_go(struct kc_io *io, u16 slot)
{
	struct kc_dev *kd = io->t->kd;
	struct kc_keyslots *slots = &kd->keys.slots;

	if (slot != KC_SLOT_NONE) {
		io->conv.ks = kc_keyslot_get(slots, slot);
	} else if (kc_keyslot_valid(slots, KC_SLOT_DEVICE)) {
		trace_keyed_crypt_io(kd->area.md, false, io->claim.block, io->claim.nr,
				     slot, KC_TRACE_UNASSIGNED);
		kc_io_release(io);
		zero_fill_bio(io->bio);
		kc_io_end(io, BLK_STS_OK);
		return false;
	}
	if (!io->conv.ks) {
		kc_count_locked(io, slot);
		kc_io_fail(io, -EIO);
		return false;
	}
	trace_keyed_crypt_io(kd->area.md, false, io->claim.block, io->claim.nr, slot,
			     KC_TRACE_OWN);
	io->conv.block = io->claim.block;
	io->conv.done = kc_read_converted;
	kc_io_remap_data(io, kc_read_endio);
	kc_conv_read(&io->conv, io->bio);
	return true;
}

static inline void kc_io_init(struct kc_io *io, struct kc_target *t, struct bio *bio,
			      struct bio *base)
{
	io->t = t;
	io->bio = bio;
	io->base = base;
	io->claim.mb = NULL;
	io->conv.crypt = &t->kd->crypt;
	io->conv.pools = &t->pools;
	io->conv.ks = NULL;
}

/* Splits @nr blocks off the beginning of a read; they take its map block. */
static struct kc_io *kc_read_split(struct kc_io *io, unsigned int nr)
{
	struct kc_target *t = io->t;
	struct kc_io *part;
	struct bio *split;

	split = bio_split(io->bio, nr << t->kd->area.block_shift, GFP_NOIO,
			  &t->split_bs);
	split->bi_opf &= ~REQ_POLLED;	/* dm polls its own clone only */
	bio_chain(split, io->bio);
	part = (void *)split - t->io_size;
	kc_io_init(part, t, split, io->base);
	part->claim = io->claim;
	part->claim.nr = nr;
	io->claim.mb = NULL;
	io->claim.block += nr;
	io->claim.nr -= nr;
	return part;
}

/* Sends, or ends, the blocks of a read that have the same slot.  Return: what that is. */
static struct kc_io *kc_read_run(struct kc_io *io)
{
	struct kc_claim *claim = &io->claim;
	struct kc_io *part;
	unsigned int n;
	u16 slot;

	n = kc_mapblk_run(claim->mb, claim->first, claim->nr, &slot);
	part = n < claim->nr ? kc_read_split(io, n) : io;
	if (kc_read_go(part, slot))
		dm_submit_bio_remap(part->base, part->bio);
	return part;
}

static void kc_read_work(struct work_struct *work);

static void kc_read_go_work(struct work_struct *work)
{
	struct kc_io *io = container_of(work, struct kc_io, work);
	struct kc_dev *kd = io->t->kd;

	if (kc_read_run(io) != io)
		kc_io_queue(io, kd->slow_wq, kc_read_work);
}

static void kc_read_claimed(struct kc_claim *claim, enum kc_claimed claimed)
{
	struct kc_io *io = container_of(claim, struct kc_io, claim);

	kc_io_queue(io, io->t->kd->go_wq, kc_read_go_work);
}

static const struct kc_claim_ops kc_read_ops = {
	.claimed = kc_read_claimed,
};

/* A read that could not be done in ->map(): split by hand. */
static void kc_read_work(struct work_struct *work)
{
	struct kc_io *io = container_of(work, struct kc_io, work);
	struct kc_dev *kd = io->t->kd;
	struct kc_claim *claim = &io->claim;
	struct kc_mapblk *mb;
	unsigned int first;
	int r;

	do {
		mb = kc_mapblk_get(&kd->map, kc_map_index(claim->block, &first));
		if (IS_ERR(mb)) {
			r = PTR_ERR(mb);
			if (r == -ENOKEY)
				kc_count_locked(io, KC_SLOT_DEVICE);
			kc_io_fail(io, r);
			return;
		}
		claim->mb = mb;
		claim->first = first;
		if (!kc_claim_read(&kd->claims, claim, &kc_read_ops))
			return;
	} while (kc_read_run(io) != io);
}

/* ---- what comes from dm ---- */

/* Takes only so many blocks of a bio; dm sends the rest again. */
static void kc_accept(struct kc_io *io, unsigned int nr)
{
	unsigned int sectors = nr << io->t->kd->area.block_shift;

	io->claim.nr = nr;
	if (sectors < bio_sectors(io->bio))
		dm_accept_partial_bio(io->bio, sectors);
}

static int kc_read_map(struct kc_io *io, u32 index, unsigned int nr)
{
	struct kc_dev *kd = io->t->kd;
	struct kc_mapblk *mb;
	unsigned int n;
	u16 slot;

	/* What is not taken is taken off before the bio may be parked. */
	kc_accept(io, nr);
	mb = kc_mapblk_get_fast(&kd->map, index);
	if (!mb) {
		if (!kc_keyslot_valid(&kd->keys.slots, KC_SLOT_DEVICE))
			return kc_kill_locked(io, KC_SLOT_DEVICE);
		kc_io_queue(io, kd->slow_wq, kc_read_work);
		return DM_MAPIO_SUBMITTED;
	}
	io->claim.mb = mb;
	if (!kc_claim_read(&kd->claims, &io->claim, &kc_read_ops))
		return DM_MAPIO_SUBMITTED;
	n = kc_mapblk_run(mb, io->claim.first, nr, &slot);
	if (unlikely(n < nr))
		kc_accept(io, n);
	return kc_read_go(io, slot) ? DM_MAPIO_REMAPPED : DM_MAPIO_SUBMITTED;
}

/* A write or discard that has its slot, and a write its key */
static int kc_change_map(struct kc_io *io, u32 index)
{
	struct kc_dev *kd = io->t->kd;
	struct kc_mapblk *mb;

	mb = kc_mapblk_get_fast(&kd->map, index);
	if (!mb) {
		kc_io_queue(io, kd->slow_wq, kc_change_work);
		return DM_MAPIO_SUBMITTED;
	}
	io->claim.mb = mb;
	kc_change_claim(io);
	return DM_MAPIO_SUBMITTED;
}

/* Writers within the kernel ask nobody whether a device or its disk is read-only. */
static bool kc_refuse_write(struct kc_io *io)
{
	struct kc_area *area = &io->t->kd->area;

	if (likely(area->mode != KC_RO && !bdev_read_only(io->bio->bi_bdev) &&
		   !bdev_read_only(area->data_bdev)))
		return false;
	DMWARN_LIMIT("%s: block %llu is not written: the table, the device or its disk is read-only",
		     dm_device_name(area->md), io->claim.block);
	return true;
}

static int kc_write_map(struct kc_io *io, u32 index, unsigned int nr)
{
	struct kc_dev *kd = io->t->kd;

	if (unlikely(kc_refuse_write(io)))
		return DM_MAPIO_KILL;
	nr = min_t(unsigned int, nr, (BIO_MAX_VECS << (PAGE_SHIFT - SECTOR_SHIFT)) >>
				     kd->area.block_shift);
	/* One section, or the slot may be another owner's when it gives its key. */
	rcu_read_lock();
	io->claim.slot = kc_whose(&kd->keys, io->t->owner_kind, io->bio,
				  kd->area.sector_size, &nr);
	io->conv.ks = kc_keyslot_get(&kd->keys.slots, io->claim.slot);
	rcu_read_unlock();
	if (unlikely(!nr)) {
		kc_io_release(io);
		DMERR_LIMIT("%s: write at block %llu is not in pieces of %u bytes",
			    dm_device_name(kd->area.md), io->claim.block,
			    kd->area.sector_size);
		return DM_MAPIO_KILL;
	}
	/* Others' blocks behind those of a locked owner go their own way. */
	kc_accept(io, nr);
	if (unlikely(!io->conv.ks))
		return kc_kill_locked(io, io->claim.slot);
	return kc_change_map(io, index);
}

static int kc_discard_map(struct kc_io *io, u32 index, unsigned int nr)
{
	if (unlikely(kc_refuse_write(io)))
		return DM_MAPIO_KILL;
	kc_accept(io, nr);
	if (!kc_keyslot_valid(&io->t->kd->keys.slots, KC_SLOT_DEVICE))
		return kc_kill_locked(io, KC_SLOT_DEVICE);
	io->claim.slot = KC_SLOT_NONE;
	return kc_change_map(io, index);
}

/**
 * kc_request_map() - a bio
 * @ti:		the target
 * @bio:	dm's clone
 *
 * The target's ->map().
 * Return: DM_MAPIO_*.
 */
int kc_request_map(struct dm_target *ti, struct bio *bio)
{
	struct kc_target *t = ti->private;
	unsigned int shift = t->kd->area.block_shift;
	struct kc_io *io = dm_per_bio_data(bio, t->io_size);
	sector_t sector = dm_target_offset(ti, bio->bi_iter.bi_sector);
	unsigned int nr, first;
	u32 index;

	kc_io_init(io, t, bio, bio);
	if (unlikely(bio->bi_opf & REQ_PREFLUSH))
		return kc_flush_map(io);
	if (unlikely(((unsigned int)sector | bio_sectors(bio)) & ((1U << shift) - 1)))
		return DM_MAPIO_KILL;

	io->claim.block = sector >> shift;
	index = kc_map_index(io->claim.block, &first);
	io->claim.first = first;
	nr = min_t(unsigned int, bio_sectors(bio) >> shift, KC_ENTRIES - first);
	switch (bio_op(bio)) {
	case REQ_OP_READ:
		return kc_read_map(io, index, nr);
	case REQ_OP_WRITE:
		return kc_write_map(io, index, nr);
	case REQ_OP_DISCARD:
		return kc_discard_map(io, index, nr);
	default:
		return DM_MAPIO_KILL;
	}
}

/**
 * kc_request_init() - pools of a target
 * @t:		the target, its device open
 *
 * Process context.
 * Return: 0 or -ENOMEM; kc_request_exit() in any case.
 */
int kc_request_init(struct kc_target *t)
{
	unsigned int reqsize = t->kd->keys.slots.reqsize;
	int r;

	t->io_size = ALIGN(sizeof(struct kc_io) + reqsize, ARCH_KMALLOC_MINALIGN);
	t->ti->per_io_data_size = t->io_size;
	r = kc_crypt_pools_init(&t->pools, &t->kd->crypt, reqsize);
	if (!r)
		r = bioset_init(&t->split_bs, KC_MIN_SPLITS, t->io_size, 0);
	return r;
}

/**
 * kc_request_exit() - free the pools
 * @t:		the target, perhaps half set up
 */
void kc_request_exit(struct kc_target *t)
{
	bioset_exit(&t->split_bs);
	kc_crypt_pools_exit(&t->pools);
}
