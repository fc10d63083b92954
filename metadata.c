// SPDX-License-Identifier: GPL-2.0
/*
 * The fixed parts of the metadata area: superblocks, owner table, journal
 * anchor, map state.
 *
 * The superblock is written once and never again, so that both copies are
 * good at any time.  An owner is one sealed sector, and a disk writes a sector
 * whole or not at all: owners are changed in place with FUA, without the
 * journal.
 */

#include <linux/crc32c.h>
#include <linux/random.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>
#include <crypto/algapi.h>

#include "compat.h"
#include "error.h"
#include "metadata.h"

/* Area blocks read or written at once where a whole range is. */
#define KC_META_CHUNK	64

/**
 * kc_area_io() - read or write area blocks
 * @area:	the area
 * @opf:	operation and flags
 * @area_block:	first area block
 * @buf:	kernel memory, vmalloc memory too
 * @nr_area_blocks: how many
 *
 * Process context, not from within ->map(); sleeps until done.
 * Return: 0 or a negative errno.
 */
int kc_area_io(struct kc_area *area, blk_opf_t opf, u64 area_block, void *buf,
	       unsigned int nr_area_blocks)
{
	struct dm_io_request req = {
		.bi_opf = opf | REQ_SYNC | REQ_META,
		.client = area->io,
	};
	struct dm_io_region where = {
		.bdev = area->bdev,
		.sector = area->start + area_block * KC_BLOCK_SECTORS,
		.count = nr_area_blocks * KC_BLOCK_SECTORS,
	};

	if (is_vmalloc_addr(buf)) {
		req.mem.type = DM_IO_VMA;
		req.mem.ptr.vma = buf;
	} else {
		req.mem.type = DM_IO_KMEM;
		req.mem.ptr.addr = buf;
	}
	return kc_dm_io(&req, &where);
}

/**
 * kc_area_fail() - a metadata write failed: stop changing the key map
 * @area:	the area
 * @what:	what could not be written
 * @error:	negative errno
 *
 * Process context.  Says so once, in the log and by area->failed().
 */
void kc_area_fail(struct kc_area *area, const char *what, int error)
{
	if (cmpxchg(&area->mode, KC_RW, KC_FAILED) != KC_RW)
		return;
	DMERR("%s: writing the %s failed (%d): the key map cannot change until the table is loaded again",
	      dm_device_name(area->md), what, error);
	area->failed(area);
}

/* ---- superblock ---- */

static const u64 kc_super_places[] = { KC_SUPER_BLOCK_1, KC_SUPER_BLOCK_2 };

/* One of both copies, as read or to be written */
static struct kc_disk_super *kc_super_copy(u8 *copies, unsigned int i)
{
	return (void *)(copies + i * KC_BLOCK_SIZE);
}

static u32 kc_super_csum(const struct kc_disk_super *ds)
{
	return crc32c(~0, ds, offsetof(struct kc_disk_super, csum));
}

/* A block that can be a superblock: magic and checksum.  Needs no key. */
static bool kc_super_sound(const u8 *block, u64 place)
{
	static const u8 magic[sizeof_field(struct kc_disk_super, magic)] = KC_MAGIC;
	const struct kc_disk_super *ds = (const void *)block;

	return !memcmp(ds->magic, magic, sizeof(magic)) &&
	       le32_to_cpu(ds->csum) == kc_super_csum(ds) &&
	       le32_to_cpu(ds->place) == place &&
	       !memchr_inv(block + sizeof(*ds), 0, KC_BLOCK_SIZE - sizeof(*ds));
}

static int kc_super_mac(struct kc_kdf *kdf, const struct kc_disk_super *ds,
			u8 mac[KC_MAC_SIZE])
{
	u8 key[64];
	int r;

	r = kc_kdf_expand(kdf, KC_KDF_SUPER, ds->uuid, key, sizeof(key));
	if (!r)
		r = kc_mac(key, sizeof(key), ds,
			   offsetof(struct kc_disk_super, mac), mac);
	memzero_explicit(key, sizeof(key));
	return r;
}

