// SPDX-License-Identifier: GPL-2.0
/*
 * Slot -> cipher transform: validity and lifetime.
 *
 * A key is copied into a cipher transform and wiped.  What stays is the
 * transform and a reference to the key, so that every bio can ask whether the
 * key is still valid: that is how revoke, invalidate and timeout lock an owner
 * from the next bio on.
 *
 * A keyslot is reached under RCU and held by a percpu_ref by each bio under
 * way.  Locking it unpublishes it, makes sure that no decryption goes on, and
 * leaves the wiping to the last bio.
 */

#include <linux/slab.h>
#include <crypto/skcipher.h>

#include "error.h"
#include "keyring.h"
#include "keyslot.h"
#include "trace.h"

static void kc_keyslot_free_work(struct work_struct *work)
{
	struct kc_keyslot *ks = container_of(work, struct kc_keyslot, free_work);
	struct kc_keyslots *slots = ks->slots;

	crypto_free_skcipher(ks->tfm);	/* wipes it */
	key_put(ks->key);
	percpu_ref_exit(&ks->ref);
	spin_lock(&slots->drain_lock);
	list_del(&ks->draining);
	spin_unlock(&slots->drain_lock);
	kfree_sensitive(ks);
	atomic_dec(&slots->nr_loaded);
	wake_up(&slots->wait);
}

static void kc_keyslot_release(struct percpu_ref *ref)
{
	struct kc_keyslot *ks = container_of(ref, struct kc_keyslot, ref);

	queue_work(ks->slots->wq, &ks->free_work);
}

/**
 * kc_keyslot_publish() - load a key
 * @slots:	the slots of a device
 * @slot:	its slot
 * @key:	the key in the keyring; the reference is taken over
 * @digest:	of its bytes
 * @bytes:	the copy
 * @size:	in bytes
 *
 * Process context, slots->lock held.
 * Return: 0 or a negative errno.
 */
int kc_keyslot_publish(struct kc_keyslots *slots, u32 slot, struct key *key,
		       const struct kc_key_digest *digest, const u8 *bytes,
		       unsigned int size)
{
	struct kc_keyslot *ks;
	int r = -ENOMEM;

	ks = kzalloc(sizeof(*ks), GFP_KERNEL);
	if (!ks)
		goto put_key;
	ks->slots = slots;
	ks->slot = slot;
	ks->key = key;
	ks->digest = *digest;
	INIT_WORK(&ks->free_work, kc_keyslot_free_work);
	r = percpu_ref_init(&ks->ref, kc_keyslot_release, 0, GFP_KERNEL);
	if (r)
		goto free;
	/* All of one implementation: requests are allocated for its context. */
	ks->tfm = crypto_alloc_skcipher(slots->driver[0] ? slots->driver : slots->cipher->api,
					0, CRYPTO_ALG_ALLOCATES_MEMORY);
	if (IS_ERR(ks->tfm)) {
		r = PTR_ERR(ks->tfm);
		goto exit_ref;
	}
	if (!slots->driver[0]) {
		strscpy(slots->driver,
			crypto_tfm_alg_driver_name(crypto_skcipher_tfm(ks->tfm)),
			sizeof(slots->driver));
		slots->reqsize = crypto_skcipher_reqsize(ks->tfm);
	}
	r = -EINVAL;
	if (crypto_skcipher_reqsize(ks->tfm) > slots->reqsize)
		goto free_tfm;
	r = crypto_skcipher_setkey(ks->tfm, bytes, size);
	if (r)
		goto free_tfm;
	atomic_inc(&slots->nr_loaded);
	rcu_assign_pointer(slots->ks[slot], ks);
	trace_keyed_crypt_key(slots->md, slot, KC_UNLOCKED);
	return 0;

free_tfm:
	crypto_free_skcipher(ks->tfm);
exit_ref:
	percpu_ref_exit(&ks->ref);
free:
	kfree_sensitive(ks);
put_key:
	key_put(key);
	return r;
}

/**
 * kc_keyslot_kill() - make a key unusable for new bios
 * @slots:	the slots of a device
 * @slot:	which, perhaps not loaded
 * @dying:	gets it, for kc_keyslots_quiesce()
 *
 * Process context, slots->lock held.
 */
void kc_keyslot_kill(struct kc_keyslots *slots, u32 slot, struct list_head *dying)
{
	struct kc_keyslot *ks = rcu_dereference_protected(slots->ks[slot],
						lockdep_is_held(&slots->lock));

	if (!ks)
		return;
	percpu_ref_get(&ks->ref);
	WRITE_ONCE(ks->dead, true);
	RCU_INIT_POINTER(slots->ks[slot], NULL);
	percpu_ref_kill(&ks->ref);
	list_add_tail(&ks->dying, dying);
	spin_lock(&slots->drain_lock);
	list_add_tail(&ks->draining, &slots->draining);
	spin_unlock(&slots->drain_lock);
	trace_keyed_crypt_key(slots->md, slot, KC_LOCKED);
}

/**
 * kc_keyslots_quiesce() - wait for decryptions with killed keys
 * @slots:	the slots of a device
 * @dying:	from kc_keyslot_kill()
 *
 * When it returns, no plaintext comes out of them.  Process context; slots->lock need
 * not be held, and should not.
 */
