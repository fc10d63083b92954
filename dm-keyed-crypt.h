/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the parts of dm-keyed-crypt share.
 *
 * Data flows one way:
 *
 *	dm-keyed-crypt.c  bios and table lines in
 *	owner.c           whose bio is it
 *	keymap.c          data block -> key slot, in memory
 *	keyslot.c         key slot -> cipher transform
 *	crypt.c           ciphertext out
 *
 * with journal.c (making the key map durable), metadata.c (superblock, owner
 * table, map state) and seal.c (key derivation, sealing) below keymap.c.
 *
 * Units: "sector" is 512 bytes, "block" a data block of sector_size bytes,
 * "area block" one of the 4096-byte blocks of the metadata area, "map block"
 * an area block of the key map.
 */
#ifndef _DM_KEYED_CRYPT_H
#define _DM_KEYED_CRYPT_H

#include <linux/atomic.h>
#include <linux/bio.h>
#include <linux/bitmap.h>
#include <linux/blkdev.h>
#include <linux/completion.h>
#include <linux/device-mapper.h>
#include <linux/dm-io.h>
#include <linux/key.h>
#include <linux/list.h>
#include <linux/mempool.h>
#include <linux/mutex.h>
#include <linux/percpu-refcount.h>
#include <linux/percpu_counter.h>
#include <linux/scatterlist.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <crypto/hash.h>
#include <crypto/skcipher.h>

#include "compat.h"
#include "error.h"
#include "format.h"
#include "iv.h"
#include "seal.h"

#define KC_MAX_KEY_SIZE		256

struct kc_dev;
struct kc_io;
struct kc_mapblk;
struct kc_keyslot;
struct kc_page_cache;

/* ---- keyslot.c: keyring -> keyslots, their lifetime ---- */

/**
 * struct kc_keyref - where a key is: ":<size>:<type>:<description>"
 * @size:	of the key in bytes
 * @type:	of the key
 * @desc:	description in the keyring
 */
struct kc_keyref {
	unsigned int size;
	enum kc_key_type type;
	char desc[KC_DESC_SIZE];
};

/**
 * struct kc_keyslot - a loaded key
 * @ref:	held by every bio under way with this key
 * @tfm:	the cipher, keyed
 * @key:	the key in the keyring; checked for validity by every bio
 * @payload:	what @key's payload was when it was copied
 * @old_key:	what @key was before a search found another with the same bytes
 * @slot:	its number on disk
 * @dead:	locked: no plaintext may come out of it any more
 * @async:	decryptions handed to an asynchronous cipher driver
 * @dying:	locked, but decryptions may still go on; or, alive, @old_key may
 *		still be in use
 * @kd:		the device
 * @free_work:	frees it in process context
 *
 * Found through kd->ks[slot] under RCU.
 */
struct kc_keyslot {
	struct percpu_ref ref;
	struct crypto_skcipher *tfm;
	struct key *key;
	const void *payload;
	struct key *old_key;
	u16 slot;
	bool dead;
	atomic_t async;
	struct list_head dying;
	struct kc_dev *kd;
	struct work_struct free_work;
};

enum kc_lock_state {
	KC_LOCKED,		/* its key cannot be found */
	KC_WRONG_KEY,		/* the key found is another one */
	KC_UNLOCKED,
	KC_DESTROYED,		/* for good; its blocks count as unassigned */
};

/**
 * struct kc_id_range - ids of an owner, both ends included
 * @first:	first id
 * @last:	last id
 */
struct kc_id_range {
	u32 first;
	u32 last;
};

/**
 * struct kc_owner - an owner, or the device itself (slot KC_SLOT_DEVICE)
 * @slot:	key slot number
 * @name:	unique on the device; empty for the device itself
 * @ref:	where its key is
 * @check:	check value its key must have
 * @nr_ids:	entries used in @ids
 * @ids:	ids whose writes are this owner's
 * @state:	whether its key is loaded
 * @held:	locked by message, or destroyed: not unlocked by itself
 * @home:	the keyring its key was last found in
 *
 * Protected by kd->lock.
 */
