// SPDX-License-Identifier: GPL-2.0
/*
 * Data block -> key slot, in memory.
 *
 * The key map is cached in map blocks, a bounded number of them.  They are
 * found through a hash under RCU and are recycled, never freed, while the map
 * lives: a bio takes kc_mapblk.io first and then looks whether it has got what
 * it wanted.
 *
 * Bios and the map:
 *
 *  - A read, or a write whose blocks all have its slot already, relies on the
 *    entries staying as they are and holds kc_mapblk.io while under way.
 *  - Any other write is a change.  It marks its blocks busy; a write that
 *    overlaps busy blocks is parked until they are free.  The entries change
 *    when the data has been written, before the bio completes.  Reads of blocks
 *    that were unassigned need not wait: they are zeros until then.
 *  - A change of assigned blocks (another owner's, or a discard) cannot be
 *    under way together with bios that rely on the entries.  It waits until
 *    kc_mapblk.io is zero, during which all bios for the map block are parked,
 *    and then only the ones that overlap.  The order of "take io, look at slow"
 *    and "set slow, look at io" makes sure that one sees the other.
 *  - After a strict change of owner its blocks are unsettled: only the checksum
 *    of the intent tells what they hold after a crash, so they cannot be written
 *    again before a commit has settled them.
 */

#include <linux/hash.h>
#include <linux/rculist.h>
#include <linux/slab.h>

#include "dm-keyed-crypt.h"

/* Present from the beginning, so that I/O makes progress without memory. */
#define KC_MIN_MAPBLKS	16

/* ---- memory ---- */

static struct kc_mapblk *kc_mapblk_alloc(struct kc_dev *kd, gfp_t gfp)
{
	struct kc_mapblk *mb = kzalloc(sizeof(*mb), gfp);

	if (!mb)
		return NULL;
	mb->entries = kmalloc_array(KC_ENTRIES, sizeof(*mb->entries), gfp);
	if (!mb->entries) {
		kfree(mb);
		return NULL;
	}
	mb->index = KC_NO_INDEX;
	spin_lock_init(&mb->lock);
	INIT_HLIST_NODE(&mb->hash);
	INIT_LIST_HEAD(&mb->waiters);
	list_add_tail(&mb->list, &kd->keymap.blocks);
	kd->keymap.nr_blocks++;
	return mb;
}

static void kc_mapblk_free(struct kc_keymap *map, struct kc_mapblk *mb)
{
	list_del(&mb->list);
	map->nr_blocks--;
	kfree(mb->entries);
	kfree(mb);
}

/**
 * kc_keymap_init() - set up the cache
 * @kd:		the device
 * @max_blocks:	bound on the map blocks in memory
 *
 * Process context.
 * Return: 0 or -ENOMEM.
 */
int kc_keymap_init(struct kc_dev *kd, unsigned int max_blocks)
{
	struct kc_keymap *map = &kd->keymap;
	unsigned int i;

	map->max_blocks = max_t(unsigned int, max_blocks, KC_MIN_MAPBLKS);
	map->hash_bits = ilog2(roundup_pow_of_two(map->max_blocks));
	map->hash = kvcalloc(1U << map->hash_bits, sizeof(*map->hash), GFP_KERNEL);
	if (!map->hash)
		return -ENOMEM;
	for (i = 0; i < KC_MIN_MAPBLKS; i++)
		if (!kc_mapblk_alloc(kd, GFP_KERNEL))
			return -ENOMEM;
	return 0;
}

/**
 * kc_keymap_exit() - free the cache
 * @kd:		the device, without bios and with the journal idle
 */
void kc_keymap_exit(struct kc_dev *kd)
{
	struct kc_keymap *map = &kd->keymap;
	struct kc_mapblk *mb, *tmp;

	list_for_each_entry_safe(mb, tmp, &map->blocks, list)
		kc_mapblk_free(map, mb);
	kvfree(map->hash);
}

static struct hlist_head *kc_bucket(struct kc_keymap *map, u32 index)
{
	return &map->hash[hash_32(index, map->hash_bits)];
}

/* ---- finding map blocks ---- */

static void kc_mapblk_unpin(struct kc_dev *kd, struct kc_mapblk *mb)
{
	if (atomic_dec_and_test(&mb->pins) && wq_has_sleeper(&kd->keymap.wait))
		wake_up_all(&kd->keymap.wait);
}

