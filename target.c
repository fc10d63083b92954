// SPDX-License-Identifier: GPL-2.0
/*
 * dm-keyed-crypt: one block device, many owners, every block encrypted once,
 * under its owner's key.
 *
 * The target: table lines, bios, status.  Documentation/keyed-crypt.rst describes
 * the interface.
 */

#include <linux/module.h>
#include <linux/slab.h>

#include "dm-keyed-crypt.h"

#define CREATE_TRACE_POINTS
#include "trace.h"

/* Default of meta_cache:, in MiB; with 4096-byte blocks the map of 6 GiB. */
#define KC_META_CACHE_DEFAULT	4
#define KC_META_CACHE_MAX	65536

static LIST_HEAD(kc_devs);
static DEFINE_MUTEX(kc_devs_lock);

/* ---- bios ---- */

static void kc_count_locked(struct kc_io *io, u16 slot)
{
	struct kc_dev *kd = io->t->kd;
	bool write = bio_data_dir(io->bio) == WRITE;

	if (!kc_keyslot_valid(kd, KC_SLOT_DEVICE))
		slot = KC_SLOT_DEVICE;
	atomic64_inc(write ? &kd->locked_writes : &kd->locked_reads);
	trace_keyed_crypt_io(kd->md, write, io->block, io->nr, slot,
			     KC_TRACE_LOCKED);
}

static void kc_io_fail(struct kc_io *io, int error)
{
	kc_io_release(io);
	kc_io_end(io, errno_to_blk_status(error == -ENOMEM ? error : -EIO));
}

static void kc_discard_endio(struct bio *bio)
{
	struct kc_io *io = bio->bi_private;

	bio->bi_end_io = io->end_io;
	bio->bi_private = io->private;
	io->status = bio->bi_status;
	kc_mapblk_end_change(io, false);
	kc_io_release(io);
	kc_io_end(io, io->status);
}

static void kc_discard_submit(struct kc_io *io)
{
	kc_crypt_read(io);	/* remaps; a discard has nothing to decrypt */
	io->bio->bi_end_io = kc_discard_endio;
	dm_submit_bio_remap(io->base, NULL);
}

/* A claimed write or discard; with nothing to wait for. */
static void kc_change_go(struct kc_io *io)
{
	trace_keyed_crypt_io(io->t->kd->md, true, io->block, io->nr, io->slot,
			     io->change ? KC_TRACE_CHANGE : KC_TRACE_OWN);
	if (io->slot == KC_SLOT_NONE)
		kc_discard_submit(io);
	else
		kc_crypt_write(io);
}

static void kc_change_drain(struct kc_io *io)
{
	kc_mapblk_drain(io);
	/* What is discarded is gone from now on. */
	if (io->slot == KC_SLOT_NONE)
		kc_mapblk_assign(io->t->kd, io->mb, io->first, io->nr, io->slot);
	kc_change_go(io);
}

/* Starts a write or discard; it ends by itself. */
static void kc_change_start(struct kc_io *io, bool may_wait)
{
	struct kc_dev *kd = io->t->kd;
	u32 index = kc_map_index(io->block, &io->first);

	io->change = false;
	io->reassign = false;
	io->intent = false;
	io->stage = KC_STAGE_START;
	io->mb = kc_mapblk_get_fast(kd, index);
	if (!io->mb && !may_wait) {
		kc_io_queue(io);
		return;
	}
	if (!io->mb) {
		io->mb = kc_mapblk_get(kd, index);
		if (IS_ERR(io->mb)) {
			int r = PTR_ERR(io->mb);

			io->mb = NULL;
			kc_io_fail(io, r);
			return;
		}
	}
	switch (kc_mapblk_claim_write(io, io->slot)) {
	case KC_CLAIM_OWN:
		kc_change_go(io);
		break;
	case KC_CLAIM_CHANGE:
		io->change = true;
		kc_change_go(io);
		break;
	case KC_CLAIM_DRAIN:
		io->change = true;
		io->stage = KC_STAGE_DRAIN;
		kc_io_queue(io);
		break;
	case KC_CLAIM_PARKED:
		break;		/* may be running again already */
	case KC_CLAIM_FAIL:
		io->mb = NULL;
		kc_io_fail(io, -EIO);
		break;
	}
}

/* Looks at what a read's blocks have.  Return: false if @io has been ended. */
static bool kc_read_go(struct kc_io *io, u16 slot)
{
	struct kc_dev *kd = io->t->kd;

	if (slot != KC_SLOT_NONE)
		io->ks = kc_keyslot_get(kd, slot);
	if (!io->ks && kc_slot_vacant(kd, slot) &&
	    kc_keyslot_valid(kd, KC_SLOT_DEVICE)) {
		trace_keyed_crypt_io(kd->md, false, io->block, io->nr, slot,
				     KC_TRACE_UNASSIGNED);
		kc_io_release(io);
		zero_fill_bio(io->bio);
		kc_io_end(io, BLK_STS_OK);
		return false;
	}
	if (!io->ks) {
		kc_count_locked(io, slot);
		kc_io_fail(io, -EIO);
		return false;
	}
	trace_keyed_crypt_io(kd->md, false, io->block, io->nr, slot, KC_TRACE_OWN);
	kc_crypt_read(io);
	return true;
}

