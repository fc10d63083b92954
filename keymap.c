// SPDX-License-Identifier: GPL-2.0
/*
 * Data block -> key slot, in memory.
 *
 * The key map is cached in map blocks, a bounded number of them.  They are
 * found through a hash under RCU and are recycled, never freed, while the map
 * lives: a bio takes kc_mapblk.users first and then looks whether it has got what
 * it wanted.
 */

#include <linux/slab.h>

#include "error.h"
#include "keymap.h"

/* Present from the beginning, so that I/O makes progress without memory. */
#define KC_MIN_MAPBLKS	16

/* ---- memory ---- */

static struct kc_mapblk *kc_mapblk_alloc(struct kc_keymap *map, gfp_t gfp)
{
	struct kc_mapblk *mb = kzalloc(sizeof(*mb), gfp);

	if (!mb)
		return NULL;
	mb->entries = kmalloc(KC_BLOCK_SIZE, gfp);
	if (!mb->entries) {
		kfree(mb);
		return NULL;
	}
	mb->index = KC_NO_INDEX;
	spin_lock_init(&mb->lock);
	INIT_HLIST_NODE(&mb->hash);
	INIT_LIST_HEAD(&mb->parked);
	list_add_tail(&mb->list, &map->blocks);
	map->nr_blocks++;
	return mb;
}

static void kc_mapblk_free(struct kc_keymap *map, struct kc_mapblk *mb)
{
	list_del(&mb->list);
	map->nr_blocks--;
	kfree_sensitive(mb->entries);
	kfree(mb);
}

static struct kc_map_hash *kc_map_hash_alloc(unsigned int max_blocks)
{
	unsigned int bits = ilog2(roundup_pow_of_two(max_blocks));
	struct kc_map_hash *hash;

	hash = kvzalloc(struct_size(hash, bucket, 1UL << bits), GFP_KERNEL);
	if (hash)
		hash->bits = bits;
	return hash;
}

/**
 * kc_keymap_setup() - set up what cannot fail
 * @map:	the key map, zeroed
 * @area:	where it is on disk; must live as long
 * @want_clean:	called when clean map blocks are needed; any context
 */
void kc_keymap_setup(struct kc_keymap *map, struct kc_area *area,
		     void (*want_clean)(struct kc_keymap *map))
{
	map->area = area;
	map->want_clean = want_clean;
	mutex_init(&map->lock);
	INIT_LIST_HEAD(&map->blocks);
	init_waitqueue_head(&map->idle);
	init_waitqueue_head(&map->loaded);
}

/**
 * kc_keymap_init() - allocate the cache
 * @map:	the key map
 * @max_blocks:	bound on the map blocks in memory
 *
 * Process context.
 * Return: 0 or -ENOMEM; kc_keymap_exit() in any case.
 */
int kc_keymap_init(struct kc_keymap *map, unsigned int max_blocks)
{
	unsigned int i;

	map->max_blocks = max_t(unsigned int, max_blocks, KC_MIN_MAPBLKS);
	RCU_INIT_POINTER(map->hash, kc_map_hash_alloc(map->max_blocks));
	if (!rcu_access_pointer(map->hash) ||
	    mempool_init_page_pool(&map->load_pool, 2, 0))
		return -ENOMEM;
	for (i = 0; i < KC_MIN_MAPBLKS; i++)
		if (!kc_mapblk_alloc(map, GFP_KERNEL))
			return -ENOMEM;
	return 0;
}

/**
 * kc_keymap_exit() - free the cache
 * @map:	the key map, without bios and with the journal idle
 */
void kc_keymap_exit(struct kc_keymap *map)
{
	struct kc_mapblk *mb, *tmp;

	list_for_each_entry_safe(mb, tmp, &map->blocks, list)
		kc_mapblk_free(map, mb);
	mempool_exit(&map->load_pool);
	kvfree(rcu_access_pointer(map->hash));
	mutex_destroy(&map->lock);
}

/* ---- finding map blocks ---- */

/**
 * kc_mapblk_unpin() - drop a pin
 * @map:	the key map
 * @mb:		the map block
 *
 * Any context.
 */
void kc_mapblk_unpin(struct kc_keymap *map, struct kc_mapblk *mb)
{
	if (atomic_dec_and_test(&mb->pins) && wq_has_sleeper(&map->idle))
		wake_up_all(&map->idle);
}

/*
 * Does anybody hold a map block?  Users become pins (a claim is parked, or a change), and
 * the pin of a parked claim users, with a full barrier before what was held is
 * dropped; so it is not missed on its way (evict-pins, evict-grant).  In
 * kc_mapblk_get() a pin becomes users, too, and VALID is looked at.
 */
