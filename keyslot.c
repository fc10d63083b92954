// SPDX-License-Identifier: GPL-2.0
/*
 * Keyring -> keyslots, and their lifetime.
 *
 * A key is looked up once, copied into a cipher transform and wiped.  What
 * stays is the transform and a reference to the key, so that every bio can
 * ask whether the key is still valid: that is how revoke, invalidate and
 * timeout lock an owner from the next bio on.  An unlink cannot be seen on the
 * key itself; a periodic look at the keyrings finds it, and finds keys that
 * have come back.
 *
 * A keyslot is reached under RCU and held by a percpu_ref by each bio under
 * way.  Locking it unpublishes it, makes sure that no decryption goes on, and
 * leaves the wiping to the last bio.
 */

#include <linux/key-type.h>
#include <linux/keyctl.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <keys/encrypted-type.h>
#include <keys/user-type.h>
#include <crypto/algapi.h>
#if IS_REACHABLE(CONFIG_TRUSTED_KEYS)
#include <keys/trusted-type.h>
#endif

#include "dm-keyed-crypt.h"
#include "trace.h"

/* How often the keyrings are looked at: unlink is to be seen in a second. */
#define KC_WATCH_INTERVAL	(HZ / 2)

/* ---- references to keys ---- */

static const char * const kc_key_types[] = {
	[KC_KEY_LOGON] = "logon",
	[KC_KEY_USER] = "user",
	[KC_KEY_ENCRYPTED] = "encrypted",
	[KC_KEY_TRUSTED] = "trusted",
};

/**
 * kc_key_type_name() - name of a key type
 * @type:	the type, perhaps read from disk
 *
 * Return: its name, or NULL if there is no such type.
 */
const char *kc_key_type_name(enum kc_key_type type)
{
	return type < ARRAY_SIZE(kc_key_types) ? kc_key_types[type] : NULL;
}

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

static struct key_type *kc_key_type(enum kc_key_type type)
{
	switch (type) {
	case KC_KEY_LOGON:
		return &key_type_logon;
	case KC_KEY_USER:
		return &key_type_user;
#if IS_REACHABLE(CONFIG_ENCRYPTED_KEYS)
	case KC_KEY_ENCRYPTED:
		return &key_type_encrypted;
#endif
#if IS_REACHABLE(CONFIG_TRUSTED_KEYS)
	case KC_KEY_TRUSTED:
		return &key_type_trusted;
#endif
	default:
		return NULL;
	}
}

/**
 * kc_keyref_parse() - parse ":<size>:<type>:<description>"
 * @ref:	result
 * @s:		the text
 * @error:	what is wrong with it
 *
 * Return: 0, -EINVAL, or -EOPNOTSUPP for a key type this kernel lacks.
 */
int kc_keyref_parse(struct kc_keyref *ref, const char *s, const char **error)
{
	const char *colon, *p;
	unsigned int type;
	char size[8];
	int n;

	if (*s != ':') {
		*error = "key is not a keyring reference :<size>:<type>:<description>";
		return -EINVAL;
	}
	s++;
	colon = strchr(s, ':');
	if (!colon || colon - s >= sizeof(size)) {
		*error = "key has no size";
		return -EINVAL;
	}
	memcpy(size, s, colon - s);
	size[colon - s] = '\0';
	if (kstrtouint(size, 10, &ref->size) || !ref->size ||
	    ref->size > KC_MAX_KEY_SIZE) {
		*error = "key size is not a number from 1 to 256";
		return -EINVAL;
	}
	s = colon + 1;
	colon = strchr(s, ':');
	for (type = KC_KEY_LOGON; colon && type < ARRAY_SIZE(kc_key_types); type++) {
		n = strlen(kc_key_types[type]);
		if (n == colon - s && !strncmp(s, kc_key_types[type], n))
			break;
	}
	if (!colon || type == ARRAY_SIZE(kc_key_types)) {
		*error = "key type is not one of logon, user, encrypted, trusted";
		return -EINVAL;
	}
	ref->type = type;
	s = colon + 1;
	for (p = s; *p; p++) {
		if (*p <= ' ' || *p == 0x7f) {
			*error = "key description has white space or control characters";
			return -EINVAL;
		}
	}
	if (p == s) {
		*error = "key has no description";
		return -EINVAL;
	}
	if (strscpy(ref->desc, s, sizeof(ref->desc)) < 0) {
		*error = "key description is longer than 127 characters";
		return -EINVAL;
	}
	if (!kc_key_type(ref->type)) {
		*error = "key type is not supported by this kernel";
		return -EOPNOTSUPP;
	}
	return 0;
}