/* A read that could not be done in ->map(): split by hand. */
static void kc_read_slow(struct kc_io *io)
{
	struct kc_target *t = io->t;
	struct kc_dev *kd = t->kd;
	struct kc_io *part;
	struct bio *split;
	unsigned int n;
	u16 slot;
	int r;

	do {
		io->mb = kc_mapblk_get(kd, kc_map_index(io->block, &io->first));
		if (IS_ERR(io->mb)) {
			r = PTR_ERR(io->mb);
			io->mb = NULL;
			if (r == -ENOKEY)
				kc_count_locked(io, KC_SLOT_DEVICE);
			kc_io_fail(io, r);
			return;
		}
		if (kc_mapblk_claim_read(io) == KC_CLAIM_PARKED)
			return;
		n = kc_mapblk_run(io->mb, io->first, io->nr, &slot);
		part = io;
		if (n < io->nr) {
			split = bio_split(io->bio, n << kd->block_shift, GFP_NOIO,
					  &t->split_bs);
			bio_chain(split, io->bio);
			part = (void *)split - t->io_size;
			memset(part, 0, sizeof(*part));
			part->t = t;
			part->bio = split;
			part->base = io->base;
			part->mb = io->mb;
			part->block = io->block;
			part->first = io->first;
			part->nr = n;
			io->mb = NULL;
			io->block += n;
			io->nr -= n;
		}
		if (kc_read_go(part, slot))
			dm_submit_bio_remap(part->base, part->bio);
	} while (part != io);
}

static void kc_io_work(struct work_struct *work)
{
	struct kc_io *io = container_of(work, struct kc_io, part.work);

	if (bio_data_dir(io->bio) == READ)
		kc_read_slow(io);
	else if (io->stage == KC_STAGE_DRAIN)
		kc_change_drain(io);
	else
		kc_change_start(io, true);
}

/**
 * kc_io_queue() - go on with a bio where it may sleep
 * @io:		the bio
 *
 * Any context.
 */
void kc_io_queue(struct kc_io *io)
{
	INIT_WORK(&io->part.work, kc_io_work);
	queue_work(io->stage == KC_STAGE_DRAIN ? io->t->kd->drain_wq :
						 io->t->kd->slow_wq, &io->part.work);
}

static void kc_flush_failed(struct work_struct *work)
{
	struct kc_io *io = container_of(work, struct kc_io, part.work);

	kc_journal_lost(io->t->kd, blk_status_to_errno(io->bio->bi_status));
	bio_endio(io->bio);
}

static void kc_flush_endio(struct bio *bio)
{
	struct kc_io *io = bio->bi_private;

	bio->bi_end_io = io->end_io;
	bio->bi_private = io->private;
	if (bio->bi_status) {
		INIT_WORK(&io->part.work, kc_flush_failed);
		queue_work(io->t->kd->slow_wq, &io->part.work);
		return;
	}
	kc_journal_flushed(io->t->kd, io->seq);
	bio_endio(bio);
}

static void kc_flush_remap(struct kc_io *io)
{
	struct bio *bio = io->bio;

	io->end_io = bio->bi_end_io;
	io->private = bio->bi_private;
	bio->bi_end_io = kc_flush_endio;
	bio->bi_private = io;
	bio_set_dev(bio, io->t->dev->bdev);
}

/**
 * kc_flush_submit() - send a flush to the disk
 * @io:		the flush, io->seq says what it makes durable
 *
 * Process context.
 */
void kc_flush_submit(struct kc_io *io)
{
	kc_flush_remap(io);
	dm_submit_bio_remap(io->bio, NULL);
}

