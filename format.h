/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The on-disk format of dm-keyed-crypt, for the kernel module and for tools.
 * Documentation/format.rst explains it byte by byte and says why.
 *
 * All integers are little endian.  The metadata area is a sequence of
 * 4096-byte blocks, numbered from its start:
 *
 *	0			superblock, first copy
 *	16			superblock, second copy
 *	32			owner table
 *	32 + owner_blocks	journal anchor
 *	+ 1			journal
 *	+ journal_blocks	map state (one bit for each map block)
 *	+ state blocks		key map
 *
 * Blocks 1..15 and 17..31 stay zero.  Everything but the superblocks is
 * sealed: encrypted and authenticated with XChaCha20-Poly1305 under a key
 * derived from the device key, bound to its kind and place.
 */
#ifndef _KC_FORMAT_H
#define _KC_FORMAT_H

#include <linux/types.h>

#ifdef __KERNEL__
#include <linux/build_bug.h>
#include <linux/math64.h>
#define kc_div64(n, d)	div_u64((n), (d))
#else
#include <assert.h>
#define kc_div64(n, d)	((n) / (d))
#endif

#define KC_MAGIC		"dm-keyed-crypt"	/* 14 bytes, then zeros */
#define KC_VERSION		1

#define KC_BLOCK_SIZE		4096
#define KC_BLOCK_SECTORS	(KC_BLOCK_SIZE / 512)

#define KC_SUPER_BLOCK_1	0
#define KC_SUPER_BLOCK_2	16	/* past what a partition table overwrites */
#define KC_OWNER_START		32

/* A new area gets a slot for 512 data blocks, but 1024 to 4096 of them. */
#define KC_OWNER_BLOCKS_SHIFT	12
#define KC_OWNER_BLOCKS_LOW	128
#define KC_OWNER_BLOCKS_HIGH	512
#define KC_OWNER_BLOCKS_MAX	8192	/* 65536 slots, all a 16-bit entry can name */
#define KC_JOURNAL_BLOCKS	256	/* what a new area gets: 1 MiB */
#define KC_JOURNAL_BLOCKS_MIN	128
#define KC_JOURNAL_BLOCKS_MAX	65536

/* Slots with a meaning of their own. */
#define KC_SLOT_NONE		0	/* unassigned: never written, or discarded */
#define KC_SLOT_DEVICE		1	/* the device key */
#define KC_SLOT_FIRST_OWNER	2
#define KC_SLOT_DAMAGED		0xffff	/* of a map block that could not be read */

#define KC_UUID_SIZE		16
#define KC_SALT_SIZE		32
#define KC_CHECK_SIZE		32
#define KC_MAC_SIZE		32
#define KC_CIPHER_SIZE		128	/* with the terminating zero */
#define KC_NAME_SIZE		32	/* with the terminating zero */
#define KC_DESC_SIZE		128	/* with the terminating zero */
#define KC_MAX_IDS		32
#define KC_MAX_KEY_SIZE		256	/* bytes */

/* Superblock flags. */
#define KC_FLAG_IV_LARGE_SECTORS	0x1

/**
 * struct kc_disk_super - both superblock copies, at the start of their block
 * @magic:	KC_MAGIC
 * @version:	KC_VERSION; another one is refused
 * @compat:	features that may be ignored
 * @ro_compat:	features that must be known to write
 * @incompat:	features that must be known to read
 * @uuid:	random, enters every derived key
 * @salt:	random, the HKDF salt of every key of this device
 * @check:	check value of the device key
 * @cipher:	the table line's <cipher>, zero padded
 * @key_size:	size of the device key in bytes
 * @sector_size: unit of encryption and of the key map in bytes
 * @flags:	KC_FLAG_*
 * @owner_blocks: blocks of the owner table
 * @journal_blocks: blocks of the journal
 * @place:	number of the block this copy belongs in
 * @iv_offset:	the table line's <iv_offset> in 512-byte sectors
 * @nr_blocks:	data blocks of @sector_size bytes the key map covers
 * @reserved:	zeros
 * @mac:	HMAC-SHA-512 of all bytes before it, truncated, under the
 *		superblock key
 * @csum:	CRC-32C of all bytes before it, start value ~0
 *
 * A superblock is written once, when the area is formatted.  The rest of its
 * block is zeros.
 */
