// SPDX-License-Identifier: GPL-2.0
/*
 * Making the key map durable, and recovery.
 *
 * A changed entry rides in memory until a flush, a FUA write or the timer asks
 * for a commit: one sequential write of journal blocks that name the changed
 * runs.  A flush needs no more than the cache flush it asks for anyway; other
 * commits are written with PREFLUSH and FUA.  Each journal block stands alone,
 * so a commit needs no commit block, and what counts after a crash is the
 * longest run of good blocks from the tail on.
 *
 * Map blocks are written back in place when the journal fills up, when the
 * cache needs clean blocks, and when the device is suspended.  Only after they
 * are on stable storage does the anchor move the tail past them, and only then
 * is their journal space used again.  A map block is written back with all its
 * entries, changes not yet logged too: an entry changes after its data has been
 * written, so the entry is right or the write was never flushed; and the journal
 * from the tail on can at worst take it back to what it was before such a
 * write.
 *
 * A strict change of owner needs more, for its block is to hold the old or the
 * new content after a crash, and must be known by its key.  Before the data is
 * written, an intent with a checksum of the new ciphertext is made durable;
 * many writes share a commit.  Recovery compares the block with it.  The intent
 * is needed until the change itself has been logged, by a commit that makes the
 * data durable first (PREFLUSH); until then the block is unsettled: it may not
 * be written again, and its map block is not written back, which keeps the tail
 * before the intent.
 *
 * Room: intents are logged only while they leave half of the journal free, and
 * other commits leave a quarter.  The records that settle intents are at most
 * half as long as these, so emptying the journal always has the room it needs.
 *
 * All of this is done by one worker, kd->journal.work.
 *
 * Documentation/journal.rst has the states, and the argument for each point where
 * power may go; tests/model/journal.pml is a model of this file: change both.
 */

#include <linux/slab.h>
#include <linux/vmalloc.h>

#include <linux/highmem.h>

#include "dm-keyed-crypt.h"
#include "trace.h"

/* How long a change may ride in memory; as ext4's commit interval. */
#define KC_COMMIT_INTERVAL	(5 * HZ)

/*
 * Journal blocks the intents of one write may need: a write of 1 MiB in blocks of
 * 512 bytes, every one from another owner than its neighbours.
 */
#define KC_INTENT_BLOCKS	(DIV_ROUND_UP(2 * 2048, KC_RECORDS_PER_BLOCK) + 1)

/**
 * struct kc_sync - somebody waits for the journal worker
 * @list:	in kc_journal.syncs
 * @done:	to wait for
 * @checkpoint:	write back the whole map, and leave the journal clean
 * @error:	result
 */
struct kc_sync {
	struct list_head list;
	struct completion done;
	bool checkpoint;
	int error;
};

static struct kc_disk_journal *kc_journal_block(struct kc_journal *j, unsigned int i)
{
	return (void *)(j->buf + i * KC_BLOCK_SIZE + KC_NONCE_SIZE);
}

/* Writes an anchor for the tail, or says why not. */
static int kc_journal_anchor(struct kc_dev *kd, u64 tail, u32 flags)
{
	struct kc_journal *j = &kd->journal;
	int r;

	r = kc_meta_write_anchor(kd, tail, atomic64_read(&j->durable_seq), flags);
	if (r) {
		kc_meta_fail(kd, "journal anchor", r);
		return r;
	}
	j->tail_seq = tail;
	j->clean = flags & KC_ANCHOR_CLEAN;
	return 0;
}

/* ---- write-back ---- */

/**
 * struct kc_batch - writes under way together
 * @pending:	how many, and one for the submitter
 * @done:	when all have ended
 * @failed:	one of them has failed
 */
struct kc_batch {
	atomic_t pending;
	struct completion done;
	bool failed;
};

static void kc_batch_put(struct kc_batch *batch)
{
	if (atomic_dec_and_test(&batch->pending))
		complete(&batch->done);
}

static void kc_batch_endio(unsigned long error, void *context)
{
	struct kc_batch *batch = context;

	if (error)
		WRITE_ONCE(batch->failed, true);
	kc_batch_put(batch);
}

KC_DM_IO_DONE(kc_batch_endio)

static int kc_write_snapshots(struct kc_dev *kd, struct kc_mapblk **mbs,
			      unsigned int nr)
{
	struct kc_batch batch = { .pending = ATOMIC_INIT(1) };
	unsigned int i;

	init_completion(&batch.done);
	for (i = 0; i < nr; i++) {
		u8 *buf = kd->journal.snap + i * KC_BLOCK_SIZE;
		u64 area_block = kd->layout.map + mbs[i]->index;
		struct dm_io_request req = {
			.bi_opf = REQ_OP_WRITE | REQ_META,
			.mem.type = DM_IO_VMA,
			.mem.ptr.vma = buf,
			.notify.fn = kc_dm_io_done(kc_batch_endio),
			.notify.context = &batch,
			.client = kd->dm_io,
		};
		struct dm_io_region where = {
			.bdev = kd->meta_bdev,
			.sector = kd->meta_start + area_block * KC_BLOCK_SECTORS,
			.count = KC_BLOCK_SECTORS,
		};

		kc_seal_block(&kd->sealer, KC_KIND_MAP, area_block, buf);
		atomic_inc(&batch.pending);
		if (kc_dm_io(&req, &where))
			kc_batch_endio(1, &batch);
	}
	kc_batch_put(&batch);
	wait_for_completion_io(&batch.done);
	return batch.failed ? -EIO : 0;
}