static int kc_map(struct dm_target *ti, struct bio *bio)
{
	struct kc_target *t = ti->private;
	struct kc_dev *kd = t->kd;
	struct kc_io *io = dm_per_bio_data(bio, t->io_size);
	sector_t sector = dm_target_offset(ti, bio->bi_iter.bi_sector);
	unsigned int mask = (1U << kd->block_shift) - 1;
	unsigned int nr;
	u32 index;
	u16 slot;

	io->t = t;
	io->bio = bio;
	io->base = bio;
	io->mb = NULL;
	io->ks = NULL;
	io->change = false;
	io->stage = KC_STAGE_START;

	/* dm core has taken the data off a flush. */
	if (unlikely(bio->bi_opf & REQ_PREFLUSH)) {
		if (!kc_keyslot_valid(kd, KC_SLOT_DEVICE))
			return DM_MAPIO_KILL;
		if (!kc_journal_idle(kd, &io->seq)) {
			kc_journal_wait_io(kd, io);
			return DM_MAPIO_SUBMITTED;
		}
		kc_flush_remap(io);
		return DM_MAPIO_REMAPPED;
	}
	if (unlikely(((unsigned int)sector | bio_sectors(bio)) & mask))
		return DM_MAPIO_KILL;

	io->block = sector >> kd->block_shift;
	index = kc_map_index(io->block, &io->first);
	nr = min_t(unsigned int, bio_sectors(bio) >> kd->block_shift,
		   KC_ENTRIES - io->first);
	/* What is not taken is taken off before the bio may be parked. */
	if (bio_op(bio) == REQ_OP_READ && nr << kd->block_shift < bio_sectors(bio))
		dm_accept_partial_bio(bio, nr << kd->block_shift);
	io->nr = nr;

	switch (bio_op(bio)) {
	case REQ_OP_READ:
		io->mb = kc_mapblk_get_fast(kd, index);
		if (!io->mb) {
			if (!kc_keyslot_valid(kd, KC_SLOT_DEVICE)) {
				kc_count_locked(io, KC_SLOT_DEVICE);
				return DM_MAPIO_KILL;
			}
			kc_io_queue(io);
			return DM_MAPIO_SUBMITTED;
		}
		if (kc_mapblk_claim_read(io) == KC_CLAIM_PARKED)
			return DM_MAPIO_SUBMITTED;
		nr = kc_mapblk_run(io->mb, io->first, nr, &slot);
		if (nr < io->nr)
			dm_accept_partial_bio(bio, nr << kd->block_shift);
		io->nr = nr;
		return kc_read_go(io, slot) ? DM_MAPIO_REMAPPED : DM_MAPIO_SUBMITTED;

	case REQ_OP_WRITE:
		nr = min_t(unsigned int, nr, (BIO_MAX_VECS << (PAGE_SHIFT - SECTOR_SHIFT)) >>
					     kd->block_shift);
		io->slot = kc_owner_of_bio(kd, t->owner_kind, bio, &nr);
		io->ks = kc_keyslot_get(kd, io->slot);
		if (unlikely(!io->ks)) {
			kc_count_locked(io, io->slot);
			return DM_MAPIO_KILL;
		}
		break;

	case REQ_OP_DISCARD:
		if (!kc_keyslot_valid(kd, KC_SLOT_DEVICE)) {
			kc_count_locked(io, KC_SLOT_DEVICE);
			return DM_MAPIO_KILL;
		}
		io->slot = KC_SLOT_NONE;
		break;

	default:
		return DM_MAPIO_KILL;
	}
	io->nr = nr;
	if (nr << kd->block_shift < bio_sectors(bio))
		dm_accept_partial_bio(bio, nr << kd->block_shift);
	kc_change_start(io, false);
	return DM_MAPIO_SUBMITTED;
}

/* ---- devices ---- */

static void kc_dev_free(struct kc_dev *kd)
{
	cancel_delayed_work_sync(&kd->watch);
	if (kd->journal.buf && !kd->journal.recovering && kd->mode == KC_RW &&
	    kd->sealer.ready && kc_journal_sync(kd, true))
		DMERR("%s: the key map was not written back: the journal has it",
		      dm_device_name(kd->md));
	if (kd->journal_wq) {
		if (kd->journal.buf)
			cancel_delayed_work_sync(&kd->journal.timer);
		destroy_workqueue(kd->journal_wq);
	}
	kc_keys_exit(kd);
	if (kd->slow_wq)
		destroy_workqueue(kd->slow_wq);
	if (kd->drain_wq)
		destroy_workqueue(kd->drain_wq);
	if (kd->crypt_wq)
		destroy_workqueue(kd->crypt_wq);
	kc_crypt_cache_exit(kd);
	kc_ids_free(kd);
	kc_keymap_exit(kd);
	kc_journal_exit(kd);
	kc_meta_exit(kd);
	if (kd->dm_io)
		dm_io_client_destroy(kd->dm_io);
	mempool_exit(&kd->load_pool);
	free_page((unsigned long)kd->meta_buf);
	mutex_destroy(&kd->keymap.lock);
	mutex_destroy(&kd->event_lock);
	mutex_destroy(&kd->lock);
	kfree(kd);
}

static struct kc_dev *kc_dev_alloc(struct dm_target *ti, struct block_device *bdev)
{
	struct kc_dev *kd = kzalloc(sizeof(*kd), GFP_KERNEL);