struct kc_disk_super {
	__u8 magic[16];
	__le32 version;
	__le32 compat;
	__le32 ro_compat;
	__le32 incompat;
	__u8 uuid[KC_UUID_SIZE];
	__u8 salt[KC_SALT_SIZE];
	__u8 check[KC_CHECK_SIZE];
	__u8 cipher[KC_CIPHER_SIZE];
	__le32 key_size;
	__le32 sector_size;
	__le32 flags;
	__le32 owner_blocks;
	__le32 journal_blocks;
	__le32 place;
	__le64 iv_offset;
	__le64 nr_blocks;
	__u8 reserved[196];
	__u8 mac[KC_MAC_SIZE];
	__le32 csum;
} __attribute__((packed));
static_assert(sizeof(struct kc_disk_super) == 512, "superblock is one sector");

/*
 * Sealed data.  The unit is what a disk writes whole or not at all, a
 * 512-byte sector, so that a torn 4096-byte block consists of valid units,
 * old and new; only journal blocks, where a torn block is as good as none,
 * are sealed as 4096 bytes.
 *
 *	nonce[16] | ciphertext | tag[16]
 *
 * XChaCha20-Poly1305 nonce: nonce[16], then the number of the 512-byte
 * sector in the metadata area as le64.  Associated data: the kind as le32.
 */
#define KC_NONCE_SIZE		16
#define KC_TAG_SIZE		16
#define KC_SEAL_OVERHEAD	(KC_NONCE_SIZE + KC_TAG_SIZE)
#define KC_UNIT_SIZE		512
#define KC_UNITS		(KC_BLOCK_SIZE / KC_UNIT_SIZE)
#define KC_UNIT_PAYLOAD		(KC_UNIT_SIZE - KC_SEAL_OVERHEAD)
#define KC_JOURNAL_PAYLOAD	(KC_BLOCK_SIZE - KC_SEAL_OVERHEAD)

enum kc_kind {
	KC_KIND_OWNER = 1,
	KC_KIND_ANCHOR = 2,
	KC_KIND_JOURNAL = 3,
	KC_KIND_STATE = 4,
	KC_KIND_MAP = 5,
};

/* HKDF-SHA-512 contexts: info = "dm-keyed-crypt", context byte, UUID. */
enum kc_kdf_context {
	KC_KDF_CHECK = 1,	/* 32 bytes: check value of a key */
	KC_KDF_SEAL = 2,	/* 32 bytes: sealing key, device key only */
	KC_KDF_SUPER = 3,	/* 64 bytes: superblock MAC key, device key only */
	KC_KDF_INTENT = 4,	/* 8 bytes: seed of intent checksums, device key only */
};

/* Key types, as in the table line. */
enum kc_key_type {
	KC_KEY_LOGON = 1,
	KC_KEY_USER = 2,
	KC_KEY_ENCRYPTED = 3,
	KC_KEY_TRUSTED = 4,
};

enum kc_owner_state {
	KC_OWNER_FREE = 0,
	KC_OWNER_ACTIVE = 1,
	KC_OWNER_DESTROYED = 2,
};

/**
 * struct kc_disk_owner - payload of one unit of the owner table
 * @state:	enum kc_owner_state; of a free one all other bytes are zero, of a
 *		destroyed one all but @name
 * @key_size:	in bytes
 * @key_type:	enum kc_key_type
 * @nr_ids:	entries used in @ids
 * @name:	zero padded
 * @check:	check value of the owner's key
 * @desc:	description of the key, zero padded
 * @ids:	ranges of ids, both ends included
 * @reserved:	zeros
 *
 * The unit with number n describes key slot n; units 0 and 1 are free for
 * ever.
 */
struct kc_disk_owner {
	__le32 state;
	__le16 key_size;
	__u8 key_type;
	__u8 nr_ids;
	__u8 name[KC_NAME_SIZE];
	__u8 check[KC_CHECK_SIZE];
	__u8 desc[KC_DESC_SIZE];
	struct kc_disk_ids {
		__le32 first;
		__le32 last;
	} ids[KC_MAX_IDS];
	__u8 reserved[24];
} __attribute__((packed));
static_assert(sizeof(struct kc_disk_owner) == KC_UNIT_PAYLOAD, "owner fits unit");

#define KC_MAX_SEQ		(1ULL << 62)	/* of an anchor; it is never reached */
#define KC_ANCHOR_CLEAN		0x1	/* all of the journal is in the map */

/**
 * struct kc_disk_anchor - payload of the first unit of the anchor block
 * @tail:	sequence number of the first journal block still needed
 * @durable:	every journal block before this number that is not before
 *		@tail was on stable storage when the anchor was written
 * @flags:	KC_ANCHOR_*
 * @reserved:	zeros
 */
struct kc_disk_anchor {
	__le64 tail;
	__le64 durable;
	__le32 flags;
	__u8 reserved[460];
} __attribute__((packed));
static_assert(sizeof(struct kc_disk_anchor) == KC_UNIT_PAYLOAD, "anchor fits unit");