/*
 * Takes dirty map blocks, oldest change first, with a copy of their entries; not
 * those whose intents are needed.
 */
static unsigned int kc_snapshot(struct kc_dev *kd, struct kc_mapblk **mbs)
{
	struct kc_journal *j = &kd->journal;
	struct kc_mapblk *mb, *tmp;
	unsigned int nr = 0, u;

	list_for_each_entry_safe(mb, tmp, &j->dirty, dirty_list) {
		u8 *buf = j->snap + nr * KC_BLOCK_SIZE;

		if (nr == KC_WRITEBACK_BATCH)
			break;
		spin_lock_irq(&mb->lock);
		if (kc_mapblk_held(mb)) {
			spin_unlock_irq(&mb->lock);
			continue;
		}
		for (u = 0; u < KC_UNITS; u++)
			memcpy(buf + u * KC_UNIT_SIZE + KC_NONCE_SIZE,
			       mb->entries + u * KC_ENTRIES_PER_UNIT,
			       KC_UNIT_PAYLOAD);
		set_bit(KC_MB_WRITING, &mb->flags);
		clear_bit(KC_MB_DIRTY, &mb->flags);
		list_del_init(&mb->dirty_list);
		j->nr_dirty--;
		spin_unlock_irq(&mb->lock);
		mbs[nr++] = mb;
	}
	return nr;
}

static void kc_mapblk_dirty(struct kc_journal *j, struct kc_mapblk *mb, u64 seq)
{
	if (test_and_set_bit(KC_MB_DIRTY, &mb->flags))
		return;
	mb->first_seq = seq;
	list_add_tail(&mb->dirty_list, &j->dirty);
	j->nr_dirty++;
}

static int kc_flush(struct kc_dev *kd, struct block_device *bdev)
{
	int r = blkdev_issue_flush(bdev);

	if (r)
		kc_journal_lost(kd, r);
	return r;
}

/**
 * kc_writeback() - write map blocks back in place
 * @kd:		the device
 * @leave:	how many may stay dirty, besides those whose intents are needed
 *
 * Journal worker, or recovery.
 * Return: 0 or a negative errno.
 */
static int kc_writeback(struct kc_dev *kd, unsigned int leave)
{
	struct kc_journal *j = &kd->journal;
	struct kc_mapblk *mbs[KC_WRITEBACK_BATCH], *head;
	unsigned int nr, i;
	u64 seq, tail;
	int r = 0;

	while (j->nr_dirty > leave && !r) {
		if (READ_ONCE(kd->mode) != KC_RW)
			return -EROFS;
		nr = kc_snapshot(kd, mbs);
		if (!nr)
			break;
		seq = j->next_seq;
		r = kc_write_snapshots(kd, mbs, nr);
		if (r)
			kc_meta_fail(kd, "key map", r);
		else
			r = kc_flush(kd, kd->meta_bdev);
		if (!r) {
			kc_journal_flushed(kd, seq);
			for (i = 0; i < nr; i++)
				if (!kc_meta_test_state(kd, mbs[i]->index))
					kc_meta_set_state(kd, mbs[i]->index);
			r = kc_meta_write_state(kd);
			if (r)
				kc_meta_fail(kd, "map state", r);
		}
		if (r) {
			/* Keep them in memory, as old as they were. */
			while (nr--) {
				head = mbs[nr];
				if (!test_and_set_bit(KC_MB_DIRTY, &head->flags)) {
					list_add(&head->dirty_list, &j->dirty);
					j->nr_dirty++;
				}
				clear_bit(KC_MB_WRITING, &head->flags);
			}
			break;
		}
		for (i = 0; i < nr; i++)
			clear_bit(KC_MB_WRITING, &mbs[i]->flags);
		wake_up_all(&kd->keymap.wait);
		if (j->recovering)
			continue;
		tail = seq;
		if (!list_empty(&j->dirty)) {
			head = list_first_entry(&j->dirty, struct kc_mapblk,
						dirty_list);
			tail = head->first_seq;
		}
		if (tail != j->tail_seq)
			r = kc_journal_anchor(kd, tail, 0);
	}
	return r;
}

/* ---- commit ---- */

static int kc_journal_reclaim(struct kc_dev *kd);

/*
 * Intents whose changes are durable in the journal are not needed any more; if
 * they could not be logged, what waits for that has to know.
 */
static void kc_journal_settled(struct kc_dev *kd, bool durable)
{
	struct kc_mapblk *mb;

	list_for_each_entry(mb, &kd->journal.dirty, dirty_list)
		if (test_bit(KC_MB_UNSETTLED, &mb->flags))
			kc_mapblk_settle(kd, mb, durable);
}

/*
 * Writes the filled blocks of the buffer.  What settles intents is made durable,
 * and the data before it.
 */