struct kc_owner {
	u32 slot;
	char name[KC_NAME_SIZE];
	struct kc_keyref ref;
	u8 check[KC_CHECK_SIZE];
	unsigned int nr_ids;
	struct kc_id_range ids[KC_MAX_IDS];
	enum kc_lock_state state;
	bool held;
	struct key *home;
};

int kc_keyref_parse(struct kc_keyref *ref, const char *s, const char **error);
const char *kc_key_type_name(enum kc_key_type type);
const char *kc_lock_state_name(enum kc_lock_state state);
struct key *kc_keyring_get(const char *spec, const char **error);
int kc_owner_check(struct kc_dev *kd, struct kc_owner *owner,
		   u8 check[KC_CHECK_SIZE]);
int kc_owner_unlock(struct kc_dev *kd, struct kc_owner *owner, bool callers);
void kc_owner_lock(struct kc_dev *kd, struct kc_owner *owner);
void kc_owner_retire(struct kc_dev *kd, struct kc_owner *owner);
int kc_device_load(struct kc_dev *kd, const struct kc_keyref *ref, bool format,
		   struct kc_kdf *kdf);
int kc_device_reload(struct kc_dev *kd, const struct kc_keyref *ref,
		     struct key *keyring);
struct kc_keyslot *kc_keyslot_get(struct kc_dev *kd, u16 slot);
bool kc_keyslot_valid(struct kc_dev *kd, u16 slot);

/* Drops a reference from kc_keyslot_get().  Any context. */
static inline void kc_keyslot_put(struct kc_keyslot *ks)
{
	percpu_ref_put(&ks->ref);
}

void kc_keys_watch(struct work_struct *work);
void kc_keys_exit(struct kc_dev *kd);

/* ---- owner.c: whose bio is it ---- */

enum kc_owner_kind {
	KC_OWNER_BY_NONE,
	KC_OWNER_BY_UID,
	KC_OWNER_BY_GID,
	KC_OWNER_BY_PROJID,
};

u16 kc_owner_of_bio(struct kc_dev *kd, enum kc_owner_kind kind,
		    struct bio *bio, unsigned int *nr_blocks);
struct kc_ids *kc_ids_alloc(struct kc_dev *kd);
void kc_ids_update(struct kc_dev *kd, struct kc_ids *ids);
void kc_ids_free(struct kc_dev *kd);
int kc_ids_parse(struct kc_owner *owner, const char *s, const char **error);
unsigned int kc_ids_print(const struct kc_owner *owner, char *buf,
			  unsigned int size);
struct kc_owner *kc_ids_conflict(struct kc_dev *kd, const struct kc_owner *owner,
				 u32 *id);

/* ---- metadata.c: superblock, owner table, map state ---- */

/**
 * struct kc_params - what a table line says about the format
 * @cipher:	the cipher specification
 * @key_size:	of the device key in bytes
 * @sector_size: bytes
 * @flags:	KC_FLAG_*
 * @iv_offset:	sectors
 * @nr_blocks:	data blocks
 */
struct kc_params {
	const char *cipher;
	unsigned int key_size;
	unsigned int sector_size;
	u32 flags;
	u64 iv_offset;
	u64 nr_blocks;
};

int kc_meta_io(struct kc_dev *kd, blk_opf_t opf, u64 area_block, void *buf,
	       unsigned int nr_area_blocks);
int kc_meta_open(struct kc_dev *kd, const struct kc_params *params,
		 const struct kc_keyref *ref, u64 max_area_blocks);
void kc_meta_mend(struct kc_dev *kd);
int kc_meta_match(struct kc_dev *kd, const struct kc_params *params);
int kc_meta_load_owners(struct kc_dev *kd);
int kc_meta_write_owner(struct kc_dev *kd, u32 slot, const struct kc_owner *owner);
int kc_meta_load_state(struct kc_dev *kd);
bool kc_meta_test_state(struct kc_dev *kd, u32 map_block);
void kc_meta_set_state(struct kc_dev *kd, u32 map_block);
int kc_meta_write_state(struct kc_dev *kd);
int kc_meta_read_anchor(struct kc_dev *kd, u64 *tail, u64 *durable, u32 *flags);
int kc_meta_write_anchor(struct kc_dev *kd, u64 tail, u64 durable, u32 flags);
void kc_meta_fail(struct kc_dev *kd, const char *what, int error);
void kc_meta_exit(struct kc_dev *kd);