/**
 * kc_mapblk_get_fast() - find a map block in memory
 * @kd:		the device
 * @index:	number of the map block
 *
 * Any context.
 * Return: the map block with its io taken, to be dropped with kc_mapblk_put(),
 * or NULL.
 */
struct kc_mapblk *kc_mapblk_get_fast(struct kc_dev *kd, u32 index)
{
	struct kc_mapblk *mb;

	rcu_read_lock();
	hlist_for_each_entry_rcu(mb, kc_bucket(&kd->keymap, index), hash) {
		if (READ_ONCE(mb->index) != index)
			continue;
		atomic_inc(&mb->io);
		smp_mb__after_atomic();	/* with kc_mapblk_evict() and _drain() */
		if (likely(READ_ONCE(mb->index) == index &&
			   test_bit(KC_MB_VALID, &mb->flags))) {
			if (!test_bit(KC_MB_REFERENCED, &mb->flags))
				set_bit(KC_MB_REFERENCED, &mb->flags);
			rcu_read_unlock();
			return mb;
		}
		kc_mapblk_put(kd, mb);
		break;
	}
	rcu_read_unlock();
	return NULL;
}

/* Takes an unused clean map block out of the hash. */
static bool kc_mapblk_evict(struct kc_mapblk *mb)
{
	const unsigned long in_use = BIT(KC_MB_LOADING) | BIT(KC_MB_UNLOGGED) |
				     BIT(KC_MB_DIRTY) | BIT(KC_MB_WRITING);
	bool valid = test_and_clear_bit(KC_MB_VALID, &mb->flags);

	smp_mb__after_atomic();	/* with kc_mapblk_get_fast() */
	if (atomic_read(&mb->io) || atomic_read(&mb->pins) ||
	    READ_ONCE(mb->flags) & in_use) {
		if (valid)
			set_bit(KC_MB_VALID, &mb->flags);
		return false;
	}
	hlist_del_init_rcu(&mb->hash);
	WRITE_ONCE(mb->index, KC_NO_INDEX);
	return true;
}

/**
 * kc_keymap_resize() - set the bound of the cache
 * @kd:		the device
 * @max_blocks:	bound on the map blocks in memory
 *
 * Frees what is beyond a lower bound and not in use; the journal does not write
 * back for that.  Process context.
 */
void kc_keymap_resize(struct kc_dev *kd, unsigned int max_blocks)
{
	struct kc_keymap *map = &kd->keymap;
	struct kc_mapblk *mb, *tmp;
	LIST_HEAD(unused);
	unsigned int excess;

	mutex_lock(&map->lock);
	map->max_blocks = max_t(unsigned int, max_blocks, KC_MIN_MAPBLKS);
	excess = map->nr_blocks - min(map->nr_blocks, map->max_blocks);
	list_for_each_entry_safe(mb, tmp, &map->blocks, list) {
		if (!excess)
			break;
		if (kc_mapblk_evict(mb)) {
			list_move(&mb->list, &unused);
			excess--;
		}
	}
	if (!list_empty(&unused))
		synchronize_rcu();	/* nobody is looking at them any more */
	list_for_each_entry_safe(mb, tmp, &unused, list)
		kc_mapblk_free(map, mb);
	mutex_unlock(&map->lock);
}

/* A map block to load something into; kd->keymap.lock held. */
static struct kc_mapblk *kc_mapblk_take(struct kc_dev *kd)
{
	struct kc_keymap *map = &kd->keymap;
	struct kc_mapblk *mb, *tmp, *taken = NULL;
	unsigned int i;

	/* Read-only, what recovery changed cannot be written: let it grow. */
	if (map->nr_blocks < map->max_blocks || kd->mode == KC_RO) {
		/* Unused ones are in front. */
		mb = list_first_entry(&map->blocks, struct kc_mapblk, list);
		if (mb->index == KC_NO_INDEX && kc_mapblk_evict(mb)) {
			list_move_tail(&mb->list, &map->blocks);
			return mb;
		}
		mb = kc_mapblk_alloc(kd, GFP_NOIO | __GFP_NORETRY | __GFP_NOWARN);
		if (mb)
			return mb;
	}
	/* Second chance: once around clears the marks, once more must do. */
	for (i = 0; i < 2 && !taken; i++) {
		list_for_each_entry_safe(mb, tmp, &map->blocks, list) {
			if (mb->index != KC_NO_INDEX &&
			    test_and_clear_bit(KC_MB_REFERENCED, &mb->flags))
				continue;
			if (kc_mapblk_evict(mb)) {
				taken = mb;
				break;
			}
		}
	}
	if (taken)
		list_move_tail(&taken->list, &map->blocks);
	return taken;
}