static int kc_journal_write(struct kc_dev *kd, bool durable)
{
	struct kc_journal *j = &kd->journal;
	u64 area_block = kd->layout.journal +
			 kc_mod64(j->next_seq, kd->layout.journal_blocks);
	blk_opf_t opf = REQ_OP_WRITE;
	u64 durable_seq = atomic64_read(&j->durable_seq);
	unsigned int i;
	int r;

	if (!j->fill)
		return 0;
	for (i = 0; i < j->fill; i++) {
		kc_journal_block(j, i)->durable = cpu_to_le64(durable_seq);
		kc_seal(&kd->sealer, KC_KIND_JOURNAL, (area_block + i) * KC_BLOCK_SECTORS,
			j->buf + i * KC_BLOCK_SIZE, KC_BLOCK_SIZE);
	}
	if (j->settling && !kd->same_bdev) {
		r = kc_flush(kd, kd->data_bdev);
		if (r)
			goto failed;
	}
	if (durable || j->settling)
		opf |= REQ_FUA;
	if (j->settling || (durable && durable_seq != j->next_seq))
		opf |= REQ_PREFLUSH;
	r = kc_meta_io(kd, opf, area_block, j->buf, j->fill);
	trace_keyed_crypt_commit(kd->md, j->next_seq, j->fill, r);
	if (r)
		goto failed;
	spin_lock_irq(&j->lock);
	j->next_seq += j->fill;
	spin_unlock_irq(&j->lock);
	j->fill = 0;
	if (opf & REQ_FUA)
		kc_journal_flushed(kd, j->next_seq);
	if (j->settling)
		kc_journal_settled(kd, true);
	j->settling = false;
	return 0;

failed:
	kc_meta_fail(kd, "journal", r);
	j->failed = true;
	j->settling = false;
	j->fill = 0;
	return r;
}

/* Records the last journal block has room for. */
static unsigned int kc_journal_left(struct kc_journal *j)
{
	if (!j->fill)
		return 0;
	return KC_RECORDS_PER_BLOCK -
	       le32_to_cpu(kc_journal_block(j, j->fill - 1)->nr_records);
}

/* Makes room for @nr records in one journal block. */
static int kc_journal_reserve(struct kc_dev *kd, unsigned int nr)
{
	struct kc_journal *j = &kd->journal;
	u32 blocks = kd->layout.journal_blocks;
	struct kc_disk_journal *dj;
	u64 seq;
	int r;

	if (kc_journal_left(j) >= nr)
		return 0;
	seq = j->next_seq + j->fill;
	/* A write does not wrap. */
	if (j->fill == KC_JOURNAL_BATCH ||
	    (j->fill && !kc_mod64(seq, blocks))) {
		r = kc_journal_write(kd, false);
		if (r)
			return r;
	}
	if (!j->reclaiming && seq - j->tail_seq >= blocks - blocks / 4 - 2) {
		r = kc_journal_reclaim(kd);
		if (r)
			return r;
		seq = j->next_seq;
	}
	dj = kc_journal_block(j, j->fill++);
	memset(dj, 0, sizeof(*dj));
	dj->seq = cpu_to_le64(seq);
	return 0;
}

/*
 * Logs changes of a map block, all or the unsettled ones, until they or the
 * journal block are done.
 */
static bool kc_journal_log(struct kc_dev *kd, struct kc_mapblk *mb, bool all)
{
	struct kc_journal *j = &kd->journal;
	struct kc_disk_journal *dj = kc_journal_block(j, j->fill - 1);
	u32 nr = le32_to_cpu(dj->nr_records);
	u64 base = (u64)mb->index * KC_ENTRIES;
	const unsigned long *which;
	unsigned int i, n;
	bool done;

	spin_lock_irq(&mb->lock);
	which = all ? mb->unlogged : mb->unsettled;
	for (i = find_first_bit(which, KC_ENTRIES);
	     i < KC_ENTRIES && nr < KC_RECORDS_PER_BLOCK;
	     i = find_next_bit(which, KC_ENTRIES, i + n)) {
		struct kc_disk_record *record = &dj->records[nr];

		n = 1;
		if (!test_bit(i, mb->unlogged))
			continue;
		for (; i + n < KC_ENTRIES && test_bit(i + n, which) &&
		     test_bit(i + n, mb->unlogged); n++)
			if (mb->entries[i + n] != mb->entries[i])
				break;
		record->block = cpu_to_le64((base + i) |
				(u64)KC_RECORD_MAP << KC_RECORD_TYPE_SHIFT);
		record->count = cpu_to_le32(n);
		record->slot = mb->entries[i];
		bitmap_clear(mb->unlogged, i, n);
		nr++;
	}
	kc_mapblk_dirty(j, mb, le64_to_cpu(dj->seq));
	if (test_bit(KC_MB_UNSETTLED, &mb->flags))
		j->settling = true;
	done = i >= KC_ENTRIES;
	if (done && all) {
		list_del_init(&mb->log_list);
		clear_bit(KC_MB_UNLOGGED, &mb->flags);
	}
	spin_unlock_irq(&mb->lock);
	dj->nr_records = cpu_to_le32(nr);
	return done;
}

/*
 * Empties the journal: settles all intents, and writes the map back.  Waits for
 * the data of intents under way, which needs nothing of this worker.
 */
static int kc_journal_reclaim(struct kc_dev *kd)
{
	struct kc_journal *j = &kd->journal;
	struct kc_mapblk *mb;
	int r;

	r = kc_journal_write(kd, false);
	if (r)
		return r;
	wait_event(kd->keymap.wait, !atomic_read(&j->live));
	j->reclaiming = true;
	list_for_each_entry(mb, &j->dirty, dirty_list) {
		if (!test_bit(KC_MB_UNSETTLED, &mb->flags))
			continue;
		do
			r = kc_journal_reserve(kd, 1);
		while (!r && !kc_journal_log(kd, mb, false));
		if (r)
			break;
	}
	if (!r)
		r = kc_journal_write(kd, true);
	if (!r)
		r = kc_writeback(kd, 0);
	j->reclaiming = false;
	return r;
}