	if (!kd)
		return NULL;
	kd->refs = 1;
	kd->md = dm_table_get_md(ti->table);
	kd->meta_bdev = bdev;
	INIT_LIST_HEAD(&kd->list);
	mutex_init(&kd->lock);
	mutex_init(&kd->event_lock);
	init_waitqueue_head(&kd->wait_ref);
	INIT_DELAYED_WORK(&kd->watch, kc_keys_watch);
	mutex_init(&kd->keymap.lock);
	INIT_LIST_HEAD(&kd->keymap.blocks);
	init_waitqueue_head(&kd->keymap.wait);
	spin_lock_init(&kd->journal.lock);
	INIT_LIST_HEAD(&kd->journal.unlogged);
	INIT_LIST_HEAD(&kd->journal.waiters);
	INIT_LIST_HEAD(&kd->journal.intents);
	INIT_LIST_HEAD(&kd->journal.syncs);
	INIT_LIST_HEAD(&kd->journal.dirty);
	kd->dm_io = dm_io_client_create();
	if (IS_ERR(kd->dm_io)) {
		kd->dm_io = NULL;
		goto free;
	}
	kd->meta_buf = (u8 *)__get_free_page(GFP_KERNEL);
	if (!kd->meta_buf || mempool_init_page_pool(&kd->load_pool, 2, 0) ||
	    kc_crypt_cache_init(kd))
		goto free;
	kd->slow_wq = alloc_workqueue("kc_slow/%s", WQ_MEM_RECLAIM | WQ_UNBOUND,
				      0, dm_device_name(kd->md));
	kd->drain_wq = alloc_workqueue("kc_drain/%s", WQ_MEM_RECLAIM | WQ_UNBOUND,
				       0, dm_device_name(kd->md));
	kd->crypt_wq = alloc_workqueue("kc_crypt/%s", WQ_MEM_RECLAIM | WQ_UNBOUND,
				       0, dm_device_name(kd->md));
	kd->journal_wq = alloc_ordered_workqueue("kc_journal/%s", WQ_MEM_RECLAIM,
						 dm_device_name(kd->md));
	if (!kd->slow_wq || !kd->drain_wq || !kd->crypt_wq || !kd->journal_wq)
		goto free;
	return kd;
free:
	kc_dev_free(kd);
	return NULL;
}

/* Map blocks for so many MiB, in what kmalloc() makes of their sizes. */
static unsigned int kc_cache_blocks(unsigned int mib)
{
	return div_u64((u64)mib << 20,
		       roundup_pow_of_two(sizeof(struct kc_mapblk)) +
		       roundup_pow_of_two(KC_ENTRIES * sizeof(__le16)));
}

/* Opens a metadata area nobody has open. */
static struct kc_dev *kc_dev_open(struct kc_target *t, struct block_device *bdev,
				  const struct kc_params *params,
				  const struct kc_cipher *cipher,
				  u64 max_area_blocks)
{
	struct kc_dev *kd = kc_dev_alloc(t->ti, bdev);
	struct kc_ids *ids;
	int r = -ENOMEM;
	u32 slot;

	if (!kd)
		return ERR_PTR(-ENOMEM);
	kd->meta_start = t->meta_offset;
	kd->data_bdev = t->dev->bdev;
	kd->data_start = t->start;
	kd->same_bdev = bdev == t->dev->bdev;
	kd->cipher = *cipher;
	kd->mode = dm_table_get_mode(t->ti->table) & KC_MODE_WRITE ? KC_RW : KC_RO;
	kd->keyring = key_get(t->keyring);
	r = kc_meta_open(kd, params, &t->ref, max_area_blocks);
	if (r)
		goto free;
	kd->block_shift = ilog2(kd->sector_size) - SECTOR_SHIFT;
	r = kc_meta_load_owners(kd);
	if (!r)
		r = kc_meta_load_state(kd);
	if (r)
		goto free;
	r = kc_keymap_init(kd, kc_cache_blocks(t->meta_cache));
	if (!r)
		r = kc_journal_init(kd);
	if (!r)
		r = kc_journal_recover(kd);
	if (r)
		goto free;
	r = -ENOMEM;
	mutex_lock(&kd->lock);
	ids = kc_ids_alloc(kd);
	if (ids) {
		kc_ids_update(kd, ids);
		for (slot = KC_SLOT_FIRST_OWNER; slot < kd->nr_slots; slot++)
			if (kd->owners[slot] && !kd->owners[slot]->held)
				kc_owner_unlock(kd, kd->owners[slot], true);
		r = 0;
	}
	mutex_unlock(&kd->lock);
	if (r)
		goto free;
	kc_meta_mend(kd);
	list_add(&kd->list, &kc_devs);
	queue_delayed_work(kc_unbound_wq, &kd->watch, 0);
	return kd;
free:
	kc_dev_free(kd);
	return ERR_PTR(r);
}

/*
 * The device of a metadata area: the one that is open, when its mapped device
 * loads another table, or a new one.  A device whose metadata failed writes no
 * more, and is left behind.
 */