static int kc_mapblk_load(struct kc_dev *kd, struct kc_mapblk *mb, u8 *buf)
{
	u64 area_block = kd->layout.map + mb->index;
	unsigned int u;
	int r;

	if (!kc_meta_test_state(kd, mb->index)) {
		memset(mb->entries, 0, KC_ENTRIES * sizeof(*mb->entries));
		return 0;
	}
	r = kc_meta_io(kd, REQ_OP_READ, area_block, buf, 1);
	if (!r)
		r = kc_unseal_block(&kd->sealer, KC_KIND_MAP, area_block, buf);
	if (r) {
		DMERR_LIMIT("%s: map block %u %s", dm_device_name(kd->md), mb->index,
			    r == -EBADMSG ? "is not authentic" : "cannot be read");
		return r;
	}
	for (u = 0; u < KC_UNITS; u++)
		memcpy(mb->entries + u * KC_ENTRIES_PER_UNIT,
		       buf + u * KC_UNIT_SIZE + KC_NONCE_SIZE, KC_UNIT_PAYLOAD);
	return 0;
}

static struct kc_mapblk *kc_mapblk_find(struct kc_keymap *map, u32 index)
{
	struct kc_mapblk *mb;

	hlist_for_each_entry(mb, kc_bucket(map, index), hash)
		if (mb->index == index)
			return mb;
	return NULL;
}

/**
 * kc_mapblk_get() - find a map block, in memory or on disk
 * @kd:		the device
 * @index:	number of the map block
 *
 * Process context, not from within ->map(); sleeps.
 * Return: the map block with its io taken, or an ERR_PTR().
 */
struct kc_mapblk *kc_mapblk_get(struct kc_dev *kd, u32 index)
{
	struct kc_keymap *map = &kd->keymap;
	unsigned int tries = 0;
	struct kc_mapblk *mb;
	DEFINE_WAIT(wait);
	struct page *page;
	int r;

again:
	mutex_lock(&map->lock);
	mb = kc_mapblk_find(map, index);
	if (mb) {
		atomic_inc(&mb->pins);
		mutex_unlock(&map->lock);
		wait_event(map->wait, !test_bit(KC_MB_LOADING, &mb->flags));
		atomic_inc(&mb->io);
		smp_mb__after_atomic();	/* as in kc_mapblk_get_fast() */
		kc_mapblk_unpin(kd, mb);
		if (READ_ONCE(mb->index) == index &&
		    test_bit(KC_MB_VALID, &mb->flags)) {
			set_bit(KC_MB_REFERENCED, &mb->flags);
			return mb;
		}
		/* Loading failed, or it was evicted before we got hold of it. */
		kc_mapblk_put(kd, mb);
		goto again;
	}
	if (!kd->sealer.ready) {
		mutex_unlock(&map->lock);
		return ERR_PTR(-ENOKEY);
	}
	mb = kc_mapblk_take(kd);
	if (!mb) {
		/* All in use or dirty: write some back, and wait for any. */
		if (kd->journal.recovering) {
			mutex_unlock(&map->lock);
			return ERR_PTR(-ENOMEM);
		}
		prepare_to_wait(&map->wait, &wait, TASK_UNINTERRUPTIBLE);
		mutex_unlock(&map->lock);
		kc_journal_kick(kd);
		schedule_timeout(HZ / 10);
		finish_wait(&map->wait, &wait);
		if (READ_ONCE(kd->mode) == KC_FAILED)
			return ERR_PTR(-EIO);
		/* Read-only, what recovery changed stays for ever. */
		if (kd->mode == KC_RO && ++tries == 100)
			return ERR_PTR(-ENOMEM);
		goto again;
	}
	atomic_inc(&mb->pins);
	set_bit(KC_MB_LOADING, &mb->flags);
	WRITE_ONCE(mb->index, index);
	hlist_add_head_rcu(&mb->hash, kc_bucket(map, index));
	mutex_unlock(&map->lock);

	page = mempool_alloc(&kd->load_pool, GFP_NOIO);
	r = kc_mapblk_load(kd, mb, page_address(page));
	mempool_free(page, &kd->load_pool);