static int kc_journal_begin(struct kc_dev *kd)
{
	struct kc_journal *j = &kd->journal;

	if (j->failed)
		return -EIO;
	if (READ_ONCE(kd->mode) != KC_RW)
		return -EIO;
	return j->clean ? kc_journal_anchor(kd, j->tail_seq, 0) : 0;
}

/* Makes changes of the map durable, or at least logs them. */
static int kc_commit(struct kc_dev *kd, struct list_head *unlogged, bool durable)
{
	struct kc_journal *j = &kd->journal;
	struct kc_mapblk *mb;
	int r = 0;

	if (list_empty(unlogged)) {
		if (j->failed)
			return -EIO;
		if (!durable || atomic64_read(&j->durable_seq) == j->next_seq)
			return 0;
		r = kc_flush(kd, kd->meta_bdev);
		if (!r)
			kc_journal_flushed(kd, j->next_seq);
		return r;
	}
	r = kc_journal_begin(kd);
	while (!r && !list_empty(unlogged)) {
		r = kc_journal_reserve(kd, 1);
		if (r)
			break;
		mb = list_first_entry(unlogged, struct kc_mapblk, log_list);
		kc_journal_log(kd, mb, true);
	}
	if (!r)
		r = kc_journal_write(kd, durable);
	if (r) {
		j->failed = true;
		j->fill = 0;
		kc_journal_settled(kd, false);
	}
	return r;
}

/* ---- intents ---- */

/* Logs the intent of blocks of a write that have the same old slot. */
static int kc_intent_log_run(struct kc_dev *kd, struct kc_io *io,
			     struct bvec_iter *iter, unsigned int entry,
			     unsigned int nr, __le16 old)
{
	struct kc_journal *j = &kd->journal;
	u64 block = io->block + entry - io->first;
	struct kc_disk_journal *dj;
	struct kc_disk_record *record;
	struct kc_disk_sums *sums;
	unsigned int n, i;
	struct bio_vec bv;
	void *p;
	u32 at;
	int r;

	for (; nr; nr -= n, block += n) {
		r = kc_journal_reserve(kd, 2);
		if (r)
			return r;
		n = min(nr, (kc_journal_left(j) - 1) * KC_SUMS);
		dj = kc_journal_block(j, j->fill - 1);
		at = le32_to_cpu(dj->nr_records);
		record = &dj->records[at];
		record->block = cpu_to_le64(block |
				(u64)KC_RECORD_INTENT << KC_RECORD_TYPE_SHIFT);
		record->count = cpu_to_le32(n);
		record->slot = cpu_to_le16(io->slot);
		record->old = old;
		sums = (struct kc_disk_sums *)(record + 1);
		for (i = 0; i < n; i++) {
			bv = bio_iter_iovec(io->clone, *iter);
			p = kmap_local_page(bv.bv_page);
			sums[i / KC_SUMS].sum[i % KC_SUMS] =
				cpu_to_le64(kc_sum(&kd->sealer, p + bv.bv_offset, kd->sector_size));
			kunmap_local(p);
			bio_advance_iter_single(io->clone, iter, kd->sector_size);
		}
		dj->nr_records = cpu_to_le32(at + 1 + DIV_ROUND_UP(n, KC_SUMS));
	}
	return 0;
}

/* The blocks of @io are busy, so their entries stay. */
static int kc_intent_log(struct kc_dev *kd, struct kc_io *io)
{
	struct kc_mapblk *mb = io->mb;
	struct kc_journal *j = &kd->journal;
	struct bvec_iter iter = io->clone->bi_iter;
	unsigned int i, n, end = io->first + io->nr;
	__le16 old;
	int r;

	/* From its first intent on, the tail stays before it. */
	r = kc_journal_reserve(kd, 2);
	if (r)
		return r;
	spin_lock_irq(&mb->lock);
	mb->intents++;
	kc_mapblk_dirty(j, mb, le64_to_cpu(kc_journal_block(j, j->fill - 1)->seq));
	spin_unlock_irq(&mb->lock);
	atomic_inc(&j->live);
	io->intent = true;

	for (i = io->first; i < end; i += n) {
		old = mb->entries[i];
		for (n = 1; i + n < end && mb->entries[i + n] == old; n++)
			;
		if (kc_slot_vacant(kd, le16_to_cpu(old)) ||
		    old == cpu_to_le16(io->slot)) {
			bio_advance_iter(io->clone, &iter, n * kd->sector_size);
			continue;
		}
		r = kc_intent_log_run(kd, io, &iter, i, n, old);
		if (r)
			return r;
		/*
		 * The intent has logged the old entries, too.  Logged behind it
		 * they would say what is not true any more when the data is there.
		 */
		spin_lock_irq(&mb->lock);
		bitmap_clear(mb->unlogged, i, n);
		spin_unlock_irq(&mb->lock);
	}
	return 0;
}

/* Makes intents durable and sends their data on. */
static void kc_intents_go(struct kc_dev *kd, struct list_head *ready, int error)
{
	struct kc_io *io, *tmp;

	if (!error)
		error = kc_journal_write(kd, true);
	kd->journal.fill = 0;
	list_for_each_entry_safe(io, tmp, ready, list) {
		list_del_init(&io->list);
		kc_crypt_write_go(io, error ? BLK_STS_IOERR : BLK_STS_OK);
	}
}

