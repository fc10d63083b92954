// SPDX-License-Identifier: GPL-2.0
/*
 * Owners: names, ids, states, records, and the device key, which is an owner
 * without name and ids.
 *
 * A key is looked up once, and loaded into a keyslot.  An unlink cannot be seen on the
 * key itself; a periodic look at the keyrings finds it, and finds keys that
 * have come back.
 */

#include <linux/slab.h>
#include <linux/sort.h>
#include <crypto/algapi.h>

#include "compat.h"
#include "error.h"
#include "owner.h"
#include "trace.h"

/* ---- ids ---- */

/**
 * struct kc_ids - which slot an id's writes go under
 * @nr:		number of ranges
 * @range:	sorted, disjoint
 */
struct kc_ids {
	unsigned int nr;
	struct kc_id_slot {
		u32 first;
		u32 last;
		u16 slot;
	} range[];
};

/**
 * kc_ids_find() - the slot an id's writes go under
 * @keys:	the keys of a device
 * @id:		the id
 *
 * Under RCU.
 * Return: its owner's slot, or the device key's.
 */
u16 kc_ids_find(struct kc_keys *keys, u32 id)
{
	const struct kc_ids *ids = rcu_dereference(keys->ids);
	unsigned int lo = 0, hi, mid;

	if (!ids)
		return KC_SLOT_DEVICE;
	hi = ids->nr;
	while (lo < hi) {
		mid = (lo + hi) / 2;
		if (id < ids->range[mid].first)
			hi = mid;
		else if (id > ids->range[mid].last)
			lo = mid + 1;
		else
			return ids->range[mid].slot;
	}
	return KC_SLOT_DEVICE;
}

static int kc_id_slot_cmp(const void *a, const void *b)
{
	const struct kc_id_slot *x = a, *y = b;

	return x->first < y->first ? -1 : x->first > y->first;
}

/**
 * kc_ids_alloc() - memory for the ids of all owners
 * @keys:	the keys of a device
 *
 * There is room for those of one more owner.  Process context, keys->admin or
 * slots.lock held.
 * Return: for kc_ids_publish() or kvfree(); NULL without memory.
 */
struct kc_ids *kc_ids_alloc(struct kc_keys *keys)
{
	unsigned int nr = KC_MAX_IDS;
	struct kc_ids *ids;
	u32 slot;

	for (slot = 0; slot < keys->slots.nr; slot++)
		if (keys->owners[slot])
			nr += keys->owners[slot]->nr_ids;
	return kvzalloc(struct_size(ids, range, nr), GFP_KERNEL);
}

/**
 * kc_ids_publish() - publish the ids of all owners, but for those that end
 * @keys:	the keys of a device
 * @ids:	from kc_ids_alloc(), taken over
 *
 * Process context, slots.lock held.
 * Return: what bios used before, for kc_ids_free() without the lock.
 */
struct kc_ids *kc_ids_publish(struct kc_keys *keys, struct kc_ids *ids)
{
	unsigned int i;
	u32 slot;

	lockdep_assert_held(&keys->slots.lock);
	for (slot = 0; slot < keys->slots.nr; slot++) {
		const struct kc_owner *owner = keys->owners[slot];

		for (i = 0; owner && !owner->ending && i < owner->nr_ids; i++)
			ids->range[ids->nr++] = (struct kc_id_slot) {
				.first = owner->ids[i].first,
				.last = owner->ids[i].last,
				.slot = slot,
			};
	}
	sort(ids->range, ids->nr, sizeof(ids->range[0]), kc_id_slot_cmp, NULL);
	return rcu_replace_pointer(keys->ids, ids, lockdep_is_held(&keys->slots.lock));
}

/**
 * kc_ids_free() - free ids, when no bio uses them any more
 * @ids:	from kc_ids_publish(), or NULL
 *
 * Process context; sleeps for a grace period.
 */
void kc_ids_free(struct kc_ids *ids)
{
	if (!ids)
		return;
	synchronize_rcu();
	kvfree(ids);
}

