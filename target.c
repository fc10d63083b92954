// SPDX-License-Identifier: GPL-2.0
/*
 * dm-keyed-crypt: one block device, many owners, every block encrypted once,
 * under its owner's key.
 *
 * The target: table lines, lifetimes, status.  Documentation/keyed-crypt.rst describes
 * the interface.
 */

#include <linux/module.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/suspend.h>

#include "compat.h"
#include "device.h"
#include "error.h"
#include "message.h"
#include "request.h"

#define CREATE_TRACE_POINTS
#include "trace.h"

/* Default of meta_cache:, in MiB; with 4096-byte blocks the map of 6 GiB. */
#define KC_META_CACHE_DEFAULT	4
#define KC_META_CACHE_MAX	65536

/* How often the keyrings are looked at: unlink is to be seen in a second. */
#define KC_WATCH_INTERVAL	(HZ / 2)

static LIST_HEAD(kc_devs);
static DEFINE_MUTEX(kc_devs_lock);	/* also of each: state, refs, loading, lengths */
static DECLARE_WAIT_QUEUE_HEAD(kc_devs_wait);	/* for one's state to change */

/* ---- devices ---- */

static void kc_area_failed(struct kc_area *area)
{
	struct kc_dev *kd = container_of(area, struct kc_dev, area);

	mutex_lock(&kd->event_lock);
	if (kd->table)
		dm_table_event(kd->table);
	mutex_unlock(&kd->event_lock);
}

static void kc_key_invalid(struct kc_keyslots *slots)
{
	struct kc_dev *kd = container_of(slots, struct kc_dev, keys.slots);

	mod_delayed_work(kc_unbound_wq, &kd->watch, 0);
}

static void kc_want_clean(struct kc_keymap *map)
{
	kc_journal_kick(&container_of(map, struct kc_dev, map)->journal);
}

static void kc_settled(struct kc_journal *j, struct kc_mapblk *mb)
{
	kc_claims_settled(&container_of(j, struct kc_dev, journal)->claims, mb);
}

/*
 * The device key is gone: what of the map is in memory goes, and then the sealing key.
 * Whoever changes owners keeps it.  Tried again until it works, or the key is back.
 */
static void kc_dev_forget(struct kc_dev *kd)
{
	struct kc_keys *keys = &kd->keys;
	struct kc_area *area = &kd->area;

	if (READ_ONCE(keys->device_loaded) || !area->sealer.ready)
		return;
	if (kc_journal_sync(&kd->journal, true) && area->mode == KC_RW)
		return;
	if (!kc_keymap_close(&kd->map) || !mutex_trylock(&keys->admin))
		return;
	mutex_lock(&keys->slots.lock);
	if (!keys->device_loaded)
		kc_sealer_wipe(&area->sealer);
	mutex_unlock(&keys->slots.lock);
	mutex_unlock(&keys->admin);
}

/* Looks after the keys, and after what a lost device key and idle times leave. */
static void kc_watch(struct work_struct *work)
{
	struct kc_dev *kd = container_of(to_delayed_work(work), struct kc_dev, watch);
	/* The device may be suspended, and what frees memory wait for it. */
	unsigned int noio = memalloc_noio_save();

	kc_keys_look(&kd->keys);
	kc_dev_forget(kd);
	if (kd->keys.device_loaded)
		kc_keymap_reopen(&kd->map);
	kc_crypt_trim(&kd->crypt, false);
	memalloc_noio_restore(noio);
	queue_delayed_work(kc_unbound_wq, &kd->watch, KC_WATCH_INTERVAL);
}