/* Makes a superblock the copy for another place. */
static int kc_super_seal(struct kc_disk_super *ds, struct kc_kdf *kdf, u64 place)
{
	int r;

	ds->place = cpu_to_le32(place);
	r = kc_super_mac(kdf, ds, ds->mac);
	if (!r)
		ds->csum = cpu_to_le32(kc_super_csum(ds));
	return r;
}

static int kc_super_write(struct kc_area *area, struct kc_disk_super *ds)
{
	return kc_area_io(area, REQ_OP_WRITE | REQ_PREFLUSH | REQ_FUA,
			  le32_to_cpu(ds->place), ds, 1);
}

#define KC_MISMATCH(what, fmt, disk, table)				\
	kc_error("metadata was made with " what " " fmt ", the table line says " fmt, \
		 disk, table)

/**
 * kc_area_match() - does a table line fit the metadata?
 * @area:	the area, with what its superblock says
 * @params:	what the table line says
 *
 * Return: 0 or -EINVAL, with an error that names both values.  A line that asks
 * for a new area fits none.
 */
int kc_area_match(struct kc_area *area, const struct kc_params *params)
{
	if (params->format)
		kc_error("format is for areas of zeros, this one has a superblock: nothing was written to it");
	else if (strcmp(area->cipher, params->cipher))
		KC_MISMATCH("cipher", "%s", area->cipher, params->cipher);
	else if (area->sector_size != params->sector_size)
		KC_MISMATCH("sector_size", "%u", area->sector_size, params->sector_size);
	else if (area->key_size != params->key_size)
		KC_MISMATCH("a key size of", "%u", area->key_size, params->key_size);
	else if (area->flags != params->flags)
		KC_MISMATCH("iv_large_sectors", "%s",
			    area->flags & KC_FLAG_IV_LARGE_SECTORS ? "on" : "off",
			    params->flags & KC_FLAG_IV_LARGE_SECTORS ? "on" : "off");
	else if (area->iv_offset != params->iv_offset)
		KC_MISMATCH("iv_offset", "%llu", area->iv_offset, params->iv_offset);
	else if (area->nr_blocks < params->nr_blocks)
		kc_error("metadata maps %llu blocks, the table line needs %llu",
			 area->nr_blocks, params->nr_blocks);
	else
		return 0;
	return -EINVAL;
}

static void kc_area_take_params(struct kc_area *area, const struct kc_params *params)
{
	strscpy(area->cipher, params->cipher, sizeof(area->cipher));
	area->key_size = params->key_size;
	area->sector_size = params->sector_size;
	area->block_shift = ilog2(params->sector_size) - SECTOR_SHIFT;
	area->flags = params->flags;
	area->iv_offset = params->iv_offset;
	area->nr_blocks = params->nr_blocks;
}

/* Computes the layout, checks its size and makes room for its slots. */
static int kc_area_layout(struct kc_area *area, u32 owner_blocks,
			  u32 journal_blocks, u64 max_area_blocks)
{
	kc_layout_init(&area->layout, area->nr_blocks, owner_blocks, journal_blocks);
	if (area->layout.end > max_area_blocks) {
		kc_error("metadata area needs %llu sectors, there are %llu",
			 area->layout.end * KC_BLOCK_SECTORS,
			 max_area_blocks * KC_BLOCK_SECTORS);
		return -ENOSPC;
	}
	area->nr_slots = owner_blocks * KC_UNITS;
	area->destroyed = bitmap_zalloc(area->nr_slots, GFP_KERNEL);
	return area->destroyed ? 0 : -ENOMEM;
}