/**
 * kc_ids_parse() - parse the ids of an owner
 * @owner:	gets them
 * @s:		"-", or a comma list of numbers and ranges; is not changed
 * @error:	what is wrong
 *
 * Return: 0 or -EINVAL.
 */
int kc_ids_parse(struct kc_owner *owner, const char *s, const char **error)
{
	unsigned int nr = 0, i;
	struct kc_id_range range;
	char word[24], *dash;
	const char *comma;
	size_t len;

	owner->nr_ids = 0;
	if (!strcmp(s, "-"))
		return 0;
	do {
		comma = strchrnul(s, ',');
		len = comma - s;
		if (len >= sizeof(word)) {
			*error = "is not an id";
			return -EINVAL;
		}
		memcpy(word, s, len);
		word[len] = '\0';
		dash = strchr(word, '-');
		if (dash)
			*dash++ = '\0';
		if (kstrtou32(word, 10, &range.first) ||
		    kstrtou32(dash ?: word, 10, &range.last)) {
			*error = "is neither an id, a range of ids, a list of these nor -";
			return -EINVAL;
		}
		if (range.first > range.last) {
			*error = "has a range that ends before it starts";
			return -EINVAL;
		}
		for (i = 0; i < nr; i++) {
			if (range.first <= owner->ids[i].last &&
			    range.last >= owner->ids[i].first) {
				*error = "names an id twice";
				return -EINVAL;
			}
		}
		if (nr == KC_MAX_IDS) {
			*error = "has more than 32 ranges";
			return -EINVAL;
		}
		owner->ids[nr++] = range;
		s = comma + 1;
	} while (*comma);
	owner->nr_ids = nr;
	return 0;
}

/**
 * kc_ids_print() - print the ids of an owner as kc_ids_parse() reads them
 * @owner:	the owner
 * @buf:	where to
 * @size:	of @buf in bytes
 *
 * Return: number of characters.
 */
unsigned int kc_ids_print(const struct kc_owner *owner, char *buf,
			  unsigned int size)
{
	unsigned int i, n = 0;

	if (!owner->nr_ids)
		return scnprintf(buf, size, "-");
	for (i = 0; i < owner->nr_ids; i++) {
		n += scnprintf(buf + n, size - n, "%s%u", i ? "," : "",
			       owner->ids[i].first);
		if (owner->ids[i].last != owner->ids[i].first)
			n += scnprintf(buf + n, size - n, "-%u",
				       owner->ids[i].last);
	}
	return n;
}

/**
 * kc_ids_conflict() - does another owner have one of these ids?
 * @keys:	the keys of a device
 * @owner:	whose ids; compared with owners of other slots
 * @id:		such an id
 *
 * Process context, keys->admin held.
 * Return: the other owner or NULL.
 */
struct kc_owner *kc_ids_conflict(struct kc_keys *keys, const struct kc_owner *owner,
				 u32 *id)
{
	unsigned int i, j;
	u32 slot;

	for (slot = 0; slot < keys->slots.nr; slot++) {
		struct kc_owner *other = keys->owners[slot];

		if (!other || slot == owner->slot)
			continue;
		for (i = 0; i < owner->nr_ids; i++) {
			for (j = 0; j < other->nr_ids; j++) {
				if (owner->ids[i].first > other->ids[j].last ||
				    owner->ids[i].last < other->ids[j].first)
					continue;
				*id = max(owner->ids[i].first, other->ids[j].first);
				return other;
			}
		}
	}
	return NULL;
}

/* ---- records ---- */

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
static int kc_owner_from_disk(void *context, u32 slot,
			      const struct kc_disk_owner *d)
{
	struct kc_keys *keys = context;
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
		set_bit(slot, keys->area->destroyed);
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
	keys->owners[slot] = owner;
	keys->nr_owners++;
	return 0;
}