/* ---- keymap.c: data block -> key slot, in memory ---- */

enum kc_mapblk_flags {
	KC_MB_VALID,		/* entries are right: may be used */
	KC_MB_LOADING,		/* being read */
	KC_MB_REFERENCED,	/* used since the clock hand passed */
	KC_MB_UNLOGGED,		/* on the journal's unlogged list */
	KC_MB_DIRTY,		/* on the journal's dirty list */
	KC_MB_WRITING,		/* its snapshot is being written */
	KC_MB_UNSETTLED,	/* unsettled is not empty */
};

/**
 * struct kc_mapblk - a cached map block
 * @hash:	in kc_keymap.hash; entries are never freed while the map lives,
 *		so a reader only has to check @index and KC_MB_VALID again
 *		after it has taken @io
 * @list:	in kc_keymap.blocks
 * @log_list:	in kc_journal.unlogged while KC_MB_UNLOGGED
 * @dirty_list:	in kc_journal.dirty while KC_MB_DIRTY; journal worker only
 * @index:	number of the map block, or KC_NO_INDEX
 * @slow:	@draining or @reassigns is not zero, or blocks are unsettled
 * @io:		reads and own-block writes under way, which rely on entries
 *		staying as they are
 * @pins:	other users: changes under way, parked bios, loaders
 * @flags:	enum kc_mapblk_flags
 * @lock:	protects all below, and changes of @entries; taken in interrupts
 * @draining:	changes waiting for @io to become zero
 * @reassigns:	changes of assigned blocks under way
 * @waiters:	parked bios (struct kc_io.list)
 * @first_seq:	first journal block with a change not yet written in place
 * @entries:	KC_ENTRIES key slots, little endian
 * @intents:	intents in the journal whose data is being written
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
	atomic_t io;
	atomic_t pins;
	unsigned long flags;

	spinlock_t lock;
	unsigned int draining;
	unsigned int reassigns;
	unsigned int intents;
	struct list_head waiters;
	u64 first_seq;
	__le16 *entries;
	DECLARE_BITMAP(busy, KC_ENTRIES);
	DECLARE_BITMAP(unlogged, KC_ENTRIES);
	DECLARE_BITMAP(unsettled, KC_ENTRIES);
};

#define KC_NO_INDEX	U32_MAX

/**
 * struct kc_keymap - cache of map blocks
 * @lock:	loading and eviction
 * @blocks:	all map blocks in memory, in clock order
 * @nr_blocks:	how many
 * @max_blocks:	bound, from meta_cache:
 * @hash:	by index, RCU
 * @hash_bits:	log2 of the number of buckets
 * @wait:	for a block to become clean, unused, loaded or drained
 */
struct kc_keymap {
	struct mutex lock;
	struct list_head blocks;
	unsigned int nr_blocks;
	unsigned int max_blocks;
	struct hlist_head *hash;
	unsigned int hash_bits;
	wait_queue_head_t wait;
};

enum kc_claim {
	KC_CLAIM_OWN,		/* entries are as wanted: go on, @io is held */
	KC_CLAIM_CHANGE,	/* range is busy for us: go on */
	KC_CLAIM_DRAIN,		/* same, after kc_mapblk_drain() */
	KC_CLAIM_PARKED,	/* will be started again */
	KC_CLAIM_FAIL,		/* the map cannot be changed now */
};