/* Ends all that goes on; nothing is written behind it. */
static void kc_dev_stop(struct kc_dev *kd)
{
	cancel_delayed_work_sync(&kd->watch);
	if (kd->journal.buf && !kd->map.recovering && kd->area.mode == KC_RW &&
	    kd->area.sealer.ready && kc_journal_sync(&kd->journal, true))
		DMERR("%s: the key map was not written back: the journal has it",
		      dm_device_name(kd->area.md));
	if (kd->journal.wq) {
		cancel_delayed_work_sync(&kd->journal.timer);
		destroy_workqueue(kd->journal.wq);
	}
	kc_keys_exit(&kd->keys);
	if (kd->slow_wq)
		destroy_workqueue(kd->slow_wq);
	if (kd->drain_wq)
		destroy_workqueue(kd->drain_wq);
	if (kd->go_wq)
		destroy_workqueue(kd->go_wq);
	if (kd->crypt.wq)
		destroy_workqueue(kd->crypt.wq);
}

static void kc_dev_free(struct kc_dev *kd)
{
	kc_crypt_exit(&kd->crypt);
	kc_keymap_exit(&kd->map);
	kc_journal_exit(&kd->journal);
	kc_keys_free(&kd->keys);
	kc_area_exit(&kd->area);
	mutex_destroy(&kd->event_lock);
	kfree(kd);
}

static struct kc_dev *kc_dev_alloc(struct mapped_device *md)
{
	struct kc_dev *kd = kzalloc(sizeof(*kd), GFP_KERNEL);
	const char *name = dm_device_name(md);

	if (!kd)
		return NULL;
	kd->refs = 1;
	INIT_LIST_HEAD(&kd->list);
	mutex_init(&kd->event_lock);
	INIT_DELAYED_WORK(&kd->watch, kc_watch);
	kc_keymap_setup(&kd->map, &kd->area, kc_want_clean);
	kc_journal_setup(&kd->journal, &kd->area, &kd->map, kc_settled);
	kd->claims.area = &kd->area;
	kd->claims.map = &kd->map;
	kd->claims.journal = &kd->journal;
	kd->slow_wq = alloc_workqueue("kc_slow/%s", WQ_MEM_RECLAIM | WQ_UNBOUND, 0, name);
	kd->drain_wq = alloc_workqueue("kc_drain/%s", WQ_MEM_RECLAIM | WQ_UNBOUND, 0, name);
	kd->go_wq = alloc_workqueue("kc_go/%s", WQ_MEM_RECLAIM | WQ_UNBOUND, 0, name);
	kd->crypt.wq = alloc_workqueue("kc_crypt/%s", WQ_MEM_RECLAIM | WQ_UNBOUND, 0, name);
	kd->journal.wq = alloc_ordered_workqueue("kc_journal/%s", WQ_MEM_RECLAIM, name);
	kc_keys_setup(&kd->keys, &kd->area, &kd->crypt.cipher, kd->slow_wq,
		      kc_key_invalid);
	if (kc_area_init(&kd->area, md, kc_area_failed) || kc_crypt_init(&kd->crypt) ||
	    !kd->slow_wq || !kd->drain_wq || !kd->go_wq || !kd->crypt.wq ||
	    !kd->journal.wq) {
		kc_dev_stop(kd);
		kc_dev_free(kd);
		return NULL;
	}
	return kd;
}

/* Map blocks for so many MiB, in what kmalloc() makes of their sizes. */
static unsigned int kc_cache_blocks(unsigned int mib)
{
	return div_u64((u64)mib << 20,
		       roundup_pow_of_two(sizeof(struct kc_mapblk)) +
		       roundup_pow_of_two(KC_ENTRIES * sizeof(__le16)));
}

/* Is it the area that the table line names? */
static int kc_dev_match_uuid(struct kc_dev *kd, const struct kc_target *t)
{
	if (!t->wants_uuid || !memcmp(kd->area.uuid, &t->uuid, sizeof(t->uuid)))
		return 0;
	kc_error("metadata area has the UUID %pUb, not %pUb", kd->area.uuid, &t->uuid);
	return -EINVAL;
}

/*
 * The UUID of an area that is being opened is known and authentic.  If one with the same is
 * open, it is the same one by another path, or a copy: two writers of the same would
 * destroy it.
 */