static void kc_intents(struct kc_dev *kd, struct list_head *intents)
{
	struct kc_journal *j = &kd->journal;
	struct kc_io *io, *tmp;
	LIST_HEAD(ready);
	int r;

	if (list_empty(intents))
		return;
	r = kc_journal_begin(kd);
	list_for_each_entry_safe(io, tmp, intents, list) {
		if (j->failed)
			r = -EIO;
		if (!r && j->next_seq + j->fill - j->tail_seq + KC_INTENT_BLOCKS >
			  kd->layout.journal_blocks / 2) {
			kc_intents_go(kd, &ready, 0);
			r = kc_journal_reclaim(kd);
		}
		if (!r)
			r = kc_intent_log(kd, io);
		list_move_tail(&io->list, &ready);
	}
	kc_intents_go(kd, &ready, r);
}

/* ---- the worker ---- */

/* Ends a flush or a FUA write. */
static void kc_journal_answer(struct kc_dev *kd, struct kc_io *io, int error)
{
	if (error) {
		kc_io_end(io, BLK_STS_IOERR);
	} else if (io->bio->bi_opf & REQ_PREFLUSH) {
		io->seq = kd->journal.next_seq;
		kc_flush_submit(io);
	} else {
		kc_io_end(io, BLK_STS_OK);
	}
}

static void kc_journal_work(struct work_struct *work)
{
	struct kc_dev *kd = container_of(work, struct kc_dev, journal.work);
	struct kc_journal *j = &kd->journal;
	LIST_HEAD(unlogged);
	LIST_HEAD(waiters);
	LIST_HEAD(intents);
	LIST_HEAD(syncs);
	struct kc_sync *sync, *stmp;
	struct kc_io *io, *itmp;
	bool durable, checkpoint, kicked;
	unsigned int leave;
	int r, w;

	spin_lock_irq(&j->lock);
	list_splice_init(&j->unlogged, &unlogged);
	list_splice_init(&j->waiters, &waiters);
	list_splice_init(&j->intents, &intents);
	list_splice_init(&j->syncs, &syncs);
	durable = j->timed || !list_empty(&syncs) || !kd->same_bdev;
	kicked = j->kicked;
	j->timed = false;
	j->kicked = false;
	j->committing = true;
	spin_unlock_irq(&j->lock);

	list_for_each_entry(io, &waiters, list)
		if (!(io->bio->bi_opf & REQ_PREFLUSH))
			durable = true;
	/*
	 * Intents alone need no commit of what else has changed; but what is
	 * parked behind unsettled blocks does.
	 */
	r = 0;
	if (durable || kicked || !list_empty(&waiters))
		r = kc_commit(kd, &unlogged, durable);

	spin_lock_irq(&j->lock);
	list_splice(&unlogged, &j->unlogged);	/* what could not be logged */
	j->committing = false;
	spin_unlock_irq(&j->lock);

	list_for_each_entry_safe(io, itmp, &waiters, list) {
		list_del_init(&io->list);
		kc_journal_answer(kd, io, r);
	}
	kc_intents(kd, &intents);

	checkpoint = false;
	list_for_each_entry(sync, &syncs, list)
		checkpoint |= sync->checkpoint;
	leave = kd->keymap.max_blocks / 2;
	if (j->next_seq - j->tail_seq > kd->layout.journal_blocks / 2)
		leave = j->nr_dirty / 2;
	if (kicked)
		leave = min(leave, j->nr_dirty / 2);
	w = kc_writeback(kd, checkpoint ? 0 : leave);
	if (checkpoint && !r && !w && !j->nr_dirty && kd->mode == KC_RW && !j->clean)
		w = kc_journal_anchor(kd, j->next_seq, KC_ANCHOR_CLEAN);
	list_for_each_entry_safe(sync, stmp, &syncs, list) {
		list_del_init(&sync->list);
		sync->error = r ?: sync->checkpoint ? w : 0;
		complete(&sync->done);
	}
}

/* Gives the worker something to do: @flag set, or @entry on @list. */
static void kc_journal_ask(struct kc_dev *kd, bool *flag,
			   struct list_head *entry, struct list_head *list)
{
	struct kc_journal *j = &kd->journal;
	unsigned long flags;

	spin_lock_irqsave(&j->lock, flags);
	if (flag)
		*flag = true;
	if (entry)
		list_add_tail(entry, list);
	spin_unlock_irqrestore(&j->lock, flags);
	queue_work(kd->journal_wq, &j->work);
}

static void kc_journal_timer(struct work_struct *work)
{
	kc_journal_settle(container_of(to_delayed_work(work), struct kc_dev,
				       journal.timer));
}

/* ---- what others call ---- */

/**
 * kc_journal_note() - a map block has its first change not in the journal
 * @kd:		the device
 * @mb:		the map block, its lock held and KC_MB_UNLOGGED just set
 *
 * Any context.
 */
void kc_journal_note(struct kc_dev *kd, struct kc_mapblk *mb)
{
	struct kc_journal *j = &kd->journal;
	unsigned long flags;

	spin_lock_irqsave(&j->lock, flags);
	list_add_tail(&mb->log_list, &j->unlogged);
	spin_unlock_irqrestore(&j->lock, flags);
	queue_delayed_work(kd->journal_wq, &j->timer, KC_COMMIT_INTERVAL);
}

/**
 * kc_journal_idle() - is every change in the journal?
 * @kd:		the device
 * @seq:	gets what a flush that is sent now makes durable
 *
 * If so, a cache flush makes them durable.  Any context.
 * Return: true if it is.
 */