int kc_keymap_init(struct kc_dev *kd, unsigned int max_blocks);
void kc_keymap_exit(struct kc_dev *kd);
void kc_keymap_resize(struct kc_dev *kd, unsigned int max_blocks);
struct kc_mapblk *kc_mapblk_get_fast(struct kc_dev *kd, u32 index);
struct kc_mapblk *kc_mapblk_get(struct kc_dev *kd, u32 index);
enum kc_claim kc_mapblk_claim_read_slow(struct kc_io *io);
enum kc_claim kc_mapblk_claim_write(struct kc_io *io, u16 slot);
void kc_mapblk_drain(struct kc_io *io);
void kc_mapblk_assign(struct kc_dev *kd, struct kc_mapblk *mb,
		      unsigned int first, unsigned int nr, u16 slot);
void kc_mapblk_end_change(struct kc_io *io, bool assign);
bool kc_mapblk_held(struct kc_mapblk *mb);
void kc_mapblk_settle(struct kc_dev *kd, struct kc_mapblk *mb, bool durable);
int kc_keymap_count(struct kc_dev *kd, u64 *counts);
bool kc_keymap_forget(struct kc_dev *kd);

/* ---- journal.c: making the key map durable ---- */

#define KC_JOURNAL_BATCH	16	/* area blocks written at once */
#define KC_WRITEBACK_BATCH	32	/* map blocks written back at once */

/**
 * struct kc_journal - the journal
 * @lock:	protects all up to @work; taken in interrupts
 * @unlogged:	map blocks with changes not yet in the journal
 * @waiters:	flushes and FUA writes waiting for a commit (struct kc_io.list)
 * @intents:	encrypted writes waiting for their intents (struct kc_io.list)
 * @syncs:	synchronous callers (struct kc_sync)
 * @committing:	a commit is writing
 * @timed:	the timer has fired
 * @live:	writes under way whose intent is in the journal
 * @unsettled:	map blocks with KC_MB_UNSETTLED
 * @work:	commits and writes back; all below is its alone
 * @timer:	bounds how long a change rides in memory
 * @dirty:	map blocks with logged changes, by first_seq
 * @nr_dirty:	how many
 * @next_seq:	sequence number of the next journal block
 * @tail_seq:	of the first one still needed, as in the anchor on disk
 * @durable_seq: all blocks before it are on stable storage
 * @clean:	the anchor on disk says clean
 * @kicked:	the cache needs clean blocks
 * @failed:	changes could not be logged, or a cache flush failed: no flush may
 *		succeed any more
 * @settling:	the journal blocks in @buf settle intents
 * @reclaiming:	the journal is being emptied, and may use its reserve
 * @recovering:	not recovered yet: nothing but the map may be written
 * @buf:	KC_JOURNAL_BATCH area blocks
 * @fill:	area blocks of @buf in use, the last one perhaps in part
 * @snap:	KC_WRITEBACK_BATCH area blocks
 */
struct kc_journal {
	spinlock_t lock;
	struct list_head unlogged;
	struct list_head waiters;
	struct list_head intents;
	struct list_head syncs;
	bool committing;
	bool timed;
	bool kicked;
	atomic_t live;
	atomic_t unsettled;

	struct work_struct work;
	struct delayed_work timer;
	struct list_head dirty;
	unsigned int nr_dirty;
	u64 next_seq;
	u64 tail_seq;
	atomic64_t durable_seq;
	bool clean;
	bool failed;
	bool settling;
	bool reclaiming;
	bool recovering;
	u8 *buf;
	unsigned int fill;
	u8 *snap;
};

int kc_journal_init(struct kc_dev *kd);
int kc_journal_recover(struct kc_dev *kd);
void kc_journal_exit(struct kc_dev *kd);
void kc_journal_note(struct kc_dev *kd, struct kc_mapblk *mb);
bool kc_journal_idle(struct kc_dev *kd, u64 *seq);
bool kc_journal_durable(struct kc_dev *kd);
void kc_journal_wait_io(struct kc_dev *kd, struct kc_io *io);
void kc_journal_intent(struct kc_dev *kd, struct kc_io *io);
void kc_journal_flushed(struct kc_dev *kd, u64 seq);
void kc_journal_lost(struct kc_dev *kd, int error);
int kc_journal_sync(struct kc_dev *kd, bool checkpoint);
void kc_journal_kick(struct kc_dev *kd);
void kc_journal_settle(struct kc_dev *kd);

