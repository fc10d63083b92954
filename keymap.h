/* SPDX-License-Identifier: GPL-2.0 */
/* Data block -> key slot, in memory: map blocks, and who waits for them. */
#ifndef _KC_KEYMAP_H
#define _KC_KEYMAP_H

#include <linux/atomic.h>
#include <linux/hash.h>
#include <linux/list.h>
#include <linux/mempool.h>
#include <linux/mutex.h>
#include <linux/rculist.h>
#include <linux/spinlock.h>
#include <linux/wait.h>

#include "format.h"
#include "metadata.h"

struct kc_claim;

enum kc_claimed {
	KC_CLAIMED,		/* entries are as wanted: go on, users are held */
	KC_CLAIMED_BUSY,	/* blocks are busy for us: go on */
	KC_CLAIMED_DRAINING,	/* same, after kc_claim_drain() */
	KC_CLAIMED_PARKED,	/* ops->claimed() comes, or has come */
	KC_CLAIMED_FAILED,	/* the map cannot be changed now */
};

/**
 * struct kc_claim_ops - what becomes of a claim that could not go on at once
 * @claimed:	it was parked, and need not wait any more: what kc_claim_write() would
 *		return, but not KC_CLAIMED_PARKED.  Any context, no lock held
 * @intended:	its intent is durable, or with an error is not; may allocate nothing
 *		that needs this device.  Process context
 * @sums:	asks for the sums of the new ciphertext of @nr of its blocks from the
 *		one with number @at on.  Process context
 */
struct kc_claim_ops {
	void (*claimed)(struct kc_claim *claim, enum kc_claimed claimed);
	void (*intended)(struct kc_claim *claim, int error);
	void (*sums)(struct kc_claim *claim, unsigned int at, unsigned int nr,
		     __le64 *sums);
};

enum kc_claim_flags {
	KC_CLAIM_CHANGE = 1,	/* it changes the key map: its blocks are busy */
	KC_CLAIM_REASSIGN = 2,	/* of blocks that were assigned */
	KC_CLAIM_INTENT = 4,	/* its intent is in the journal */
	KC_CLAIM_READ = 8,	/* of a read that has been parked */
};

/**
 * struct kc_claim - blocks of one map block that somebody reads, writes or changes
 * @list:	while parked, in kc_mapblk.parked; while its intent is being logged, the
 *		journal's
 * @mb:		the map block
 * @ops:	how it goes on; only what has to wait needs it
 * @block:	first data block
 * @first:	its entry in @mb
 * @nr:		number of blocks
 * @slot:	what they get
 * @flags:	enum kc_claim_flags
 * @claimed:	on its way from kc_mapblk.parked: enum kc_claimed
 *
 * The header of the functions on claims draws its states.
 */
struct kc_claim {
	struct list_head list;
	struct kc_mapblk *mb;
	const struct kc_claim_ops *ops;
	u64 block;
	u16 first;
	u16 nr;
	u16 slot;
	u8 flags;
	u8 claimed;
};

enum kc_mapblk_flags {
	KC_MB_VALID,		/* entries are right: may be used */
	KC_MB_LOADING,		/* being read */
	KC_MB_REFERENCED,	/* used since the clock hand passed */
	KC_MB_UNLOGGED,		/* on the journal's unlogged list */
	KC_MB_DIRTY,		/* on the journal's dirty list */
	KC_MB_WRITING,		/* its snapshot is being written */
	KC_MB_UNSETTLED,	/* unsettled is not empty */
	KC_MB_SEALED,		/* @entries are sealed units, since the device key is gone */
};