void kc_keyslots_quiesce(struct kc_keyslots *slots, struct list_head *dying)
{
	struct kc_keyslot *ks, *tmp;

	if (list_empty(dying))
		return;
	synchronize_rcu();	/* decryption runs under RCU */
	list_for_each_entry_safe(ks, tmp, dying, dying) {
		wait_event(slots->wait, !atomic_read(&ks->async));
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
static struct kc_keyslot *kc_keyslot_find(struct kc_keyslots *slots, u16 slot)
{
	struct kc_keyslot *ks = rcu_dereference(slots->ks[slot]);

	if (ks && unlikely(!kc_key_valid(READ_ONCE(ks->key)))) {
		slots->invalid(slots);
		ks = NULL;
	}
	return ks;
}

/**
 * kc_keyslot_get() - the key of a slot, if it and the device key may be used now
 * @slots:	the slots of a device
 * @slot:	the slot, perhaps read from disk
 *
 * Any context.
 * Return: a reference to be put, or NULL if one of them is locked.
 */
struct kc_keyslot *kc_keyslot_get(struct kc_keyslots *slots, u16 slot)
{
	struct kc_keyslot *ks;

	if (unlikely(slot >= slots->nr))
		return NULL;
	rcu_read_lock();
	ks = kc_keyslot_find(slots, slot);
	if (ks && slot != KC_SLOT_DEVICE &&
	    unlikely(!kc_keyslot_find(slots, KC_SLOT_DEVICE)))
		ks = NULL;
	if (ks && !percpu_ref_tryget_live_rcu(&ks->ref))
		ks = NULL;
	rcu_read_unlock();
	return ks;
}

/**
 * kc_keyslot_valid() - may the key of a slot be used now?
 * @slots:	the slots of a device
 * @slot:	the slot
 *
 * Any context.
 * Return: true if it may.
 */
bool kc_keyslot_valid(struct kc_keyslots *slots, u16 slot)
{
	bool valid;

	rcu_read_lock();
	valid = kc_keyslot_find(slots, slot);
	rcu_read_unlock();
	return valid;
}

static bool kc_keyslot_draining(struct kc_keyslots *slots, u32 slot)
{
	struct kc_keyslot *ks;
	bool found = false;

	spin_lock(&slots->drain_lock);
	list_for_each_entry(ks, &slots->draining, draining)
		found |= ks->slot == slot;
	spin_unlock(&slots->drain_lock);
	return found;
}

/**
 * kc_keyslot_drained() - wait until a slot's locked keys have been wiped
 * @slots:	the slots of a device
 * @slot:	the slot; it must not be loaded again meanwhile
 *
 * That is when the last bio with it has ended.  Process context; needs no lock.
 */
void kc_keyslot_drained(struct kc_keyslots *slots, u32 slot)
{
	wait_event(slots->wait, !kc_keyslot_draining(slots, slot));
}

/**
 * kc_keyslot_peek() - the loaded key of a slot
 * @slots:	the slots of a device
 * @slot:	the slot
 *
 * slots->lock held.
 * Return: it, or NULL.
 */
struct kc_keyslot *kc_keyslot_peek(struct kc_keyslots *slots, u32 slot)
{
	return rcu_dereference_protected(slots->ks[slot],
					 lockdep_is_held(&slots->lock));
}

/**
 * kc_keyslots_setup() - set up what cannot fail
 * @slots:	the slots of a device, zeroed
 * @cipher:	of their transforms; must live as long
 * @wq:		where keyslots are freed
 * @invalid:	called when a key is found to be no longer valid; any context
 */
void kc_keyslots_setup(struct kc_keyslots *slots, const struct kc_cipher *cipher,
		       struct workqueue_struct *wq,
		       void (*invalid)(struct kc_keyslots *slots))
{
	slots->cipher = cipher;
	slots->wq = wq;
	slots->invalid = invalid;
	mutex_init(&slots->lock);
	spin_lock_init(&slots->drain_lock);
	INIT_LIST_HEAD(&slots->draining);
	init_waitqueue_head(&slots->wait);
}

/**
 * kc_keyslots_init() - make room for keys
 * @slots:	the slots of a device
 * @nr:		how many
 * @md:		the mapped device, for traces
 *
 * Process context.
 * Return: 0 or -ENOMEM.
 */
int kc_keyslots_init(struct kc_keyslots *slots, unsigned int nr,
		     struct mapped_device *md)
{
	slots->md = md;
	slots->ks = kvcalloc(nr, sizeof(*slots->ks), GFP_KERNEL);
	if (!slots->ks)
		return -ENOMEM;
	slots->nr = nr;
	return 0;
}

/**
 * kc_keyslots_exit() - drop all keys
 * @slots:	the slots of a device without bios
 *
 * The last keyslot may still be waking this up when it returns: only when
 * slots->wq has been destroyed is that over, and kc_keyslots_free() may follow.
 * Process context.
 */
void kc_keyslots_exit(struct kc_keyslots *slots)
{
	LIST_HEAD(dying);
	u32 slot;

	mutex_lock(&slots->lock);
	for (slot = 0; slot < slots->nr; slot++)
		kc_keyslot_kill(slots, slot, &dying);
	mutex_unlock(&slots->lock);
	kc_keyslots_quiesce(slots, &dying);
	wait_event(slots->wait, !atomic_read(&slots->nr_loaded));
}

/**
 * kc_keyslots_free() - free what kc_keyslots_exit() left
 * @slots:	the slots of a device
 */
void kc_keyslots_free(struct kc_keyslots *slots)
{
	kvfree(slots->ks);
	mutex_destroy(&slots->lock);
}
