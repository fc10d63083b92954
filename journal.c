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
 * All of this is done by one worker, kc_journal.work.
 *
 * Documentation/journal.rst has the states, and the argument for each point where
 * power may go; tests/model/journal.pml is a model of this file: change both.
 */

#include <linux/completion.h>
#include <linux/vmalloc.h>

#include "compat.h"
#include "error.h"
#include "journal.h"
#include "trace.h"

#define KC_JOURNAL_BATCH	16	/* area blocks written at once */
#define KC_WRITEBACK_BATCH	32	/* map blocks written back at once */

/* How long a change may ride in memory; as ext4's commit interval. */
#define KC_COMMIT_INTERVAL	(5 * HZ)

/*
 * Journal blocks the intents of one write may need: a write of 1 MiB in blocks of
 * 512 bytes, every one from another owner than its neighbours.
 */
#define KC_INTENT_BLOCKS	(DIV_ROUND_UP(2 * 2048, KC_RECORDS_PER_BLOCK) + 1)

static u32 kc_mod64(u64 n, u32 d)
{
	u32 rem;

	div_u64_rem(n, d, &rem);
	return rem;
}

static struct kc_disk_journal *kc_journal_block(struct kc_journal *j, unsigned int i)
{
	return (void *)(j->buf + i * KC_BLOCK_SIZE + KC_NONCE_SIZE);
}

/* Forgets what is in the buffer; it is not sealed. */
static void kc_journal_drop(struct kc_journal *j)
{
	memzero_explicit(j->buf, j->fill * KC_BLOCK_SIZE);
	j->fill = 0;
}

