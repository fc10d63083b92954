/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The metadata area: superblocks, owner table, journal anchor, map state.
 *
 * Units: "sector" is 512 bytes, "block" a data block of sector_size bytes,
 * "area block" one of the 4096-byte blocks of the metadata area, "map block"
 * an area block of the key map.
 */
#ifndef _KC_METADATA_H
#define _KC_METADATA_H

#include <linux/bitmap.h>
#include <linux/blkdev.h>
#include <linux/device-mapper.h>
#include <linux/dm-io.h>

#include "format.h"
#include "seal.h"

enum kc_mode {
	KC_RW,
	KC_RO,			/* the table is read-only */
	KC_FAILED,		/* a metadata write failed: no more changes */
};

/**
 * struct kc_params - what a table line says about the format
 * @cipher:	the cipher specification
 * @key_size:	of the device key in bytes
 * @sector_size: bytes
 * @flags:	KC_FLAG_*
 * @iv_offset:	sectors
 * @nr_blocks:	data blocks
 * @format:	a new area is to be made, on zeros
 */
struct kc_params {
	const char *cipher;
	unsigned int key_size;
	unsigned int sector_size;
	u32 flags;
	u64 iv_offset;
	u64 nr_blocks;
	bool format;
};

/**
 * struct kc_area - a metadata area, and the data it describes
 * @md:		the mapped device it belongs to, for log and traces
 * @bdev:	where the area is
 * @start:	and its first sector
 * @data_bdev:	where the data is
 * @data_start:	and its first sector
 * @same_bdev:	data and metadata share a device, and so a cache flush
 * @mode:	whether the metadata may change
 * @failed:	called when it no longer may
 * @io:		for metadata I/O
 * @buf:	an area block for the journal worker's metadata writes
 * @supers:	both superblock copies while the area is opened
 * @mended_super: of these, the one to be written as it must be
 * @anchor_unit: the first unit of the anchor, as this instance has last read or
 *		written it
 * @layout:	of the area
 * @sector_size: in bytes
 * @block_shift: log2 of @sector_size in sectors
 * @flags:	KC_FLAG_*
 * @iv_offset:	in sectors
 * @nr_blocks:	data blocks the key map covers
 * @cipher:	cipher specification as in the table line
 * @key_size:	of the device key in bytes
 * @uuid:	of the area
 * @salt:	of the area
 * @check:	check value of the device key
 * @sealer:	seals the metadata
 * @nr_slots:	key slots the owner table has room for
 * @destroyed:	slots of destroyed owners
 * @state_bits:	map state, one bit for each map block
 * @state_dirty: state units to be written
 */
struct kc_area {
	struct mapped_device *md;
	struct block_device *bdev;
	sector_t start;
	struct block_device *data_bdev;
	sector_t data_start;
	bool same_bdev;
	enum kc_mode mode;
	void (*failed)(struct kc_area *area);
	struct dm_io_client *io;
	u8 *buf;
	u8 *supers;
	struct kc_disk_super *mended_super;
	u8 anchor_unit[KC_UNIT_SIZE];
	struct kc_layout layout;

	unsigned int sector_size;
	unsigned int block_shift;
	u32 flags;
	u64 iv_offset;
	u64 nr_blocks;
	char cipher[KC_CIPHER_SIZE];
	unsigned int key_size;
	u8 uuid[KC_UUID_SIZE];
	u8 salt[KC_SALT_SIZE];
	u8 check[KC_CHECK_SIZE];
	struct kc_sealer sealer;
	unsigned int nr_slots;
	unsigned long *destroyed;
	unsigned long *state_bits;
	unsigned long *state_dirty;
};

int kc_area_init(struct kc_area *area, struct mapped_device *md,
		 void (*failed)(struct kc_area *area));
void kc_area_exit(struct kc_area *area);
int kc_area_io(struct kc_area *area, blk_opf_t opf, u64 area_block, void *buf,
	       unsigned int nr_area_blocks);
void kc_area_fail(struct kc_area *area, const char *what, int error);
int kc_area_read(struct kc_area *area, const struct kc_params *params,
		 u64 max_area_blocks, bool *blank);
int kc_area_verify(struct kc_area *area, struct kc_kdf *kdf);
int kc_area_format(struct kc_area *area, struct kc_kdf *kdf);
void kc_area_mend(struct kc_area *area);
int kc_area_match(struct kc_area *area, const struct kc_params *params);
int kc_area_read_owners(struct kc_area *area,
			int (*take)(void *context, u32 slot,
				    const struct kc_disk_owner *owner),
			void *context);
int kc_area_write_owners(struct kc_area *area, u32 slot, u8 *block);
int kc_area_read_anchor(struct kc_area *area, u64 *tail, u64 *durable, u32 *flags);
int kc_area_write_anchor(struct kc_area *area, u64 tail, u64 durable, u32 flags);
int kc_area_check_anchor(struct kc_area *area);
int kc_area_load_state(struct kc_area *area);
bool kc_area_test_state(struct kc_area *area, u32 map_block);
void kc_area_set_state(struct kc_area *area, u32 map_block);
int kc_area_write_state(struct kc_area *area);

/* May the metadata not be changed now, but perhaps later?  Any context. */
static inline bool kc_area_read_only(const struct kc_area *area)
{
	return area->mode == KC_RO || bdev_read_only(area->bdev) ||
	       get_disk_ro(dm_disk(area->md));
}

/* The payload of a unit of an area block */
static inline void *kc_payload(u8 *block, unsigned int unit)
{
	return block + unit * KC_UNIT_SIZE + KC_NONCE_SIZE;
}

/*
 * Has a block with this entry content that may be wanted?  Not so what is unassigned, a
 * destroyed owner's, or under a slot that there is not.  Any context.
 */
static inline bool kc_slot_kept(const struct kc_area *area, u16 slot)
{
	return slot != KC_SLOT_NONE && slot < area->nr_slots &&
	       !test_bit(slot, area->destroyed);
}

#endif
