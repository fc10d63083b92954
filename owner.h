/* SPDX-License-Identifier: GPL-2.0 */
/* Owners, and the device key. */
#ifndef _KC_OWNER_H
#define _KC_OWNER_H

#include "format.h"
#include "keyring.h"
#include "keyslot.h"
#include "metadata.h"

/**
 * struct kc_id_range - ids of an owner, both ends included
 * @first:	first id
 * @last:	last id
 */
struct kc_id_range {
	u32 first;
	u32 last;
};

/**
 * struct kc_owner - an owner, or the device itself (slot KC_SLOT_DEVICE)
 * @slot:	key slot number
 * @name:	unique on the device; empty for the device itself
 * @ref:	where its key is
 * @check:	check value its key must have
 * @nr_ids:	entries used in @ids
 * @ids:	ids whose writes are this owner's
 * @state:	whether its key is loaded
 * @refused:	what key bytes had another check value, while KC_WRONG_KEY
 * @held:	locked by message, or destroyed: not unlocked by itself
 * @ending:	being destroyed: not unlocked at all
 * @home:	the keyring its key was last found in
 *
 * Protected by slots.lock of its kc_keys.
 */
struct kc_owner {
	u32 slot;
	char name[KC_NAME_SIZE];
	struct kc_keyref ref;
	u8 check[KC_CHECK_SIZE];
	unsigned int nr_ids;
	struct kc_id_range ids[KC_MAX_IDS];
	enum kc_lock_state state;
	struct kc_key_digest refused;
	bool held;
	bool ending;
	struct key *home;
};

/**
 * struct kc_keys - the owners of a device, and their keys
 * @slots:	loaded keys; slots.lock protects all here.  It is held for short: no I/O, no
 *		waiting for bios
 * @admin:	held by who adds, changes or destroys owners, also over I/O; taken before
 *		slots.lock.  @owners, their names, ids and references change with both
 * @area:	where owners are recorded
 * @device:	the device key, as an owner
 * @owners:	by slot
 * @nr_owners:	how many
 * @keyring:	searched for owners' keys
 * @ids:	id -> slot, RCU, sorted
 * @device_loaded: the device key is there
 */
struct kc_keys {
	struct kc_keyslots slots;
	struct mutex admin;
	struct kc_area *area;
	struct kc_owner device;
	struct kc_owner **owners;
	unsigned int nr_owners;
	struct key *keyring;
	struct kc_ids __rcu *ids;
	bool device_loaded;
};

void kc_keys_setup(struct kc_keys *keys, struct kc_area *area,
		   const struct kc_cipher *cipher, struct workqueue_struct *wq,
		   void (*invalid)(struct kc_keyslots *slots));
int kc_keys_init(struct kc_keys *keys, struct key *keyring);
int kc_keys_start(struct kc_keys *keys);
void kc_keys_exit(struct kc_keys *keys);
void kc_keys_free(struct kc_keys *keys);
int kc_keys_load(struct kc_keys *keys);
void kc_keys_unlock(struct kc_keys *keys);
void kc_keys_look(struct kc_keys *keys);
int kc_device_load(struct kc_keys *keys, const struct kc_keyref *ref, bool format,
		   struct kc_kdf *kdf);
int kc_device_reload(struct kc_keys *keys, const struct kc_keyref *ref,
		     struct key *keyring);

int kc_owner_check(struct kc_keys *keys, struct kc_owner *owner,
		   u8 check[KC_CHECK_SIZE]);
int kc_owner_write(struct kc_keys *keys, u32 slot, const struct kc_owner *owner);
int kc_owner_unlock(struct kc_keys *keys, struct kc_owner *owner, bool callers);
void kc_owner_kill(struct kc_keys *keys, struct kc_owner *owner,
		   struct list_head *dying);
const char *kc_lock_state_name(enum kc_lock_state state);

u16 kc_ids_find(struct kc_keys *keys, u32 id);
struct kc_ids *kc_ids_alloc(struct kc_keys *keys);
struct kc_ids *kc_ids_publish(struct kc_keys *keys, struct kc_ids *ids);
void kc_ids_free(struct kc_ids *ids);
int kc_ids_parse(struct kc_owner *owner, const char *s, const char **error);
unsigned int kc_ids_print(const struct kc_owner *owner, char *buf,
			  unsigned int size);
struct kc_owner *kc_ids_conflict(struct kc_keys *keys, const struct kc_owner *owner,
				 u32 *id);

#endif