bool kc_journal_idle(struct kc_dev *kd, u64 *seq)
{
	struct kc_journal *j = &kd->journal;
	unsigned long flags;
	bool idle;

	spin_lock_irqsave(&j->lock, flags);
	idle = list_empty(&j->unlogged) && !j->committing && !j->failed &&
	       (kd->same_bdev || atomic64_read(&j->durable_seq) == j->next_seq);
	*seq = j->next_seq;
	spin_unlock_irqrestore(&j->lock, flags);
	return idle;
}

/**
 * kc_journal_durable() - is every change durable?
 * @kd:		the device
 *
 * Any context.
 * Return: true if it is.
 */
bool kc_journal_durable(struct kc_dev *kd)
{
	struct kc_journal *j = &kd->journal;
	unsigned long flags;
	bool durable;

	spin_lock_irqsave(&j->lock, flags);
	durable = list_empty(&j->unlogged) && !j->committing && !j->failed &&
		  atomic64_read(&j->durable_seq) == j->next_seq;
	spin_unlock_irqrestore(&j->lock, flags);
	return durable;
}

/**
 * kc_journal_wait_io() - end a flush or FUA write when the map is durable
 * @kd:		the device
 * @io:		the flush, or the FUA write whose data is durable
 *
 * Any context.
 */
void kc_journal_wait_io(struct kc_dev *kd, struct kc_io *io)
{
	kc_journal_ask(kd, NULL, &io->list, &kd->journal.waiters);
}

/**
 * kc_journal_intent() - log the intent of a write, then send it on
 * @kd:		the device
 * @io:		the encrypted write, which changes assigned blocks
 *
 * Any context.
 */
void kc_journal_intent(struct kc_dev *kd, struct kc_io *io)
{
	kc_journal_ask(kd, NULL, &io->list, &kd->journal.intents);
}

/**
 * kc_journal_settle() - somebody waits for unsettled blocks
 * @kd:		the device
 *
 * Any context.
 */
void kc_journal_settle(struct kc_dev *kd)
{
	kc_journal_ask(kd, &kd->journal.timed, NULL, NULL);
}

/**
 * kc_journal_flushed() - a cache flush of the metadata device has ended
 * @kd:		the device
 * @seq:	the journal's next_seq before it began
 *
 * Any context.
 */
void kc_journal_flushed(struct kc_dev *kd, u64 seq)
{
	struct kc_journal *j = &kd->journal;
	s64 old = atomic64_read(&j->durable_seq);

	while (old < (s64)seq &&
	       !atomic64_try_cmpxchg(&j->durable_seq, &old, seq))
		;
}

/**
 * kc_journal_lost() - a cache flush has failed
 * @kd:		the device
 * @error:	negative errno
 *
 * What the disk had accepted before may be lost, and the next flush succeed all
 * the same: nothing may be made durable behind it, as if it were there.
 * Process context.
 */
void kc_journal_lost(struct kc_dev *kd, int error)
{
	struct kc_journal *j = &kd->journal;

	if (READ_ONCE(kd->mode) == KC_RO)
		return;
	spin_lock_irq(&j->lock);
	j->failed = true;
	spin_unlock_irq(&j->lock);
	kc_meta_fail(kd, "disk's cache", error);
}

/**
 * kc_journal_sync() - make the key map durable now
 * @kd:		the device
 * @checkpoint:	in place, with a clean journal
 *
 * Process context.
 * Return: 0 or a negative errno.
 */
int kc_journal_sync(struct kc_dev *kd, bool checkpoint)
{
	struct kc_sync sync = { .checkpoint = checkpoint };

	init_completion(&sync.done);
	kc_journal_ask(kd, NULL, &sync.list, &kd->journal.syncs);
	wait_for_completion(&sync.done);
	return sync.error;
}

/**
 * kc_journal_kick() - the cache needs clean blocks
 * @kd:		the device
 *
 * Any context.
 */
void kc_journal_kick(struct kc_dev *kd)
{
	kc_journal_ask(kd, &kd->journal.kicked, NULL, NULL);
}

/* ---- recovery ---- */

/* Which slot has the block an intent is about?  Or a negative errno. */
static int kc_replay_intent(struct kc_dev *kd, u64 block, u64 sum, u16 slot, u16 old)
{
	struct dm_io_request req = {
		.bi_opf = REQ_OP_READ | REQ_SYNC,
		.mem.type = DM_IO_VMA,
		.mem.ptr.vma = kd->journal.snap,
		.client = kd->dm_io,
	};
	struct dm_io_region where = {
		.bdev = kd->data_bdev,
		.sector = kd->data_start + (block << kd->block_shift),
		.count = kd->sector_size >> SECTOR_SHIFT,
	};
	int r = kc_dm_io(&req, &where);

	if (r) {
		kc_error("cannot read block %llu to see whose it is", block);
		return r;
	}
	return kc_sum(&kd->sealer, kd->journal.snap, kd->sector_size) == sum ? slot : old;
}

static bool kc_record_is_intent(const struct kc_disk_record *record)
{
	return le64_to_cpu(record->block) >> KC_RECORD_TYPE_SHIFT == KC_RECORD_INTENT;
}

/* Entries of a journal block a record has, with its checksums. */
static u32 kc_record_len(const struct kc_disk_record *record)
{
	u32 count = le32_to_cpu(record->count);

	return kc_record_is_intent(record) ?
		1 + count / KC_SUMS + !!(count % KC_SUMS) : 1;
}