/* Type of a journal record, in the top byte of its first word. */
#define KC_RECORD_MAP		1	/* blocks have a slot */
#define KC_RECORD_INTENT	2	/* blocks will have another owner's slot */
#define KC_RECORD_TYPE_SHIFT	56
#define KC_RECORD_BLOCK_MASK	((1ULL << 48) - 1)

/**
 * struct kc_disk_record - journal record
 * @block:	type in the top byte, first data block in the low 48 bits
 * @count:	number of data blocks
 * @slot:	the key slot they have from now on, or with an intent will have
 * @old:	the key slot they had, with an intent; else zero
 *
 * An intent is followed by one struct kc_disk_sums for each KC_SUMS of its
 * blocks.  What its blocks have is found by comparing: a block whose checksum
 * is the recorded one has @slot, any other one @old.
 */
struct kc_disk_record {
	__le64 block;
	__le32 count;
	__le16 slot;
	__le16 old;
} __attribute__((packed));

#define KC_SUMS			2	/* checksums in the place of a record */

/**
 * struct kc_disk_sums - checksums that follow an intent, in place of a record
 * @sum:	XXH64 of a block's new ciphertext, seeded with the intent seed;
 *		zero behind the last one
 */
struct kc_disk_sums {
	__le64 sum[KC_SUMS];
} __attribute__((packed));
static_assert(sizeof(struct kc_disk_sums) == sizeof(struct kc_disk_record),
	      "checksums take the place of records");

#define KC_RECORDS_PER_BLOCK \
	((KC_JOURNAL_PAYLOAD - 32) / sizeof(struct kc_disk_record))

/**
 * struct kc_disk_journal - payload of a journal block
 * @seq:	its sequence number, without gaps; it is in the journal's
 *		block @seq modulo journal_blocks
 * @durable:	as in the anchor, when this block was written
 * @nr_records:	entries used in @records, checksums included
 * @reserved:	zeros
 * @records:	applied in order, and every block stands alone
 */
struct kc_disk_journal {
	__le64 seq;
	__le64 durable;
	__le32 nr_records;
	__u8 reserved[12];
	struct kc_disk_record records[KC_RECORDS_PER_BLOCK];
} __attribute__((packed));
static_assert(sizeof(struct kc_disk_journal) == KC_JOURNAL_PAYLOAD,
	      "journal payload");

/*
 * Map state: one bit for each map block, set when that block has been
 * written.  A map block whose bit is clear is not read; all its entries are
 * KC_SLOT_NONE.
 */
#define KC_STATE_BITS_PER_UNIT	(KC_UNIT_PAYLOAD * 8)
#define KC_STATE_BITS_PER_BLOCK	(KC_STATE_BITS_PER_UNIT * KC_UNITS)

/* Key map: le16 key slots, 240 in a unit, 1920 in a block. */
#define KC_ENTRIES_PER_UNIT	(KC_UNIT_PAYLOAD / 2)
#define KC_ENTRIES		(KC_ENTRIES_PER_UNIT * KC_UNITS)

/* Map blocks are counted in 32 bits. */
#define KC_MAX_BLOCKS		((__u64)0xfffffff0 * KC_ENTRIES)

/**
 * struct kc_layout - where things are in the metadata area, in its blocks
 * @anchor:	the anchor
 * @journal:	first journal block
 * @state:	first state block
 * @map:	first map block
 * @end:	first block after the area
 * @map_blocks:	number of map blocks
 * @state_blocks: number of state blocks
 * @owner_blocks: number of owner table blocks, from KC_OWNER_START on
 * @journal_blocks: number of journal blocks
 */
struct kc_layout {
	__u64 anchor;
	__u64 journal;
	__u64 state;
	__u64 map;
	__u64 end;
	__u32 map_blocks;
	__u32 state_blocks;
	__u32 owner_blocks;
	__u32 journal_blocks;
};

static inline void kc_layout_init(struct kc_layout *l, __u64 nr_blocks,
				  __u32 owner_blocks, __u32 journal_blocks)
{
	l->owner_blocks = owner_blocks;
	l->journal_blocks = journal_blocks;
	l->map_blocks = kc_div64(nr_blocks + KC_ENTRIES - 1, KC_ENTRIES);
	l->state_blocks = kc_div64((__u64)l->map_blocks + KC_STATE_BITS_PER_BLOCK - 1,
				   KC_STATE_BITS_PER_BLOCK);
	l->anchor = KC_OWNER_START + owner_blocks;
	l->journal = l->anchor + 1;
	l->state = l->journal + journal_blocks;
	l->map = l->state + l->state_blocks;
	l->end = l->map + l->map_blocks;
}

#endif