/**
 * kc_keyring_get() - look up the keyring of a table line
 * @spec:	serial number or "%:<description>"; NULL for the user keyring
 *		of the caller
 * @error:	what is wrong with it
 *
 * Process context of the caller.
 * Return: a reference, or an ERR_PTR().
 */
struct key *kc_keyring_get(const char *spec, const char **error)
{
	key_ref_t ref;
	struct key *key;
	int serial;

	if (!spec) {
		ref = lookup_user_key(KEY_SPEC_USER_KEYRING, KEY_LOOKUP_CREATE,
				      KEY_NEED_SEARCH);
	} else if (strstarts(spec, "%:")) {
		key = request_key(&key_type_keyring, spec + 2, NULL);
		if (IS_ERR(key))
			*error = "keyring: no such keyring";
		return key;
	} else {
		if (kstrtoint(spec, 10, &serial)) {
			*error = "keyring: is neither a serial number nor %:<description>";
			return ERR_PTR(-EINVAL);
		}
		ref = lookup_user_key(serial, 0, KEY_NEED_SEARCH);
	}
	if (IS_ERR(ref)) {
		*error = "keyring: no such keyring";
		return ERR_CAST(ref);
	}
	key = key_ref_to_ptr(ref);
	if (key->type != &key_type_keyring) {
		*error = "keyring: is a key, not a keyring";
		key_put(key);
		return ERR_PTR(-ENOTDIR);
	}
	return key;
}

static struct key *kc_keyring_search(struct key *keyring, bool possessed,
				     const struct kc_keyref *ref)
{
	struct key_type *type = kc_key_type(ref->type);
	key_ref_t found;

	if (!type)
		return ERR_PTR(-EOPNOTSUPP);
	found = keyring_search(make_key_ref(keyring, possessed), type, ref->desc,
			       true);
	if (IS_ERR(found))	/* a search that finds nothing says EAGAIN */
		return found == ERR_PTR(-EAGAIN) ? ERR_PTR(-ENOKEY) : ERR_CAST(found);
	return key_ref_to_ptr(found);
}

/*
 * Finds the key of @owner: in the caller's keyrings if @callers, where it was
 * last, and in the device's keyring.  Remembers where.
 */
static struct key *kc_key_find(struct kc_dev *kd, struct kc_owner *owner,
			       const struct kc_keyref *ref, bool callers)
{
	static const key_serial_t special[] = {
		KEY_SPEC_THREAD_KEYRING, KEY_SPEC_PROCESS_KEYRING,
		KEY_SPEC_SESSION_KEYRING,
	};
	struct key *key = ERR_PTR(-ENOKEY), *ring;
	key_ref_t r;
	int i;

	for (i = 0; callers && i < ARRAY_SIZE(special); i++) {
		r = lookup_user_key(special[i], 0, KEY_NEED_SEARCH);
		if (IS_ERR(r))
			continue;
		ring = key_ref_to_ptr(r);
		key = kc_keyring_search(ring, is_key_possessed(r), ref);
		if (!IS_ERR(key)) {
			key_put(owner->home);
			owner->home = ring;
			return key;
		}
		key_put(ring);
	}
	if (owner->home) {
		key = kc_keyring_search(owner->home, true, ref);
		if (!IS_ERR(key))
			return key;
	}
	key = kc_keyring_search(kd->keyring, true, ref);
	if (!IS_ERR(key)) {
		key_put(owner->home);
		owner->home = key_get(kd->keyring);
	}
	return key;
}

static const void *kc_key_payload(const struct key *key)
{
	return rcu_access_pointer(key->payload.rcu_data0);
}