/* Is a record possible, with @left entries up to the end of its block? */
static bool kc_record_valid(struct kc_dev *kd, const struct kc_disk_record *record,
			    u32 left)
{
	u64 word = le64_to_cpu(record->block);
	u64 block = word & KC_RECORD_BLOCK_MASK;
	u32 count = le32_to_cpu(record->count);
	bool intent = kc_record_is_intent(record);

	return (intent || word >> KC_RECORD_TYPE_SHIFT == KC_RECORD_MAP) &&
	       !(word & ~KC_RECORD_BLOCK_MASK & ~(0xffULL << KC_RECORD_TYPE_SHIFT)) &&
	       block < kd->nr_blocks && count && count <= kd->nr_blocks - block &&
	       le16_to_cpu(record->slot) < kd->nr_slots &&
	       le16_to_cpu(record->old) < kd->nr_slots &&
	       (intent || !record->old) && kc_record_len(record) <= left;
}

/* Can the map blocks a valid record names be read? */
static int kc_record_load(struct kc_dev *kd, const struct kc_disk_record *record)
{
	u64 block = le64_to_cpu(record->block) & KC_RECORD_BLOCK_MASK;
	struct kc_mapblk *mb;
	unsigned int entry;
	u32 index, last;

	index = kc_map_index(block, &entry);
	last = kc_map_index(block + le32_to_cpu(record->count) - 1, &entry);
	for (; index <= last; index++) {
		mb = kc_mapblk_get(kd, index);
		if (IS_ERR(mb)) {
			kc_error("cannot load map block %u for recovery", index);
			return PTR_ERR(mb);
		}
		kc_mapblk_put(kd, mb);
		cond_resched();
	}
	return 0;
}

/* Can all of a journal block be applied? */
static int kc_journal_check(struct kc_dev *kd, const struct kc_disk_journal *dj,
			    u64 seq)
{
	u32 nr = le32_to_cpu(dj->nr_records), i;
	int r;

	if (nr > KC_RECORDS_PER_BLOCK) {
		kc_error("journal block %llu has %u records, at most %zu fit",
			 seq, nr, (size_t)KC_RECORDS_PER_BLOCK);
		return -EINVAL;
	}
	for (i = 0; i < nr; i += kc_record_len(&dj->records[i])) {
		if (!kc_record_valid(kd, &dj->records[i], nr - i)) {
			kc_error("journal block %llu has an impossible record", seq);
			return -EINVAL;
		}
		r = kc_record_load(kd, &dj->records[i]);
		if (r)
			return r;
	}
	return 0;
}

/* Applies a record that has been checked.  Return: 0 or a negative errno. */
static int kc_replay_record(struct kc_dev *kd, const struct kc_disk_record *record,
			    u64 seq)
{
	u64 word = le64_to_cpu(record->block);
	u64 block = word & KC_RECORD_BLOCK_MASK;
	u32 count = le32_to_cpu(record->count), i;
	u16 slot = le16_to_cpu(record->slot), old = le16_to_cpu(record->old);
	const struct kc_disk_sums *sums = (const void *)(record + 1);
	bool intent = kc_record_is_intent(record);
	struct kc_journal *j = &kd->journal;
	struct kc_mapblk *mb;
	unsigned int first;
	u32 index;
	int r;

	for (i = 0; i < count; i++, block++) {
		r = slot;
		if (intent)
			r = kc_replay_intent(kd, block,
					     le64_to_cpu(sums[i / KC_SUMS].sum[i % KC_SUMS]),
					     slot, old);
		if (r < 0)
			return r;
		index = kc_map_index(block, &first);
		mb = kc_mapblk_get(kd, index);
		if (IS_ERR(mb)) {
			kc_error("cannot load map block %u for recovery", index);
			return PTR_ERR(mb);
		}
		spin_lock_irq(&mb->lock);
		mb->entries[first] = cpu_to_le16(r);
		spin_unlock_irq(&mb->lock);
		kc_mapblk_dirty(j, mb, seq);
		kc_mapblk_put(kd, mb);
		/* Leave room in the cache; read-only it may grow. */
		if (kd->mode == KC_RW && j->nr_dirty > kd->keymap.max_blocks / 2) {
			r = kc_writeback(kd, 0);
			if (r) {
				kc_error("cannot write the recovered key map");
				return r;
			}
		}
		if (!(block % 1024))
			cond_resched();
	}
	return 0;
}

/**
 * struct kc_journal_reader - reads the journal, many blocks at once
 * @at:		first area block in the journal's buffer
 * @nr:		how many it has
 */
struct kc_journal_reader {
	u64 at;
	unsigned int nr;
};

/*
 * Reads the journal block @seq would be in.  Return: NULL if there is none in
 * its place, or an ERR_PTR() with an error said.
 */
static const struct kc_disk_journal *
kc_journal_read(struct kc_dev *kd, struct kc_journal_reader *reader, u64 seq)
{
	u32 pos = kc_mod64(seq, kd->layout.journal_blocks);
	u64 area_block = kd->layout.journal + pos;
	unsigned int i;
	int r;

	if (area_block < reader->at || area_block >= reader->at + reader->nr) {
		reader->at = area_block;
		reader->nr = min_t(u32, KC_JOURNAL_BATCH,
				   kd->layout.journal_blocks - pos);
		r = kc_meta_io(kd, REQ_OP_READ, area_block, kd->journal.buf,
			       reader->nr);
		if (r) {
			kc_error("cannot read journal block %llu", seq);
			return ERR_PTR(r);
		}
	}
	i = area_block - reader->at;
	if (!kc_unseal(&kd->sealer, KC_KIND_JOURNAL, area_block * KC_BLOCK_SECTORS,
		       kd->journal.buf + i * KC_BLOCK_SIZE, KC_BLOCK_SIZE))
		return NULL;
	return kc_journal_block(&kd->journal, i);
}