/**
 * kc_owner_write() - make an owner durable
 * @keys:	the keys of a device
 * @slot:	the slot to write
 * @owner:	what it shall hold; NULL frees it
 *
 * The other owners in the same block are written as keys->owners has them.
 * Process context, keys->admin held, and the device key was there since: the sealing key
 * is not wiped without it.
 * Return: 0 or a negative errno; a failed write stops changes of the metadata.
 */
int kc_owner_write(struct kc_keys *keys, u32 slot, const struct kc_owner *owner)
{
	u32 first = round_down(slot, KC_UNITS);
	unsigned int i;
	u8 *buf;
	int r;

	lockdep_assert_held(&keys->admin);
	if (keys->area->mode != KC_RW)
		return -EIO;
	if (bdev_read_only(keys->area->bdev))
		return -EROFS;
	buf = kmalloc(KC_BLOCK_SIZE, GFP_KERNEL);
	if (!buf)
		return -ENOMEM;
	for (i = 0; i < KC_UNITS; i++)
		kc_owner_to_disk(kc_payload(buf, i),
				 first + i == slot ? owner : keys->owners[first + i]);
	r = kc_area_write_owners(keys->area, slot, buf);
	kfree_sensitive(buf);
	return r;
}

/* ---- keys ---- */

/**
 * kc_lock_state_name() - name of an owner's state, as in status lines
 * @state:	the state
 *
 * Return: the name.
 */
const char *kc_lock_state_name(enum kc_lock_state state)
{
	switch (state) {
	case KC_UNLOCKED:
		return "unlocked";
	case KC_WRONG_KEY:
		return "wrong-key";
	case KC_DESTROYED:
		return "destroyed";
	default:
		return "locked";
	}
}

static int kc_key_check(struct kc_keys *keys, const u8 *key, unsigned int size,
			u8 check[KC_CHECK_SIZE])
{
	struct kc_kdf kdf;
	int r;

	r = kc_kdf_init(&kdf, keys->area->salt, key, size);
	if (r)
		return r;
	r = kc_kdf_expand(&kdf, KC_KDF_CHECK, keys->area->uuid, check, KC_CHECK_SIZE);
	kc_kdf_exit(&kdf);
	return r;
}

/**
 * kc_owner_check() - check value of a key an owner is to have
 * @keys:	the keys of a device
 * @owner:	the owner; where the key is found is remembered in it
 * @check:	result
 *
 * Process context of the caller, keys->slots.lock held.
 * Return: 0; -ENOKEY and its kin; -EMSGSIZE if the key has another size;
 * -EINVAL if the cipher does not take it.
 */
int kc_owner_check(struct kc_keys *keys, struct kc_owner *owner,
		   u8 check[KC_CHECK_SIZE])
{
	u8 bytes[KC_MAX_KEY_SIZE];
	struct crypto_skcipher *tfm;
	struct kc_key_digest digest;
	struct key *key;
	int r;

	key = kc_key_find(&owner->ref, &owner->home, keys->keyring, true);
	if (IS_ERR(key))
		return PTR_ERR(key);
	r = kc_key_copy(key, &owner->ref, bytes, &digest);
	if (!r)
		r = kc_key_check(keys, bytes, owner->ref.size, check);
	if (!r) {
		tfm = crypto_alloc_skcipher(keys->slots.cipher->api, 0,
					    CRYPTO_ALG_ALLOCATES_MEMORY);
		r = PTR_ERR_OR_ZERO(tfm);
		if (!r) {
			r = crypto_skcipher_setkey(tfm, bytes, owner->ref.size);
			crypto_free_skcipher(tfm);
		}
	}
	memzero_explicit(bytes, sizeof(bytes));
	key_put(key);
	return r;
}

/**
 * kc_owner_unlock() - find an owner's key and load it
 * @keys:	the keys of a device
 * @owner:	the owner, locked
 * @callers:	look in the caller's keyrings too, and first
 *
 * Process context, keys->slots.lock held.
 * Return: 0, -ENOKEY and its kin, -EKEYREJECTED if the key found is not the
 * owner's, or another errno.
 */