static struct kc_dev *kc_dev_get(struct kc_target *t, struct block_device *bdev,
				 const struct kc_params *params,
				 const struct kc_cipher *cipher,
				 u64 max_area_blocks)
{
	bool rw = dm_table_get_mode(t->ti->table) & KC_MODE_WRITE;
	struct kc_dev *kd;
	int r;

	list_for_each_entry(kd, &kc_devs, list) {
		sector_t end = kd->meta_start + kd->layout.end * KC_BLOCK_SECTORS;

		if (kd->meta_bdev != bdev || t->meta_offset >= end)
			continue;
		if (t->meta_offset < kd->meta_start) {
			max_area_blocks = min_t(u64, max_area_blocks,
						(kd->meta_start - t->meta_offset) /
						KC_BLOCK_SECTORS);
			continue;
		}
		if (kd->md != dm_table_get_md(t->ti->table) ||
		    kd->meta_start != t->meta_offset || kd->loading == t->ti->table) {
			kc_error("metadata area is in use by %s",
				 dm_device_name(kd->md));
			return ERR_PTR(-EBUSY);
		}
		if (kd->mode == KC_FAILED) {
			/* Recovery must not race with what it has under way. */
			if (dm_suspended(t->ti))
				continue;
			kc_error("the metadata of the live table has failed: suspend the device before loading a table");
			return ERR_PTR(-EBUSY);
		}
		if (rw != (kd->mode == KC_RW)) {
			kc_error("the live table is %s: remove the device to change that",
				 rw ? "read-only" : "read-write");
			return ERR_PTR(-EBUSY);
		}
		if (kd->data_bdev != t->dev->bdev || kd->data_start != t->start) {
			kc_error("the live table has its data at sector %llu of %pg, not at %llu of %pg: remove the device to change that",
				 (u64)kd->data_start, kd->data_bdev, (u64)t->start,
				 t->dev->bdev);
			return ERR_PTR(-EBUSY);
		}
		r = kc_meta_match(kd, params);
		if (!r)
			r = kc_device_reload(kd, &t->ref, t->keyring);
		if (r)
			return ERR_PTR(r);
		kd->loading = t->ti->table;
		kd->refs++;
		return kd;
	}
	kd = kc_dev_open(t, bdev, params, cipher, max_area_blocks);
	if (!IS_ERR(kd))
		kd->loading = t->ti->table;
	return kd;
}

static void kc_dev_put(struct kc_dev *kd)
{
	if (--kd->refs)
		return;
	list_del(&kd->list);
	kc_dev_free(kd);
}

/* ---- table lines ---- */

static const char * const kc_owner_kinds[] = {
	[KC_OWNER_BY_NONE] = "none",
	[KC_OWNER_BY_UID] = "uid",
	[KC_OWNER_BY_GID] = "gid",
	[KC_OWNER_BY_PROJID] = "projid",
};

/* Is it the option "name:value"?  Then that is its value. */
static bool kc_opt_value(const char *arg, const char *name, const char **value)
{
	size_t n = strlen(name);

	if (strncmp(arg, name, n) || arg[n] != ':')
		return false;
	*value = arg + n + 1;
	return true;
}

static int kc_parse_opt(struct kc_target *t, struct kc_params *params,
			const char *arg, const char **meta_path)
{
	const char *value;
	int i;

	if (!strcmp(arg, "allow_discards")) {
		t->ti->num_discard_bios = 1;
	} else if (!strcmp(arg, "iv_large_sectors")) {
		params->flags |= KC_FLAG_IV_LARGE_SECTORS;
	} else if (kc_opt_value(arg, "sector_size", &value)) {
		if (kstrtouint(value, 10, &params->sector_size) ||
		    params->sector_size < SECTOR_SIZE ||
		    params->sector_size > KC_BLOCK_SIZE ||
		    !is_power_of_2(params->sector_size)) {
			kc_error("sector_size:%s is not 512, 1024, 2048 or 4096", value);
			return -EINVAL;
		}
	} else if (kc_opt_value(arg, "meta_device", &value)) {
		*meta_path = value;
	} else if (kc_opt_value(arg, "meta_offset", &value)) {
		if (kstrtou64(value, 10, &t->meta_offset) ||
		    t->meta_offset & (KC_BLOCK_SECTORS - 1)) {
			kc_error("meta_offset:%s is not a multiple of 8 sectors", value);
			return -EINVAL;
		}
	} else if (kc_opt_value(arg, "meta_cache", &value)) {
		if (kstrtouint(value, 10, &t->meta_cache) || !t->meta_cache ||
		    t->meta_cache > KC_META_CACHE_MAX) {
			kc_error("meta_cache:%s is not a number of MiB from 1 to %u",
				 value, KC_META_CACHE_MAX);
			return -EINVAL;
		}
	} else if (kc_opt_value(arg, "owner", &value)) {
		i = match_string(kc_owner_kinds, ARRAY_SIZE(kc_owner_kinds), value);
		if (i < 0) {
			kc_error("owner:%s is not one of none, uid, gid, projid", value);
			return -EINVAL;
		}
		t->owner_kind = i;
	} else if (kc_opt_value(arg, "reassign", &value)) {
		t->lazy = !strcmp(value, "lazy");
		if (!t->lazy && strcmp(value, "strict")) {
			kc_error("reassign:%s is not strict or lazy", value);
			return -EINVAL;
		}
	} else if (kc_opt_value(arg, "keyring", &value)) {
		kfree(t->keyring_spec);
		t->keyring_spec = kstrdup(value, GFP_KERNEL);
		if (!t->keyring_spec)
			return -ENOMEM;
	} else {
		kc_error("unknown option %s", arg);
		return -EINVAL;
	}
	return 0;
}