/* ---- the device ---- */

enum kc_mode {
	KC_RW,
	KC_RO,			/* the table is read-only */
	KC_FAILED,		/* a metadata write failed: no more changes */
};

/**
 * struct kc_dev - a device: its metadata, keys and key map
 * @list:	in the list of all devices
 * @refs:	tables that use it, old and new ones
 * @md:		the mapped device it belongs to
 * @event_lock:	protects @table
 * @table:	the live table, for events; NULL while there is none
 * @loading:	the table that took the last reference; not dereferenced
 * @meta_bdev:	where the metadata area is
 * @meta_start:	and its first sector
 * @data_bdev:	where the data is
 * @data_start:	and its first sector
 * @same_bdev:	data and metadata share a device, and so a cache flush
 * @dm_io:	for metadata I/O
 * @meta_buf:	an area block for the journal worker's metadata writes
 * @mended_super: while opening: the superblock copy that was bad, as it must be
 * @load_pool:	area blocks for reading map blocks
 * @layout:	of the metadata area
 * @sector_size: in bytes
 * @block_shift: log2 of @sector_size in sectors
 * @flags:	KC_FLAG_*
 * @iv_offset:	in sectors
 * @nr_blocks:	data blocks the key map covers
 * @cipher_spec: as in the table line
 * @cipher:	taken apart
 * @tfm_reqsize: request context of its transform, in bytes
 * @driver:	implementation of the cipher all transforms use
 * @uuid:	of the metadata area
 * @salt:	of the metadata area
 * @sealer:	seals the metadata
 * @live:	the device key is there
 * @mode:	whether the key map may change
 * @lock:	protects owners and keys
 * @device:	the device key, as an owner
 * @owners:	by slot
 * @nr_owners:	how many
 * @nr_slots:	size of @owners, @destroyed and @ks
 * @destroyed:	slots of destroyed owners
 * @ks:		loaded keys by slot, RCU
 * @keyring:	searched for owners' keys
 * @ids:	id -> slot, RCU, sorted
 * @watch:	looks after the keys
 * @state_bits:	map state, one bit for each map block
 * @state_dirty: state units to be written
 * @keymap:	the map in memory
 * @journal:	the journal
 * @slow_wq:	bios that must wait for a map block; freeing of keyslots
 * @drain_wq:	bios that hold one and must wait for others
 * @crypt_wq:	conversion by other processors, or that cannot be done where a read
 *		completed
 * @journal_wq:	the journal worker
 * @page_cache:	bounce pages for the next writes
 * @nr_pages:	bounce pages in use or kept
 * @wait_ref:	for keyslots to be freed
 * @nr_keyslots: loaded keys not yet freed
 * @locked_reads: reads failed for a missing key
 * @locked_writes: writes failed for a missing key
 * @reassigned:	blocks that went from one owner to another
 */
struct kc_dev {
	struct list_head list;
	unsigned int refs;
	struct mapped_device *md;
	struct mutex event_lock;
	struct dm_table *table;
	struct dm_table *loading;
	struct block_device *meta_bdev;
	sector_t meta_start;
	struct block_device *data_bdev;
	sector_t data_start;
	bool same_bdev;
	struct dm_io_client *dm_io;
	u8 *meta_buf;
	u8 *mended_super;
	mempool_t load_pool;
	struct kc_layout layout;

	unsigned int sector_size;
	unsigned int block_shift;
	u32 flags;
	u64 iv_offset;
	u64 nr_blocks;
	char cipher_spec[KC_CIPHER_SIZE];
	struct kc_cipher cipher;
	unsigned int tfm_reqsize;
	char driver[CRYPTO_MAX_ALG_NAME];

	u8 uuid[KC_UUID_SIZE];
	u8 salt[KC_SALT_SIZE];
	struct kc_sealer sealer;
	bool live;
	enum kc_mode mode;