/* Copies the bytes of a key; -EMSGSIZE if it has another size. */
static int kc_key_copy(struct key *key, const struct kc_keyref *ref, u8 *buf,
		       const void **payload)
{
	const struct user_key_payload *ukp;
	const struct encrypted_key_payload *ekp;
	const void *data = NULL;
	unsigned int size = 0;
	int r;

	down_read(&key->sem);
	r = key_validate(key);
	*payload = kc_key_payload(key);
	if (!r && !*payload)
		r = -EKEYREVOKED;
	if (r)
		goto out;
	switch (ref->type) {
	case KC_KEY_LOGON:
	case KC_KEY_USER:
		ukp = user_key_payload_locked(key);
		data = ukp->data;
		size = ukp->datalen;
		break;
	case KC_KEY_ENCRYPTED:
		ekp = key->payload.data[0];
		data = ekp->decrypted_data;
		size = ekp->decrypted_datalen;
		break;
	case KC_KEY_TRUSTED:
#if IS_REACHABLE(CONFIG_TRUSTED_KEYS)
		{
			const struct trusted_key_payload *tkp = key->payload.data[0];

			data = tkp->key;
			size = tkp->key_len;
		}
#endif
		break;
	}
	if (size == ref->size)
		memcpy(buf, data, size);
	else
		r = -EMSGSIZE;
out:
	up_read(&key->sem);
	return r;
}

static int kc_key_check(struct kc_dev *kd, const u8 *key, unsigned int size,
			u8 check[KC_CHECK_SIZE])
{
	struct kc_kdf kdf;
	int r;

	r = kc_kdf_init(&kdf, kd->salt, key, size);
	if (r)
		return r;
	r = kc_kdf_expand(&kdf, KC_KDF_CHECK, kd->uuid, check, KC_CHECK_SIZE);
	kc_kdf_exit(&kdf);
	return r;
}

/* ---- keyslots ---- */

static void kc_keyslot_free_work(struct work_struct *work)
{
	struct kc_keyslot *ks = container_of(work, struct kc_keyslot, free_work);
	struct kc_dev *kd = ks->kd;

	crypto_free_skcipher(ks->tfm);	/* wipes it */
	key_put(ks->key);
	percpu_ref_exit(&ks->ref);
	kfree(ks);
	atomic_dec(&kd->nr_keyslots);
	wake_up(&kd->wait_ref);
}

static void kc_keyslot_release(struct percpu_ref *ref)
{
	struct kc_keyslot *ks = container_of(ref, struct kc_keyslot, ref);

	queue_work(ks->kd->slow_wq, &ks->free_work);
}

/* Takes over the reference to @key. */
static int kc_keyslot_publish(struct kc_dev *kd, u32 slot, struct key *key,
			      const void *payload, const u8 *bytes,
			      unsigned int size)
{
	struct kc_keyslot *ks;
	int r = -ENOMEM;

	ks = kzalloc(sizeof(*ks), GFP_KERNEL);
	if (!ks)
		goto put_key;
	ks->kd = kd;
	ks->slot = slot;
	ks->key = key;
	ks->payload = payload;
	INIT_WORK(&ks->free_work, kc_keyslot_free_work);
	r = percpu_ref_init(&ks->ref, kc_keyslot_release, 0, GFP_KERNEL);
	if (r)
		goto free;
	/* All of one implementation: requests are allocated for its context. */
	ks->tfm = crypto_alloc_skcipher(kd->driver[0] ? kd->driver : kd->cipher.api,
					0, CRYPTO_ALG_ALLOCATES_MEMORY);
	if (IS_ERR(ks->tfm)) {
		r = PTR_ERR(ks->tfm);
		goto exit_ref;
	}
	if (!kd->driver[0]) {
		strscpy(kd->driver,
			crypto_tfm_alg_driver_name(crypto_skcipher_tfm(ks->tfm)),
			sizeof(kd->driver));
		kd->tfm_reqsize = crypto_skcipher_reqsize(ks->tfm);
	}
	r = -EINVAL;
	if (crypto_skcipher_reqsize(ks->tfm) > kd->tfm_reqsize)
		goto free_tfm;
	r = crypto_skcipher_setkey(ks->tfm, bytes, size);
	if (r)
		goto free_tfm;
	atomic_inc(&kd->nr_keyslots);
	rcu_assign_pointer(kd->ks[slot], ks);
	trace_keyed_crypt_key(kd->md, slot, KC_UNLOCKED);
	return 0;

free_tfm:
	crypto_free_skcipher(ks->tfm);
exit_ref:
	percpu_ref_exit(&ks->ref);
free:
	kfree(ks);
put_key:
	key_put(key);
	return r;
}