static int kc_dev_identify(struct kc_dev *kd, const struct kc_target *t)
{
	struct kc_dev *other;
	int r;

	r = kc_dev_match_uuid(kd, t);
	if (r)
		return r;
	mutex_lock(&kc_devs_lock);
	list_for_each_entry(other, &kc_devs, list) {
		/* A device that has failed is left behind by another table of its own. */
		if (!other->identified || t->clone || other->area.md == kd->area.md ||
		    memcmp(other->area.uuid, kd->area.uuid, sizeof(kd->area.uuid)))
			continue;
		kc_error("metadata area with the UUID %pUb is open as %s: the option clone is for a copy of it, never for the same by another path",
			 kd->area.uuid, dm_device_name(other->area.md));
		r = -EBUSY;
		break;
	}
	kd->identified = !r;
	mutex_unlock(&kc_devs_lock);
	return r;
}

/* Reads or formats the metadata area, with the device key. */
static int kc_dev_open_area(struct kc_dev *kd, struct kc_target *t,
			    const struct kc_params *params, u64 max_area_blocks)
{
	struct kc_area *area = &kd->area;
	struct kc_kdf kdf;
	bool blank;
	int r;

	r = kc_area_read(area, params, max_area_blocks, &blank);
	if (!r)
		r = kc_keys_init(&kd->keys, t->keyring);
	if (!r)
		r = kc_device_load(&kd->keys, &t->ref, blank, &kdf);
	if (r)
		return r;
	if (!blank)
		r = kc_area_verify(area, &kdf);
	if (!r)
		r = kc_dev_identify(kd, t);
	if (!r && blank)
		r = kc_area_format(area, &kdf);
	kc_kdf_exit(&kdf);
	if (r)
		return r;
	kd->crypt.block_size = area->sector_size;
	kd->crypt.block_shift = area->block_shift;
	kd->crypt.iv_large_sectors = area->flags & KC_FLAG_IV_LARGE_SECTORS;
	kd->crypt.iv_offset = area->iv_offset;
	return 0;
}

/* Reads all that is on disk, and brings the key map up to date. */
static int kc_dev_start(struct kc_dev *kd, struct kc_target *t,
			const struct kc_params *params, u64 max_area_blocks)
{
	int r;

	r = kc_dev_open_area(kd, t, params, max_area_blocks);
	if (!r)
		r = kc_keys_load(&kd->keys);
	if (!r)
		r = kc_area_load_state(&kd->area);
	if (!r)
		r = kc_keymap_init(&kd->map, kc_cache_blocks(t->meta_cache));
	if (!r)
		r = kc_journal_init(&kd->journal);
	if (!r)
		r = kc_journal_recover(&kd->journal);
	if (!r)
		r = kc_keys_start(&kd->keys);
	if (!r)
		kc_area_mend(&kd->area);
	return r;
}

/* ---- the list of devices ---- */

/* Do two ranges of sectors share some?  Also of a disk and its partitions. */
static bool kc_overlap(struct block_device *a, u64 a_start, u64 a_len,
		       struct block_device *b, u64 b_start, u64 b_len)
{
	if (a->bd_disk != b->bd_disk)
		return false;
	a_start += get_start_sect(a);
	b_start += get_start_sect(b);
	return a_start < b_start + b_len && b_start < a_start + a_len;
}

/* Waits for a device to be open, or gone; kc_devs_lock is dropped meanwhile. */
static int kc_devs_wait_change(void)
{
	DEFINE_WAIT(wait);

	prepare_to_wait(&kc_devs_wait, &wait, TASK_KILLABLE);
	mutex_unlock(&kc_devs_lock);
	schedule();
	finish_wait(&kc_devs_wait, &wait);
	mutex_lock(&kc_devs_lock);
	return fatal_signal_pending(current) ? -EINTR : -EAGAIN;
}

/*
 * Does a device that is open, opened or closed stand in the way of a table, which is not
 * another one for the same mapped device and area?  *@room is cut to what is free for a
 * new area.  Return: 0; -EAGAIN to look again; or another errno with an error said.
 */