static bool kc_mapblk_held(const struct kc_mapblk *mb)
{
	if (atomic_read(&mb->users))
		return true;
	smp_rmb();	/* users before pins: evict-pins */
	if (atomic_read(&mb->pins))
		return true;
	smp_rmb();	/* pins before users: evict-grant */
	return atomic_read(&mb->users);
}

/* Is it in use?  The pin of a change becomes UNLOGGED, with a full barrier between. */
static bool kc_mapblk_in_use(const struct kc_mapblk *mb)
{
	const unsigned long in_use = BIT(KC_MB_LOADING) | BIT(KC_MB_UNLOGGED) |
				     BIT(KC_MB_DIRTY) | BIT(KC_MB_WRITING);

	if (kc_mapblk_held(mb))
		return true;
	smp_rmb();	/* pins before flags: evict-flags */
	return READ_ONCE(mb->flags) & in_use;
}

/* Takes an unused clean map block out of the hash; map->lock held. */
static bool kc_mapblk_evict(struct kc_mapblk *mb)
{
	bool valid;

	/* What is plainly in use stays VALID all the time. */
	if (kc_mapblk_in_use(mb))
		return false;
	valid = test_and_clear_bit(KC_MB_VALID, &mb->flags);
	smp_mb__after_atomic();	/* before users: with kc_mapblk_get_fast() */
	if (kc_mapblk_in_use(mb)) {
		if (valid)
			set_bit(KC_MB_VALID, &mb->flags);
		return false;
	}
	hlist_del_init_rcu(&mb->hash);
	WRITE_ONCE(mb->index, KC_NO_INDEX);
	return true;
}

/* The hash as it is with map->lock held */
static struct kc_map_hash *kc_map_hash(struct kc_keymap *map)
{
	return rcu_dereference_protected(map->hash, lockdep_is_held(&map->lock));
}

/*
 * Moves all map blocks to a larger hash; map->lock held.  Who looks meanwhile may not find one, and
 * looks again with the lock held.  Return: the old one, to be freed after a grace period.
 */
static struct kc_map_hash *kc_keymap_rehash(struct kc_keymap *map)
{
	struct kc_map_hash *old = kc_map_hash(map), *new = NULL;
	struct kc_mapblk *mb;

	if (map->max_blocks > 1UL << old->bits)
		new = kc_map_hash_alloc(map->max_blocks);
	if (!new)
		return NULL;	/* without memory the old one does, more slowly */
	list_for_each_entry(mb, &map->blocks, list) {
		if (mb->index == KC_NO_INDEX)
			continue;
		hlist_del_init_rcu(&mb->hash);
		hlist_add_head_rcu(&mb->hash, kc_bucket(new, mb->index));
	}
	rcu_assign_pointer(map->hash, new);
	return old;
}

/**
 * kc_keymap_resize() - set the bound of the cache
 * @map:	the key map
 * @max_blocks:	bound on the map blocks in memory
 *
 * Frees what is beyond a lower bound and not in use; the journal does not write
 * back for that.  Process context.
 */
void kc_keymap_resize(struct kc_keymap *map, unsigned int max_blocks)
{
	struct kc_mapblk *mb, *tmp;
	struct kc_map_hash *old;
	LIST_HEAD(unused);
	unsigned int excess;

	mutex_lock(&map->lock);
	map->max_blocks = max_t(unsigned int, max_blocks, KC_MIN_MAPBLKS);
	old = kc_keymap_rehash(map);
	excess = map->nr_blocks - min(map->nr_blocks, map->max_blocks);
	list_for_each_entry_safe(mb, tmp, &map->blocks, list) {
		if (!excess)
			break;
		if (kc_mapblk_evict(mb)) {
			list_move(&mb->list, &unused);
			excess--;
		}
	}
	if (old || !list_empty(&unused))
		synchronize_rcu();	/* nobody is looking at them any more */
	kvfree(old);
	list_for_each_entry_safe(mb, tmp, &unused, list)
		kc_mapblk_free(map, mb);
	mutex_unlock(&map->lock);
}

/* A map block to load something into; map->lock held. */
static struct kc_mapblk *kc_mapblk_take(struct kc_keymap *map)
{
	const gfp_t gfp = GFP_NOIO | __GFP_NORETRY | __GFP_NOWARN;
	struct kc_mapblk *mb, *tmp, *taken = NULL;
	unsigned int i;