/* What a verified checksum leaves to be wrong.  Fills in @area. */
static int kc_super_parse(struct kc_area *area, const struct kc_disk_super *ds,
			  const struct kc_params *params, u64 max_area_blocks)
{
	u32 owner_blocks = le32_to_cpu(ds->owner_blocks);
	u32 journal_blocks = le32_to_cpu(ds->journal_blocks);
	struct kc_params disk = {
		.cipher = ds->cipher,
		.key_size = le32_to_cpu(ds->key_size),
		.sector_size = le32_to_cpu(ds->sector_size),
		.flags = le32_to_cpu(ds->flags),
		.iv_offset = le64_to_cpu(ds->iv_offset),
		.nr_blocks = le64_to_cpu(ds->nr_blocks),
	};
	int r;

	if (le32_to_cpu(ds->version) != KC_VERSION) {
		kc_error("metadata has format version %u, this module knows %u",
			 le32_to_cpu(ds->version), KC_VERSION);
		return -EINVAL;
	}
	if (ds->incompat) {
		kc_error("metadata has unknown incompatible features %#x",
			 le32_to_cpu(ds->incompat));
		return -EINVAL;
	}
	if (ds->ro_compat && area->mode == KC_RW) {
		kc_error("metadata has unknown features %#x: load the table read-only",
			 le32_to_cpu(ds->ro_compat));
		return -EROFS;
	}
	if (memchr_inv(ds->reserved, 0, sizeof(ds->reserved)) ||
	    !memchr(ds->cipher, 0, sizeof(ds->cipher)) ||
	    !disk.key_size || disk.key_size > KC_MAX_KEY_SIZE ||
	    owner_blocks < 1 || owner_blocks > KC_OWNER_BLOCKS_MAX ||
	    journal_blocks < KC_JOURNAL_BLOCKS_MIN ||
	    journal_blocks > KC_JOURNAL_BLOCKS_MAX ||
	    disk.flags & ~KC_FLAG_IV_LARGE_SECTORS ||
	    !disk.nr_blocks || disk.nr_blocks > KC_MAX_BLOCKS) {
		kc_error("superblock has impossible values");
		return -EINVAL;
	}
	kc_area_take_params(area, &disk);
	memcpy(area->uuid, ds->uuid, sizeof(area->uuid));
	memcpy(area->salt, ds->salt, sizeof(area->salt));
	memcpy(area->check, ds->check, sizeof(area->check));
	r = kc_area_match(area, params);
	if (r)
		return r;
	return kc_area_layout(area, owner_blocks, journal_blocks, max_area_blocks);
}

/* Fills a range with sealed units of zeros. */
static int kc_format_range(struct kc_area *area, enum kc_kind kind, u64 start,
			   u32 nr, u8 *buf)
{
	u32 done, n, i;
	int r;

	for (done = 0; done < nr; done += n) {
		n = min_t(u32, nr - done, KC_META_CHUNK);
		memset(buf, 0, n * KC_BLOCK_SIZE);
		for (i = 0, r = 0; !r && i < n; i++)
			r = kc_seal_block(&area->sealer, kind, start + done + i,
					  buf + i * KC_BLOCK_SIZE);
		if (!r)
			r = kc_area_io(area, REQ_OP_WRITE, start + done, buf, n);
		if (r)
			return r;
		cond_resched();
	}
	return 0;
}

/*
 * Is the area one of zeros, and to be formatted?  Then gives it a UUID and a salt.
 * Zeros alone do not say so: they may be what is left of an area.
 */
static int kc_area_read_blank(struct kc_area *area, const struct kc_params *params,
			      u64 max_area_blocks, u8 *buf)
{
	u32 owner_blocks, n;
	u64 block;
	int r;

	kc_area_take_params(area, params);
	owner_blocks = clamp_t(u64, params->nr_blocks >> KC_OWNER_BLOCKS_SHIFT,
			       KC_OWNER_BLOCKS_LOW, KC_OWNER_BLOCKS_HIGH);
	r = kc_area_layout(area, owner_blocks, KC_JOURNAL_BLOCKS, max_area_blocks);
	if (r)
		return r;
	for (block = 0; block < area->layout.map; block += n) {
		n = min_t(u64, area->layout.map - block, KC_META_CHUNK);
		r = kc_area_io(area, REQ_OP_READ, block, buf, n);
		if (r) {
			kc_error("cannot read the metadata area");
			return r;
		}
		if (memchr_inv(buf, 0, n * KC_BLOCK_SIZE)) {
			kc_error("metadata area has no superblock and is not all zeros: nothing was written to it");
			return -EINVAL;
		}
	}
	if (!params->format) {
		kc_error("metadata area is all zeros: the option format makes a new one, if nothing is missing here");
		return -EINVAL;
	}
	if (area->mode != KC_RW) {
		kc_error("metadata area is all zeros: the table must be read-write to format it");
		return -EROFS;
	}
	get_random_bytes(area->uuid, sizeof(area->uuid));
	get_random_bytes(area->salt, sizeof(area->salt));
	return 0;
}