int kc_owner_unlock(struct kc_keys *keys, struct kc_owner *owner, bool callers)
{
	u8 bytes[KC_MAX_KEY_SIZE], check[KC_CHECK_SIZE];
	struct kc_key_digest digest;
	struct key *key;
	int r;

	lockdep_assert_held(&keys->slots.lock);
	key = kc_key_find(&owner->ref, &owner->home, keys->keyring, callers);
	if (IS_ERR(key)) {
		owner->state = KC_LOCKED;
		return PTR_ERR(key);
	}
	r = kc_key_copy(key, &owner->ref, bytes, &digest);
	/* What has been derived from these bytes need not be again. */
	if (!r && owner->state == KC_WRONG_KEY &&
	    kc_key_digest_equal(&digest, &owner->refused))
		r = -EKEYREJECTED;
	if (!r)
		r = kc_key_check(keys, bytes, owner->ref.size, check);
	if (!r && crypto_memneq(check, owner->check, sizeof(check))) {
		owner->refused = digest;
		r = -EKEYREJECTED;
	}
	if (r == -EMSGSIZE)
		r = -EKEYREJECTED;
	if (r == -EKEYREJECTED && owner->state != KC_WRONG_KEY)
		trace_keyed_crypt_key(keys->area->md, owner->slot, KC_WRONG_KEY);
	owner->state = r == -EKEYREJECTED ? KC_WRONG_KEY : KC_LOCKED;
	if (!r)
		r = kc_keyslot_publish(&keys->slots, owner->slot, key, &digest, bytes,
				       owner->ref.size);
	else
		key_put(key);
	memzero_explicit(bytes, sizeof(bytes));
	if (!r)
		owner->state = KC_UNLOCKED;
	return r;
}

/**
 * kc_owner_kill() - lock an owner for all that comes
 * @keys:	the keys of a device
 * @owner:	the owner
 * @dying:	gets its key, for kc_keyslots_quiesce()
 *
 * When that returns, no more plaintext of the owner is produced; when its last
 * bio has ended, its transform is wiped.  Process context, keys->slots.lock held.
 */
void kc_owner_kill(struct kc_keys *keys, struct kc_owner *owner,
		   struct list_head *dying)
{
	kc_keyslot_kill(&keys->slots, owner->slot, dying);
	if (owner->state == KC_UNLOCKED)
		owner->state = KC_LOCKED;
}

/*
 * Is the loaded key of @owner still the one a search finds?  If the search
 * finds another with the same bytes, that one is taken over, and no bio notices;
 * *@old is then to be put after a grace period: bios validate it under RCU.
 */
static bool kc_owner_still(struct kc_keys *keys, struct kc_owner *owner,
			   struct key **old)
{
	struct kc_keyslot *ks = kc_keyslot_peek(&keys->slots, owner->slot);
	struct kc_key_digest digest;
	u8 bytes[KC_MAX_KEY_SIZE];
	struct key *key;
	bool same;

	if (!ks)
		return false;
	key = kc_key_find(&owner->ref, &owner->home, keys->keyring, false);
	if (IS_ERR(key))
		return false;
	same = !kc_key_copy(key, &owner->ref, bytes, &digest) &&
	       kc_key_digest_equal(&digest, &ks->digest);
	memzero_explicit(bytes, sizeof(bytes));
	if (!same || key == ks->key) {
		key_put(key);
		return same;
	}
	*old = ks->key;
	WRITE_ONCE(ks->key, key);
	return true;
}

/*
 * Finds the device key, compares or (@format) records its check value, derives
 * the sealing key and publishes the keyslot.  On success @kdf is the caller's
 * to end.
 */