	if (map->nr_blocks < map->max_blocks) {
		/* Unused ones are in front. */
		mb = list_first_entry(&map->blocks, struct kc_mapblk, list);
		if (mb->index == KC_NO_INDEX && kc_mapblk_evict(mb)) {
			list_move_tail(&mb->list, &map->blocks);
			return mb;
		}
		mb = kc_mapblk_alloc(map, gfp);
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
	else if (map->area->mode == KC_RO)
		/* What recovery changed cannot be written: let it grow. */
		taken = kc_mapblk_alloc(map, gfp);
	return taken;
}

/* Reads a map block's entries into @entries, by way of @buf. */
static int kc_map_read(struct kc_keymap *map, u32 index, __le16 *entries, u8 *buf)
{
	struct kc_area *area = map->area;
	u64 area_block = area->layout.map + index;
	unsigned int u;
	int r;

	if (!kc_area_test_state(area, index)) {
		memset(entries, 0, KC_ENTRIES * sizeof(*entries));
		return 0;
	}
	r = kc_area_io(area, REQ_OP_READ, area_block, buf, 1);
	for (u = 0; !r && u < KC_UNITS; u++)
		r = kc_unseal_to(&area->sealer, KC_KIND_MAP,
				 area_block * KC_BLOCK_SECTORS + u,
				 buf + u * KC_UNIT_SIZE, KC_UNIT_SIZE,
				 (u8 *)(entries + u * KC_ENTRIES_PER_UNIT));
	if (r && r != -ENOKEY)
		DMERR_LIMIT("%s: map block %u %s", dm_device_name(area->md), index,
			    r == -EBADMSG ? "is not authentic" : "cannot be read");
	return r;
}

/* Seals entries where they are, since their key goes; they are needed when it is back. */
static int kc_mapblk_seal(struct kc_keymap *map, struct kc_mapblk *mb)
{
	u8 *block = (u8 *)mb->entries;
	unsigned int u = KC_UNITS;

	while (u--)
		memmove(kc_payload(block, u), block + u * KC_UNIT_PAYLOAD, KC_UNIT_PAYLOAD);
	return kc_seal_block(&map->area->sealer, KC_KIND_MAP,
			     map->area->layout.map + mb->index, block);
}

static int kc_mapblk_unseal(struct kc_keymap *map, struct kc_mapblk *mb)
{
	u8 *block = (u8 *)mb->entries;
	unsigned int u;
	int r;

	r = kc_unseal_block(&map->area->sealer, KC_KIND_MAP,
			    map->area->layout.map + mb->index, block);
	for (u = 0; !r && u < KC_UNITS; u++)
		memmove(block + u * KC_UNIT_PAYLOAD, kc_payload(block, u), KC_UNIT_PAYLOAD);
	return r;
}

static int kc_mapblk_load(struct kc_keymap *map, struct kc_mapblk *mb)
{
	struct page *page;
	bool lost;
	int r;

	if (test_bit(KC_MB_SEALED, &mb->flags))
		return kc_mapblk_unseal(map, mb);
	page = mempool_alloc(&map->load_pool, GFP_NOIO);
	r = kc_map_read(map, mb->index, mb->entries, page_address(page));
	lost = map->recovering && r && r != -ENOMEM && r != -ENOKEY;
	if (lost)	/* It has consequences: once more. */
		r = kc_map_read(map, mb->index, mb->entries, page_address(page));
	mempool_free(page, &map->load_pool);
	/*
	 * In recovery the journal knows some of its entries, and the device needs
	 * no more.  The others are lost, or what the disk gives later would lack
	 * what is logged now.
	 */
	if (lost && r) {
		DMWARN("%s: map block %u is lost, but for what the journal has",
		       dm_device_name(map->area->md), mb->index);
		memset(mb->entries, 0xff, KC_ENTRIES * sizeof(*mb->entries));
		r = 0;
	}
	return r;
}

static struct kc_mapblk *kc_mapblk_find(struct kc_keymap *map, u32 index)
{
	struct kc_mapblk *mb;