/* The superblock that counts: the first sound copy.  NULL if there is none. */
static struct kc_disk_super *kc_super_choose(u8 *copies, bool sound[2])
{
	struct kc_disk_super *ds[2];
	int i;

	for (i = 0; i < 2; i++) {
		ds[i] = kc_super_copy(copies, i);
		sound[i] = kc_super_sound((u8 *)ds[i], kc_super_places[i]);
	}
	if (sound[0])
		return ds[0];
	return sound[1] ? ds[1] : NULL;
}

/**
 * kc_area_read() - read the superblocks
 * @area:	the area, with its devices, their starts and mode set
 * @params:	what the table line says
 * @max_area_blocks: room for the area
 * @blank:	set if there is none, the area is of zeros and the table line asks for
 *		a new one: to be formatted
 *
 * What is read is not authenticated yet.  Process context; writes nothing.
 * Return: 0 or a negative errno with an error said.
 */
int kc_area_read(struct kc_area *area, const struct kc_params *params,
		 u64 max_area_blocks, bool *blank)
{
	struct kc_disk_super *ds;
	int errors = 0, i, r;
	bool sound[2];
	u8 *buf;

	if (max_area_blocks <= KC_OWNER_START) {
		kc_error("metadata area has %llu sectors, it needs at least %u",
			 max_area_blocks * KC_BLOCK_SECTORS,
			 (KC_OWNER_START + 1) * KC_BLOCK_SECTORS);
		return -ENOSPC;
	}
	area->supers = kmalloc(2 * KC_BLOCK_SIZE, GFP_KERNEL);
	buf = vmalloc(KC_META_CHUNK * KC_BLOCK_SIZE);
	r = -ENOMEM;
	if (!area->supers || !buf)
		goto out;
	memset(area->supers, 0xff, 2 * KC_BLOCK_SIZE);
	for (i = 0; i < 2; i++) {
		r = kc_area_io(area, REQ_OP_READ, kc_super_places[i],
			       (u8 *)kc_super_copy(area->supers, i), 1);
		if (r)
			errors++;
	}
	if (errors == 2) {
		kc_error("cannot read the metadata area");
		goto out;
	}
	ds = kc_super_choose(area->supers, sound);
	if (ds) {
		*blank = false;
		r = kc_super_parse(area, ds, params, max_area_blocks);
	} else if (memchr_inv(area->supers, 0, 2 * KC_BLOCK_SIZE)) {
		kc_error("metadata area has no valid superblock and is not all zeros: nothing was written to it");
		r = -EINVAL;
	} else {
		*blank = true;
		r = kc_area_read_blank(area, params, max_area_blocks, buf);
	}
out:
	vfree(buf);
	return r;
}

/**
 * kc_area_verify() - authenticate what kc_area_read() has read
 * @area:	the area
 * @kdf:	of the device key
 *
 * Process context; writes nothing: kc_area_mend() makes a bad copy good.
 * Return: 0 or a negative errno with an error said.
 */
int kc_area_verify(struct kc_area *area, struct kc_kdf *kdf)
{
	struct kc_disk_super *ds;
	u8 mac[KC_MAC_SIZE];
	bool sound[2];
	int r;

	ds = kc_super_choose(area->supers, sound);
	r = kc_super_mac(kdf, ds, mac);
	if (r) {
		kc_error("cannot authenticate the superblock");
	} else if (crypto_memneq(mac, ds->mac, sizeof(mac))) {
		kc_error("superblock is forged: it is not authentic under the device key");
		r = -EBADMSG;
	} else if (!sound[0] || !sound[1]) {
		/* Written when all the rest has been found to be good. */
		r = kc_super_seal(ds, kdf, kc_super_places[sound[0] ? 1 : 0]);
		if (!r)
			area->mended_super = ds;
	} else if (memcmp(kc_super_copy(area->supers, 0), kc_super_copy(area->supers, 1),
			  offsetof(struct kc_disk_super, place))) {
		kc_error("superblock copies are of different metadata areas");
		r = -EINVAL;
	}
	return r;
}