static int kc_device_find(struct kc_keys *keys, const struct kc_keyref *ref,
			  bool callers, bool format, struct kc_kdf *kdf)
{
	struct kc_owner *device = &keys->device;
	u8 bytes[KC_MAX_KEY_SIZE], check[KC_CHECK_SIZE];
	struct kc_key_digest digest;
	struct key *key;
	int r;

	lockdep_assert_held(&keys->slots.lock);
	device->ref = *ref;
	device->slot = KC_SLOT_DEVICE;
	key = kc_key_find(ref, &device->home, keys->keyring, callers);
	if (IS_ERR(key))
		return PTR_ERR(key);
	r = kc_key_copy(key, ref, bytes, &digest);
	if (r)
		goto put_key;
	r = kc_kdf_init(kdf, keys->area->salt, bytes, ref->size);
	if (r)
		goto put_key;
	r = kc_kdf_expand(kdf, KC_KDF_CHECK, keys->area->uuid, check, sizeof(check));
	if (!r && format)
		memcpy(keys->area->check, check, sizeof(check));
	if (!r && crypto_memneq(check, keys->area->check, sizeof(check)))
		r = -EKEYREJECTED;
	if (!r)
		memcpy(device->check, check, sizeof(check));
	if (!r)
		r = kc_sealer_init(&keys->area->sealer, kdf, keys->area->uuid);
	if (!r) {
		r = kc_keyslot_publish(&keys->slots, KC_SLOT_DEVICE, key, &digest, bytes,
				       ref->size);
		key = NULL;
	}
	if (!r) {
		device->state = KC_UNLOCKED;
		WRITE_ONCE(keys->device_loaded, true);
	} else {
		kc_kdf_exit(kdf);
	}
put_key:
	memzero_explicit(bytes, sizeof(bytes));
	key_put(key);
	return r;
}

/* Says why a device key was refused.  Return: the errno for the caller. */
static int kc_device_error(const struct kc_keyref *ref, int error)
{
	const char *what = "not found";

	if (error == -EKEYREJECTED) {
		kc_error("device key is the wrong one: the check value of :%u:%s:%s is not the recorded one",
			 ref->size, kc_key_type_name(ref->type), ref->desc);
		return error;
	}
	if (error == -EMSGSIZE)
		what = "has another size";
	else if (error == -EINVAL)
		what = "is not one the cipher takes";
	kc_error("device key :%u:%s:%s %s", ref->size, kc_key_type_name(ref->type),
		 ref->desc, what);
	return error == -EMSGSIZE ? -EKEYREJECTED : error;
}

/**
 * kc_device_load() - load the device key for the first time
 * @keys:	the keys of a device, with its salt and UUID
 * @ref:	the device key
 * @format:	record its check value instead of comparing it
 * @kdf:	result, to be ended with kc_kdf_exit()
 *
 * Process context of the caller.
 * Return: 0 or a negative errno with an error said.
 */
int kc_device_load(struct kc_keys *keys, const struct kc_keyref *ref, bool format,
		   struct kc_kdf *kdf)
{
	int r;

	mutex_lock(&keys->slots.lock);
	r = kc_device_find(keys, ref, true, format, kdf);
	mutex_unlock(&keys->slots.lock);
	return r ? kc_device_error(ref, r) : 0;
}

/* Finds the lost device key again. */
static int kc_device_unlock(struct kc_keys *keys, const struct kc_keyref *ref,
			    bool callers)
{
	struct kc_kdf kdf;
	int r;

	r = kc_device_find(keys, ref, callers, false, &kdf);
	if (r)
		return r;
	kc_kdf_exit(&kdf);
	DMINFO("%s: device key is back", dm_device_name(keys->area->md));
	return 0;
}

/**
 * kc_device_reload() - check the device key a further table line names
 * @keys:	the keys of a device
 * @ref:	the device key
 * @keyring:	the table line's keyring
 *
 * Process context of the caller.
 * Return: 0 or a negative errno with an error said.
 */
int kc_device_reload(struct kc_keys *keys, const struct kc_keyref *ref,
		     struct key *keyring)
{
	struct kc_owner probe = { .slot = KC_SLOT_DEVICE, .ref = *ref };
	u8 check[KC_CHECK_SIZE];
	int r;