static int kc_dev_conflict(struct kc_target *t, struct block_device *bdev,
			   const struct kc_dev *kd, u64 *room)
{
	const struct kc_area *area = &kd->area;
	u64 start = get_start_sect(bdev) + t->meta_offset;
	u64 data = get_start_sect(area->data_bdev) + area->data_start;
	u64 meta = get_start_sect(area->bdev) + area->start;

	if (kc_overlap(bdev, t->meta_offset, 1, area->bdev, area->start, kd->meta_len)) {
		if (kd->state == KC_DEV_CLOSING)
			return kc_devs_wait_change();
		kc_error("metadata area is in use by %s", dm_device_name(area->md));
		return -EBUSY;
	}
	if (area->md == dm_table_get_md(t->ti->table)) {
		if (kd->state != KC_DEV_OPEN)
			return kc_devs_wait_change();
		kc_error("the live table has its metadata at sector %llu of %pg, not at %llu of %pg: remove the device to change that",
			 (u64)area->start, area->bdev, t->meta_offset, bdev);
		return -EBUSY;
	}
	if (kc_overlap(t->dev->bdev, t->start, t->ti->len,
		       area->data_bdev, area->data_start, kd->data_len) ||
	    kc_overlap(t->dev->bdev, t->start, t->ti->len,
		       area->bdev, area->start, kd->meta_len) ||
	    kc_overlap(bdev, t->meta_offset, 1,
		       area->data_bdev, area->data_start, kd->data_len)) {
		if (kd->state == KC_DEV_CLOSING)
			return kc_devs_wait_change();
		kc_error("data or metadata would lie over those of %s",
			 dm_device_name(area->md));
		return -EBUSY;
	}
	if (bdev->bd_disk == area->bdev->bd_disk && start < meta)
		*room = min(*room, (meta - start) / KC_BLOCK_SECTORS);
	if (bdev->bd_disk == area->data_bdev->bd_disk && start < data)
		*room = min(*room, (data - start) / KC_BLOCK_SECTORS);
	return 0;
}

/*
 * A device whose metadata has failed writes no more, and is left behind by another table, when
 * what it has under way can no longer race with the other one's recovery.
 */
static int kc_dev_leave(struct kc_target *t, struct kc_dev *kd)
{
	if (!dm_suspended(t->ti))
		kc_error("the metadata of the live table has failed: suspend the device before loading a table");
	else if (kc_journal_busy(&kd->journal) || mutex_is_locked(&kd->keys.admin))
		kc_error("the metadata of the live table has failed, and a write of it has not ended: try again");
	else
		return 0;
	return -EBUSY;
}

/*
 * Finds the device of a table's metadata area, if it is open.  Return: it; NULL if there is
 * none, with *@room cut; or an ERR_PTR(), -EAGAIN to look again.
 */
static struct kc_dev *kc_dev_find(struct kc_target *t, struct block_device *bdev,
				  u64 *room)
{
	struct kc_dev *kd, *found = NULL;
	int r;

	lockdep_assert_held(&kc_devs_lock);
	list_for_each_entry(kd, &kc_devs, list) {
		if (kd->area.md == dm_table_get_md(t->ti->table) &&
		    kd->area.bdev == bdev && kd->area.start == t->meta_offset &&
		    kd->loading != t->ti->table) {
			r = 0;
			if (kd->state != KC_DEV_OPEN)
				r = kc_devs_wait_change();
			else if (kd->area.mode == KC_FAILED)
				r = kc_dev_leave(t, kd);
			else if (!found)
				found = kd;
		} else {
			r = kc_dev_conflict(t, bdev, kd, room);
		}
		if (r)
			return ERR_PTR(r);
	}
	return found;
}