	struct mutex lock;
	struct kc_owner device;
	struct kc_owner **owners;
	unsigned int nr_owners;
	unsigned int nr_slots;
	unsigned long *destroyed;
	struct kc_keyslot __rcu **ks;
	struct key *keyring;
	struct kc_ids __rcu *ids;
	struct delayed_work watch;

	unsigned long *state_bits;
	unsigned long *state_dirty;

	struct kc_keymap keymap;
	struct kc_journal journal;

	struct workqueue_struct *slow_wq;
	struct workqueue_struct *drain_wq;
	struct workqueue_struct *crypt_wq;
	struct workqueue_struct *journal_wq;

	struct kc_page_cache __percpu *page_cache;
	struct percpu_counter nr_pages;

	wait_queue_head_t wait_ref;
	atomic_t nr_keyslots;

	atomic64_t locked_reads;
	atomic64_t locked_writes;
	atomic64_t reassigned;
};

/**
 * struct kc_target - one table's use of a device
 * @kd:		the device
 * @ti:		the target
 * @dev:	data device
 * @start:	first data sector on it
 * @meta_dev:	metadata device if it is another one, else NULL
 * @ref:	the device key as this table names it
 * @owner_kind:	what a write's owner is read from
 * @keyring:	searched for owners' keys
 * @keyring_spec: as in the table line, NULL when it is the default
 * @meta_offset: as in the table line
 * @meta_cache:	bound on the cache in MiB
 * @lazy:	reassign:lazy
 * @io_size:	size of a struct kc_io with its request
 * @bs:		bios with bounce pages
 * @split_bs:	parts of reads that had to wait, a kc_io in front
 * @req_pool:	further requests, for asynchronous ciphers
 * @page_pool:	bounce pages
 * @page_lock:	one allocator at a time may wait for @page_pool
 */
struct kc_target {
	struct kc_dev *kd;
	struct dm_target *ti;
	struct dm_dev *dev;
	sector_t start;
	struct dm_dev *meta_dev;
	struct kc_keyref ref;
	enum kc_owner_kind owner_kind;
	struct key *keyring;
	char *keyring_spec;
	u64 meta_offset;
	unsigned int meta_cache;
	bool lazy;

	unsigned int io_size;
	struct bio_set bs;
	struct bio_set split_bs;
	mempool_t req_pool;
	mempool_t page_pool;
	struct mutex page_lock;
};

/* ---- crypt.c: bios in, ciphertext out ---- */

/**
 * struct kc_req - one block under way in the crypto API
 * @io:		whose it is
 * @pooled:	from the pool, to be freed
 * @sg_in:	source
 * @sg_out:	destination
 * @iv:		initialization vector
 * @req:	with the transform's context behind it
 */
struct kc_req {
	struct kc_io *io;
	bool pooled;
	struct scatterlist sg_in;
	struct scatterlist sg_out;
	u8 iv[KC_MAX_IV_SIZE] __aligned(CRYPTO_MINALIGN);
	struct skcipher_request req;
};

/**
 * struct kc_part - a bio's data, or a part of it, under conversion
 * @io:		whose it is
 * @next:	further parts; of a bio's own part, NULL if there are none
 * @nr:		blocks
 * @handed:	of these, the ones an asynchronous driver has got
 * @req_used:	the crypto API may still have @req
 * @work:	conversion elsewhere; of a bio's own part, the slow path too
 * @in:		what is left of the source; of a bio's own part, set before the bio
 *		goes down
 * @out:	and of the destination
 * @sector:	and the IV's sector number
 * @req:	first request; the transform's context lies behind
 */
struct kc_part {
	struct kc_io *io;
	struct kc_part *next;
	unsigned int nr;
	unsigned int handed;
	bool req_used;
	struct work_struct work;
	struct bvec_iter in;
	struct bvec_iter out;
	u64 sector;
	struct kc_req req;	/* last */
};

enum kc_io_stage {
	KC_STAGE_START,		/* find its map block, split, claim */
	KC_STAGE_DRAIN,		/* wait for the map block to be quiet */
};

/* Pages of a write whose bio need not be allocated. */
#define KC_SMALL_VECS	4