	mutex_lock(&keys->slots.lock);
	swap(keys->keyring, keyring);
	r = kc_owner_check(keys, &probe, check);
	if (!r && crypto_memneq(check, keys->area->check, sizeof(check)))
		r = -EKEYREJECTED;
	if (!r && !keys->device_loaded)
		r = kc_device_unlock(keys, ref, true);
	if (!r) {
		keys->device.ref = *ref;
		swap(probe.home, keys->device.home);
	}
	swap(keys->keyring, keyring);
	mutex_unlock(&keys->slots.lock);
	key_put(probe.home);
	return r ? kc_device_error(ref, r) : 0;
}

/* The device key is gone: nothing can be read, metadata neither. */
static void kc_device_lost(struct kc_keys *keys, struct list_head *dying)
{
	u32 slot;

	if (keys->device_loaded) {
		DMWARN("%s: device key is gone: the device is locked",
		       dm_device_name(keys->area->md));
		WRITE_ONCE(keys->device_loaded, false);
	}
	kc_owner_kill(keys, &keys->device, dying);
	for (slot = KC_SLOT_FIRST_OWNER; slot < keys->slots.nr; slot++)
		if (keys->owners[slot])
			kc_owner_kill(keys, keys->owners[slot], dying);
}

static void kc_device_look(struct kc_keys *keys)
{
	struct key *old = NULL;
	struct kc_keyref ref;
	LIST_HEAD(dying);

	mutex_lock(&keys->slots.lock);
	if (!kc_owner_still(keys, &keys->device, &old))
		kc_device_lost(keys, &dying);
	mutex_unlock(&keys->slots.lock);
	if (old)
		synchronize_rcu();
	key_put(old);
	kc_keyslots_quiesce(&keys->slots, &dying);
	if (keys->device_loaded)
		return;
	mutex_lock(&keys->slots.lock);
	ref = keys->device.ref;
	if (!keys->device_loaded)
		kc_device_unlock(keys, &ref, false);
	mutex_unlock(&keys->slots.lock);
}

/* Slots that are looked at before others may have the lock */
#define KC_LOOK_SLOTS	32

/* Locks owners whose key is no longer valid or no longer linked. */
static void kc_owners_look(struct kc_keys *keys, u32 slot, u32 end)
{
	struct key *old[KC_LOOK_SLOTS];
	struct kc_owner *owner;
	unsigned int nr = 0;
	LIST_HEAD(dying);

	mutex_lock(&keys->slots.lock);
	for (; keys->device_loaded && slot < end; slot++) {
		owner = keys->owners[slot];
		old[nr] = NULL;
		if (owner && !owner->held && owner->state == KC_UNLOCKED &&
		    !kc_owner_still(keys, owner, &old[nr]))
			kc_owner_kill(keys, owner, &dying);
		nr += !!old[nr];
	}
	mutex_unlock(&keys->slots.lock);
	if (nr)
		synchronize_rcu();
	while (nr)
		key_put(old[--nr]);
	kc_keyslots_quiesce(&keys->slots, &dying);
}

/* Unlocks owners whose key is there. */
static void kc_owners_unlock(struct kc_keys *keys, u32 slot, u32 end, bool callers)
{
	struct kc_owner *owner;

	lockdep_assert_held(&keys->slots.lock);
	for (; keys->device_loaded && slot < end; slot++) {
		owner = keys->owners[slot];
		if (owner && !owner->held && !owner->ending &&
		    owner->state != KC_UNLOCKED)
			kc_owner_unlock(keys, owner, callers);
	}
}

/**
 * kc_keys_look() - look after the keys
 * @keys:	the keys of a device
 *
 * Locks owners whose key is no longer valid or no longer linked, unlocks those
 * whose key is back.  Process context; takes slots.lock for some owners at a time, and
 * waits for nothing with it.
 */
void kc_keys_look(struct kc_keys *keys)
{
	u32 slot, end;

	kc_device_look(keys);
	for (slot = KC_SLOT_FIRST_OWNER; slot < keys->slots.nr; slot = end) {
		end = min(slot + KC_LOOK_SLOTS, keys->slots.nr);
		kc_owners_look(keys, slot, end);
		cond_resched();
	}
	for (slot = KC_SLOT_FIRST_OWNER; slot < keys->slots.nr; slot = end) {
		end = min(slot + KC_LOOK_SLOTS, keys->slots.nr);
		mutex_lock(&keys->slots.lock);
		kc_owners_unlock(keys, slot, end, false);
		mutex_unlock(&keys->slots.lock);
		cond_resched();
	}
}