/* Makes both superblock copies in area->supers. */
static int kc_area_make_supers(struct kc_area *area, struct kc_kdf *kdf)
{
	struct kc_disk_super *ds = kc_super_copy(area->supers, 0), *second;
	int r;

	memset(ds, 0, KC_BLOCK_SIZE);
	memcpy(ds->magic, KC_MAGIC, sizeof(KC_MAGIC));
	ds->version = cpu_to_le32(KC_VERSION);
	memcpy(ds->uuid, area->uuid, sizeof(ds->uuid));
	memcpy(ds->salt, area->salt, sizeof(ds->salt));
	memcpy(ds->check, area->check, sizeof(ds->check));
	strscpy(ds->cipher, area->cipher, sizeof(ds->cipher));
	ds->key_size = cpu_to_le32(area->key_size);
	ds->sector_size = cpu_to_le32(area->sector_size);
	ds->flags = cpu_to_le32(area->flags);
	ds->owner_blocks = cpu_to_le32(area->layout.owner_blocks);
	ds->journal_blocks = cpu_to_le32(area->layout.journal_blocks);
	ds->iv_offset = cpu_to_le64(area->iv_offset);
	ds->nr_blocks = cpu_to_le64(area->nr_blocks);
	second = kc_super_copy(area->supers, 1);
	memcpy(second, ds, KC_BLOCK_SIZE);
	r = kc_super_seal(ds, kdf, KC_SUPER_BLOCK_1);
	if (!r)
		r = kc_super_seal(second, kdf, KC_SUPER_BLOCK_2);
	return r;
}

/**
 * kc_area_format() - format an area that kc_area_read() found blank
 * @area:	the area, its sealer ready, with the device key's check value
 * @kdf:	of the device key
 *
 * The superblocks come last, the first one at the very end: an area whose
 * formatting was interrupted has none.  Process context.
 * Return: 0 or a negative errno with an error said.
 */
int kc_area_format(struct kc_area *area, struct kc_kdf *kdf)
{
	u8 *buf;
	int r;

	/* All that needs memory comes before the first write. */
	buf = vmalloc(KC_META_CHUNK * KC_BLOCK_SIZE);
	if (!buf)
		return -ENOMEM;
	r = kc_area_make_supers(area, kdf);
	if (!r)
		r = kc_format_range(area, KC_KIND_OWNER, KC_OWNER_START,
				    area->layout.owner_blocks, buf);
	if (!r)
		r = kc_format_range(area, KC_KIND_STATE, area->layout.state,
				    area->layout.state_blocks, buf);
	if (!r)
		r = kc_area_write_anchor(area, 1, 1, KC_ANCHOR_CLEAN);
	if (!r)
		r = kc_super_write(area, kc_super_copy(area->supers, 1));
	if (!r)
		r = kc_super_write(area, kc_super_copy(area->supers, 0));
	vfree(buf);
	if (r)
		kc_error("cannot write the metadata area");
	else
		DMINFO("%s: formatted a metadata area for %llu blocks of %u bytes",
		       dm_device_name(area->md), area->nr_blocks, area->sector_size);
	return r;
}

/**
 * kc_area_mend() - write a bad superblock copy again
 * @area:	the area, all of its metadata found to be good
 *
 * If the table is read-write, and if it can be written; the other copy will do.
 * Process context.
 */
void kc_area_mend(struct kc_area *area)
{
	struct kc_disk_super *ds = area->mended_super;
	bool fixed;

	if (!ds)
		return;
	fixed = area->mode == KC_RW && !kc_super_write(area, ds);
	DMWARN("%s: superblock copy %d was bad: %s", dm_device_name(area->md),
	       le32_to_cpu(ds->place) == kc_super_places[0] ? 1 : 2,
	       fixed ? "written again" : "using the other");
	area->mended_super = NULL;
}