static int kc_parse_opts(struct kc_target *t, struct kc_params *params,
			 unsigned int argc, char **argv, const char **meta_path)
{
	unsigned int nr, i;
	int r;

	if (!argc)
		return 0;
	if (kstrtouint(argv[0], 10, &nr) || nr != argc - 1) {
		kc_error("number of options is %s, there are %u", argv[0], argc - 1);
		return -EINVAL;
	}
	for (i = 1; i < argc; i++) {
		r = kc_parse_opt(t, params, argv[i], meta_path);
		if (r)
			return r;
	}
	return 0;
}

/* Sectors the metadata area may have. */
static int kc_meta_room(struct kc_target *t, struct block_device *bdev, u64 *room)
{
	u64 end = bdev_nr_sectors(bdev);

	if (bdev == t->dev->bdev) {
		if (t->meta_offset < t->start) {
			end = t->start;
		} else if (t->meta_offset < t->start + t->ti->len) {
			kc_error("meta_offset %llu is in the data, which has sectors %llu to %llu",
				 t->meta_offset, (u64)t->start,
				 (u64)t->start + t->ti->len - 1);
			return -EINVAL;
		}
	}
	*room = end > t->meta_offset ? end - t->meta_offset : 0;
	return 0;
}

static void kc_dtr(struct dm_target *ti)
{
	struct kc_target *t = ti->private;

	kc_crypt_exit(t);	/* its pages are counted by the device */
	if (t->kd) {
		mutex_lock(&kc_devs_lock);
		mutex_lock(&t->kd->event_lock);
		if (t->kd->table == ti->table)
			t->kd->table = NULL;
		mutex_unlock(&t->kd->event_lock);
		if (t->kd->loading == ti->table)
			t->kd->loading = NULL;
		kc_dev_put(t->kd);
		mutex_unlock(&kc_devs_lock);
	}
	if (t->meta_dev)
		dm_put_device(ti, t->meta_dev);
	if (t->dev)
		dm_put_device(ti, t->dev);
	key_put(t->keyring);
	kfree(t->keyring_spec);
	kfree(t);
}

static int kc_ctr_locked(struct dm_target *ti, unsigned int argc, char **argv)
{
	struct kc_target *t = ti->private;
	struct kc_params params = { .sector_size = KC_BLOCK_SIZE };
	struct kc_cipher cipher;
	struct block_device *bdev;
	const char *error = NULL, *meta_path = NULL;
	u64 offset, room;
	struct kc_dev *kd;
	int r;

	if (argc < 5) {
		kc_error("table line has %u arguments, at least 5 are needed: <cipher> <key> <iv_offset> <device> <offset>",
			 argc);
		return -EINVAL;
	}
	t->meta_cache = KC_META_CACHE_DEFAULT;
	r = kc_parse_opts(t, &params, argc - 5, argv + 5, &meta_path);
	if (r)
		return r;
	if (ti->len & ((params.sector_size >> SECTOR_SHIFT) - 1)) {
		kc_error("length of %llu sectors is not a multiple of sector_size %u",
			 (u64)ti->len, params.sector_size);
		return -EINVAL;
	}
	params.nr_blocks = ti->len >> (ilog2(params.sector_size) - SECTOR_SHIFT);
	if (params.nr_blocks > KC_MAX_BLOCKS) {
		kc_error("device of %llu blocks is too large", params.nr_blocks);
		return -EFBIG;
	}

	r = kc_cipher_parse(&cipher, argv[0], &error);
	if (r) {
		kc_error("cipher %.100s: %s", argv[0], error);
		return r;
	}
	params.cipher = argv[0];
	r = kc_keyref_parse(&t->ref, argv[1], &error);
	if (r) {
		/* It may be a key by mistake: not for the log. */
		memzero_explicit(argv[1], strlen(argv[1]));
		kc_error("%s", error);
		return r;
	}
	params.key_size = t->ref.size;
	if (kstrtou64(argv[2], 10, &params.iv_offset) ||
	    params.iv_offset & ((params.sector_size >> SECTOR_SHIFT) - 1)) {
		kc_error("iv_offset %s is not a multiple of sector_size in sectors",
			 argv[2]);
		return -EINVAL;
	}
	r = dm_get_device(ti, argv[3], dm_table_get_mode(ti->table), &t->dev);
	if (r) {
		kc_error("cannot open device %s", argv[3]);
		return r;
	}
	if (bdev_is_zoned(t->dev->bdev)) {
		kc_error("device %s is zoned, which is not supported", argv[3]);
		return -EINVAL;
	}
	if (kstrtou64(argv[4], 10, &offset)) {
		kc_error("offset %s is not a number of sectors", argv[4]);
		return -EINVAL;
	}
	t->start = offset;
	if (offset > bdev_nr_sectors(t->dev->bdev) ||
	    ti->len > bdev_nr_sectors(t->dev->bdev) - offset) {
		kc_error("device %s has %llu sectors, the data needs %llu from sector %llu on",
			 argv[3], (u64)bdev_nr_sectors(t->dev->bdev),
			 (u64)ti->len, offset);
		return -EINVAL;
	}
	bdev = t->dev->bdev;
	if (meta_path) {
		r = dm_get_device(ti, meta_path, dm_table_get_mode(ti->table),
				  &t->meta_dev);
		if (r) {
			kc_error("cannot open meta_device %s", meta_path);
			return r;
		}
		bdev = t->meta_dev->bdev;
	}
	r = kc_meta_room(t, bdev, &room);
	if (r)
		return r;

	t->keyring = kc_keyring_get(t->keyring_spec, &error);
	if (IS_ERR(t->keyring)) {
		r = PTR_ERR(t->keyring);
		t->keyring = NULL;
		kc_error("%s: %s", error, t->keyring_spec ?: "user keyring");
		return r;
	}
	kd = kc_dev_get(t, bdev, &params, &cipher, room / KC_BLOCK_SECTORS);
	if (IS_ERR(kd))
		return PTR_ERR(kd);
	t->kd = kd;
	r = kc_crypt_init(t);
	if (r)
		return r;

	ti->num_flush_bios = 1;
	ti->flush_supported = true;	/* the key map needs them in any case */
	ti->limit_swap_bios = true;
	ti->accounts_remapped_io = true;
	ti->per_io_data_size = t->io_size;
	return 0;
}