/* Makes a key unusable for new bios, and its decryptions end. */
static void kc_keyslot_kill(struct kc_dev *kd, u32 slot, struct list_head *dying)
{
	struct kc_keyslot *ks = rcu_dereference_protected(kd->ks[slot],
						lockdep_is_held(&kd->lock));

	if (!ks)
		return;
	percpu_ref_get(&ks->ref);
	WRITE_ONCE(ks->dead, true);
	RCU_INIT_POINTER(kd->ks[slot], NULL);
	percpu_ref_kill(&ks->ref);
	list_add_tail(&ks->dying, dying);
	trace_keyed_crypt_key(kd->md, slot, KC_LOCKED);
}

/* When it returns, no plaintext comes out of the keys killed. */
static void kc_keyslots_quiesce(struct kc_dev *kd, struct list_head *dying)
{
	struct kc_keyslot *ks, *tmp;

	if (list_empty(dying))
		return;
	synchronize_rcu();	/* decryption runs under RCU */
	list_for_each_entry_safe(ks, tmp, dying, dying) {
		wait_event(kd->wait_ref, !atomic_read(&ks->async));
		list_del(&ks->dying);
		percpu_ref_put(&ks->ref);
	}
}

/* key_validate(), at hand for a key that does not expire */
static bool kc_key_valid(const struct key *key)
{
	const unsigned long gone = BIT(KEY_FLAG_INVALIDATED) | BIT(KEY_FLAG_REVOKED);

	if (likely(!(READ_ONCE(key->flags) & gone) &&
		   READ_ONCE(key->expiry) == TIME64_MAX))
		return true;
	return !key_validate(key);
}

/* Under RCU: a keyslot whose key may be used now, or NULL. */
static struct kc_keyslot *kc_keyslot_find(struct kc_dev *kd, u16 slot)
{
	struct kc_keyslot *ks = rcu_dereference(kd->ks[slot]);

	if (ks && unlikely(!kc_key_valid(READ_ONCE(ks->key)))) {
		mod_delayed_work(kc_unbound_wq, &kd->watch, 0);
		ks = NULL;
	}
	return ks;
}

/**
 * kc_keyslot_get() - the key of a slot, if it and the device key may be used now
 * @kd:		the device
 * @slot:	the slot, perhaps read from disk
 *
 * Any context.
 * Return: a reference to be put, or NULL if one of them is locked.
 */
struct kc_keyslot *kc_keyslot_get(struct kc_dev *kd, u16 slot)
{
	struct kc_keyslot *ks;

	if (unlikely(slot >= kd->nr_slots))
		return NULL;
	rcu_read_lock();
	ks = kc_keyslot_find(kd, slot);
	if (ks && slot != KC_SLOT_DEVICE &&
	    unlikely(!kc_keyslot_find(kd, KC_SLOT_DEVICE)))
		ks = NULL;
	if (ks && !percpu_ref_tryget_live_rcu(&ks->ref))
		ks = NULL;
	rcu_read_unlock();
	return ks;
}

/**
 * kc_keyslot_valid() - may the key of a slot be used now?
 * @kd:		the device
 * @slot:	the slot
 *
 * Any context.
 * Return: true if it may.
 */
bool kc_keyslot_valid(struct kc_dev *kd, u16 slot)
{
	bool valid;

	rcu_read_lock();
	valid = kc_keyslot_find(kd, slot);
	rcu_read_unlock();
	return valid;
}

/* ---- owners ---- */

/**
 * kc_owner_check() - check value of a key an owner is to have
 * @kd:		the device
 * @owner:	the owner; where the key is found is remembered in it
 * @check:	result
 *
 * Process context of the caller, kd->lock held.
 * Return: 0; -ENOKEY and its kin; -EMSGSIZE if the key has another size;
 * -EINVAL if the cipher does not take it.
 */