/* ---- owner table ---- */

/**
 * kc_area_read_owners() - read the owner table
 * @area:	the area, its sealer ready
 * @take:	called for each slot; an error of it, said, ends the reading
 * @context:	for @take
 *
 * Process context.
 * Return: 0 or a negative errno with an error said.
 */
int kc_area_read_owners(struct kc_area *area,
			int (*take)(void *context, u32 slot,
				    const struct kc_disk_owner *owner),
			void *context)
{
	u32 block, n, i, u;
	u8 *buf;
	int r = 0;

	buf = vmalloc(KC_META_CHUNK * KC_BLOCK_SIZE);
	if (!buf) {
		r = -ENOMEM;
		goto out;
	}
	for (block = 0; block < area->layout.owner_blocks; block += n) {
		n = min_t(u32, area->layout.owner_blocks - block, KC_META_CHUNK);
		r = kc_area_io(area, REQ_OP_READ, KC_OWNER_START + block, buf, n);
		if (r && n > 1) {
			n = 1;
			r = kc_area_io(area, REQ_OP_READ, KC_OWNER_START + block, buf, 1);
		}
		if (r && area->mode == KC_RO) {
			DMWARN("%s: owner table block %u cannot be read (%d): its owners are locked",
			       dm_device_name(area->md), block, r);
			r = 0;
			continue;
		}
		if (r) {
			kc_error("cannot read the owner table");
			goto out;
		}
		for (i = 0; i < n; i++) {
			u8 *b = buf + i * KC_BLOCK_SIZE;

			r = kc_unseal_block(&area->sealer, KC_KIND_OWNER,
					    KC_OWNER_START + block + i, b);
			if (r) {
				kc_error("owner table block %u is not authentic",
					 block + i);
				goto out;
			}
			for (u = 0; u < KC_UNITS; u++) {
				r = take(context, (block + i) * KC_UNITS + u,
					 kc_payload(b, u));
				if (r)
					goto out;
			}
		}
		cond_resched();
	}
out:
	kvfree_sensitive(buf, KC_META_CHUNK * KC_BLOCK_SIZE);
	return r;
}

/**
 * kc_area_write_owners() - make a block of the owner table durable
 * @area:	the area
 * @slot:	any slot of the block
 * @block:	with the payloads of all its units; is sealed in place
 *
 * Process context; one caller at a time.
 * Return: 0 or a negative errno; a failed write stops changes of the metadata.
 */
int kc_area_write_owners(struct kc_area *area, u32 slot, u8 *block)
{
	u64 area_block = KC_OWNER_START + slot / KC_UNITS;
	int r;

	r = kc_seal_block(&area->sealer, KC_KIND_OWNER, area_block, block);
	if (!r)
		r = kc_area_io(area, REQ_OP_WRITE | REQ_PREFLUSH | REQ_FUA, area_block,
			       block, 1);
	if (r)
		kc_area_fail(area, "owner table", r);
	return r;
}

/* ---- anchor ---- */

/**
 * kc_area_read_anchor() - read the journal anchor
 * @area:	the area
 * @tail:	first journal block still needed
 * @durable:	all before it were durable
 * @flags:	KC_ANCHOR_*
 *
 * Process context.
 * Return: 0 or a negative errno with an error said.
 */