/* Does another table fit a device that is open? */
static int kc_dev_match(struct kc_dev *kd, struct kc_target *t,
			const struct kc_params *params)
{
	bool rw = dm_table_get_mode(t->ti->table) & KC_MODE_WRITE;
	struct kc_area *area = &kd->area;
	int r;

	if (rw != (area->mode == KC_RW)) {
		kc_error("the live table is %s: remove the device to change that",
			 rw ? "read-only" : "read-write");
		return -EBUSY;
	}
	if (area->data_bdev != t->dev->bdev || area->data_start != t->start) {
		kc_error("the live table has its data at sector %llu of %pg, not at %llu of %pg: remove the device to change that",
			 (u64)area->data_start, area->data_bdev, (u64)t->start,
			 t->dev->bdev);
		return -EBUSY;
	}
	r = kc_area_match(area, params);
	if (!r)
		r = kc_dev_match_uuid(kd, t);
	if (!r)
		r = kc_device_reload(&kd->keys, &t->ref, t->keyring);
	if (!r)
		kc_keymap_reopen(&kd->map);
	return r;
}

/* The last reference is gone; kc_devs_lock held, dropped meanwhile. */
static void kc_dev_close(struct kc_dev *kd)
{
	kd->state = KC_DEV_CLOSING;
	mutex_unlock(&kc_devs_lock);
	kc_dev_stop(kd);
	mutex_lock(&kc_devs_lock);
	list_del(&kd->list);
	wake_up_all(&kc_devs_wait);
	kc_dev_free(kd);
}

/* Opens a metadata area nobody has open; kc_devs_lock held, dropped meanwhile. */
static struct kc_dev *kc_dev_open(struct kc_target *t, struct block_device *bdev,
				  const struct kc_params *params,
				  const struct kc_cipher *cipher, u64 room)
{
	struct kc_dev *kd = kc_dev_alloc(dm_table_get_md(t->ti->table));
	int r;

	if (!kd)
		return ERR_PTR(-ENOMEM);
	kd->area.bdev = bdev;
	kd->area.start = t->meta_offset;
	kd->area.data_bdev = t->dev->bdev;
	kd->area.data_start = t->start;
	kd->area.same_bdev = bdev == t->dev->bdev;
	kd->area.mode = dm_table_get_mode(t->ti->table) & KC_MODE_WRITE ? KC_RW : KC_RO;
	kd->crypt.cipher = *cipher;
	kd->meta_len = room * KC_BLOCK_SECTORS;
	kd->data_len = t->ti->len;
	kd->loading = t->ti->table;
	list_add(&kd->list, &kc_devs);
	mutex_unlock(&kc_devs_lock);
	r = kc_dev_start(kd, t, params, room);
	mutex_lock(&kc_devs_lock);
	if (r) {
		kc_dev_close(kd);
		return ERR_PTR(r);
	}
	kd->meta_len = kd->area.layout.end * KC_BLOCK_SECTORS;
	kd->state = KC_DEV_OPEN;
	wake_up_all(&kc_devs_wait);
	queue_delayed_work(kc_unbound_wq, &kd->watch, 0);
	return kd;
}

/*
 * The device of a metadata area: the one that is open, when its mapped device
 * loads another table, or a new one.
 */
static struct kc_dev *kc_dev_get(struct kc_target *t, struct block_device *bdev,
				 const struct kc_params *params,
				 const struct kc_cipher *cipher,
				 u64 max_area_blocks)
{
	struct kc_dev *kd;
	u64 room;
	int r;

	mutex_lock(&kc_devs_lock);
	do {
		room = max_area_blocks;
		kd = kc_dev_find(t, bdev, &room);
	} while (kd == ERR_PTR(-EAGAIN));
	if (!kd) {
		kd = kc_dev_open(t, bdev, params, cipher, room);
	} else if (!IS_ERR(kd)) {
		r = kc_dev_match(kd, t, params);
		if (r) {
			kd = ERR_PTR(r);
		} else {
			kd->data_len = max_t(u64, kd->data_len, t->ti->len);
			kd->loading = t->ti->table;
			kd->refs++;
		}
	}
	mutex_unlock(&kc_devs_lock);
	return kd;
}

