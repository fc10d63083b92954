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

#include "dm-keyed-crypt.h"

/* Area blocks read or written at once where a whole range is. */
#define KC_META_CHUNK	64

/**
 * kc_meta_io() - read or write area blocks
 * @kd:		the device
 * @opf:	operation and flags
 * @area_block:	first area block
 * @buf:	kernel memory, vmalloc memory too
 * @nr_area_blocks: how many
 *
 * Process context, not from within ->map(); sleeps until done.
 * Return: 0 or a negative errno.
 */
int kc_meta_io(struct kc_dev *kd, blk_opf_t opf, u64 area_block, void *buf,
	       unsigned int nr_area_blocks)
{
	struct dm_io_request req = {
		.bi_opf = opf | REQ_SYNC | REQ_META,
		.client = kd->dm_io,
	};
	struct dm_io_region where = {
		.bdev = kd->meta_bdev,
		.sector = kd->meta_start + area_block * KC_BLOCK_SECTORS,
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
 * kc_meta_fail() - a metadata write failed: stop changing the key map
 * @kd:		the device
 * @what:	what could not be written
 * @error:	negative errno
 *
 * Process context.  Says so once, in the log and by a dm event.
 */
void kc_meta_fail(struct kc_dev *kd, const char *what, int error)
{
	if (cmpxchg(&kd->mode, KC_RW, KC_FAILED) != KC_RW)
		return;
	DMERR("%s: writing the %s failed (%d): the key map cannot change until the table is loaded again",
	      dm_device_name(kd->md), what, error);
	mutex_lock(&kd->event_lock);
	if (kd->table)
		dm_table_event(kd->table);
	mutex_unlock(&kd->event_lock);
}

/* ---- superblock ---- */

static const u64 kc_super_places[] = { KC_SUPER_BLOCK_1, KC_SUPER_BLOCK_2 };

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

static int kc_super_write(struct kc_dev *kd, u8 *block)
{
	const struct kc_disk_super *ds = (const void *)block;

	return kc_meta_io(kd, REQ_OP_WRITE | REQ_PREFLUSH | REQ_FUA,
			  le32_to_cpu(ds->place), block, 1);
}

#define KC_MISMATCH(what, fmt, disk, table)				\
	kc_error("metadata was made with " what " " fmt ", the table line says " fmt, \
		 disk, table)

/**
 * kc_meta_match() - does a table line fit the metadata?
 * @kd:		the device, with what its superblock says
 * @params:	what the table line says
 *
 * Return: 0 or -EINVAL, with an error that names both values.
 */
int kc_meta_match(struct kc_dev *kd, const struct kc_params *params)
{
	if (strcmp(kd->cipher_spec, params->cipher))
		KC_MISMATCH("cipher", "%s", kd->cipher_spec, params->cipher);
	else if (kd->sector_size != params->sector_size)
		KC_MISMATCH("sector_size", "%u", kd->sector_size, params->sector_size);
	else if (kd->device.ref.size != params->key_size)
		KC_MISMATCH("a key size of", "%u", kd->device.ref.size, params->key_size);
	else if (kd->flags != params->flags)
		KC_MISMATCH("iv_large_sectors", "%s",
			    kd->flags & KC_FLAG_IV_LARGE_SECTORS ? "on" : "off",
			    params->flags & KC_FLAG_IV_LARGE_SECTORS ? "on" : "off");
	else if (kd->iv_offset != params->iv_offset)
		KC_MISMATCH("iv_offset", "%llu", kd->iv_offset, params->iv_offset);
	else if (kd->nr_blocks < params->nr_blocks)
		kc_error("metadata maps %llu blocks, the table line needs %llu",
			 kd->nr_blocks, params->nr_blocks);
	else
		return 0;
	return -EINVAL;
}

static void kc_dev_take_params(struct kc_dev *kd, const struct kc_params *params)
{
	strscpy(kd->cipher_spec, params->cipher, sizeof(kd->cipher_spec));
	kd->sector_size = params->sector_size;
	kd->flags = params->flags;
	kd->iv_offset = params->iv_offset;
	kd->nr_blocks = params->nr_blocks;
}

/* Computes the layout, checks its size and makes room for its slots. */
static int kc_meta_layout(struct kc_dev *kd, u32 owner_blocks,
			  u32 journal_blocks, u64 max_area_blocks)
{
	kc_layout_init(&kd->layout, kd->nr_blocks, owner_blocks, journal_blocks);
	if (kd->layout.end > max_area_blocks) {
		kc_error("metadata area needs %llu sectors, there are %llu",
			 kd->layout.end * KC_BLOCK_SECTORS,
			 max_area_blocks * KC_BLOCK_SECTORS);
		return -ENOSPC;
	}
	kd->nr_slots = owner_blocks * KC_UNITS;
	kd->owners = kvcalloc(kd->nr_slots, sizeof(*kd->owners), GFP_KERNEL);
	kd->ks = kvcalloc(kd->nr_slots, sizeof(*kd->ks), GFP_KERNEL);
	kd->destroyed = bitmap_zalloc(kd->nr_slots, GFP_KERNEL);
	return kd->owners && kd->ks && kd->destroyed ? 0 : -ENOMEM;
}

/* What a verified checksum leaves to be wrong.  Fills in @kd. */
static int kc_super_parse(struct kc_dev *kd, const struct kc_disk_super *ds,
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
	if (ds->ro_compat && kd->mode == KC_RW) {
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
	kc_dev_take_params(kd, &disk);
	kd->device.ref.size = disk.key_size;
	memcpy(kd->uuid, ds->uuid, sizeof(kd->uuid));
	memcpy(kd->salt, ds->salt, sizeof(kd->salt));
	memcpy(kd->device.check, ds->check, sizeof(kd->device.check));
	r = kc_meta_match(kd, params);
	if (r)
		return r;
	return kc_meta_layout(kd, owner_blocks, journal_blocks, max_area_blocks);
}

/* Fills a range with sealed units of zeros. */
static int kc_format_range(struct kc_dev *kd, enum kc_kind kind, u64 start,
			   u32 nr, u8 *buf)
{
	u32 done, n, i;
	int r;

	for (done = 0; done < nr; done += n) {
		n = min_t(u32, nr - done, KC_META_CHUNK);
		memset(buf, 0, n * KC_BLOCK_SIZE);
		for (i = 0; i < n; i++)
			kc_seal_block(&kd->sealer, kind, start + done + i,
				      buf + i * KC_BLOCK_SIZE);
		r = kc_meta_io(kd, REQ_OP_WRITE, start + done, buf, n);
		if (r)
			return r;
		cond_resched();
	}
	return 0;
}

/*
 * Formats an area of zeros.  The superblocks come last, the first one at the
 * very end: an area whose formatting was interrupted has none.
 */
static int kc_meta_format(struct kc_dev *kd, const struct kc_params *params,
			  const struct kc_keyref *ref, u64 max_area_blocks,
			  u8 *buf)
{
	struct kc_disk_super *ds;
	struct kc_kdf kdf;
	u32 owner_blocks, n;
	u8 *copies;
	u64 block;
	int r;

	kc_dev_take_params(kd, params);
	owner_blocks = clamp_t(u64, params->nr_blocks >> KC_OWNER_BLOCKS_SHIFT,
			       KC_OWNER_BLOCKS_LOW, KC_OWNER_BLOCKS_HIGH);
	r = kc_meta_layout(kd, owner_blocks, KC_JOURNAL_BLOCKS, max_area_blocks);
	if (r)
		return r;
	for (block = 0; block < kd->layout.map; block += n) {
		n = min_t(u64, kd->layout.map - block, KC_META_CHUNK);
		r = kc_meta_io(kd, REQ_OP_READ, block, buf, n);
		if (r) {
			kc_error("cannot read the metadata area");
			return r;
		}
		if (memchr_inv(buf, 0, n * KC_BLOCK_SIZE)) {
			kc_error("metadata area has no superblock and is not all zeros: nothing was written to it");
			return -EINVAL;
		}
	}
	if (kd->mode != KC_RW) {
		kc_error("metadata area is all zeros: the table must be loaded read-write once to format it");
		return -EROFS;
	}

	get_random_bytes(kd->uuid, sizeof(kd->uuid));
	get_random_bytes(kd->salt, sizeof(kd->salt));
	r = kc_device_load(kd, ref, true, &kdf);
	if (r)
		return r;

	/* All that needs memory comes before the first write. */
	r = -ENOMEM;
	copies = kcalloc(2, KC_BLOCK_SIZE, GFP_KERNEL);
	if (!copies)
		goto out;
	ds = (void *)copies;
	memcpy(ds->magic, KC_MAGIC, sizeof(KC_MAGIC));
	ds->version = cpu_to_le32(KC_VERSION);
	memcpy(ds->uuid, kd->uuid, sizeof(ds->uuid));
	memcpy(ds->salt, kd->salt, sizeof(ds->salt));
	memcpy(ds->check, kd->device.check, sizeof(ds->check));
	strscpy(ds->cipher, params->cipher, sizeof(ds->cipher));
	ds->key_size = cpu_to_le32(params->key_size);
	ds->sector_size = cpu_to_le32(params->sector_size);
	ds->flags = cpu_to_le32(params->flags);
	ds->owner_blocks = cpu_to_le32(owner_blocks);
	ds->journal_blocks = cpu_to_le32(KC_JOURNAL_BLOCKS);
	ds->iv_offset = cpu_to_le64(params->iv_offset);
	ds->nr_blocks = cpu_to_le64(params->nr_blocks);
	memcpy(copies + KC_BLOCK_SIZE, copies, KC_BLOCK_SIZE);
	r = kc_super_seal(ds, &kdf, KC_SUPER_BLOCK_1);
	if (!r)
		r = kc_super_seal((void *)(copies + KC_BLOCK_SIZE), &kdf,
				  KC_SUPER_BLOCK_2);
	if (r)
		goto out;

	r = kc_format_range(kd, KC_KIND_OWNER, KC_OWNER_START,
			    kd->layout.owner_blocks, buf);
	if (!r)
		r = kc_format_range(kd, KC_KIND_STATE, kd->layout.state,
				    kd->layout.state_blocks, buf);
	if (!r)
		r = kc_meta_write_anchor(kd, 1, 1, KC_ANCHOR_CLEAN);
	if (!r)
		r = kc_super_write(kd, copies + KC_BLOCK_SIZE);
	if (!r)
		r = kc_super_write(kd, copies);
out:
	kfree(copies);
	kc_kdf_exit(&kdf);
	if (r)
		kc_error("cannot write the metadata area");
	else
		DMINFO("%s: formatted a metadata area for %llu blocks of %u bytes",
		       dm_device_name(kd->md), kd->nr_blocks, kd->sector_size);
	return r;
}

/* The superblock that counts: the first sound copy.  NULL if there is none. */
static struct kc_disk_super *kc_super_choose(u8 *copies, bool sound[2])
{
	struct kc_disk_super *ds[2];
	int i;

	for (i = 0; i < 2; i++) {
		ds[i] = (void *)(copies + i * KC_BLOCK_SIZE);
		sound[i] = kc_super_sound((u8 *)ds[i], kc_super_places[i]);
	}
	if (sound[0])
		return ds[0];
	return sound[1] ? ds[1] : NULL;
}

/**
 * kc_meta_open() - verify the metadata area, or format one of zeros
 * @kd:		the device, with meta_bdev, meta_start and mode set
 * @params:	what the table line says
 * @ref:	the device key
 * @max_area_blocks: room for the area
 *
 * Loads the device key.  Process context.  Nothing is written to an area
 * that is not all zeros; kc_meta_mend() makes a bad superblock copy good.
 * Return: 0 or a negative errno with an error said.
 */
int kc_meta_open(struct kc_dev *kd, const struct kc_params *params,
		 const struct kc_keyref *ref, u64 max_area_blocks)
{
	struct kc_disk_super *ds;
	u8 mac[KC_MAC_SIZE];
	struct kc_kdf kdf;
	bool sound[2];
	int errors = 0, i, r;
	u8 *buf;

	if (max_area_blocks <= KC_OWNER_START) {
		kc_error("metadata area has %llu sectors, it needs at least %u",
			 max_area_blocks * KC_BLOCK_SECTORS,
			 (KC_OWNER_START + 1) * KC_BLOCK_SECTORS);
		return -ENOSPC;
	}
	buf = vmalloc(KC_META_CHUNK * KC_BLOCK_SIZE);
	if (!buf)
		return -ENOMEM;
	memset(buf, 0xff, 2 * KC_BLOCK_SIZE);
	for (i = 0; i < 2; i++) {
		r = kc_meta_io(kd, REQ_OP_READ, kc_super_places[i],
			       buf + i * KC_BLOCK_SIZE, 1);
		if (r)
			errors++;
	}
	if (errors == 2) {
		kc_error("cannot read the metadata area");
		goto out;
	}
	r = -EINVAL;
	ds = kc_super_choose(buf, sound);
	if (!ds) {
		if (memchr_inv(buf, 0, 2 * KC_BLOCK_SIZE))
			kc_error("metadata area has no valid superblock and is not all zeros: nothing was written to it");
		else
			r = kc_meta_format(kd, params, ref, max_area_blocks, buf);
		goto out;
	}
	r = kc_super_parse(kd, ds, params, max_area_blocks);
	if (!r)
		r = kc_device_load(kd, ref, false, &kdf);
	if (r)
		goto out;
	r = kc_super_mac(&kdf, ds, mac);
	if (r) {
		kc_error("cannot authenticate the superblock");
	} else if (crypto_memneq(mac, ds->mac, sizeof(mac))) {
		kc_error("superblock is forged: it is not authentic under the device key");
		r = -EBADMSG;
	} else if (!sound[0] || !sound[1]) {
		/* Written when all the rest has been found to be good. */
		r = kc_super_seal(ds, &kdf, kc_super_places[sound[0] ? 1 : 0]);
		if (!r) {
			kd->mended_super = kmemdup(ds, KC_BLOCK_SIZE, GFP_KERNEL);
			if (!kd->mended_super)
				r = -ENOMEM;
		}
	} else if (memcmp(buf, buf + KC_BLOCK_SIZE,
			  offsetof(struct kc_disk_super, place))) {
		kc_error("superblock copies are of different metadata areas");
		r = -EINVAL;
	}
	kc_kdf_exit(&kdf);
out:
	vfree(buf);
	return r;
}

/**
 * kc_meta_mend() - write a bad superblock copy again
 * @kd:		the device, all of its metadata found to be good
 *
 * If the table is read-write, and if it can be written; the other copy will do.
 * Process context.
 */
void kc_meta_mend(struct kc_dev *kd)
{
	struct kc_disk_super *ds = (void *)kd->mended_super;
	bool fixed;

	if (!ds)
		return;
	fixed = kd->mode == KC_RW && !kc_super_write(kd, kd->mended_super);
	DMWARN("%s: superblock copy %d was bad: %s", dm_device_name(kd->md),
	       le32_to_cpu(ds->place) == kc_super_places[0] ? 1 : 2,
	       fixed ? "written again" : "using the other");
	kfree(kd->mended_super);
	kd->mended_super = NULL;
}

/* ---- owner table ---- */

static void kc_owner_to_disk(struct kc_disk_owner *d, const struct kc_owner *owner)
{
	unsigned int i;

	memset(d, 0, sizeof(*d));
	if (!owner)
		return;
	strscpy(d->name, owner->name, sizeof(d->name));
	if (owner->state == KC_DESTROYED) {
		d->state = cpu_to_le32(KC_OWNER_DESTROYED);
		return;
	}
	d->state = cpu_to_le32(KC_OWNER_ACTIVE);
	d->key_size = cpu_to_le16(owner->ref.size);
	d->key_type = owner->ref.type;
	d->nr_ids = owner->nr_ids;
	memcpy(d->check, owner->check, sizeof(d->check));
	strscpy(d->desc, owner->ref.desc, sizeof(d->desc));
	for (i = 0; i < owner->nr_ids; i++) {
		d->ids[i].first = cpu_to_le32(owner->ids[i].first);
		d->ids[i].last = cpu_to_le32(owner->ids[i].last);
	}
}

/* Authentic, so only what another implementation may have written is checked. */
static int kc_owner_from_disk(struct kc_dev *kd, u32 slot,
			      const struct kc_disk_owner *d)
{
	bool active = d->state == cpu_to_le32(KC_OWNER_ACTIVE);
	struct kc_owner *owner;
	unsigned int i;

	if (d->state == cpu_to_le32(KC_OWNER_FREE))
		return 0;
	if (slot < KC_SLOT_FIRST_OWNER ||
	    (!active && d->state != cpu_to_le32(KC_OWNER_DESTROYED)) ||
	    d->nr_ids > KC_MAX_IDS ||
	    strnlen(d->name, sizeof(d->name)) == sizeof(d->name) ||
	    strnlen(d->desc, sizeof(d->desc)) == sizeof(d->desc) ||
	    le16_to_cpu(d->key_size) > KC_MAX_KEY_SIZE ||
	    (active && !kc_key_type_name(d->key_type))) {
		kc_error("owner table: slot %u has impossible values", slot);
		return -EINVAL;
	}
	owner = kzalloc(sizeof(*owner), GFP_KERNEL);
	if (!owner)
		return -ENOMEM;
	owner->slot = slot;
	if (!active) {
		owner->state = KC_DESTROYED;
		owner->held = true;
		set_bit(slot, kd->destroyed);
	}
	owner->ref.size = le16_to_cpu(d->key_size);
	owner->ref.type = d->key_type;
	strscpy(owner->name, d->name, sizeof(owner->name));
	strscpy(owner->ref.desc, d->desc, sizeof(owner->ref.desc));
	memcpy(owner->check, d->check, sizeof(owner->check));
	owner->nr_ids = d->nr_ids;
	for (i = 0; i < owner->nr_ids; i++) {
		owner->ids[i].first = le32_to_cpu(d->ids[i].first);
		owner->ids[i].last = le32_to_cpu(d->ids[i].last);
	}
	kd->owners[slot] = owner;
	kd->nr_owners++;
	return 0;
}

/**
 * kc_meta_load_owners() - read the owner table
 * @kd:		the device, its device key loaded
 *
 * Process context.
 * Return: 0 or a negative errno with an error said.
 */
int kc_meta_load_owners(struct kc_dev *kd)
{
	u32 block, n, i, u;
	u8 *buf;
	int r = 0;

	buf = vmalloc(KC_META_CHUNK * KC_BLOCK_SIZE);
	if (!buf) {
		r = -ENOMEM;
		goto out;
	}
	for (block = 0; block < kd->layout.owner_blocks; block += n) {
		n = min_t(u32, kd->layout.owner_blocks - block, KC_META_CHUNK);
		r = kc_meta_io(kd, REQ_OP_READ, KC_OWNER_START + block, buf, n);
		if (r) {
			kc_error("cannot read the owner table");
			goto out;
		}
		for (i = 0; i < n; i++) {
			u8 *b = buf + i * KC_BLOCK_SIZE;

			r = kc_unseal_block(&kd->sealer, KC_KIND_OWNER,
					    KC_OWNER_START + block + i, b);
			if (r) {
				kc_error("owner table block %u is not authentic",
					 block + i);
				goto out;
			}
			for (u = 0; u < KC_UNITS; u++) {
				r = kc_owner_from_disk(kd, (block + i) * KC_UNITS + u,
						       (void *)(b + u * KC_UNIT_SIZE +
								KC_NONCE_SIZE));
				if (r)
					goto out;
			}
		}
		cond_resched();
	}
out:
	vfree(buf);
	return r;
}

/**
 * kc_meta_write_owner() - make an owner durable
 * @kd:		the device
 * @slot:	the slot to write
 * @owner:	what it shall hold; NULL frees it
 *
 * The other owners in the same block are written as kd->owners has them.
 * Process context, kd->lock held.
 * Return: 0 or a negative errno; a failed write stops changes of the metadata.
 */
int kc_meta_write_owner(struct kc_dev *kd, u32 slot, const struct kc_owner *owner)
{
	u32 first = round_down(slot, KC_UNITS);
	u64 area_block = KC_OWNER_START + slot / KC_UNITS;
	unsigned int i;
	u8 *buf;
	int r;

	lockdep_assert_held(&kd->lock);
	if (kd->mode != KC_RW)
		return -EIO;
	buf = kmalloc(KC_BLOCK_SIZE, GFP_KERNEL);
	if (!buf)
		return -ENOMEM;
	for (i = 0; i < KC_UNITS; i++)
		kc_owner_to_disk((void *)(buf + i * KC_UNIT_SIZE + KC_NONCE_SIZE),
				 first + i == slot ? owner : kd->owners[first + i]);
	kc_seal_block(&kd->sealer, KC_KIND_OWNER, area_block, buf);
	r = kc_meta_io(kd, REQ_OP_WRITE | REQ_PREFLUSH | REQ_FUA, area_block, buf, 1);
	if (r)
		kc_meta_fail(kd, "owner table", r);
	kfree(buf);
	return r;
}

/* ---- anchor ---- */

/**
 * kc_meta_read_anchor() - read the journal anchor
 * @kd:		the device
 * @tail:	first journal block still needed
 * @durable:	all before it were durable
 * @flags:	KC_ANCHOR_*
 *
 * Process context.
 * Return: 0 or a negative errno with an error said.
 */
int kc_meta_read_anchor(struct kc_dev *kd, u64 *tail, u64 *durable, u32 *flags)
{
	struct kc_disk_anchor *da;
	u8 *buf = kmalloc(KC_BLOCK_SIZE, GFP_KERNEL);
	int r;

	if (!buf)
		return -ENOMEM;
	r = kc_meta_io(kd, REQ_OP_READ, kd->layout.anchor, buf, 1);
	if (r) {
		kc_error("cannot read the journal anchor");
		goto out;
	}
	r = kc_unseal_block(&kd->sealer, KC_KIND_ANCHOR, kd->layout.anchor, buf);
	if (r) {
		kc_error("journal anchor is not authentic");
		goto out;
	}
	da = (void *)(buf + KC_NONCE_SIZE);
	*tail = le64_to_cpu(da->tail);
	*durable = le64_to_cpu(da->durable);
	*flags = le32_to_cpu(da->flags);
	if (!*tail || *tail > *durable ||
	    *durable - *tail > kd->layout.journal_blocks ||
	    *durable > KC_MAX_SEQ ||
	    *flags & ~KC_ANCHOR_CLEAN) {
		kc_error("journal anchor has impossible values");
		r = -EINVAL;
	}
out:
	kfree(buf);
	return r;
}

/**
 * kc_meta_write_anchor() - make the journal anchor durable
 * @kd:		the device
 * @tail:	first journal block still needed
 * @durable:	all before it are durable
 * @flags:	KC_ANCHOR_*
 *
 * Journal worker, or while there is none.
 * Return: 0 or a negative errno.
 */
int kc_meta_write_anchor(struct kc_dev *kd, u64 tail, u64 durable, u32 flags)
{
	u8 *buf = kd->meta_buf;
	struct kc_disk_anchor *da = (void *)(buf + KC_NONCE_SIZE);

	memset(buf, 0, KC_BLOCK_SIZE);
	da->tail = cpu_to_le64(tail);
	da->durable = cpu_to_le64(durable);
	da->flags = cpu_to_le32(flags);
	kc_seal_block(&kd->sealer, KC_KIND_ANCHOR, kd->layout.anchor, buf);
	return kc_meta_io(kd, REQ_OP_WRITE | REQ_FUA, kd->layout.anchor, buf, 1);
}

/* ---- map state ---- */

static u32 kc_state_units(const struct kc_dev *kd)
{
	return kd->layout.state_blocks * KC_UNITS;
}

/**
 * kc_meta_load_state() - read the map state
 * @kd:		the device
 *
 * Process context.
 * Return: 0 or a negative errno with an error said.
 */
int kc_meta_load_state(struct kc_dev *kd)
{
	u32 block, u;
	u8 *buf;
	int r = 0;

	kd->state_bits = kvzalloc((size_t)kc_state_units(kd) * KC_UNIT_PAYLOAD,
				  GFP_KERNEL);
	kd->state_dirty = bitmap_zalloc(kc_state_units(kd), GFP_KERNEL);
	buf = kmalloc(KC_BLOCK_SIZE, GFP_KERNEL);
	if (!kd->state_bits || !kd->state_dirty || !buf) {
		r = -ENOMEM;
		goto out;
	}
	for (block = 0; block < kd->layout.state_blocks; block++) {
		r = kc_meta_io(kd, REQ_OP_READ, kd->layout.state + block, buf, 1);
		if (r) {
			kc_error("cannot read the map state");
			goto out;
		}
		r = kc_unseal_block(&kd->sealer, KC_KIND_STATE, kd->layout.state + block, buf);
		if (r) {
			kc_error("map state block %u is not authentic", block);
			goto out;
		}
		for (u = 0; u < KC_UNITS; u++)
			memcpy((u8 *)kd->state_bits +
			       (size_t)(block * KC_UNITS + u) * KC_UNIT_PAYLOAD,
			       buf + u * KC_UNIT_SIZE + KC_NONCE_SIZE,
			       KC_UNIT_PAYLOAD);
	}
out:
	kfree(buf);
	return r;
}

/**
 * kc_meta_test_state() - has a map block ever been written?
 * @kd:		the device
 * @map_block:	its number
 *
 * Any context.
 * Return: true if it has.
 */
bool kc_meta_test_state(struct kc_dev *kd, u32 map_block)
{
	return test_bit_le(map_block, kd->state_bits);
}

/**
 * kc_meta_set_state() - a map block has been written for the first time
 * @kd:		the device
 * @map_block:	its number
 *
 * Journal worker only.  kc_meta_write_state() makes it durable.
 */
void kc_meta_set_state(struct kc_dev *kd, u32 map_block)
{
	set_bit_le(map_block, kd->state_bits);
	set_bit(map_block / KC_STATE_BITS_PER_UNIT, kd->state_dirty);
}

/**
 * kc_meta_write_state() - make the map state durable
 * @kd:		the device
 *
 * Journal worker only.
 * Return: 0 or a negative errno.
 */
int kc_meta_write_state(struct kc_dev *kd)
{
	u32 unit, block, u;
	u8 *buf = kd->meta_buf;
	int r;

	for (;;) {
		unit = find_first_bit(kd->state_dirty, kc_state_units(kd));
		if (unit >= kc_state_units(kd))
			return 0;
		block = unit / KC_UNITS;
		for (u = 0; u < KC_UNITS; u++)
			memcpy(buf + u * KC_UNIT_SIZE + KC_NONCE_SIZE,
			       (u8 *)kd->state_bits +
			       (size_t)(block * KC_UNITS + u) * KC_UNIT_PAYLOAD,
			       KC_UNIT_PAYLOAD);
		kc_seal_block(&kd->sealer, KC_KIND_STATE, kd->layout.state + block, buf);
		r = kc_meta_io(kd, REQ_OP_WRITE | REQ_FUA,
			       kd->layout.state + block, buf, 1);
		if (r)
			return r;
		bitmap_clear(kd->state_dirty, block * KC_UNITS, KC_UNITS);
	}
}

/**
 * kc_meta_exit() - free what this file allocated
 * @kd:		the device
 */
void kc_meta_exit(struct kc_dev *kd)
{
	u32 slot;

	for (slot = 0; kd->owners && slot < kd->nr_slots; slot++) {
		if (!kd->owners[slot])
			continue;
		key_put(kd->owners[slot]->home);
		kfree(kd->owners[slot]);
	}
	kvfree(kd->owners);
	kvfree(kd->ks);
	bitmap_free(kd->destroyed);
	kvfree(kd->state_bits);
	bitmap_free(kd->state_dirty);
	kfree(kd->mended_super);
	kc_sealer_wipe(&kd->sealer);
}