/**
 * struct kc_mapblk - a cached map block
 * @hash:	in a bucket of the hash; entries are never freed while the map lives,
 *		so a reader only has to check @index and KC_MB_VALID again
 *		after it has taken @users
 * @list:	in kc_keymap.blocks
 * @log_list:	in kc_journal.unlogged while KC_MB_UNLOGGED
 * @dirty_list:	in kc_journal.dirty while KC_MB_DIRTY; journal worker only
 * @index:	number of the map block, or KC_NO_INDEX
 * @slow:	@draining or @reassigns is not zero, or blocks are unsettled
 * @users:	reads and own-block writes under way, which rely on entries
 *		staying as they are
 * @pins:	others: changes under way, parked claims, loaders
 * @flags:	enum kc_mapblk_flags
 * @lock:	protects all below, and changes of @entries; taken in interrupts
 * @draining:	changes waiting for @users to become zero
 * @reassigns:	changes of assigned blocks under way
 * @intents:	intents in the journal whose data is being written
 * @parked:	parked claims (struct kc_claim.list)
 * @first_seq:	first journal block with a change not yet written in place
 * @entries:	KC_ENTRIES key slots, little endian; room for them to be sealed
 * @busy:	blocks with a change under way
 * @unlogged:	blocks with a change not yet in the journal
 * @unsettled:	blocks whose content only an intent vouches for; their change is
 *		in @unlogged, or in a commit that is being written
 */
struct kc_mapblk {
	struct hlist_node hash;
	struct list_head list;
	struct list_head log_list;
	struct list_head dirty_list;
	u32 index;
	u32 slow;
	atomic_t users;
	atomic_t pins;
	unsigned long flags;

	spinlock_t lock;
	unsigned int draining;
	unsigned int reassigns;
	unsigned int intents;
	struct list_head parked;
	u64 first_seq;
	__le16 *entries;
	DECLARE_BITMAP(busy, KC_ENTRIES);
	DECLARE_BITMAP(unlogged, KC_ENTRIES);
	DECLARE_BITMAP(unsettled, KC_ENTRIES);
};

#define KC_NO_INDEX	U32_MAX

/**
 * struct kc_map_hash - map blocks by index
 * @bits:	log2 of the number of buckets
 * @bucket:	RCU
 */
struct kc_map_hash {
	unsigned int bits;
	struct hlist_head bucket[];
};

/**
 * struct kc_keymap - cache of map blocks
 * @area:	where they are on disk
 * @lock:	loading and eviction
 * @blocks:	all map blocks in memory, in clock order
 * @nr_blocks:	how many
 * @max_blocks:	bound, from meta_cache:
 * @hash:	to find them, RCU; changed with @lock held
 * @idle:	for a map block to be no longer in use: its users or pins are
 *		none, or it has become clean
 * @loaded:	for a map block to be loaded
 * @load_pool:	area blocks to read into
 * @closed:	the device key is gone: no map block may be loaded
 * @suspending:	whoever walks the map is to give up
 * @recovering:	nothing makes map blocks clean: do not wait for one
 * @want_clean:	called when clean map blocks are needed; any context
 */
struct kc_keymap {
	struct kc_area *area;
	struct mutex lock;
	struct list_head blocks;
	unsigned int nr_blocks;
	unsigned int max_blocks;
	struct kc_map_hash __rcu *hash;
	wait_queue_head_t idle;
	wait_queue_head_t loaded;
	mempool_t load_pool;
	bool closed;
	bool suspending;
	bool recovering;
	void (*want_clean)(struct kc_keymap *map);
};

void kc_keymap_setup(struct kc_keymap *map, struct kc_area *area,
		     void (*want_clean)(struct kc_keymap *map));
int kc_keymap_init(struct kc_keymap *map, unsigned int max_blocks);
void kc_keymap_exit(struct kc_keymap *map);
void kc_keymap_resize(struct kc_keymap *map, unsigned int max_blocks);
bool kc_keymap_close(struct kc_keymap *map);
void kc_keymap_reopen(struct kc_keymap *map);
int kc_keymap_count(struct kc_keymap *map, u64 *counts);
struct kc_mapblk *kc_mapblk_get(struct kc_keymap *map, u32 index);
void kc_mapblk_unpin(struct kc_keymap *map, struct kc_mapblk *mb);