/*
 * Finds the end of the journal: the first block from @tail on that is not there.
 * Changes nothing, so that a journal that must be refused is refused before
 * anything has been written.  Return: 0 or a negative errno with an error said.
 */
static int kc_journal_scan(struct kc_dev *kd, u64 tail, u64 durable, u64 *end)
{
	struct kc_journal_reader reader = {};
	const struct kc_disk_journal *dj;
	bool ended = false;
	u64 seq;
	int r;

	for (seq = tail; seq - tail < kd->layout.journal_blocks; seq++) {
		cond_resched();
		dj = kc_journal_read(kd, &reader, seq);
		if (IS_ERR(dj))
			return PTR_ERR(dj);
		if (!ended && (!dj || le64_to_cpu(dj->seq) != seq)) {
			ended = true;
			*end = seq;
		}
		/* What comes behind the end must be from before a crash. */
		if (dj && (!ended || le64_to_cpu(dj->seq) > *end))
			durable = max(durable, le64_to_cpu(dj->durable));
		r = ended ? 0 : kc_journal_check(kd, dj, seq);
		if (r)
			return r;
	}
	if (!ended)
		*end = seq;
	if (*end < durable) {
		kc_error("journal block %llu is damaged: all up to %llu were durable",
			 *end, durable - 1);
		return -EBADMSG;
	}
	return 0;
}

/* Applies the journal blocks that kc_journal_scan() has found. */
static int kc_journal_replay(struct kc_dev *kd, u64 tail, u64 end)
{
	struct kc_journal_reader reader = {};
	const struct kc_disk_journal *dj;
	u64 seq;
	u32 i;
	int r;

	for (seq = tail; seq < end; seq++) {
		cond_resched();
		dj = kc_journal_read(kd, &reader, seq);
		if (IS_ERR(dj))
			return PTR_ERR(dj);
		if (!dj || le64_to_cpu(dj->seq) != seq) {
			kc_error("journal block %llu changes from one read to the next", seq);
			return -EBADMSG;
		}
		r = kc_journal_check(kd, dj, seq);
		for (i = 0; !r && i < le32_to_cpu(dj->nr_records);
		     i += kc_record_len(&dj->records[i]))
			r = kc_replay_record(kd, &dj->records[i], seq);
		if (r)
			return r;
	}
	return 0;
}

/**
 * kc_journal_recover() - bring the key map up to date with the journal
 * @kd:		the device, its map empty
 *
 * Reads the anchor, and the journal if that does not say it is clean.  A crash
 * during recovery does no harm: the tail moves only at its end.  Process context.
 * Return: 0 or a negative errno with an error said.
 */
int kc_journal_recover(struct kc_dev *kd)
{
	struct kc_journal *j = &kd->journal;
	u64 tail, durable, end;
	u32 flags;
	int r;

	r = kc_meta_read_anchor(kd, &tail, &durable, &flags);
	if (r)
		return r;
	j->tail_seq = tail;
	j->next_seq = durable;
	atomic64_set(&j->durable_seq, durable);
	j->clean = flags & KC_ANCHOR_CLEAN;
	if (j->clean) {
		j->recovering = false;
		return 0;
	}
	r = kc_journal_scan(kd, tail, durable, &end);
	if (!r)
		r = kc_journal_replay(kd, tail, end);
	if (r)
		return r;
	if (kd->mode != KC_RW) {
		j->recovering = false;
		return 0;
	}
	/*
	 * Blocks from before the crash may lie behind the end.  Skipping a round
	 * makes sure that none of them can follow a new one.
	 */
	r = kc_writeback(kd, 0);
	if (r) {
		kc_error("cannot write the recovered key map");
		return r;
	}
	/* Content that intents were compared with may be in the cache only. */
	if (!kd->same_bdev) {
		r = blkdev_issue_flush(kd->data_bdev);
		if (r) {
			kc_error("cannot make the data durable the recovered key map speaks of");
			return r;
		}
	}
	j->next_seq = end + kd->layout.journal_blocks;
	atomic64_set(&j->durable_seq, j->next_seq);
	r = kc_journal_anchor(kd, j->next_seq, KC_ANCHOR_CLEAN);
	if (r) {
		kc_error("cannot write the journal anchor");
		return r;
	}
	j->recovering = false;
	DMINFO("%s: recovered the key map from %llu journal blocks",
	       dm_device_name(kd->md), end - tail);
	return 0;
}

/**
 * kc_journal_init() - set up the journal
 * @kd:		the device
 *
 * Return: 0 or -ENOMEM.
 */
int kc_journal_init(struct kc_dev *kd)
{
	struct kc_journal *j = &kd->journal;

	j->buf = vmalloc(KC_JOURNAL_BATCH * KC_BLOCK_SIZE);
	j->snap = vmalloc(KC_WRITEBACK_BATCH * KC_BLOCK_SIZE);
	j->recovering = true;
	INIT_WORK(&j->work, kc_journal_work);
	INIT_DELAYED_WORK(&j->timer, kc_journal_timer);
	return j->buf && j->snap ? 0 : -ENOMEM;
}

/**
 * kc_journal_exit() - free the journal's memory
 * @kd:		the device, its workqueue empty
 */
void kc_journal_exit(struct kc_dev *kd)
{
	vfree(kd->journal.buf);
	vfree(kd->journal.snap);
}