int kc_area_read_anchor(struct kc_area *area, u64 *tail, u64 *durable, u32 *flags)
{
	struct kc_disk_anchor *da;
	u8 *buf = kmalloc(KC_BLOCK_SIZE, GFP_KERNEL);
	int r;

	if (!buf)
		return -ENOMEM;
	r = kc_area_io(area, REQ_OP_READ, area->layout.anchor, buf, 1);
	if (r) {
		kc_error("cannot read the journal anchor");
		goto out;
	}
	memcpy(area->anchor_unit, buf, KC_UNIT_SIZE);
	r = kc_unseal_block(&area->sealer, KC_KIND_ANCHOR, area->layout.anchor, buf);
	if (r) {
		kc_error("journal anchor is not authentic");
		goto out;
	}
	da = kc_payload(buf, 0);
	*tail = le64_to_cpu(da->tail);
	*durable = le64_to_cpu(da->durable);
	*flags = le32_to_cpu(da->flags);
	if (!*tail || *tail > *durable ||
	    *durable - *tail > area->layout.journal_blocks ||
	    *durable > KC_MAX_SEQ ||
	    *flags & ~KC_ANCHOR_CLEAN) {
		kc_error("journal anchor has impossible values");
		r = -EINVAL;
	}
out:
	kfree_sensitive(buf);
	return r;
}

/**
 * kc_area_write_anchor() - make the journal anchor durable
 * @area:	the area
 * @tail:	first journal block still needed
 * @durable:	all before it are durable
 * @flags:	KC_ANCHOR_*
 *
 * Journal worker, or while there is none.
 * Return: 0 or a negative errno.
 */
int kc_area_write_anchor(struct kc_area *area, u64 tail, u64 durable, u32 flags)
{
	u8 *buf = area->buf;
	struct kc_disk_anchor *da = kc_payload(buf, 0);
	int r;

	memset(buf, 0, KC_BLOCK_SIZE);
	da->tail = cpu_to_le64(tail);
	da->durable = cpu_to_le64(durable);
	da->flags = cpu_to_le32(flags);
	r = kc_seal_block(&area->sealer, KC_KIND_ANCHOR, area->layout.anchor, buf);
	if (r)
		return r;
	memcpy(area->anchor_unit, buf, KC_UNIT_SIZE);
	return kc_area_io(area, REQ_OP_WRITE | REQ_FUA, area->layout.anchor, buf, 1);
}

/**
 * kc_area_check_anchor() - is the anchor on disk this instance's?
 * @area:	the area; nobody else writes the anchor meanwhile
 *
 * Its nonce tells.  It is another one's when the disk was used by another kernel: while this
 * one was hibernated, or on another machine.  An anchor that cannot be read is nobody's; it is
 * going to be written.  Journal worker only.
 * Return: 0, or -EREMOTE if it is not.
 */
int kc_area_check_anchor(struct kc_area *area)
{
	int r;

	r = kc_area_io(area, REQ_OP_READ, area->layout.anchor, area->buf, 1);
	if (!r && memcmp(area->buf, area->anchor_unit, KC_UNIT_SIZE))
		return -EREMOTE;
	return 0;
}

/* ---- map state ---- */

static u32 kc_state_units(const struct kc_area *area)
{
	return area->layout.state_blocks * KC_UNITS;
}

/**
 * kc_area_load_state() - read the map state
 * @area:	the area
 *
 * Process context.
 * Return: 0 or a negative errno with an error said.
 */
int kc_area_load_state(struct kc_area *area)
{
	u32 block, u;
	u8 *buf;
	int r = 0;

	area->state_bits = kvzalloc((size_t)kc_state_units(area) * KC_UNIT_PAYLOAD,
				    GFP_KERNEL);
	area->state_dirty = bitmap_zalloc(kc_state_units(area), GFP_KERNEL);
	buf = kmalloc(KC_BLOCK_SIZE, GFP_KERNEL);
	if (!area->state_bits || !area->state_dirty || !buf) {
		r = -ENOMEM;
		goto out;
	}
	for (block = 0; block < area->layout.state_blocks; block++) {
		r = kc_area_io(area, REQ_OP_READ, area->layout.state + block, buf, 1);
		if (r && area->mode == KC_RO) {
			DMWARN("%s: map state block %u cannot be read (%d): taking all its map blocks for written",
			       dm_device_name(area->md), block, r);
			memset((u8 *)area->state_bits +
			       (size_t)block * KC_UNITS * KC_UNIT_PAYLOAD, 0xff,
			       KC_UNITS * KC_UNIT_PAYLOAD);
			r = 0;
			continue;
		}
		if (r) {
			kc_error("cannot read the map state");
			goto out;
		}
		r = kc_unseal_block(&area->sealer, KC_KIND_STATE, area->layout.state + block, buf);
		if (r) {
			kc_error("map state block %u is not authentic", block);
			goto out;
		}
		for (u = 0; u < KC_UNITS; u++)
			memcpy((u8 *)area->state_bits +
			       (size_t)(block * KC_UNITS + u) * KC_UNIT_PAYLOAD,
			       kc_payload(buf, u),
			       KC_UNIT_PAYLOAD);
	}
out:
	kfree_sensitive(buf);
	return r;
}