static int kc_ctr(struct dm_target *ti, unsigned int argc, char **argv)
{
	struct kc_target *t = kzalloc(sizeof(*t), GFP_KERNEL);
	int r;

	if (!t) {
		ti->error = "out of memory";
		return -ENOMEM;
	}
	t->ti = ti;
	ti->private = t;
	mutex_lock(&kc_devs_lock);
	kc_error("cannot be loaded");
	r = kc_ctr_locked(ti, argc, argv);
	if (r == -ENOMEM)
		kc_error("out of memory");
	mutex_unlock(&kc_devs_lock);
	if (r) {
		ti->error = kc_error_text();
		kc_dtr(ti);
	}
	return r;
}

/* ---- suspend and resume ---- */

static int kc_preresume(struct dm_target *ti)
{
	struct kc_target *t = ti->private;
	struct kc_dev *kd = t->kd;
	struct key *old;
	u32 slot;

	mutex_lock(&kd->event_lock);
	kd->table = ti->table;
	mutex_unlock(&kd->event_lock);
	kc_keymap_resize(kd, kc_cache_blocks(t->meta_cache));
	mutex_lock(&kd->lock);
	old = kd->keyring;
	kd->keyring = key_get(t->keyring);
	for (slot = KC_SLOT_FIRST_OWNER; kd->live && slot < kd->nr_slots; slot++) {
		struct kc_owner *owner = kd->owners[slot];

		if (owner && !owner->held && owner->state != KC_UNLOCKED)
			kc_owner_unlock(kd, owner, true);
	}
	mutex_unlock(&kd->lock);
	key_put(old);
	return 0;
}

static void kc_postsuspend(struct dm_target *ti)
{
	struct kc_target *t = ti->private;

	/* Also when it fails: what was flushed is in the journal. */
	if (t->kd->mode == KC_RW && t->kd->sealer.ready)
		kc_journal_sync(t->kd, true);
}

/* ---- status ---- */

static const char *kc_mode_name(enum kc_mode mode)
{
	switch (mode) {
	case KC_RW:
		return "rw";
	case KC_RO:
		return "ro";
	default:
		return "failed";
	}
}

static unsigned int kc_status_info(struct kc_dev *kd, char *result,
				   unsigned int maxlen)
{
	struct kc_journal *j = &kd->journal;
	unsigned int sz = 0;
	u64 next, tail;
	u32 slot;

	spin_lock_irq(&j->lock);
	next = j->next_seq;
	tail = j->tail_seq;
	spin_unlock_irq(&j->lock);
	DMEMIT("%s %llu %llu/%u %lld %lld %lld ", kc_mode_name(kd->mode), next - 1,
	       next - tail, kd->layout.journal_blocks,
	       (s64)atomic64_read(&kd->locked_reads),
	       (s64)atomic64_read(&kd->locked_writes),
	       (s64)atomic64_read(&kd->reassigned));
	mutex_lock(&kd->lock);
	DMEMIT("%u", kd->nr_owners);
	for (slot = KC_SLOT_FIRST_OWNER; slot < kd->nr_slots; slot++) {
		struct kc_owner *owner = kd->owners[slot];

		if (owner)
			DMEMIT(" %s:%u:%s", owner->name, slot,
			       kc_lock_state_name(owner->state));
	}
	mutex_unlock(&kd->lock);
	return sz;
}