	hlist_for_each_entry(mb, kc_bucket(kc_map_hash(map), index), hash)
		if (mb->index == index)
			return mb;
	return NULL;
}

/* Waits, having prepared to, for a map block that kc_mapblk_take() may get. */
static int kc_keymap_wait_clean(struct kc_keymap *map, struct wait_queue_entry *wait,
				unsigned int tries)
{
	if (!map->recovering) {
		map->want_clean(map);
		schedule_timeout(HZ / 10);
	}
	finish_wait(&map->idle, wait);
	if (map->recovering)
		return -ENOMEM;
	if (READ_ONCE(map->area->mode) == KC_FAILED || bdev_read_only(map->area->bdev))
		return -EIO;
	/* Read-only, what recovery changed stays for ever. */
	if (map->area->mode == KC_RO && tries == 100)
		return -ENOMEM;
	return 0;
}

/* Reads what the others wait for in kc_mapblk_get(); @mb is in the hash. */
static int kc_mapblk_fill(struct kc_keymap *map, struct kc_mapblk *mb)
{
	int r = kc_mapblk_load(map, mb);

	mutex_lock(&map->lock);
	if (r && test_bit(KC_MB_SEALED, &mb->flags)) {
		/* It stays as it is. */
	} else if (r) {
		hlist_del_init_rcu(&mb->hash);
		WRITE_ONCE(mb->index, KC_NO_INDEX);
		list_move(&mb->list, &map->blocks);
	} else {
		atomic_inc(&mb->users);
		set_bit(KC_MB_REFERENCED, &mb->flags);
		clear_bit(KC_MB_SEALED, &mb->flags);
		smp_mb__before_atomic();	/* entries before the mark */
		set_bit(KC_MB_VALID, &mb->flags);
	}
	smp_mb__before_atomic();	/* all before whoever waits goes on */
	clear_bit(KC_MB_LOADING, &mb->flags);
	mutex_unlock(&map->lock);
	atomic_dec(&mb->pins);
	wake_up_all(&map->loaded);
	return r;
}

/* Takes a map block that is in the hash.  Return: false if it is gone meanwhile. */
static bool kc_mapblk_take_found(struct kc_keymap *map, struct kc_mapblk *mb,
				 u32 index)
{
	wait_event(map->loaded, !test_bit(KC_MB_LOADING, &mb->flags));
	atomic_inc(&mb->users);
	smp_mb__after_atomic();	/* as in kc_mapblk_get_fast() */
	kc_mapblk_unpin(map, mb);
	if (kc_mapblk_is(mb, index)) {
		set_bit(KC_MB_REFERENCED, &mb->flags);
		return true;
	}
	/* Loading failed, or it was evicted before we got hold of it. */
	kc_mapblk_put(map, mb);
	return false;
}

/**
 * kc_mapblk_get() - find a map block, in memory or on disk
 * @map:	the key map
 * @index:	number of the map block
 *
 * Process context, not from within ->map(); sleeps.
 * Return: the map block with its users taken, or an ERR_PTR().
 */
struct kc_mapblk *kc_mapblk_get(struct kc_keymap *map, u32 index)
{
	unsigned int tries = 0;
	struct kc_mapblk *mb;
	DEFINE_WAIT(wait);
	int r;