static void kc_dev_put(struct kc_dev *kd, struct dm_table *table)
{
	mutex_lock(&kc_devs_lock);
	mutex_lock(&kd->event_lock);
	if (kd->table == table)
		kd->table = NULL;
	mutex_unlock(&kd->event_lock);
	if (kd->loading == table)
		kd->loading = NULL;
	if (!--kd->refs)
		kc_dev_close(kd);
	mutex_unlock(&kc_devs_lock);
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
	} else if (!strcmp(arg, "format")) {
		params->format = true;
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
	} else if (!strcmp(arg, "clone")) {
		t->clone = true;
	} else if (kc_opt_value(arg, "uuid", &value)) {
		t->wants_uuid = true;
		if (uuid_parse(value, &t->uuid)) {
			kc_error("uuid:%s is not a UUID", value);
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

	kc_request_exit(t);	/* its pages are counted by the device */
	if (t->kd)
		kc_dev_put(t->kd, ti->table);
	if (t->meta_dev)
		dm_put_device(ti, t->meta_dev);
	if (t->dev)
		dm_put_device(ti, t->dev);
	key_put(t->keyring);
	kfree(t->keyring_spec);
	kfree(t);
}

/* <cipher> <key> <iv_offset>; options have been parsed. */
static int kc_ctr_format(struct kc_target *t, char **argv, struct kc_params *params,
			 struct kc_cipher *cipher)
{
	unsigned int block_sectors = params->sector_size >> SECTOR_SHIFT;
	const char *error = NULL;
	int r;

	if (t->ti->len & (block_sectors - 1)) {
		kc_error("length of %llu sectors is not a multiple of sector_size %u",
			 (u64)t->ti->len, params->sector_size);
		return -EINVAL;
	}
	params->nr_blocks = t->ti->len >> ilog2(block_sectors);
	if (params->nr_blocks > KC_MAX_BLOCKS) {
		kc_error("device of %llu blocks is too large", params->nr_blocks);
		return -EFBIG;
	}
	r = kc_cipher_parse(cipher, argv[0], &error);
	if (r) {
		kc_error("cipher %.100s: %s", argv[0], error);
		return r;
	}
	params->cipher = argv[0];
	r = kc_keyref_parse(&t->ref, argv[1], &error);
	if (r) {
		/* It may be a key by mistake: not for the log. */
		memzero_explicit(argv[1], strlen(argv[1]));
		kc_error("%s", error);
		return r;
	}
	params->key_size = t->ref.size;
	if (kstrtou64(argv[2], 10, &params->iv_offset) ||
	    params->iv_offset & (block_sectors - 1)) {
		kc_error("iv_offset %s is not a multiple of sector_size in sectors",
			 argv[2]);
		return -EINVAL;
	}
	return 0;
}

/* <device> <offset> */
static int kc_ctr_data(struct kc_target *t, char **argv)
{
	struct dm_target *ti = t->ti;
	u64 offset, size;
	int r;

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
	size = bdev_nr_sectors(t->dev->bdev);
	if (offset > size || ti->len > size - offset) {
		kc_error("device %s has %llu sectors, the data needs %llu from sector %llu on",
			 argv[3], size, (u64)ti->len, offset);
		return -EINVAL;
	}
	return 0;
}

static int kc_ctr_args(struct dm_target *ti, unsigned int argc, char **argv)
{
	struct kc_target *t = ti->private;
	struct kc_params params = { .sector_size = KC_BLOCK_SIZE };
	struct kc_cipher cipher;
	struct block_device *bdev;
	const char *error = NULL, *meta_path = NULL;
	struct kc_dev *kd;
	u64 room;
	int r;

	if (argc < 5) {
		kc_error("table line has %u arguments, at least 5 are needed: <cipher> <key> <iv_offset> <device> <offset>",
			 argc);
		return -EINVAL;
	}
	t->meta_cache = KC_META_CACHE_DEFAULT;
	r = kc_parse_opts(t, &params, argc - 5, argv + 5, &meta_path);
	if (!r)
		r = kc_ctr_format(t, argv, &params, &cipher);
	if (!r)
		r = kc_ctr_data(t, argv);
	if (r)
		return r;
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
	r = kc_request_init(t);
	if (r)
		return r;

	ti->num_flush_bios = 1;
	ti->flush_supported = true;	/* the key map needs them in any case */
	ti->limit_swap_bios = true;
	ti->accounts_remapped_io = true;
	return 0;
}

static int kc_ctr(struct dm_target *ti, unsigned int argc, char **argv)
{
	/* What frees memory may wait for the device. */
	bool suspended = dm_suspended(ti);
	unsigned int noio = 0;
	struct kc_target *t;
	int r = -ENOMEM;
	char *error;

	if (suspended)
		noio = memalloc_noio_save();
	t = kzalloc(sizeof(*t), GFP_KERNEL);
	if (!t) {
		ti->error = "out of memory";
		goto out;
	}
	t->ti = ti;
	ti->private = t;
	error = kc_error_begin();
	r = kc_ctr_args(ti, argc, argv);
	if (r == -ENOMEM)
		kc_error("out of memory");
	kc_error_end();
	if (r) {
		ti->error = error;
		kc_dtr(ti);
	}
out:
	if (suspended)
		memalloc_noio_restore(noio);
	return r;
}

/* ---- suspend and resume ---- */

static int kc_preresume(struct dm_target *ti)
{
	struct kc_target *t = ti->private;
	struct kc_dev *kd = t->kd;
	unsigned int noio = memalloc_noio_save();
	struct key *old;

	WRITE_ONCE(kd->map.suspending, false);
	if (kd->area.mode == KC_RW && kd->area.sealer.ready)
		kc_journal_check(&kd->journal);
	mutex_lock(&kd->event_lock);
	kd->table = ti->table;
	mutex_unlock(&kd->event_lock);
	kc_keymap_resize(&kd->map, kc_cache_blocks(t->meta_cache));
	mutex_lock(&kd->keys.slots.lock);
	old = kd->keys.keyring;
	kd->keys.keyring = key_get(t->keyring);
	kc_keys_unlock(&kd->keys);
	mutex_unlock(&kd->keys.slots.lock);
	key_put(old);
	memalloc_noio_restore(noio);
	return 0;
}

/* Messages that walk the map give up: a suspend waits for them, with bios held back. */
static void kc_presuspend(struct dm_target *ti)
{
	struct kc_target *t = ti->private;

	WRITE_ONCE(t->kd->map.suspending, true);
}

static void kc_presuspend_undo(struct dm_target *ti)
{
	struct kc_target *t = ti->private;

	WRITE_ONCE(t->kd->map.suspending, false);
}

static void kc_postsuspend(struct dm_target *ti)
{
	struct kc_target *t = ti->private;

	/* Also when it fails: what was flushed is in the journal. */
	if (t->kd->area.mode == KC_RW && t->kd->area.sealer.ready)
		kc_journal_sync(&t->kd->journal, true);
	/* Nobody waits for messages any more. */
	WRITE_ONCE(t->kd->map.suspending, false);
}

/* ---- status ---- */

static const char *kc_mode_name(const struct kc_area *area)
{
	switch (area->mode) {
	case KC_RW:
		return kc_area_read_only(area) || bdev_read_only(area->data_bdev) ?
		       "ro" : "rw";
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
	DMEMIT("%s %llu %llu/%u %lld %lld %lld ", kc_mode_name(&kd->area), next - 1,
	       next - tail, kd->area.layout.journal_blocks,
	       (s64)atomic64_read(&kd->locked_reads),
	       (s64)atomic64_read(&kd->locked_writes),
	       (s64)atomic64_read(&kd->claims.reassigned));
	mutex_lock(&kd->keys.slots.lock);
	DMEMIT("%u", kd->keys.nr_owners);
	for (slot = KC_SLOT_FIRST_OWNER; slot < kd->area.nr_slots; slot++) {
		struct kc_owner *owner = kd->keys.owners[slot];

		if (owner)
			DMEMIT(" %s:%u:%s", owner->name, slot,
			       kc_lock_state_name(owner->state));
	}
	mutex_unlock(&kd->keys.slots.lock);
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
	KC_OPT(t->wants_uuid, "uuid:%pUb", &t->uuid);
	KC_OPT(t->clone, "clone");
	KC_OPT(kd->area.sector_size != KC_BLOCK_SIZE, "sector_size:%u", kd->area.sector_size);
	KC_OPT(kd->area.flags & KC_FLAG_IV_LARGE_SECTORS, "iv_large_sectors");
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

	DMEMIT("%s :%u:%s:%s %llu %s %llu", t->kd->area.cipher, t->ref.size,
	       kc_key_type_name(t->ref.type), t->ref.desc, t->kd->area.iv_offset,
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
		       kd->area.flags & KC_FLAG_IV_LARGE_SECTORS ? 'y' : 'n');
		DMEMIT(",sector_size=%u", kd->area.sector_size);
		DMEMIT(",cipher_string=%s", kd->area.cipher);
		DMEMIT(",key_size=%u", t->ref.size);
		DMEMIT(",owner=%s", kc_owner_kinds[t->owner_kind]);
		DMEMIT(",reassign=%s", t->lazy ? "lazy" : "strict");
		DMEMIT(",uuid=%pUb", kd->area.uuid);
		DMEMIT(";");
		break;
	}
}

/* ---- the target type ---- */

static int kc_iterate_devices(struct dm_target *ti,
			      iterate_devices_callout_fn fn, void *data)
{
	struct kc_target *t = ti->private;

	return fn(ti, t->dev, t->start, ti->len, data);
}

static void kc_io_hints(struct dm_target *ti, struct queue_limits *limits)
{
	struct kc_target *t = ti->private;
	unsigned int size = t->kd->area.sector_size;

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
	.map = kc_request_map,
	.presuspend = kc_presuspend,
	.presuspend_undo = kc_presuspend_undo,
	.preresume = kc_preresume,
	.postsuspend = kc_postsuspend,
	.status = kc_status,
	.message = kc_message,
	.iterate_devices = kc_iterate_devices,
	.io_hints = kc_io_hints,
};

/*
 * A kernel that is read back from a hibernation image knows nothing of what the one that
 * booted did to the disk: before, all is put in place; afterwards, the anchor tells.
 */
static int kc_pm_event(struct notifier_block *nb, unsigned long event, void *data)
{
	struct kc_dev *kd;

	if (event != PM_HIBERNATION_PREPARE && event != PM_POST_HIBERNATION)
		return NOTIFY_DONE;
	mutex_lock(&kc_devs_lock);
	list_for_each_entry(kd, &kc_devs, list) {
		if (kd->state != KC_DEV_OPEN || kd->area.mode != KC_RW ||
		    !kd->area.sealer.ready)
			continue;
		if (event == PM_HIBERNATION_PREPARE)
			kc_journal_sync(&kd->journal, true);
		else
			kc_journal_check(&kd->journal);
	}
	mutex_unlock(&kc_devs_lock);
	return NOTIFY_DONE;
}

static struct notifier_block kc_pm_notifier = { .notifier_call = kc_pm_event };

static int __init kc_init(void)
{
	int r = register_pm_notifier(&kc_pm_notifier);

	if (r)
		return r;
	r = dm_register_target(&kc_target_type);
	if (r < 0) {
		DMERR("cannot register the target: %d", r);
		unregister_pm_notifier(&kc_pm_notifier);
	}
	return r;
}

static void __exit kc_exit(void)
{
	dm_unregister_target(&kc_target_type);
	unregister_pm_notifier(&kc_pm_notifier);
}

module_init(kc_init);
module_exit(kc_exit);

MODULE_DESCRIPTION(DM_NAME " target: every block encrypted once, under its owner's key");
MODULE_AUTHOR("dm-keyed-crypt maintainers");
MODULE_LICENSE("GPL");
MODULE_ALIAS("dm-keyed-crypt");
MODULE_SOFTDEP("pre: libchacha20poly1305 crc32c");