int kc_owner_check(struct kc_dev *kd, struct kc_owner *owner,
		   u8 check[KC_CHECK_SIZE])
{
	u8 bytes[KC_MAX_KEY_SIZE];
	struct crypto_skcipher *tfm;
	const void *payload;
	struct key *key;
	int r;

	key = kc_key_find(kd, owner, &owner->ref, true);
	if (IS_ERR(key))
		return PTR_ERR(key);
	r = kc_key_copy(key, &owner->ref, bytes, &payload);
	if (!r)
		r = kc_key_check(kd, bytes, owner->ref.size, check);
	if (!r) {
		tfm = crypto_alloc_skcipher(kd->cipher.api, 0,
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
 * @kd:		the device
 * @owner:	the owner, locked
 * @callers:	look in the caller's keyrings too, and first
 *
 * Process context, kd->lock held.
 * Return: 0, -ENOKEY and its kin, -EKEYREJECTED if the key found is not the
 * owner's, or another errno.
 */
int kc_owner_unlock(struct kc_dev *kd, struct kc_owner *owner, bool callers)
{
	u8 bytes[KC_MAX_KEY_SIZE], check[KC_CHECK_SIZE];
	const void *payload;
	struct key *key;
	int r;

	lockdep_assert_held(&kd->lock);
	key = kc_key_find(kd, owner, &owner->ref, callers);
	if (IS_ERR(key)) {
		owner->state = KC_LOCKED;
		return PTR_ERR(key);
	}
	r = kc_key_copy(key, &owner->ref, bytes, &payload);
	if (!r)
		r = kc_key_check(kd, bytes, owner->ref.size, check);
	if (!r && crypto_memneq(check, owner->check, sizeof(check)))
		r = -EKEYREJECTED;
	if (r == -EMSGSIZE)
		r = -EKEYREJECTED;
	if (r == -EKEYREJECTED && owner->state != KC_WRONG_KEY)
		trace_keyed_crypt_key(kd->md, owner->slot, KC_WRONG_KEY);
	owner->state = r == -EKEYREJECTED ? KC_WRONG_KEY : KC_LOCKED;
	if (!r)
		r = kc_keyslot_publish(kd, owner->slot, key, payload, bytes,
				       owner->ref.size);
	else
		key_put(key);
	memzero_explicit(bytes, sizeof(bytes));
	if (!r)
		owner->state = KC_UNLOCKED;
	return r;
}

static void kc_owner_kill(struct kc_dev *kd, struct kc_owner *owner,
			  struct list_head *dying)
{
	kc_keyslot_kill(kd, owner->slot, dying);
	if (owner->state == KC_UNLOCKED)
		owner->state = KC_LOCKED;
}

/**
 * kc_owner_lock() - lock an owner
 * @kd:		the device
 * @owner:	the owner
 *
 * When it returns, no more plaintext of the owner is produced; when its last
 * bio has drained, its transform is wiped.  Process context, kd->lock held.
 */
void kc_owner_lock(struct kc_dev *kd, struct kc_owner *owner)
{
	LIST_HEAD(dying);

	lockdep_assert_held(&kd->lock);
	kc_owner_kill(kd, owner, &dying);
	kc_keyslots_quiesce(kd, &dying);
}

/**
 * kc_owner_retire() - lock an owner, and wait for its last bio
 * @kd:		the device
 * @owner:	the owner
 *
 * Process context, kd->lock held.
 */
void kc_owner_retire(struct kc_dev *kd, struct kc_owner *owner)
{
	unsigned int loaded = 0;
	u32 slot;

	kc_owner_lock(kd, owner);
	for (slot = 0; slot < kd->nr_slots; slot++)
		loaded += !!rcu_access_pointer(kd->ks[slot]);
	/* It may have been locked before: all locked ones must have drained. */
	wait_event(kd->wait_ref, atomic_read(&kd->nr_keyslots) == loaded);
}

/*
 * Is the loaded key of @owner still the one a search finds?  If the search
 * finds another with the same bytes, that one is taken over, and no bio notices;
 * the old one goes on @renewed.
 */
static bool kc_owner_still(struct kc_dev *kd, struct kc_owner *owner,
			   struct list_head *renewed)
{
	struct kc_keyslot *ks = rcu_dereference_protected(kd->ks[owner->slot],
						lockdep_is_held(&kd->lock));
	u8 bytes[KC_MAX_KEY_SIZE], check[KC_CHECK_SIZE];
	const void *payload;
	struct key *key;
	bool same;

	if (!ks)
		return false;
	key = kc_key_find(kd, owner, &owner->ref, false);
	if (IS_ERR(key))
		return false;
	if (key == ks->key && ks->payload == kc_key_payload(key)) {
		same = !key_validate(key);
		key_put(key);
		return same;
	}
	same = !kc_key_copy(key, &owner->ref, bytes, &payload) &&
	       !kc_key_check(kd, bytes, owner->ref.size, check) &&
	       !crypto_memneq(check, owner->check, sizeof(check));
	memzero_explicit(bytes, sizeof(bytes));
	if (!same) {
		key_put(key);
		return false;
	}
	ks->old_key = ks->key;
	list_add(&ks->dying, renewed);
	WRITE_ONCE(ks->key, key);
	ks->payload = payload;
	return true;
}

/* Drops the old ones of keys taken over. */
static void kc_keys_settle(struct list_head *renewed)
{
	struct kc_keyslot *ks, *tmp;

	if (list_empty(renewed))
		return;
	synchronize_rcu();	/* bios validate them under RCU */
	list_for_each_entry_safe(ks, tmp, renewed, dying) {
		list_del(&ks->dying);
		key_put(ks->old_key);
	}
}

/* ---- the device key ---- */

/*
 * Finds the device key, compares or (@format) records its check value, derives
 * the sealing key and publishes the keyslot.  On success @kdf is the caller's
 * to end.
 */
static int kc_device_find(struct kc_dev *kd, const struct kc_keyref *ref,
			  bool callers, bool format, struct kc_kdf *kdf)
{
	struct kc_owner *device = &kd->device;
	u8 bytes[KC_MAX_KEY_SIZE], check[KC_CHECK_SIZE];
	const void *payload;
	struct key *key;
	int r;

	lockdep_assert_held(&kd->lock);
	device->ref = *ref;
	device->slot = KC_SLOT_DEVICE;
	key = kc_key_find(kd, device, ref, callers);
	if (IS_ERR(key))
		return PTR_ERR(key);
	r = kc_key_copy(key, ref, bytes, &payload);
	if (r)
		goto put_key;
	r = kc_kdf_init(kdf, kd->salt, bytes, ref->size);
	if (r)
		goto put_key;
	r = kc_kdf_expand(kdf, KC_KDF_CHECK, kd->uuid, check, sizeof(check));
	if (!r && format)
		memcpy(device->check, check, sizeof(check));
	if (!r && crypto_memneq(check, device->check, sizeof(check)))
		r = -EKEYREJECTED;
	if (!r)
		r = kc_sealer_init(&kd->sealer, kdf, kd->uuid);
	if (!r) {
		r = kc_keyslot_publish(kd, KC_SLOT_DEVICE, key, payload, bytes,
				       ref->size);
		key = NULL;
	}
	if (!r) {
		device->state = KC_UNLOCKED;
		WRITE_ONCE(kd->live, true);
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
			 ref->size, kc_key_types[ref->type], ref->desc);
		return error;
	}
	if (error == -EMSGSIZE)
		what = "has another size";
	else if (error == -EINVAL)
		what = "is not one the cipher takes";
	kc_error("device key :%u:%s:%s %s", ref->size, kc_key_types[ref->type],
		 ref->desc, what);
	return error == -EMSGSIZE ? -EKEYREJECTED : error;
}

/**
 * kc_device_load() - load the device key for the first time
 * @kd:		the device, with its salt and UUID
 * @ref:	the device key
 * @format:	record its check value instead of comparing it
 * @kdf:	result, to be ended with kc_kdf_exit()
 *
 * Process context of the caller.
 * Return: 0 or a negative errno with an error said.
 */
int kc_device_load(struct kc_dev *kd, const struct kc_keyref *ref, bool format,
		   struct kc_kdf *kdf)
{
	int r;

	mutex_lock(&kd->lock);
	r = kc_device_find(kd, ref, true, format, kdf);
	mutex_unlock(&kd->lock);
	return r ? kc_device_error(ref, r) : 0;
}

/* Finds the lost device key again. */
static int kc_device_unlock(struct kc_dev *kd, const struct kc_keyref *ref,
			    bool callers)
{
	struct kc_kdf kdf;
	int r;

	r = kc_device_find(kd, ref, callers, false, &kdf);
	if (r)
		return r;
	kc_kdf_exit(&kdf);
	DMINFO("%s: device key is back", dm_device_name(kd->md));
	return 0;
}

/**
 * kc_device_reload() - check the device key a further table line names
 * @kd:		the device
 * @ref:	the device key
 * @keyring:	the table line's keyring
 *
 * Process context of the caller.
 * Return: 0 or a negative errno with an error said.
 */
int kc_device_reload(struct kc_dev *kd, const struct kc_keyref *ref,
		     struct key *keyring)
{
	struct kc_owner probe = { .slot = KC_SLOT_DEVICE, .ref = *ref };
	u8 check[KC_CHECK_SIZE];
	int r;

	mutex_lock(&kd->lock);
	swap(kd->keyring, keyring);
	r = kc_owner_check(kd, &probe, check);
	if (!r && crypto_memneq(check, kd->device.check, sizeof(check)))
		r = -EKEYREJECTED;
	if (!r && !kd->live)
		r = kc_device_unlock(kd, ref, true);
	if (!r) {
		kd->device.ref = *ref;
		swap(probe.home, kd->device.home);
	}
	swap(kd->keyring, keyring);
	mutex_unlock(&kd->lock);
	key_put(probe.home);
	return r ? kc_device_error(ref, r) : 0;
}

/* The device key is gone: nothing can be read, metadata neither. */
static void kc_device_lost(struct kc_dev *kd)
{
	LIST_HEAD(dying);
	u32 slot;

	if (kd->live) {
		DMWARN("%s: device key is gone: the device is locked",
		       dm_device_name(kd->md));
		WRITE_ONCE(kd->live, false);
	}
	kc_owner_kill(kd, &kd->device, &dying);
	for (slot = KC_SLOT_FIRST_OWNER; slot < kd->nr_slots; slot++)
		if (kd->owners[slot])
			kc_owner_kill(kd, kd->owners[slot], &dying);
	kc_keyslots_quiesce(kd, &dying);
}

/**
 * kc_keys_watch() - look after the keys
 * @work:	kd->watch
 *
 * Locks owners whose key is no longer valid or no longer linked, unlocks those
 * whose key is back.
 */
void kc_keys_watch(struct work_struct *work)
{
	struct kc_dev *kd = container_of(to_delayed_work(work), struct kc_dev, watch);
	struct kc_keyref ref;
	struct kc_owner *owner;
	LIST_HEAD(renewed);
	LIST_HEAD(dying);
	u32 slot;

	mutex_lock(&kd->lock);
	if (!kc_owner_still(kd, &kd->device, &renewed)) {
		kc_device_lost(kd);
		ref = kd->device.ref;
		kc_device_unlock(kd, &ref, false);
	}
	for (slot = KC_SLOT_FIRST_OWNER; kd->live && slot < kd->nr_slots; slot++) {
		owner = kd->owners[slot];
		if (owner && !owner->held && !kc_owner_still(kd, owner, &renewed))
			kc_owner_kill(kd, owner, &dying);
	}
	kc_keys_settle(&renewed);
	kc_keyslots_quiesce(kd, &dying);
	for (slot = KC_SLOT_FIRST_OWNER; kd->live && slot < kd->nr_slots; slot++) {
		owner = kd->owners[slot];
		if (owner && !owner->held && owner->state != KC_UNLOCKED)
			kc_owner_unlock(kd, owner, false);
	}
	if (!kd->live && kd->sealer.ready && kc_keymap_forget(kd))
		kc_sealer_wipe(&kd->sealer);
	mutex_unlock(&kd->lock);
	kc_crypt_trim(kd, false);
	queue_delayed_work(kc_unbound_wq, &kd->watch, KC_WATCH_INTERVAL);
}

/**
 * kc_keys_exit() - drop all keys
 * @kd:		the device, without bios
 *
 * The last keyslot may still be waking this up when it returns: only when
 * kd->slow_wq has been destroyed is that over.
 *
 * Process context.
 */
void kc_keys_exit(struct kc_dev *kd)
{
	LIST_HEAD(dying);
	u32 slot;

	mutex_lock(&kd->lock);
	for (slot = 0; kd->ks && slot < kd->nr_slots; slot++)
		kc_keyslot_kill(kd, slot, &dying);
	kc_keyslots_quiesce(kd, &dying);
	mutex_unlock(&kd->lock);
	wait_event(kd->wait_ref, !atomic_read(&kd->nr_keyslots));
	key_put(kd->device.home);
	key_put(kd->keyring);
}