	mutex_lock(&map->lock);
	if (r) {
		hlist_del_init_rcu(&mb->hash);
		WRITE_ONCE(mb->index, KC_NO_INDEX);
		list_move(&mb->list, &map->blocks);
	} else {
		atomic_inc(&mb->io);
		set_bit(KC_MB_REFERENCED, &mb->flags);
		smp_mb__before_atomic();	/* entries before the mark */
		set_bit(KC_MB_VALID, &mb->flags);
	}
	smp_mb__before_atomic();	/* all before whoever waits goes on */
	clear_bit(KC_MB_LOADING, &mb->flags);
	mutex_unlock(&map->lock);
	atomic_dec(&mb->pins);
	wake_up_all(&map->wait);
	return r ? ERR_PTR(r) : mb;
}

/* ---- entries ---- */

static bool kc_mapblk_busy(const struct kc_mapblk *mb, unsigned int first,
			   unsigned int nr)
{
	return find_next_bit(mb->busy, first + nr, first) < first + nr;
}

/* Who sees that it is not slow any more must see the entries as they are. */
static void kc_mapblk_update_slow(struct kc_mapblk *mb)
{
	bool slow = mb->draining || mb->reassigns ||
		    test_bit(KC_MB_UNSETTLED, &mb->flags);

	smp_store_release(&mb->slow, slow);	/* with kc_mapblk_claim_*() */
}

/* Parks a bio; mb->lock held.  Its io becomes a pin. */
static enum kc_claim kc_mapblk_park(struct kc_io *io)
{
	struct kc_mapblk *mb = io->mb;

	atomic_inc(&mb->pins);
	list_add_tail(&io->list, &mb->waiters);
	return KC_CLAIM_PARKED;
}

/* Starts parked bios again. */
static void kc_mapblk_restart(struct kc_dev *kd, struct list_head *waiters)
{
	struct kc_io *io, *tmp;

	list_for_each_entry_safe(io, tmp, waiters, list) {
		struct kc_mapblk *mb = io->mb;

		list_del_init(&io->list);
		io->mb = NULL;
		kc_io_queue(io);
		kc_mapblk_unpin(kd, mb);
	}
}

/**
 * kc_mapblk_claim_read_slow() - may a read rely on the entries?
 * @io:		the read, io->mb with its io taken
 *
 * Any context.
 * Return: KC_CLAIM_OWN, or KC_CLAIM_PARKED with the map block given away.
 */
enum kc_claim kc_mapblk_claim_read_slow(struct kc_io *io)
{
	struct kc_mapblk *mb = io->mb;
	enum kc_claim claim = KC_CLAIM_OWN;
	unsigned long flags;

	spin_lock_irqsave(&mb->lock, flags);
	if (mb->draining || kc_mapblk_busy(mb, io->first, io->nr))
		claim = kc_mapblk_park(io);
	spin_unlock_irqrestore(&mb->lock, flags);
	if (claim == KC_CLAIM_PARKED)
		kc_mapblk_put(io->t->kd, mb);
	return claim;
}

/**
 * kc_mapblk_claim_write() - claim the blocks of a write or discard
 * @io:		the write, io->mb with its io taken
 * @slot:	its key slot; KC_SLOT_NONE for a discard
 *
 * Any context.
 * Return: KC_CLAIM_OWN with io still taken; KC_CLAIM_CHANGE or KC_CLAIM_DRAIN
 * with the blocks busy and io dropped; KC_CLAIM_PARKED or KC_CLAIM_FAIL with
 * the map block given away.
 */
enum kc_claim kc_mapblk_claim_write(struct kc_io *io, u16 slot)
{
	struct kc_mapblk *mb = io->mb;
	struct kc_dev *kd = io->t->kd;
	/* A discard changes its blocks in any case: writes must not overtake it. */
	enum kc_claim claim = slot == KC_SLOT_NONE ? KC_CLAIM_CHANGE : KC_CLAIM_OWN;
	unsigned int i, reassigned = 0;
	unsigned long flags;
	u16 old;

	/* with kc_mapblk_update_slow() */
	if (likely(!smp_load_acquire(&mb->slow) && slot != KC_SLOT_NONE &&
		   kc_mapblk_run(mb, io->first, io->nr, &old) == io->nr &&
		   old == slot))
		return KC_CLAIM_OWN;