	for (;;) {
		mutex_lock(&map->lock);
		if (map->closed) {
			mutex_unlock(&map->lock);
			return ERR_PTR(-ENOKEY);
		}
		mb = kc_mapblk_find(map, index);
		if (mb && (!test_bit(KC_MB_SEALED, &mb->flags) ||
			   test_bit(KC_MB_LOADING, &mb->flags))) {
			atomic_inc(&mb->pins);
			mutex_unlock(&map->lock);
			if (kc_mapblk_take_found(map, mb, index))
				return mb;
			continue;
		}
		if (mb)
			break;
		mb = kc_mapblk_take(map);
		if (mb) {
			WRITE_ONCE(mb->index, index);
			hlist_add_head_rcu(&mb->hash, kc_bucket(kc_map_hash(map), index));
			break;
		}
		/* All in use or dirty: write some back, and wait for any. */
		prepare_to_wait(&map->idle, &wait, TASK_UNINTERRUPTIBLE);
		mutex_unlock(&map->lock);
		r = kc_keymap_wait_clean(map, &wait, ++tries);
		if (r)
			return ERR_PTR(r);
	}
	atomic_inc(&mb->pins);
	set_bit(KC_MB_LOADING, &mb->flags);
	mutex_unlock(&map->lock);
	r = kc_mapblk_fill(map, mb);
	return r ? ERR_PTR(r) : mb;
}

/* ---- the whole map ---- */

static void kc_map_copy(__le16 *to, const struct kc_mapblk *mb)
{
	unsigned int i;

	for (i = 0; i < KC_ENTRIES; i++)
		to[i] = READ_ONCE(mb->entries[i]);
}

/*
 * Copies the entries of a map block, without bringing it into the cache.  What is in
 * memory counts, and eviction hides it for a moment from kc_mapblk_get_fast(); so if it is
 * not there, that is so only if it was not there under the lock, before and after
 * the disk has been read.
 */
static int kc_map_peek(struct kc_keymap *map, u32 index, __le16 *entries, u8 *buf)
{
	bool cached, read = false;
	struct kc_mapblk *mb;
	int r = 0;

	for (;;) {
		mutex_lock(&map->lock);
		cached = kc_mapblk_find(map, index);
		mutex_unlock(&map->lock);
		if (!cached && read)
			return r;
		if (cached)
			break;
		r = kc_map_read(map, index, entries, buf);
		read = true;
	}
	mb = kc_mapblk_get(map, index);
	if (IS_ERR(mb))
		return PTR_ERR(mb);
	kc_map_copy(entries, mb);
	kc_mapblk_put(map, mb);
	return 0;
}

/**
 * kc_keymap_count() - count the blocks of each slot
 * @map:	the key map
 * @counts:	area->nr_slots counters, zero; entries beyond are not counted
 *
 * Reads every map block ever written, without bringing them into the cache.
 * Changes meanwhile are counted or not.  Process context; gives up on a fatal
 * signal, or, with -EBUSY, when the device is to be suspended.
 * Return: 0 or a negative errno.
 */
int kc_keymap_count(struct kc_keymap *map, u64 *counts)
{
	struct kc_mapblk *mb;
	__le16 *entries;
	unsigned int i;
	u32 index;
	u8 *buf;
	u16 slot;
	int r = 0;

	buf = kmalloc(KC_BLOCK_SIZE, GFP_KERNEL);
	entries = kmalloc_array(KC_ENTRIES, sizeof(*entries), GFP_KERNEL);
	if (!buf || !entries)
		r = -ENOMEM;
	for (index = 0; !r && index < map->area->layout.map_blocks; index++) {
		mb = kc_mapblk_get_fast(map, index);
		if (mb) {
			kc_map_copy(entries, mb);
			kc_mapblk_put(map, mb);
		} else {
			r = kc_map_peek(map, index, entries, buf);
		}
		if (!r && fatal_signal_pending(current))
			r = -EINTR;
		else if (!r && READ_ONCE(map->suspending))
			r = -EBUSY;
		for (i = 0; !r && i < KC_ENTRIES; i++) {
			slot = le16_to_cpu(entries[i]);
			if (slot < map->area->nr_slots)
				counts[slot]++;
		}
		cond_resched();
	}
	kfree_sensitive(entries);
	kfree(buf);
	return r;
}

/* What the map holds of a map block leaves memory; map->lock held. */
static bool kc_mapblk_close(struct kc_keymap *map, struct kc_mapblk *mb)
{
	if (kc_mapblk_evict(mb)) {
		memzero_explicit(mb->entries, KC_BLOCK_SIZE);
		return true;
	}
	/* What could not be written is wanted when the key is back. */
	if (map->area->mode == KC_RW || test_bit(KC_MB_LOADING, &mb->flags) ||
	    test_bit(KC_MB_WRITING, &mb->flags))
		return false;
	if (test_bit(KC_MB_SEALED, &mb->flags))
		return true;
	clear_bit(KC_MB_VALID, &mb->flags);
	smp_mb__after_atomic();	/* before users: with kc_mapblk_get_fast() */
	if (!kc_mapblk_held(mb)) {
		set_bit(KC_MB_SEALED, &mb->flags);
		return !kc_mapblk_seal(map, mb);
	}
	set_bit(KC_MB_VALID, &mb->flags);
	return false;
}

/**
 * kc_keymap_close() - drop the map from memory, since the device key is gone
 * @map:	the key map; of a device that is read-write it is durable in place
 *
 * Only when it returns true may the sealing key be wiped: from then on, and until
 * kc_keymap_reopen(), no map block is loaded, so nobody has anything to
 * seal.  Process context.
 * Return: false if bios are still under way; try again.
 */
bool kc_keymap_close(struct kc_keymap *map)
{
	struct kc_mapblk *mb;
	bool all = true;

	mutex_lock(&map->lock);
	list_for_each_entry(mb, &map->blocks, list)
		if (mb->index != KC_NO_INDEX && !kc_mapblk_close(map, mb))
			all = false;
	WRITE_ONCE(map->closed, all);
	mutex_unlock(&map->lock);
	return all;
}

/**
 * kc_keymap_reopen() - the device key is back
 * @map:	the key map
 *
 * Process context.
 */
void kc_keymap_reopen(struct kc_keymap *map)
{
	if (!READ_ONCE(map->closed))
		return;
	mutex_lock(&map->lock);
	WRITE_ONCE(map->closed, false);
	mutex_unlock(&map->lock);
}