/* The map block of a data block, and its entry there */
static inline u32 kc_map_index(u64 block, unsigned int *entry)
{
	u32 rem;
	u64 index = div_u64_rem(block, KC_ENTRIES, &rem);

	*entry = rem;
	return index;
}

/**
 * kc_mapblk_put() - drop a map block
 * @map:	the key map
 * @mb:		the map block
 *
 * Any context.
 */
static inline void kc_mapblk_put(struct kc_keymap *map, struct kc_mapblk *mb)
{
	if (atomic_dec_and_test(&mb->users) && wq_has_sleeper(&map->idle))
		wake_up_all(&map->idle);
}

static inline struct hlist_head *kc_bucket(struct kc_map_hash *hash, u32 index)
{
	return &hash->bucket[hash_32(index, hash->bits)];
}

/*
 * Is a map block whose users have just been taken the one that is wanted?  VALID before
 * index and entries: if it was VALID for another index before, its eviction has seen the
 * users and has not taken place (evict-get); if it is anew, the index and the entries are
 * those it was made VALID for (load-entries).
 */
static inline bool kc_mapblk_is(const struct kc_mapblk *mb, u32 index)
{
	return test_bit_acquire(KC_MB_VALID, &mb->flags) &&
	       READ_ONCE(mb->index) == index;
}

/**
 * kc_mapblk_get_fast() - find a map block in memory
 * @map:	the key map
 * @index:	number of the map block
 *
 * Any context.
 * Return: the map block with its users taken, to be dropped with kc_mapblk_put(),
 * or NULL.
 */
static inline struct kc_mapblk *kc_mapblk_get_fast(struct kc_keymap *map, u32 index)
{
	struct kc_mapblk *mb;

	rcu_read_lock();
	hlist_for_each_entry_rcu(mb, kc_bucket(rcu_dereference(map->hash), index), hash) {
		if (READ_ONCE(mb->index) != index)
			continue;
		atomic_inc(&mb->users);
		/* users before flags: evict-get, drain (tests/model/litmus) */
		smp_mb__after_atomic();
		if (likely(kc_mapblk_is(mb, index))) {
			if (!test_bit(KC_MB_REFERENCED, &mb->flags))
				set_bit(KC_MB_REFERENCED, &mb->flags);
			rcu_read_unlock();
			return mb;
		}
		kc_mapblk_put(map, mb);
		break;
	}
	rcu_read_unlock();
	return NULL;
}

/*
 * Who sees that it is not slow any more must see the entries as they are; the
 * map block's lock held.
 */
static inline void kc_mapblk_update_slow(struct kc_mapblk *mb)
{
	bool slow = mb->draining || mb->reassigns ||
		    test_bit(KC_MB_UNSETTLED, &mb->flags);

	lockdep_assert_held(&mb->lock);
	smp_store_release(&mb->slow, slow);	/* with kc_claim_read(), _write() */
}

/* Are the entries on disk as they are in memory?  Any context. */
static inline bool kc_mapblk_in_place(const struct kc_mapblk *mb)
{
	return !(READ_ONCE(mb->flags) & (BIT(KC_MB_UNLOGGED) | BIT(KC_MB_DIRTY) |
					 BIT(KC_MB_WRITING)));
}

static inline u16 kc_entry(const struct kc_mapblk *mb, unsigned int i)
{
	return le16_to_cpu(READ_ONCE(mb->entries[i]));
}

/**
 * kc_mapblk_run() - slot of the first entries
 * @mb:		map block
 * @first:	first entry
 * @nr:		entries to look at
 * @slot:	what they have
 *
 * Any context.
 * Return: how many have the same slot.
 */
static inline unsigned int kc_mapblk_run(struct kc_mapblk *mb, unsigned int first,
					 unsigned int nr, u16 *slot)
{
	unsigned int n;

	*slot = kc_entry(mb, first);
	for (n = 1; n < nr; n++)
		if (kc_entry(mb, first + n) != *slot)
			break;
	return n;
}

#endif