	spin_lock_irqsave(&mb->lock, flags);
	if (mb->draining || kc_mapblk_busy(mb, io->first, io->nr)) {
		claim = kc_mapblk_park(io);
		goto unlock;
	}
	if (find_next_bit(mb->unsettled, io->first + io->nr, io->first) <
	    io->first + io->nr) {
		if (READ_ONCE(kd->mode) == KC_RW) {
			claim = kc_mapblk_park(io);
			kc_journal_settle(kd);
		} else {
			claim = KC_CLAIM_FAIL;
		}
		goto unlock;
	}
	for (i = io->first; i < io->first + io->nr; i++) {
		old = kc_entry(mb, i);
		if (old == slot)
			continue;
		claim = KC_CLAIM_CHANGE;
		/* A discard takes the entries of destroyed owners away as well. */
		if (slot == KC_SLOT_NONE || !kc_slot_vacant(kd, old))
			reassigned++;
	}
	if (claim == KC_CLAIM_OWN)
		goto unlock;
	if (READ_ONCE(kd->mode) != KC_RW) {
		claim = KC_CLAIM_FAIL;
		goto unlock;
	}
	bitmap_set(mb->busy, io->first, io->nr);
	atomic_inc(&mb->pins);
	if (reassigned) {
		claim = KC_CLAIM_DRAIN;
		mb->draining++;
		mb->reassigns++;
		kc_mapblk_update_slow(mb);
		if (slot != KC_SLOT_NONE)
			atomic64_add(reassigned, &kd->reassigned);
	}
	io->reassign = reassigned;
unlock:
	spin_unlock_irqrestore(&mb->lock, flags);
	if (claim != KC_CLAIM_OWN)
		kc_mapblk_put(kd, mb);
	return claim;
}

/**
 * kc_mapblk_drain() - wait until no bio relies on the map block's entries
 * @io:		a claim that got KC_CLAIM_DRAIN
 *
 * Process context, not from within ->map(); sleeps.
 */
void kc_mapblk_drain(struct kc_io *io)
{
	struct kc_dev *kd = io->t->kd;
	struct kc_mapblk *mb = io->mb;
	LIST_HEAD(waiters);

	smp_mb();	/* slow is set before io is looked at */
	wait_event(kd->keymap.wait, !atomic_read(&mb->io));
	spin_lock_irq(&mb->lock);
	mb->draining--;
	kc_mapblk_update_slow(mb);
	list_splice_init(&mb->waiters, &waiters);
	spin_unlock_irq(&mb->lock);
	kc_mapblk_restart(kd, &waiters);
}

/* Changes entries; mb->lock held.  Return: whether the journal must know. */
static bool kc_mapblk_set(struct kc_mapblk *mb, unsigned int first,
			  unsigned int nr, u16 slot)
{
	__le16 entry = cpu_to_le16(slot);
	bool changed = false;
	unsigned int i;

	for (i = first; i < first + nr; i++) {
		if (mb->entries[i] == entry)
			continue;
		WRITE_ONCE(mb->entries[i], entry);
		__set_bit(i, mb->unlogged);
		changed = true;
	}
	return changed && !test_and_set_bit(KC_MB_UNLOGGED, &mb->flags);
}

/**
 * kc_mapblk_assign() - change entries
 * @kd:		the device
 * @mb:		map block, in use by the caller
 * @first:	first entry
 * @nr:		number of entries
 * @slot:	what they get
 *
 * Any context.
 */
void kc_mapblk_assign(struct kc_dev *kd, struct kc_mapblk *mb,
		      unsigned int first, unsigned int nr, u16 slot)
{
	unsigned long flags;

	spin_lock_irqsave(&mb->lock, flags);
	if (kc_mapblk_set(mb, first, nr, slot))
		kc_journal_note(kd, mb);
	spin_unlock_irqrestore(&mb->lock, flags);
}

/**
 * kc_mapblk_end_change() - a change has ended
 * @io:		it, which claimed its blocks and is done with the map block
 * @assign:	give the blocks io->slot
 *
 * Any context.
 */
void kc_mapblk_end_change(struct kc_io *io, bool assign)
{
	struct kc_dev *kd = io->t->kd;
	struct kc_mapblk *mb = io->mb;
	LIST_HEAD(waiters);
	unsigned long flags;
	unsigned int i;
	u16 old;

	spin_lock_irqsave(&mb->lock, flags);
	for (i = io->first; io->intent && assign && i < io->first + io->nr; i++) {
		old = kc_entry(mb, i);
		if (!kc_slot_vacant(kd, old) && old != io->slot)
			__set_bit(i, mb->unsettled);
	}
	if (io->intent) {
		mb->intents--;
		if (assign && !test_and_set_bit(KC_MB_UNSETTLED, &mb->flags))
			atomic_inc(&kd->journal.unsettled);
	}
	if (assign && kc_mapblk_set(mb, io->first, io->nr, io->slot))
		kc_journal_note(kd, mb);
	bitmap_clear(mb->busy, io->first, io->nr);
	if (io->reassign)
		mb->reassigns--;
	kc_mapblk_update_slow(mb);
	list_splice_init(&mb->waiters, &waiters);
	spin_unlock_irqrestore(&mb->lock, flags);
	kc_mapblk_restart(kd, &waiters);
	kc_mapblk_unpin(kd, mb);
}