/**
 * kc_keys_load() - read the owner table
 * @keys:	the keys of a device, the device key loaded
 *
 * Process context of the caller.
 * Return: 0 or a negative errno with an error said.
 */
int kc_keys_load(struct kc_keys *keys)
{
	return kc_area_read_owners(keys->area, kc_owner_from_disk, keys);
}

/**
 * kc_keys_unlock() - unlock all owners that are not to stay locked
 * @keys:	the keys of a device
 *
 * Process context of the caller, whose keyrings are searched first; slots.lock
 * held.
 */
void kc_keys_unlock(struct kc_keys *keys)
{
	kc_owners_unlock(keys, KC_SLOT_FIRST_OWNER, keys->slots.nr, true);
}

/**
 * kc_keys_setup() - set up what cannot fail
 * @keys:	zeroed
 * @area:	where owners are recorded; must live as long
 * @cipher:	what the keys are for; must live as long
 * @wq:		where keyslots are freed
 * @invalid:	called when a key is found to be no longer valid; any context
 */
void kc_keys_setup(struct kc_keys *keys, struct kc_area *area,
		   const struct kc_cipher *cipher, struct workqueue_struct *wq,
		   void (*invalid)(struct kc_keyslots *slots))
{
	keys->area = area;
	mutex_init(&keys->admin);
	kc_keyslots_setup(&keys->slots, cipher, wq, invalid);
}

/**
 * kc_keys_init() - make room for as many slots as the area has
 * @keys:	the keys of a device
 * @keyring:	searched for owners' keys; a reference is taken
 *
 * Process context.
 * Return: 0 or -ENOMEM; kc_keys_exit() and _free() in any case.
 */
int kc_keys_init(struct kc_keys *keys, struct key *keyring)
{
	struct kc_area *area = keys->area;

	keys->keyring = key_get(keyring);
	keys->owners = kvcalloc(area->nr_slots, sizeof(*keys->owners), GFP_KERNEL);
	if (!keys->owners)
		return -ENOMEM;
	return kc_keyslots_init(&keys->slots, area->nr_slots, area->md);
}

/**
 * kc_keys_start() - publish all ids, and unlock who can be
 * @keys:	the keys of a device, its owners loaded
 *
 * Process context of the caller.
 * Return: 0 or -ENOMEM.
 */
int kc_keys_start(struct kc_keys *keys)
{
	struct kc_ids *ids;

	mutex_lock(&keys->slots.lock);
	ids = kc_ids_alloc(keys);
	if (ids) {
		kc_ids_publish(keys, ids);
		kc_keys_unlock(keys);
	}
	mutex_unlock(&keys->slots.lock);
	return ids ? 0 : -ENOMEM;
}

/**
 * kc_keys_exit() - drop all keys
 * @keys:	the keys of a device without bios
 *
 * kc_keys_free() may follow when slots.wq has been destroyed.  Process context.
 */
void kc_keys_exit(struct kc_keys *keys)
{
	kc_keyslots_exit(&keys->slots);
	key_put(keys->device.home);
	key_put(keys->keyring);
}

/**
 * kc_keys_free() - free what kc_keys_exit() left
 * @keys:	the keys of a device
 */
void kc_keys_free(struct kc_keys *keys)
{
	u32 slot;

	for (slot = 0; slot < keys->slots.nr; slot++) {
		if (!keys->owners[slot])
			continue;
		key_put(keys->owners[slot]->home);
		kfree_sensitive(keys->owners[slot]);
	}
	kvfree(keys->owners);
	kc_keyslots_free(&keys->slots);
	mutex_destroy(&keys->admin);
	kvfree(rcu_dereference_protected(keys->ids, 1));
}