/* Writes an anchor for the tail, or says why not. */
static int kc_journal_anchor(struct kc_journal *j, u64 tail, u32 flags)
{
	int r;

	if (READ_ONCE(j->failed))
		return -EIO;
	r = kc_area_write_anchor(j->area, tail, atomic64_read(&j->durable_seq), flags);
	if (r) {
		kc_area_fail(j->area, "journal anchor", r);
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

static int kc_write_snapshots(struct kc_journal *j, struct kc_mapblk **mbs,
			      unsigned int nr)
{
	struct kc_batch batch = { .pending = ATOMIC_INIT(1) };
	unsigned int i;

	init_completion(&batch.done);
	for (i = 0; i < nr; i++) {
		u8 *buf = j->snap + i * KC_BLOCK_SIZE;
		u64 area_block = j->area->layout.map + mbs[i]->index;
		struct dm_io_request req = {
			.bi_opf = REQ_OP_WRITE | REQ_META,
			.mem.type = DM_IO_VMA,
			.mem.ptr.vma = buf,
			.notify.fn = kc_dm_io_done(kc_batch_endio),
			.notify.context = &batch,
			.client = j->area->io,
		};
		struct dm_io_region where = {
			.bdev = j->area->bdev,
			.sector = j->area->start + area_block * KC_BLOCK_SECTORS,
			.count = KC_BLOCK_SECTORS,
		};

		atomic_inc(&batch.pending);
		if (kc_seal_block(&j->area->sealer, KC_KIND_MAP, area_block, buf) ||
		    kc_dm_io(&req, &where))
			kc_batch_endio(1, &batch);
	}
	kc_batch_put(&batch);
	wait_for_completion_io(&batch.done);
	return batch.failed ? -EIO : 0;
}

/* Are the intents of a map block still needed?  Its lock held. */
static bool kc_mapblk_held(const struct kc_mapblk *mb)
{
	lockdep_assert_held(&mb->lock);
	return mb->intents || test_bit(KC_MB_UNSETTLED, &mb->flags);
}

/*
 * Takes dirty map blocks, oldest change first, with a copy of their entries; not
 * those whose intents are needed.
 */
static unsigned int kc_snapshot(struct kc_journal *j, struct kc_mapblk **mbs)
{
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
			memcpy(kc_payload(buf, u),
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

/*
 * A flush of ours has succeeded; but one from above, which was sent before it ended, may
 * fail and have lost what ours has written: waits for these.  Return: 0 or -EIO.
 */
static int kc_flush_check(struct kc_journal *j)
{
	unsigned int old = j->flush_turn;

	WRITE_ONCE(j->flush_turn, !old);
	wait_event(j->flushes_ended, !atomic_read(&j->flushes[old]));
	return READ_ONCE(j->failed) ? -EIO : 0;
}

static int kc_flush(struct kc_journal *j, struct block_device *bdev)
{
	int r = blkdev_issue_flush(bdev);

	if (r)
		kc_journal_lost(j, r);
	return r ?: kc_flush_check(j);
}

/**
 * kc_writeback() - write map blocks back in place
 * @j:		the journal
 * @leave:	how many may stay dirty, besides those whose intents are needed
 *
 * Journal worker, or recovery.
 * Return: 0 or a negative errno.
 */
static int kc_writeback(struct kc_journal *j, unsigned int leave)
{
	struct kc_mapblk *mbs[KC_WRITEBACK_BATCH], *head;
	unsigned int nr, i;
	u64 seq, tail;
	int r = 0;

	while (j->nr_dirty > leave && !r) {
		if (READ_ONCE(j->area->mode) != KC_RW || bdev_read_only(j->area->bdev))
			return -EROFS;
		nr = kc_snapshot(j, mbs);
		if (!nr)
			break;
		seq = j->next_seq;
		r = kc_write_snapshots(j, mbs, nr);
		if (r)
			kc_area_fail(j->area, "key map", r);
		else
			r = kc_flush(j, j->area->bdev);
		if (!r) {
			kc_journal_flushed(j, seq);
			for (i = 0; i < nr; i++)
				if (!kc_area_test_state(j->area, mbs[i]->index))
					kc_area_set_state(j->area, mbs[i]->index);
			r = kc_area_write_state(j->area);
			if (r)
				kc_area_fail(j->area, "map state", r);
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
		wake_up_all(&j->map->idle);
		if (j->map->recovering)
			continue;
		tail = seq;
		if (!list_empty(&j->dirty)) {
			head = list_first_entry(&j->dirty, struct kc_mapblk,
						dirty_list);
			tail = head->first_seq;
		}
		if (tail != j->tail_seq)
			r = kc_journal_anchor(j, tail, 0);
	}
	return r;
}

/* ---- commit ---- */

static int kc_journal_reclaim(struct kc_journal *j);

/*
 * A commit of a map block's changes has ended: if @durable, what is in the journal is
 * durable, and settled; changes not in the journal yet are not.  Starts what
 * waits for it again.
 */
static void kc_mapblk_settle(struct kc_journal *j, struct kc_mapblk *mb, bool durable)
{
	spin_lock_irq(&mb->lock);
	if (durable &&
	    !bitmap_and(mb->unsettled, mb->unsettled, mb->unlogged, KC_ENTRIES) &&
	    test_and_clear_bit(KC_MB_UNSETTLED, &mb->flags))
		kc_mapblk_update_slow(mb);
	spin_unlock_irq(&mb->lock);
	j->settled(j, mb);
}

/*
 * Intents whose changes are durable in the journal are not needed any more; if
 * they could not be logged, what waits for that has to know.
 */
static void kc_journal_settled(struct kc_journal *j, bool durable)
{
	struct kc_mapblk *mb;

	list_for_each_entry(mb, &j->dirty, dirty_list)
		if (test_bit(KC_MB_UNSETTLED, &mb->flags))
			kc_mapblk_settle(j, mb, durable);
}

/*
 * Writes the filled blocks of the buffer.  What settles intents is made durable,
 * and the data before it.
 */
static int kc_journal_write(struct kc_journal *j, bool durable)
{
	u64 area_block = j->area->layout.journal +
			 kc_mod64(j->next_seq, j->area->layout.journal_blocks);
	blk_opf_t opf = REQ_OP_WRITE;
	u64 durable_seq = atomic64_read(&j->durable_seq);
	unsigned int i;
	int r;

	if (!j->fill)
		return 0;
	for (i = 0; i < j->fill; i++) {
		kc_journal_block(j, i)->durable = cpu_to_le64(durable_seq);
		r = kc_seal(&j->area->sealer, KC_KIND_JOURNAL,
			    (area_block + i) * KC_BLOCK_SECTORS,
			    j->buf + i * KC_BLOCK_SIZE, KC_BLOCK_SIZE);
		if (r)
			goto failed;
	}
	if (j->settling && !j->area->same_bdev) {
		r = kc_flush(j, j->area->data_bdev);
		if (r)
			goto failed;
	}
	if (durable || j->settling)
		opf |= REQ_FUA;
	if (j->settling || (durable && durable_seq != j->next_seq))
		opf |= REQ_PREFLUSH;
	r = kc_area_io(j->area, opf, area_block, j->buf, j->fill);
	if (!r && opf & REQ_PREFLUSH)
		r = kc_flush_check(j);
	trace_keyed_crypt_commit(j->area->md, j->next_seq, j->fill, r);
	if (r)
		goto failed;
	spin_lock_irq(&j->lock);
	j->next_seq += j->fill;
	spin_unlock_irq(&j->lock);
	j->fill = 0;
	if (opf & REQ_FUA)
		kc_journal_flushed(j, j->next_seq);
	if (j->settling)
		kc_journal_settled(j, true);
	j->settling = false;
	return 0;

failed:
	kc_area_fail(j->area, "journal", r);
	j->failed = true;
	j->settling = false;
	kc_journal_drop(j);
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
static int kc_journal_reserve(struct kc_journal *j, unsigned int nr)
{
	u32 blocks = j->area->layout.journal_blocks;
	struct kc_disk_journal *dj;
	u64 seq;
	int r;

	if (kc_journal_left(j) >= nr)
		return 0;
	seq = j->next_seq + j->fill;
	/* A write does not wrap. */
	if (j->fill == KC_JOURNAL_BATCH ||
	    (j->fill && !kc_mod64(seq, blocks))) {
		r = kc_journal_write(j, false);
		if (r)
			return r;
	}
	if (!j->reclaiming && seq - j->tail_seq >= blocks - blocks / 4 - 2) {
		r = kc_journal_reclaim(j);
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
static bool kc_journal_log(struct kc_journal *j, struct kc_mapblk *mb, bool all)
{
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
static int kc_journal_reclaim(struct kc_journal *j)
{
	struct kc_mapblk *mb;
	int r;

	r = kc_journal_write(j, false);
	if (r)
		return r;
	wait_event(j->intents_ended, !atomic_read(&j->nr_intents));
	j->reclaiming = true;
	list_for_each_entry(mb, &j->dirty, dirty_list) {
		if (!test_bit(KC_MB_UNSETTLED, &mb->flags))
			continue;
		do
			r = kc_journal_reserve(j, 1);
		while (!r && !kc_journal_log(j, mb, false));
		if (r)
			break;
	}
	if (!r)
		r = kc_journal_write(j, true);
	if (!r)
		r = kc_writeback(j, 0);
	j->reclaiming = false;
	return r;
}

/*
 * Before a clean journal is used, and when the system is back from hibernation: has another
 * instance used the disk meanwhile?  What is in memory is not true then.
 */
static int kc_journal_check_ours(struct kc_journal *j)
{
	int r = kc_area_check_anchor(j->area);

	if (r == -EREMOTE) {
		DMERR("%s: the journal anchor is not the one that was written: another system has used the disk",
		      dm_device_name(j->area->md));
		WRITE_ONCE(j->failed, true);
		kc_area_fail(j->area, "journal anchor", r);
	}
	return r;
}

static int kc_journal_begin(struct kc_journal *j)
{
	int r;

	if (j->failed)
		return -EIO;
	if (READ_ONCE(j->area->mode) != KC_RW)
		return -EIO;
	if (bdev_read_only(j->area->bdev))
		return -EROFS;
	if (!j->clean)
		return 0;
	r = kc_journal_check_ours(j);
	return r ?: kc_journal_anchor(j, j->tail_seq, 0);
}

/* Makes changes of the map durable, or at least logs them. */
static int kc_commit(struct kc_journal *j, struct list_head *unlogged, bool durable)
{
	struct kc_mapblk *mb;
	int r = 0;

	if (list_empty(unlogged)) {
		if (j->failed)
			return -EIO;
		if (!durable || atomic64_read(&j->durable_seq) == j->next_seq)
			return 0;
		r = kc_flush(j, j->area->bdev);
		if (!r)
			kc_journal_flushed(j, j->next_seq);
		return r;
	}
	r = kc_journal_begin(j);
	while (!r && !list_empty(unlogged)) {
		r = kc_journal_reserve(j, 1);
		if (r)
			break;
		mb = list_first_entry(unlogged, struct kc_mapblk, log_list);
		kc_journal_log(j, mb, true);
	}
	if (!r)
		r = kc_journal_write(j, durable);
	if (r) {
		/* A disk that is read-only for a while loses nothing. */
		if (r != -EROFS)
			j->failed = true;
		kc_journal_drop(j);
		kc_journal_settled(j, false);
	}
	return r;
}

/* ---- intents ---- */

/* Logs the intent of blocks of a claim that have the same old slot. */
static int kc_intent_log_run(struct kc_journal *j, struct kc_claim *claim,
			     unsigned int at, unsigned int nr, __le16 old)
{
	struct kc_disk_journal *dj;
	struct kc_disk_record *record;
	unsigned int n;
	u32 i;
	int r;

	for (; nr; nr -= n, at += n) {
		r = kc_journal_reserve(j, 2);
		if (r)
			return r;
		n = min(nr, (kc_journal_left(j) - 1) * KC_SUMS);
		dj = kc_journal_block(j, j->fill - 1);
		i = le32_to_cpu(dj->nr_records);
		record = &dj->records[i];
		record->block = cpu_to_le64((claim->block + at) |
				(u64)KC_RECORD_INTENT << KC_RECORD_TYPE_SHIFT);
		record->count = cpu_to_le32(n);
		record->slot = cpu_to_le16(claim->slot);
		record->old = old;
		claim->ops->sums(claim, at, n, (__le64 *)(record + 1));
		dj->nr_records = cpu_to_le32(i + 1 + DIV_ROUND_UP(n, KC_SUMS));
	}
	return 0;
}

/* The blocks of @claim are busy, so their entries stay. */
static int kc_intent_log(struct kc_journal *j, struct kc_claim *claim)
{
	struct kc_mapblk *mb = claim->mb;
	unsigned int at, n;
	__le16 *entries = mb->entries + claim->first;
	int r;

	/* From its first intent on, the tail stays before it. */
	r = kc_journal_reserve(j, 2);
	if (r)
		return r;
	spin_lock_irq(&mb->lock);
	mb->intents++;
	kc_mapblk_dirty(j, mb, le64_to_cpu(kc_journal_block(j, j->fill - 1)->seq));
	spin_unlock_irq(&mb->lock);
	atomic_inc(&j->nr_intents);
	claim->flags |= KC_CLAIM_INTENT;

	for (at = 0; at < claim->nr; at += n) {
		for (n = 1; at + n < claim->nr && entries[at + n] == entries[at]; n++)
			;
		if (!kc_slot_kept(j->area, le16_to_cpu(entries[at])) ||
		    entries[at] == cpu_to_le16(claim->slot))
			continue;
		r = kc_intent_log_run(j, claim, at, n, entries[at]);
		if (r)
			return r;
		/*
		 * The intent has logged the old entries, too.  Logged behind it
		 * they would say what is not true any more when the data is there.
		 */
		spin_lock_irq(&mb->lock);
		bitmap_clear(mb->unlogged, claim->first + at, n);
		spin_unlock_irq(&mb->lock);
	}
	return 0;
}

/* Makes intents durable and lets their claims go on. */
static void kc_intents_go(struct kc_journal *j, struct list_head *ready, int error)
{
	struct kc_claim *claim, *tmp;

	if (!error)
		error = kc_journal_write(j, true);
	kc_journal_drop(j);
	list_for_each_entry_safe(claim, tmp, ready, list) {
		list_del_init(&claim->list);
		claim->ops->intended(claim, error ? -EIO : 0);
	}
}

static void kc_intents(struct kc_journal *j, struct list_head *intents)
{
	struct kc_claim *claim, *tmp;
	LIST_HEAD(ready);
	int r;

	if (list_empty(intents))
		return;
	r = kc_journal_begin(j);
	list_for_each_entry_safe(claim, tmp, intents, list) {
		if (j->failed)
			r = -EIO;
		if (!r && j->next_seq + j->fill - j->tail_seq + KC_INTENT_BLOCKS >
			  j->area->layout.journal_blocks / 2) {
			kc_intents_go(j, &ready, 0);
			r = kc_journal_reclaim(j);
		}
		if (!r)
			r = kc_intent_log(j, claim);
		list_move_tail(&claim->list, &ready);
	}
	kc_intents_go(j, &ready, r);
}

/* ---- the worker ---- */

/* Ends those who wait for a commit, or for the checkpoint behind it. */
static void kc_journal_answer(struct kc_journal *j, struct list_head *waiters,
			      bool checkpoint, int error)
{
	struct kc_waiter *waiter, *tmp;

	list_for_each_entry_safe(waiter, tmp, waiters, list) {
		if (waiter->checkpoint != checkpoint)
			continue;
		list_del_init(&waiter->list);
		waiter->done(waiter, error, j->next_seq);
	}
}

/* Writes map blocks back: all for a checkpoint, else as many as there is need. */
static int kc_journal_clean(struct kc_journal *j, bool checkpoint, bool kicked)
{
	unsigned int leave = j->map->max_blocks / 2;
	int r;

	if (j->next_seq - j->tail_seq > j->area->layout.journal_blocks / 2)
		leave = j->nr_dirty / 2;
	if (kicked)
		leave = min(leave, j->nr_dirty / 2);
	r = kc_writeback(j, checkpoint ? 0 : leave);
	if (checkpoint && !r && !j->failed && !j->nr_dirty &&
	    j->area->mode == KC_RW && !j->clean)
		r = kc_journal_anchor(j, j->next_seq, KC_ANCHOR_CLEAN);
	return r;
}

static void kc_journal_work(struct work_struct *work)
{
	struct kc_journal *j = container_of(work, struct kc_journal, work);
	bool durable, kicked, checkpoint = false, check = false;
	struct kc_waiter *waiter;
	LIST_HEAD(unlogged);
	LIST_HEAD(waiters);
	LIST_HEAD(intents);
	int r = 0, w;

	spin_lock_irq(&j->lock);
	list_splice_init(&j->unlogged, &unlogged);
	list_splice_init(&j->waiters, &waiters);
	list_splice_init(&j->intents, &intents);
	durable = j->timed || !j->area->same_bdev;
	kicked = j->kicked;
	j->timed = false;
	j->kicked = false;
	j->committing = true;
	spin_unlock_irq(&j->lock);

	list_for_each_entry(waiter, &waiters, list) {
		durable |= waiter->durable;
		checkpoint |= waiter->checkpoint;
		check |= waiter->check;
	}
	/*
	 * Intents alone need no commit of what else has changed; but what is
	 * parked behind unsettled blocks does.
	 */
	if (durable || kicked || !list_empty(&waiters))
		r = kc_commit(j, &unlogged, durable);

	spin_lock_irq(&j->lock);
	list_splice(&unlogged, &j->unlogged);	/* what could not be logged */
	j->committing = false;
	spin_unlock_irq(&j->lock);
	if (r == -EROFS)
		queue_delayed_work(j->wq, &j->timer, KC_COMMIT_INTERVAL);

	if (check && !r)
		r = kc_journal_check_ours(j);
	kc_journal_answer(j, &waiters, false, r);
	kc_intents(j, &intents);
	w = kc_journal_clean(j, checkpoint, kicked);
	kc_journal_answer(j, &waiters, true, r ?: w);
}

/* Gives the worker something to do: @flag set, or @entry on @list. */
static void kc_journal_ask(struct kc_journal *j, bool *flag,
			   struct list_head *entry, struct list_head *list)
{
	unsigned long flags;

	spin_lock_irqsave(&j->lock, flags);
	if (flag)
		*flag = true;
	if (entry)
		list_add_tail(entry, list);
	/* Under the lock: without it who waits may be served, and the device gone. */
	queue_work(j->wq, &j->work);
	spin_unlock_irqrestore(&j->lock, flags);
}

static void kc_journal_timer(struct work_struct *work)
{
	kc_journal_hurry(container_of(to_delayed_work(work), struct kc_journal,
				      timer));
}

/* ---- what others call ---- */

/**
 * kc_journal_note() - a map block has its first change not in the journal
 * @j:		the journal
 * @mb:		the map block, its lock held and KC_MB_UNLOGGED just set
 *
 * Any context.
 */
void kc_journal_note(struct kc_journal *j, struct kc_mapblk *mb)
{
	unsigned long flags;

	spin_lock_irqsave(&j->lock, flags);
	list_add_tail(&mb->log_list, &j->unlogged);
	spin_unlock_irqrestore(&j->lock, flags);
	queue_delayed_work(j->wq, &j->timer, KC_COMMIT_INTERVAL);
}

/**
 * kc_journal_idle() - is every change in the journal?
 * @j:		the journal
 * @seq:	gets what a flush that is sent now makes durable
 *
 * If so, a cache flush makes them durable.  Any context.
 * Return: true if it is.
 */
bool kc_journal_idle(struct kc_journal *j, u64 *seq)
{
	unsigned long flags;
	bool idle;

	spin_lock_irqsave(&j->lock, flags);
	idle = list_empty(&j->unlogged) && !j->committing && !j->failed &&
	       (j->area->same_bdev || atomic64_read(&j->durable_seq) == j->next_seq);
	*seq = j->next_seq;
	spin_unlock_irqrestore(&j->lock, flags);
	return idle;
}

/**
 * kc_journal_durable() - is every change durable?
 * @j:		the journal
 *
 * Any context.
 * Return: true if it is.
 */
bool kc_journal_durable(struct kc_journal *j)
{
	unsigned long flags;
	bool durable;

	spin_lock_irqsave(&j->lock, flags);
	durable = list_empty(&j->unlogged) && !j->committing && !j->failed &&
		  atomic64_read(&j->durable_seq) == j->next_seq;
	spin_unlock_irqrestore(&j->lock, flags);
	return durable;
}

/**
 * kc_journal_wait() - wait for a commit that begins from now on
 * @j:		the journal
 * @waiter:	who waits; waiter->done() comes in process context
 *
 * Any context.
 */
void kc_journal_wait(struct kc_journal *j, struct kc_waiter *waiter)
{
	kc_journal_ask(j, NULL, &waiter->list, &j->waiters);
}

/**
 * kc_journal_intend() - log the intent of a change
 * @j:		the journal
 * @claim:	the change of assigned blocks; claim->ops->intended() comes when it may
 *		write its data
 *
 * Any context.
 */
void kc_journal_intend(struct kc_journal *j, struct kc_claim *claim)
{
	kc_journal_ask(j, NULL, &claim->list, &j->intents);
}

/**
 * kc_journal_intent_ended() - the data of a change with an intent is written, or not
 * @j:		the journal
 *
 * Any context.
 */
void kc_journal_intent_ended(struct kc_journal *j)
{
	if (atomic_dec_and_test(&j->nr_intents))
		wake_up_all(&j->intents_ended);
}

/**
 * kc_journal_hurry() - somebody waits for unsettled blocks
 * @j:		the journal
 *
 * Any context.
 */
void kc_journal_hurry(struct kc_journal *j)
{
	kc_journal_ask(j, &j->timed, NULL, NULL);
}

/**
 * kc_journal_flushed() - a cache flush of the metadata device has ended
 * @j:		the journal
 * @seq:	the journal's next_seq before it began
 *
 * Any context.
 * Return: 0, or -EIO if another one has failed before: the disk may have lost what
 * this one was for.
 */
int kc_journal_flushed(struct kc_journal *j, u64 seq)
{
	s64 old = atomic64_read(&j->durable_seq);

	if (READ_ONCE(j->failed))
		return -EIO;
	while (old < (s64)seq &&
	       !atomic64_try_cmpxchg(&j->durable_seq, &old, seq))
		;
	return 0;
}

/**
 * kc_journal_flush_begin() - a flush from above is about to be sent
 * @j:		the journal
 *
 * Any context.
 * Return: for kc_journal_flush_end().
 */
unsigned int kc_journal_flush_begin(struct kc_journal *j)
{
	unsigned int turn = READ_ONCE(j->flush_turn);

	atomic_inc(&j->flushes[turn]);
	return turn;
}

/**
 * kc_journal_flush_end() - it has ended
 * @j:		the journal
 * @turn:	from kc_journal_flush_begin()
 * @failed:	it has failed: nothing may be made durable from now on.  The caller
 *		calls kc_journal_lost(), too, where it may sleep
 *
 * Any context.
 */
void kc_journal_flush_end(struct kc_journal *j, unsigned int turn, bool failed)
{
	if (failed && READ_ONCE(j->area->mode) != KC_RO)
		WRITE_ONCE(j->failed, true);
	/* With a full barrier: who sees that it has ended sees that it has failed. */
	if (atomic_dec_and_test(&j->flushes[turn]))
		wake_up_all(&j->flushes_ended);
}

/**
 * kc_journal_lost() - a cache flush has failed
 * @j:		the journal
 * @error:	negative errno
 *
 * What the disk had accepted before may be lost, and the next flush succeed all
 * the same: nothing may be made durable behind it, as if it were there.
 * Process context.
 */
void kc_journal_lost(struct kc_journal *j, int error)
{
	if (READ_ONCE(j->area->mode) == KC_RO)
		return;
	WRITE_ONCE(j->failed, true);
	kc_area_fail(j->area, "disk's cache", error);
}

/**
 * struct kc_sync - a synchronous caller waits for the journal worker
 * @waiter:	in kc_journal.waiters
 * @done:	to wait for
 * @error:	result
 */
struct kc_sync {
	struct kc_waiter waiter;
	struct completion done;
	int error;
};

static void kc_sync_done(struct kc_waiter *waiter, int error, u64 seq)
{
	struct kc_sync *sync = container_of(waiter, struct kc_sync, waiter);

	sync->error = error;
	complete(&sync->done);
}

static int kc_journal_wait_sync(struct kc_journal *j, bool checkpoint, bool check)
{
	struct kc_sync sync = {
		.waiter = {
			.durable = true,
			.checkpoint = checkpoint,
			.check = check,
			.done = kc_sync_done,
		},
	};

	init_completion(&sync.done);
	kc_journal_wait(j, &sync.waiter);
	wait_for_completion(&sync.done);
	return sync.error;
}

/**
 * kc_journal_sync() - make the key map durable now
 * @j:		the journal
 * @checkpoint:	in place, with a clean journal
 *
 * Process context.
 * Return: 0 or a negative errno.
 */
int kc_journal_sync(struct kc_journal *j, bool checkpoint)
{
	return kc_journal_wait_sync(j, checkpoint, false);
}

/**
 * kc_journal_check() - has another system used the disk since this one wrote to it?
 * @j:		the journal
 *
 * If so, changes of the map are stopped.  Process context.
 * Return: 0 or a negative errno.
 */
int kc_journal_check(struct kc_journal *j)
{
	return kc_journal_wait_sync(j, false, true);
}

/**
 * kc_journal_busy() - may the worker be writing?
 * @j:		the journal of a device that has failed
 *
 * It does not begin to write again then.  Any context.
 * Return: true if it may.
 */
bool kc_journal_busy(struct kc_journal *j)
{
	return work_busy(&j->work) & WORK_BUSY_RUNNING;
}

/**
 * kc_journal_kick() - the cache needs clean blocks
 * @j:		the journal
 *
 * Any context.
 */
void kc_journal_kick(struct kc_journal *j)
{
	kc_journal_ask(j, &j->kicked, NULL, NULL);
}

/* ---- recovery ---- */

/* Which slot has the block an intent is about?  Or a negative errno. */
static int kc_replay_intent(struct kc_journal *j, u64 block, u64 sum, u16 slot, u16 old)
{
	struct dm_io_request req = {
		.bi_opf = REQ_OP_READ | REQ_SYNC,
		.mem.type = DM_IO_VMA,
		.mem.ptr.vma = j->snap,
		.client = j->area->io,
	};
	struct dm_io_region where = {
		.bdev = j->area->data_bdev,
		.sector = j->area->data_start + (block << j->area->block_shift),
		.count = j->area->sector_size >> SECTOR_SHIFT,
	};
	int r = kc_dm_io(&req, &where);

	if (r)		/* It has consequences: once more. */
		r = kc_dm_io(&req, &where);
	if (r == -ENOMEM)
		return r;
	if (r) {
		DMWARN_LIMIT("%s: block %llu cannot be read (%d) to see whose it is: it keeps slot %u",
			     dm_device_name(j->area->md), block, r, old);
		return old;
	}
	return kc_sum(&j->area->sealer, j->snap, j->area->sector_size) == sum ? slot : old;
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
static bool kc_record_valid(struct kc_journal *j, const struct kc_disk_record *record,
			    u32 left)
{
	u64 word = le64_to_cpu(record->block);
	u64 block = word & KC_RECORD_BLOCK_MASK;
	u32 count = le32_to_cpu(record->count);
	bool intent = kc_record_is_intent(record);

	return (intent || word >> KC_RECORD_TYPE_SHIFT == KC_RECORD_MAP) &&
	       !(word & ~KC_RECORD_BLOCK_MASK & ~(0xffULL << KC_RECORD_TYPE_SHIFT)) &&
	       block < j->area->nr_blocks && count && count <= j->area->nr_blocks - block &&
	       le16_to_cpu(record->slot) < j->area->nr_slots &&
	       le16_to_cpu(record->old) < j->area->nr_slots &&
	       (intent || !record->old) && kc_record_len(record) <= left;
}

/* Can the map blocks a valid record names be read? */
static int kc_record_load(struct kc_journal *j, const struct kc_disk_record *record)
{
	u64 block = le64_to_cpu(record->block) & KC_RECORD_BLOCK_MASK;
	struct kc_mapblk *mb;
	unsigned int entry;
	u32 index, last;

	index = kc_map_index(block, &entry);
	last = kc_map_index(block + le32_to_cpu(record->count) - 1, &entry);
	for (; index <= last; index++) {
		mb = kc_mapblk_get(j->map, index);
		if (IS_ERR(mb)) {
			kc_error("cannot load map block %u for recovery", index);
			return PTR_ERR(mb);
		}
		kc_mapblk_put(j->map, mb);
		cond_resched();
	}
	return 0;
}

/* Can all of a journal block be applied? */
static int kc_disk_journal_check(struct kc_journal *j,
				 const struct kc_disk_journal *dj, u64 seq)
{
	u32 nr = le32_to_cpu(dj->nr_records), i;
	int r;

	if (nr > KC_RECORDS_PER_BLOCK) {
		kc_error("journal block %llu has %u records, at most %zu fit",
			 seq, nr, (size_t)KC_RECORDS_PER_BLOCK);
		return -EINVAL;
	}
	for (i = 0; i < nr; i += kc_record_len(&dj->records[i])) {
		if (!kc_record_valid(j, &dj->records[i], nr - i)) {
			kc_error("journal block %llu has an impossible record", seq);
			return -EINVAL;
		}
		r = kc_record_load(j, &dj->records[i]);
		if (r)
			return r;
	}
	return 0;
}

/* Applies a record that has been checked.  Return: 0 or a negative errno. */
static int kc_replay_record(struct kc_journal *j, const struct kc_disk_record *record,
			    u64 seq)
{
	u64 word = le64_to_cpu(record->block);
	u64 block = word & KC_RECORD_BLOCK_MASK;
	u32 count = le32_to_cpu(record->count), i;
	u16 slot = le16_to_cpu(record->slot), old = le16_to_cpu(record->old);
	const struct kc_disk_sums *sums = (const void *)(record + 1);
	bool intent = kc_record_is_intent(record);
	struct kc_mapblk *mb;
	unsigned int first;
	u32 index;
	int r;

	for (i = 0; i < count; i++, block++) {
		r = slot;
		if (intent)
			r = kc_replay_intent(j, block,
					     le64_to_cpu(sums[i / KC_SUMS].sum[i % KC_SUMS]),
					     slot, old);
		if (r < 0)
			return r;
		index = kc_map_index(block, &first);
		mb = kc_mapblk_get(j->map, index);
		if (IS_ERR(mb)) {
			kc_error("cannot load map block %u for recovery", index);
			return PTR_ERR(mb);
		}
		spin_lock_irq(&mb->lock);
		mb->entries[first] = cpu_to_le16(r);
		spin_unlock_irq(&mb->lock);
		kc_mapblk_dirty(j, mb, seq);
		kc_mapblk_put(j->map, mb);
		/* Leave room in the cache; read-only it may grow. */
		if (j->area->mode == KC_RW && j->nr_dirty > j->map->max_blocks / 2) {
			r = kc_writeback(j, 0);
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
 * @unreadable:	one could not be read
 */
struct kc_journal_reader {
	u64 at;
	unsigned int nr;
	bool unreadable;
};

/*
 * Reads the journal block @seq would be in.  Return: NULL if there is none in
 * its place, or it cannot be read.
 */
static const struct kc_disk_journal *
kc_journal_read(struct kc_journal *j, struct kc_journal_reader *reader, u64 seq)
{
	u32 pos = kc_mod64(seq, j->area->layout.journal_blocks);
	u64 area_block = j->area->layout.journal + pos;
	unsigned int i;
	int r;

	if (area_block < reader->at || area_block >= reader->at + reader->nr) {
		reader->at = area_block;
		reader->nr = min_t(u32, KC_JOURNAL_BATCH,
				   j->area->layout.journal_blocks - pos);
		r = kc_area_io(j->area, REQ_OP_READ, area_block, j->buf,
			       reader->nr);
		if (r) {	/* not for a neighbour's sake, nor for once */
			reader->nr = 1;
			r = kc_area_io(j->area, REQ_OP_READ, area_block, j->buf, 1);
		}
		if (r) {
			reader->nr = 0;
			reader->unreadable = true;
			DMWARN_LIMIT("%s: journal block %llu cannot be read (%d)",
				     dm_device_name(j->area->md), seq, r);
			return NULL;
		}
	}
	i = area_block - reader->at;
	if (kc_unseal(&j->area->sealer, KC_KIND_JOURNAL, area_block * KC_BLOCK_SECTORS,
		      j->buf + i * KC_BLOCK_SIZE, KC_BLOCK_SIZE))
		return NULL;
	return kc_journal_block(j, i);
}

/*
 * Finds the end of the journal: the first block from @tail on that is not there.
 * Changes nothing, so that a journal that must be refused is refused before
 * anything has been written.  Return: 0 or a negative errno with an error said.
 */
static int kc_journal_scan(struct kc_journal *j, u64 tail, u64 durable, u64 *end)
{
	struct kc_journal_reader reader = {};
	const struct kc_disk_journal *dj;
	bool ended = false;
	u64 seq;
	int r;

	for (seq = tail; seq - tail < j->area->layout.journal_blocks; seq++) {
		cond_resched();
		dj = kc_journal_read(j, &reader, seq);
		if (!ended && (!dj || le64_to_cpu(dj->seq) != seq)) {
			ended = true;
			*end = seq;
		}
		/* What comes behind the end must be from before a crash. */
		if (dj && (!ended || le64_to_cpu(dj->seq) > *end))
			durable = max(durable, le64_to_cpu(dj->durable));
		r = ended ? 0 : kc_disk_journal_check(j, dj, seq);
		if (r)
			return r;
	}
	if (!ended)
		*end = seq;
	if (*end >= durable)
		return 0;
	if (j->area->mode != KC_RO || !reader.unreadable) {
		kc_error("journal block %llu %s: all up to %llu were durable", *end,
			 reader.unreadable ? "cannot be read" : "is damaged", durable - 1);
		return reader.unreadable ? -EIO : -EBADMSG;
	}
	DMWARN("%s: journal block %llu cannot be read, all up to %llu were durable: blocks changed since read as before",
	       dm_device_name(j->area->md), *end, durable - 1);
	return 0;
}

/* Applies the journal blocks that kc_journal_scan() has found. */
static int kc_journal_replay(struct kc_journal *j, u64 tail, u64 end)
{
	struct kc_journal_reader reader = {};
	const struct kc_disk_journal *dj;
	u64 seq;
	u32 i;
	int r;

	for (seq = tail; seq < end; seq++) {
		cond_resched();
		dj = kc_journal_read(j, &reader, seq);
		if (!dj || le64_to_cpu(dj->seq) != seq) {
			kc_error("journal block %llu %s", seq, reader.unreadable ?
				 "cannot be read" : "changes from one read to the next");
			return reader.unreadable ? -EIO : -EBADMSG;
		}
		r = kc_disk_journal_check(j, dj, seq);
		for (i = 0; !r && i < le32_to_cpu(dj->nr_records);
		     i += kc_record_len(&dj->records[i]))
			r = kc_replay_record(j, &dj->records[i], seq);
		if (r)
			return r;
	}
	return 0;
}

/**
 * kc_journal_recover() - bring the key map up to date with the journal
 * @j:		the journal, its map empty
 *
 * Reads the anchor, and the journal if that does not say it is clean.  A crash
 * during recovery does no harm: the tail moves only at its end.  Process context.
 * Return: 0 or a negative errno with an error said.
 */
int kc_journal_recover(struct kc_journal *j)
{
	u64 tail, durable, end;
	u32 flags;
	int r;

	r = kc_area_read_anchor(j->area, &tail, &durable, &flags);
	if (r)
		return r;
	j->tail_seq = tail;
	j->next_seq = durable;
	atomic64_set(&j->durable_seq, durable);
	j->clean = flags & KC_ANCHOR_CLEAN;
	if (j->clean) {
		j->map->recovering = false;
		return 0;
	}
	r = kc_journal_scan(j, tail, durable, &end);
	if (!r)
		r = kc_journal_replay(j, tail, end);
	memzero_explicit(j->buf, KC_JOURNAL_BATCH * KC_BLOCK_SIZE);
	if (r)
		return r;
	if (j->area->mode != KC_RW) {
		j->map->recovering = false;
		return 0;
	}
	/*
	 * Blocks from before the crash may lie behind the end.  Skipping a round
	 * makes sure that none of them can follow a new one.
	 */
	r = kc_writeback(j, 0);
	if (r) {
		kc_error("cannot write the recovered key map");
		return r;
	}
	/* Content that intents were compared with may be in the cache only. */
	if (!j->area->same_bdev) {
		r = blkdev_issue_flush(j->area->data_bdev);
		if (r) {
			kc_error("cannot make the data durable the recovered key map speaks of");
			return r;
		}
	}
	j->next_seq = end + j->area->layout.journal_blocks;
	atomic64_set(&j->durable_seq, j->next_seq);
	r = kc_journal_anchor(j, j->next_seq, KC_ANCHOR_CLEAN);
	if (r) {
		kc_error("cannot write the journal anchor");
		return r;
	}
	j->map->recovering = false;
	DMINFO("%s: recovered the key map from %llu journal blocks",
	       dm_device_name(j->area->md), end - tail);
	return 0;
}

/**
 * kc_journal_setup() - set up what cannot fail
 * @j:		the journal, zeroed, but for j->wq
 * @area:	where it is; must live as long
 * @map:	what it makes durable; must live as long
 * @settled:	called when blocks of a map block have been settled, or cannot be;
 *		process context
 */
void kc_journal_setup(struct kc_journal *j, struct kc_area *area, struct kc_keymap *map,
		      void (*settled)(struct kc_journal *j, struct kc_mapblk *mb))
{
	j->area = area;
	j->map = map;
	j->settled = settled;
	spin_lock_init(&j->lock);
	INIT_LIST_HEAD(&j->unlogged);
	INIT_LIST_HEAD(&j->waiters);
	INIT_LIST_HEAD(&j->intents);
	INIT_LIST_HEAD(&j->dirty);
	init_waitqueue_head(&j->intents_ended);
	init_waitqueue_head(&j->flushes_ended);
	INIT_WORK(&j->work, kc_journal_work);
	INIT_DELAYED_WORK(&j->timer, kc_journal_timer);
}

/**
 * kc_journal_init() - allocate the journal's memory
 * @j:		the journal
 *
 * Return: 0 or -ENOMEM; kc_journal_exit() in any case.
 */
int kc_journal_init(struct kc_journal *j)
{
	j->buf = vmalloc(KC_JOURNAL_BATCH * KC_BLOCK_SIZE);
	j->snap = vmalloc(KC_WRITEBACK_BATCH * KC_BLOCK_SIZE);
	j->map->recovering = true;
	return j->buf && j->snap ? 0 : -ENOMEM;
}

/**
 * kc_journal_exit() - free the journal's memory
 * @j:		the journal, its workqueue empty
 */
void kc_journal_exit(struct kc_journal *j)
{
	vfree(j->buf);
	vfree(j->snap);
}