/**
 * kc_mapblk_held() - does the journal have to keep this map block's intents?
 * @mb:		the map block, its lock held
 *
 * Return: true if it does.
 */
bool kc_mapblk_held(struct kc_mapblk *mb)
{
	lockdep_assert_held(&mb->lock);
	return mb->intents || test_bit(KC_MB_UNSETTLED, &mb->flags);
}

/**
 * kc_mapblk_settle() - a commit of a map block's changes has ended
 * @kd:		the device
 * @mb:		the map block
 * @durable:	what is in the journal is durable, and settled; changes not in
 *		the journal yet are not
 *
 * Starts what waits for it again.  Process context.
 */
void kc_mapblk_settle(struct kc_dev *kd, struct kc_mapblk *mb, bool durable)
{
	LIST_HEAD(waiters);

	spin_lock_irq(&mb->lock);
	if (durable &&
	    !bitmap_and(mb->unsettled, mb->unsettled, mb->unlogged, KC_ENTRIES) &&
	    test_and_clear_bit(KC_MB_UNSETTLED, &mb->flags)) {
		atomic_dec(&kd->journal.unsettled);
		kc_mapblk_update_slow(mb);
	}
	list_splice_init(&mb->waiters, &waiters);
	spin_unlock_irq(&mb->lock);
	kc_mapblk_restart(kd, &waiters);
}

/* ---- the whole map ---- */

/**
 * kc_keymap_count() - count the blocks of each slot
 * @kd:		the device
 * @counts:	kd->nr_slots counters, zero; entries beyond are not counted
 *
 * Reads every map block ever written, without bringing them into the cache.
 * Changes meanwhile are counted or not.  Process context; gives up on a fatal
 * signal.
 * Return: 0 or a negative errno.
 */
int kc_keymap_count(struct kc_dev *kd, u64 *counts)
{
	struct kc_mapblk copy = {}, *mb;
	unsigned int i;
	u32 index;
	u8 *buf;
	u16 slot;
	int r = 0;

	buf = kmalloc(KC_BLOCK_SIZE, GFP_KERNEL);
	copy.entries = kmalloc_array(KC_ENTRIES, sizeof(*copy.entries), GFP_KERNEL);
	if (!buf || !copy.entries) {
		r = -ENOMEM;
		goto out;
	}
	for (index = 0; index < kd->layout.map_blocks; index++) {
		mb = kc_mapblk_get_fast(kd, index);
		if (mb) {
			memcpy(copy.entries, mb->entries,
			       KC_ENTRIES * sizeof(*copy.entries));
			kc_mapblk_put(kd, mb);
		} else if (kc_meta_test_state(kd, index)) {
			copy.index = index;
			r = kc_mapblk_load(kd, &copy, buf);
		} else {
			continue;
		}
		if (!r && fatal_signal_pending(current))
			r = -EINTR;
		if (r)
			break;
		for (i = 0; i < KC_ENTRIES; i++) {
			slot = le16_to_cpu(copy.entries[i]);
			if (slot < kd->nr_slots)
				counts[slot]++;
		}
		cond_resched();
	}
out:
	kfree(copy.entries);
	kfree(buf);
	return r;
}

/**
 * kc_keymap_forget() - drop the map from memory
 * @kd:		the device, which takes no more bios
 *
 * Process context.
 * Return: false if bios are still under way or the map could not be made
 * durable; try again.
 */
bool kc_keymap_forget(struct kc_dev *kd)
{
	struct kc_keymap *map = &kd->keymap;
	struct kc_mapblk *mb;
	bool all = true;

	if (kc_journal_sync(kd, true) && kd->mode == KC_RW)
		return false;
	mutex_lock(&map->lock);
	list_for_each_entry(mb, &map->blocks, list) {
		if (mb->index == KC_NO_INDEX)
			continue;
		if (kc_mapblk_evict(mb))
			memzero_explicit(mb->entries,
					 KC_ENTRIES * sizeof(*mb->entries));
		else
			all = false;
	}
	mutex_unlock(&map->lock);
	return all || kd->mode != KC_RW;
}