/**
 * kc_area_test_state() - has a map block ever been written?
 * @area:	the area
 * @map_block:	its number
 *
 * Any context.
 * Return: true if it has.
 */
bool kc_area_test_state(struct kc_area *area, u32 map_block)
{
	const u8 *bits = (const u8 *)area->state_bits;

	/* test_bit_le() takes an int. */
	return READ_ONCE(bits[map_block / 8]) & BIT(map_block % 8);
}

/**
 * kc_area_set_state() - a map block has been written for the first time
 * @area:	the area
 * @map_block:	its number
 *
 * Journal worker only.  kc_area_write_state() makes it durable.
 */
void kc_area_set_state(struct kc_area *area, u32 map_block)
{
	u8 *bits = (u8 *)area->state_bits;

	WRITE_ONCE(bits[map_block / 8], bits[map_block / 8] | BIT(map_block % 8));
	set_bit(map_block / KC_STATE_BITS_PER_UNIT, area->state_dirty);
}

/**
 * kc_area_write_state() - make the map state durable
 * @area:	the area
 *
 * Journal worker only.
 * Return: 0 or a negative errno.
 */
int kc_area_write_state(struct kc_area *area)
{
	u32 unit, block, u;
	u8 *buf = area->buf;
	int r;

	for (;;) {
		unit = find_first_bit(area->state_dirty, kc_state_units(area));
		if (unit >= kc_state_units(area))
			return 0;
		block = unit / KC_UNITS;
		for (u = 0; u < KC_UNITS; u++)
			memcpy(kc_payload(buf, u),
			       (u8 *)area->state_bits +
			       (size_t)(block * KC_UNITS + u) * KC_UNIT_PAYLOAD,
			       KC_UNIT_PAYLOAD);
		r = kc_seal_block(&area->sealer, KC_KIND_STATE,
				  area->layout.state + block, buf);
		if (!r)
			r = kc_area_io(area, REQ_OP_WRITE | REQ_FUA,
				       area->layout.state + block, buf, 1);
		if (r)
			return r;
		bitmap_clear(area->state_dirty, block * KC_UNITS, KC_UNITS);
	}
}

/**
 * kc_area_exit() - free what this file allocated
 * @area:	the area
 */
void kc_area_exit(struct kc_area *area)
{
	bitmap_free(area->destroyed);
	kvfree_sensitive(area->state_bits,
			 (size_t)kc_state_units(area) * KC_UNIT_PAYLOAD);
	bitmap_free(area->state_dirty);
	kfree(area->supers);
	kc_sealer_wipe(&area->sealer);
	free_page((unsigned long)area->buf);
	if (area->io)
		dm_io_client_destroy(area->io);
}

/**
 * kc_area_init() - set up what I/O to the area needs
 * @area:	the area, zeroed
 * @md:		the mapped device, for what is logged
 * @failed:	called once when a write of metadata has failed; process context
 *
 * Process context.
 * Return: 0 or -ENOMEM; kc_area_exit() in any case.
 */
int kc_area_init(struct kc_area *area, struct mapped_device *md,
		 void (*failed)(struct kc_area *area))
{
	area->md = md;
	area->failed = failed;
	kc_sealer_setup(&area->sealer);
	area->io = dm_io_client_create();
	if (IS_ERR(area->io)) {
		area->io = NULL;
		return -ENOMEM;
	}
	area->buf = (u8 *)__get_free_page(GFP_KERNEL);
	return area->buf ? 0 : -ENOMEM;
}