static void kc_status_opts(struct kc_target *t, char *result,
			   unsigned int maxlen, unsigned int *nr)
{
	struct kc_dev *kd = t->kd;
	unsigned int sz = 0;

	*nr = 0;
#define KC_OPT(cond, fmt, ...)						\
	do {								\
		if (cond) {						\
			DMEMIT(" " fmt, ##__VA_ARGS__);			\
			++*nr;						\
		}							\
	} while (0)
	KC_OPT(t->meta_dev, "meta_device:%s", t->meta_dev->name);
	KC_OPT(t->meta_offset, "meta_offset:%llu", t->meta_offset);
	KC_OPT(kd->sector_size != KC_BLOCK_SIZE, "sector_size:%u", kd->sector_size);
	KC_OPT(kd->flags & KC_FLAG_IV_LARGE_SECTORS, "iv_large_sectors");
	KC_OPT(t->owner_kind != KC_OWNER_BY_NONE, "owner:%s",
	       kc_owner_kinds[t->owner_kind]);
	KC_OPT(t->keyring_spec, "keyring:%s", t->keyring_spec);
	KC_OPT(t->lazy, "reassign:lazy");
	KC_OPT(t->ti->num_discard_bios, "allow_discards");
	KC_OPT(t->meta_cache != KC_META_CACHE_DEFAULT, "meta_cache:%u", t->meta_cache);
#undef KC_OPT
}

static void kc_status_table(struct kc_target *t, char *result, unsigned int maxlen)
{
	unsigned int sz = 0, nr;

	DMEMIT("%s :%u:%s:%s %llu %s %llu", t->kd->cipher_spec, t->ref.size,
	       kc_key_type_name(t->ref.type), t->ref.desc, t->kd->iv_offset,
	       t->dev->name, (u64)t->start);
	kc_status_opts(t, NULL, 0, &nr);
	if (nr) {
		DMEMIT(" %u", nr);
		kc_status_opts(t, result + sz, maxlen - sz, &nr);
	}
}

static void kc_status(struct dm_target *ti, status_type_t type,
		      unsigned int status_flags, char *result, unsigned int maxlen)
{
	struct kc_target *t = ti->private;
	struct kc_dev *kd = t->kd;
	unsigned int sz = 0;

	switch (type) {
	case STATUSTYPE_INFO:
		kc_status_info(kd, result, maxlen);
		break;
	case STATUSTYPE_TABLE:
		kc_status_table(t, result, maxlen);
		break;
	case STATUSTYPE_IMA:
		DMEMIT_TARGET_NAME_VERSION(ti->type);
		DMEMIT(",allow_discards=%c", ti->num_discard_bios ? 'y' : 'n');
		DMEMIT(",iv_large_sectors=%c",
		       kd->flags & KC_FLAG_IV_LARGE_SECTORS ? 'y' : 'n');
		DMEMIT(",sector_size=%u", kd->sector_size);
		DMEMIT(",cipher_string=%s", kd->cipher_spec);
		DMEMIT(",key_size=%u", t->ref.size);
		DMEMIT(",owner=%s", kc_owner_kinds[t->owner_kind]);
		DMEMIT(",reassign=%s", t->lazy ? "lazy" : "strict");
		DMEMIT(",uuid=%pUb", kd->uuid);
		DMEMIT(";");
		break;
	}
}

/* ---- the target type ---- */

static int kc_target_message(struct dm_target *ti, unsigned int argc, char **argv,
			     char *result, unsigned int maxlen)
{
	return kc_message(ti->private, argc, argv, result, maxlen);
}

static int kc_iterate_devices(struct dm_target *ti,
			      iterate_devices_callout_fn fn, void *data)
{
	struct kc_target *t = ti->private;

	return fn(ti, t->dev, t->start, ti->len, data);
}

static void kc_io_hints(struct dm_target *ti, struct queue_limits *limits)
{
	struct kc_target *t = ti->private;
	unsigned int size = t->kd->sector_size;

	limits->logical_block_size = max(limits->logical_block_size, size);
	limits->physical_block_size = max(limits->physical_block_size, size);
	limits->io_min = max(limits->io_min, size);
	if (ti->num_discard_bios)
		limits->discard_granularity = max(limits->discard_granularity, size);
	/* No block lies across two pieces of memory. */
	limits->dma_alignment = limits->logical_block_size - 1;
}

static struct target_type kc_target_type = {
	.name = "keyed-crypt",
	.version = {1, 0, 0},
	.module = THIS_MODULE,
	.ctr = kc_ctr,
	.dtr = kc_dtr,
	.map = kc_map,
	.preresume = kc_preresume,
	.postsuspend = kc_postsuspend,
	.status = kc_status,
	.message = kc_target_message,
	.iterate_devices = kc_iterate_devices,
	.io_hints = kc_io_hints,
};

static int __init kc_init(void)
{
	int r = dm_register_target(&kc_target_type);

	if (r < 0)
		DMERR("cannot register the target: %d", r);
	return r;
}

static void __exit kc_exit(void)
{
	dm_unregister_target(&kc_target_type);
}

module_init(kc_init);
module_exit(kc_exit);

MODULE_DESCRIPTION(DM_NAME " target: every block encrypted once, under its owner's key");
MODULE_AUTHOR("dm-keyed-crypt maintainers");
MODULE_LICENSE("GPL");
MODULE_ALIAS("dm-keyed-crypt");
MODULE_SOFTDEP("pre: libchacha20poly1305 crc32c");