/**
 * struct kc_io - a bio under way, in its per-bio data
 * @t:		the target
 * @bio:	the bio: dm's clone, or a part of it
 * @base:	dm's clone
 * @mb:		its map block, pinned
 * @ks:		its key
 * @block:	first data block
 * @nr:		number of blocks
 * @first:	entry of @block in @mb
 * @slot:	a write's key slot
 * @change:	it changes the key map
 * @reassign:	of blocks that were assigned
 * @intent:	its intent is in the journal
 * @stage:	where the slow path goes on
 * @list:	parked, or waiting for a commit
 * @end_io:	a read's completion, saved
 * @private:	a read's bi_private, saved
 * @clone:	a write's ciphertext
 * @cpu:	whose bounce pages it has
 * @small_clone: @clone of a small write
 * @small_vecs:	its pages
 * @pending:	blocks and parts not yet converted
 * @status:	what it ends with
 * @seq:	a flush: journal blocks before it become durable
 * @part:	conversion, all of it or the first part
 */
struct kc_io {
	struct kc_target *t;
	struct bio *bio;
	struct bio *base;
	struct kc_mapblk *mb;
	struct kc_keyslot *ks;
	u64 block;
	unsigned int nr;
	unsigned int first;
	u16 slot;
	bool change;
	bool reassign;
	bool intent;
	u8 stage;
	struct list_head list;

	bio_end_io_t *end_io;
	void *private;
	struct bio *clone;
	unsigned int cpu;
	struct bio small_clone;
	struct bio_vec small_vecs[KC_SMALL_VECS];
	atomic_t pending;
	blk_status_t status;
	u64 seq;
	struct kc_part part;	/* last */
};

int kc_crypt_cache_init(struct kc_dev *kd);
void kc_crypt_cache_exit(struct kc_dev *kd);
void kc_crypt_trim(struct kc_dev *kd, bool all);
int kc_crypt_init(struct kc_target *t);
void kc_crypt_exit(struct kc_target *t);
void kc_crypt_write(struct kc_io *io);
void kc_crypt_write_go(struct kc_io *io, blk_status_t status);
void kc_crypt_read(struct kc_io *io);
void kc_io_end(struct kc_io *io, blk_status_t status);
void kc_io_release(struct kc_io *io);

/* ---- dm-keyed-crypt.c ---- */

void kc_io_queue(struct kc_io *io);
void kc_flush_submit(struct kc_io *io);

/* ---- message.c ---- */

int kc_message(struct kc_target *t, unsigned int argc, char **argv,
	       char *result, unsigned int maxlen);

/**
 * kc_mapblk_put() - drop a map block
 * @kd:		the device
 * @mb:		the map block
 *
 * Any context.
 */
static inline void kc_mapblk_put(struct kc_dev *kd, struct kc_mapblk *mb)
{
	/* Somebody waits for io, or for a block to evict. */
	if (atomic_dec_and_test(&mb->io) && wq_has_sleeper(&kd->keymap.wait))
		wake_up_all(&kd->keymap.wait);
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

/* As kc_mapblk_claim_read_slow(), which decides when it is not plain. */
static inline enum kc_claim kc_mapblk_claim_read(struct kc_io *io)
{
	/* with kc_mapblk_update_slow() */
	if (likely(!smp_load_acquire(&io->mb->slow)))
		return KC_CLAIM_OWN;
	return kc_mapblk_claim_read_slow(io);
}

/* Does an entry say that its block has no content?  Any context. */
static inline bool kc_slot_vacant(struct kc_dev *kd, u16 slot)
{
	return slot == KC_SLOT_NONE ||
	       (slot < kd->nr_slots && test_bit(slot, kd->destroyed));
}

static inline u32 kc_map_index(u64 block, unsigned int *first)
{
	u32 rem;
	u64 index = div_u64_rem(block, KC_ENTRIES, &rem);

	*first = rem;
	return index;
}

static inline u32 kc_mod64(u64 n, u32 d)
{
	u32 rem;

	div_u64_rem(n, d, &rem);
	return rem;
}

#endif
