/* SPDX-License-Identifier: GPL-2.0 */
/* Slot -> cipher transform. */
#ifndef _KC_KEYSLOT_H
#define _KC_KEYSLOT_H

#include <linux/key.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/percpu-refcount.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <crypto/skcipher.h>

#include "iv.h"
#include "keyring.h"

struct mapped_device;

enum kc_lock_state {
	KC_LOCKED,		/* its key cannot be found */
	KC_WRONG_KEY,		/* the key found is another one */
	KC_UNLOCKED,
	KC_DESTROYED,		/* for good; its blocks fail until they are written or discarded */
};

/**
 * struct kc_keyslot - a loaded key
 * @ref:	held by every bio under way with this key
 * @tfm:	the cipher, keyed
 * @key:	the key in the keyring; checked for validity by every bio
 * @digest:	of its bytes
 * @slot:	its number on disk
 * @dead:	locked: no plaintext may come out of it any more
 * @async:	decryptions handed to an asynchronous cipher driver
 * @dying:	locked, but decryptions may still go on
 * @draining:	in slots->draining, until its last bio has ended
 * @slots:	the slots of its device
 * @free_work:	frees it in process context
 *
 * Found through slots->ks[slot] under RCU.
 */
struct kc_keyslot {
	struct percpu_ref ref;
	struct crypto_skcipher *tfm;
	struct key *key;
	struct kc_key_digest digest;
	u16 slot;
	bool dead;
	atomic_t async;
	struct list_head dying;
	struct list_head draining;
	struct kc_keyslots *slots;
	struct work_struct free_work;
};

/**
 * struct kc_keyslots - the loaded keys of a device
 * @ks:		by slot, RCU
 * @nr:		size of @ks
 * @lock:	changes of @ks
 * @cipher:	of all transforms
 * @driver:	implementation of the cipher all transforms use
 * @reqsize:	request context of a transform, in bytes
 * @nr_loaded:	loaded keys not yet freed
 * @drain_lock:	protects @draining
 * @draining:	locked keys whose last bio has not ended
 * @wait:	for keyslots to be freed, and asynchronous decryptions to end
 * @wq:		where they are freed
 * @invalid:	called when a key is found to be no longer valid; any context
 * @md:		the mapped device, for traces
 */
struct kc_keyslots {
	struct kc_keyslot __rcu **ks;
	unsigned int nr;
	struct mutex lock;
	const struct kc_cipher *cipher;
	char driver[CRYPTO_MAX_ALG_NAME];
	unsigned int reqsize;
	atomic_t nr_loaded;
	spinlock_t drain_lock;
	struct list_head draining;
	wait_queue_head_t wait;
	struct workqueue_struct *wq;
	void (*invalid)(struct kc_keyslots *slots);
	struct mapped_device *md;
};

void kc_keyslots_setup(struct kc_keyslots *slots, const struct kc_cipher *cipher,
		       struct workqueue_struct *wq,
		       void (*invalid)(struct kc_keyslots *slots));
int kc_keyslots_init(struct kc_keyslots *slots, unsigned int nr,
		     struct mapped_device *md);
void kc_keyslots_exit(struct kc_keyslots *slots);
void kc_keyslots_free(struct kc_keyslots *slots);
int kc_keyslot_publish(struct kc_keyslots *slots, u32 slot, struct key *key,
		       const struct kc_key_digest *digest, const u8 *bytes,
		       unsigned int size);
void kc_keyslot_kill(struct kc_keyslots *slots, u32 slot, struct list_head *dying);
void kc_keyslots_quiesce(struct kc_keyslots *slots, struct list_head *dying);
void kc_keyslot_drained(struct kc_keyslots *slots, u32 slot);
struct kc_keyslot *kc_keyslot_peek(struct kc_keyslots *slots, u32 slot);
struct kc_keyslot *kc_keyslot_get(struct kc_keyslots *slots, u16 slot);
bool kc_keyslot_valid(struct kc_keyslots *slots, u16 slot);

/* Drops a reference from kc_keyslot_get().  Any context. */
static inline void kc_keyslot_put(struct kc_keyslot *ks)
{
	percpu_ref_put(&ks->ref);
}

/* A decryption that an asynchronous cipher driver had has ended.  Any context. */
static inline void kc_keyslot_async_end(struct kc_keyslot *ks)
{
	struct kc_keyslots *slots = ks->slots;

	if (atomic_dec_and_test(&ks->async))
		wake_up(&slots->wait);
}

#endif
