// SPDX-License-Identifier: GPL-2.0
/*
 * Messages: dmsetup message <dev> 0 ...
 *
 * A bad message changes nothing, and its one line in the log names the word
 * that is wrong.
 */

#include <linux/ctype.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "device.h"
#include "error.h"
#include "message.h"
#include "trace.h"

#define KC_MSG_ERR(t, fmt, ...) \
	DMERR("%s: message: " fmt, dm_device_name((t)->kd->area.md), ##__VA_ARGS__)

/**
 * struct kc_msg - a message
 * @t:		the target
 * @kd:		its device
 * @argv:	its words
 * @result:	for a reply
 * @maxlen:	its size in bytes
 */
struct kc_msg {
	struct kc_target *t;
	struct kc_dev *kd;
	char **argv;
	char *result;
	unsigned int maxlen;
};

/* keys->admin or slots.lock held. */
static struct kc_owner *kc_owner_find(struct kc_msg *msg, const char *name)
{
	struct kc_keys *keys = &msg->kd->keys;
	struct kc_owner *owner;
	u32 slot;

	for (slot = KC_SLOT_FIRST_OWNER; slot < keys->slots.nr; slot++) {
		owner = keys->owners[slot];
		if (owner && owner->state != KC_DESTROYED && !strcmp(owner->name, name))
			return owner;
	}
	return NULL;
}

static int kc_msg_device_key(struct kc_msg *msg)
{
	if (kc_keyslot_valid(&msg->kd->keys.slots, KC_SLOT_DEVICE))
		return 0;
	KC_MSG_ERR(msg->t, "%.64s: the device key is gone", msg->argv[0]);
	return -ENOKEY;
}

static int kc_no_owner(struct kc_msg *msg)
{
	KC_MSG_ERR(msg->t, "there is no owner %.64s", msg->argv[2]);
	return -ENOENT;
}

static bool kc_name_valid(const char *name)
{
	size_t n = strlen(name);

	if (!n || n >= KC_NAME_SIZE)
		return false;
	for (; *name; name++)
		if (!isascii(*name) || (!isalnum(*name) && !strchr("._-", *name)))
			return false;
	return true;
}

static int kc_check_ids(struct kc_target *t, struct kc_owner *owner,
			const char *ids)
{
	const struct kc_owner *other;
	const char *error;
	u32 id;
	int r;

	r = kc_ids_parse(owner, ids, &error);
	if (r) {
		KC_MSG_ERR(t, "ids %.64s: %s", ids, error);
		return r;
	}
	other = kc_ids_conflict(&t->kd->keys, owner, &id);
	if (other) {
		KC_MSG_ERR(t, "ids %.64s: %u is owner %s's", ids, id, other->name);
		return -EEXIST;
	}
	return 0;
}

/* Does any slot have this check value? */
static const char *kc_key_user(struct kc_dev *kd, const u8 check[KC_CHECK_SIZE])
{
	u32 slot;

	if (!memcmp(kd->keys.device.check, check, KC_CHECK_SIZE))
		return "the device";
	for (slot = KC_SLOT_FIRST_OWNER; slot < kd->area.nr_slots; slot++)
		if (kd->keys.owners[slot] && kd->keys.owners[slot]->state != KC_DESTROYED &&
		    !memcmp(kd->keys.owners[slot]->check, check, KC_CHECK_SIZE))
			return kd->keys.owners[slot]->name;
	return NULL;
}

static int kc_msg_walk_error(struct kc_msg *msg, int error)
{
	if (error == -EBUSY)
		KC_MSG_ERR(msg->t, "owner %s: the device is being suspended: ask again",
			   msg->argv[1]);
	else
		KC_MSG_ERR(msg->t, "owner %s: cannot read the key map: %d", msg->argv[1],
			   error);
	return error;
}

/*
 * A slot for a new owner: one never used, or a destroyed owner's of which no
 * block remains, nor would after a crash.  Return: 0 or a negative errno with an
 * error said.
 */
static int kc_slot_find(struct kc_msg *msg, u32 *slot)
{
	struct kc_dev *kd = msg->kd;
	u32 nr = kd->area.nr_slots;
	u64 *counts;
	int r = 0;

	for (*slot = KC_SLOT_FIRST_OWNER; *slot < nr; ++*slot)
		if (!kd->keys.owners[*slot])
			return 0;
	if (!bitmap_empty(kd->area.destroyed, nr)) {
		counts = kvcalloc(nr, sizeof(*counts), GFP_KERNEL);
		if (!counts)
			return -ENOMEM;
		r = kc_keymap_count(&kd->map, counts);
		if (!r)
			for_each_set_bit(*slot, kd->area.destroyed, nr)
				if (!counts[*slot])
					break;
		kvfree(counts);
		/*
		 * No block gets it any more; of those that had it, all changes are
		 * to be durable.
		 */
		if (!r && *slot < nr)
			r = kc_journal_sync(&kd->journal, false);
		if (r)
			return kc_msg_walk_error(msg, r);
	}
	if (*slot < nr)
		return 0;
	KC_MSG_ERR(msg->t, "no room for owner %s: all %u slots are in use", msg->argv[2],
		   nr);
	return -ENOSPC;
}

/* The key of a new owner: there, of the right kind, and nobody else's. */
static int kc_msg_add_key(struct kc_msg *msg, struct kc_owner *owner)
{
	struct kc_keys *keys = &msg->kd->keys;
	char *key = msg->argv[4];
	const char *error, *user;
	int r;

	r = kc_keyref_parse(&owner->ref, key, &error);
	if (r) {
		/* It may be a key by mistake. */
		memzero_explicit(key, strlen(key));
		KC_MSG_ERR(msg->t, "owner %s: %s", owner->name, error);
		return r;
	}
	mutex_lock(&keys->slots.lock);
	r = kc_owner_check(keys, owner, owner->check);
	mutex_unlock(&keys->slots.lock);
	if (r == -ENOMEM)
		return r;
	if (r) {
		if (r == -EMSGSIZE)
			error = "has another size";
		else if (r == -EINVAL)
			error = "is not one the cipher takes";
		else
			error = "not found";
		KC_MSG_ERR(msg->t, "key %s %s", key, error);
		return r == -EMSGSIZE ? -EKEYREJECTED : r;
	}
	user = kc_key_user(msg->kd, owner->check);
	if (user) {
		KC_MSG_ERR(msg->t, "key %s is %s's already", key, user);
		return -EEXIST;
	}
	return 0;
}

/* Puts an owner in a slot; *@owner is what was there.  keys->admin held. */
static void kc_msg_put_owner(struct kc_keys *keys, u32 slot, struct kc_owner **owner,
			     struct kc_ids **ids)
{
	lockdep_assert_held(&keys->slots.lock);
	swap(keys->owners[slot], *owner);
	if (!*owner)
		keys->nr_owners++;
	*ids = kc_ids_publish(keys, *ids);
}

/* owner add <name> <ids> <key> */
static int kc_msg_add(struct kc_msg *msg)
{
	struct kc_keys *keys = &msg->kd->keys;
	char *name = msg->argv[2];
	struct kc_owner *owner;
	struct kc_ids *ids;
	u32 slot;
	int r;

	if (!kc_name_valid(name)) {
		KC_MSG_ERR(msg->t, "name %.64s is not 1 to 31 of A-Za-z0-9._-", name);
		return -EINVAL;
	}
	if (kc_owner_find(msg, name)) {
		KC_MSG_ERR(msg->t, "there is an owner %s already", name);
		return -EEXIST;
	}
	r = kc_slot_find(msg, &slot);
	if (r)
		return r;
	owner = kzalloc(sizeof(*owner), GFP_KERNEL);
	ids = kc_ids_alloc(keys);
	if (!owner || !ids) {
		r = -ENOMEM;
		goto free;
	}
	owner->slot = slot;
	strscpy(owner->name, name, sizeof(owner->name));
	r = kc_check_ids(msg->t, owner, msg->argv[3]);
	if (!r)
		r = kc_msg_add_key(msg, owner);
	if (!r)
		r = kc_owner_write(keys, slot, owner);
	if (r)
		goto free;
	/* From here on the owner is there; at worst its key is locked. */
	mutex_lock(&keys->slots.lock);
	kc_msg_put_owner(keys, slot, &owner, &ids);
	clear_bit(slot, msg->kd->area.destroyed);
	kc_owner_unlock(keys, keys->owners[slot], true);
	mutex_unlock(&keys->slots.lock);
	kc_ids_free(ids);
	kfree_sensitive(owner);
	return 0;
free:
	kvfree(ids);
	if (owner)
		key_put(owner->home);
	kfree_sensitive(owner);
	return r;
}

/* owner ids <name> <ids> */
static int kc_msg_ids(struct kc_msg *msg)
{
	struct kc_keys *keys = &msg->kd->keys;
	struct kc_owner *owner = kc_owner_find(msg, msg->argv[2]), *new;
	struct kc_ids *ids;
	int r = -ENOMEM;

	if (!owner)
		return kc_no_owner(msg);
	new = kmemdup(owner, sizeof(*owner), GFP_KERNEL);
	ids = kc_ids_alloc(keys);
	if (new && ids)
		r = kc_check_ids(msg->t, new, msg->argv[3]);
	if (!r)
		r = kc_owner_write(keys, owner->slot, new);
	if (!r) {
		mutex_lock(&keys->slots.lock);
		owner->nr_ids = new->nr_ids;
		memcpy(owner->ids, new->ids, sizeof(owner->ids));
		ids = kc_ids_publish(keys, ids);
		mutex_unlock(&keys->slots.lock);
		kc_ids_free(ids);
	} else {
		kvfree(ids);
	}
	kfree_sensitive(new);
	return r;
}

/*
 * Locks an owner for good.  Its ids go first: when this returns, no bio has got, or
 * will get, its slot or its key.
 */
static void kc_msg_end_owner(struct kc_keys *keys, struct kc_owner *owner,
			     struct kc_ids *ids)
{
	LIST_HEAD(dying);

	mutex_lock(&keys->slots.lock);
	owner->ending = true;
	ids = kc_ids_publish(keys, ids);
	mutex_unlock(&keys->slots.lock);
	kc_ids_free(ids);
	mutex_lock(&keys->slots.lock);
	kc_owner_kill(keys, owner, &dying);
	mutex_unlock(&keys->slots.lock);
	kc_keyslots_quiesce(&keys->slots, &dying);
	kc_keyslot_drained(&keys->slots, owner->slot);
}

/* owner destroy <name> */
static int kc_msg_destroy(struct kc_msg *msg)
{
	struct kc_keys *keys = &msg->kd->keys;
	struct kc_owner *owner = kc_owner_find(msg, msg->argv[2]), *new;
	struct kc_ids *without, *ids;
	u32 slot;
	int r;

	if (!owner)
		return kc_no_owner(msg);
	slot = owner->slot;
	new = kzalloc(sizeof(*new), GFP_KERNEL);
	without = kc_ids_alloc(keys);
	ids = kc_ids_alloc(keys);
	if (!new || !without || !ids) {
		kvfree(without);
		kvfree(ids);
		kfree(new);
		return -ENOMEM;
	}
	new->slot = slot;
	new->state = KC_DESTROYED;
	new->held = true;
	strscpy(new->name, owner->name, sizeof(new->name));
	/*
	 * When its last bio has ended no entry gets its slot any more, and no read
	 * that began before sees what others write where its blocks were.
	 */
	kc_msg_end_owner(keys, owner, without);
	r = kc_owner_write(keys, slot, new);
	mutex_lock(&keys->slots.lock);
	if (r) {
		KC_MSG_ERR(msg->t, "owner %s: cannot be destroyed: %d", owner->name, r);
		owner->ending = false;
		ids = kc_ids_publish(keys, ids);
	} else {
		set_bit(slot, msg->kd->area.destroyed);
		swap(keys->owners[slot], new);
		trace_keyed_crypt_key(msg->kd->area.md, slot, KC_DESTROYED);
	}
	mutex_unlock(&keys->slots.lock);
	if (r)
		kc_ids_free(ids);
	else
		kvfree(ids);
	key_put(new->home);
	kfree_sensitive(new);
	return r;
}

/* owner lock <name> */
static int kc_msg_lock(struct kc_msg *msg)
{
	struct kc_keys *keys = &msg->kd->keys;
	struct kc_owner *owner;
	LIST_HEAD(dying);

	mutex_lock(&keys->slots.lock);
	owner = kc_owner_find(msg, msg->argv[2]);
	if (owner) {
		owner->held = true;
		kc_owner_kill(keys, owner, &dying);
	}
	mutex_unlock(&keys->slots.lock);
	if (!owner)
		return kc_no_owner(msg);
	kc_keyslots_quiesce(&keys->slots, &dying);
	return 0;
}

static int kc_msg_unlock_owner(struct kc_msg *msg, struct kc_owner *owner,
			       struct list_head *dying)
{
	struct kc_keys *keys = &msg->kd->keys;
	int r = 0;

	if (owner->ending) {
		KC_MSG_ERR(msg->t, "owner %s is being destroyed", owner->name);
		return -EBUSY;
	}
	if (!kc_keyslot_valid(&keys->slots, owner->slot)) {
		kc_owner_kill(keys, owner, dying);
		r = kc_owner_unlock(keys, owner, true);
	}
	if (r == -ENOMEM)
		return r;
	if (r)
		KC_MSG_ERR(msg->t, "owner %s: key :%u:%s:%s %s", owner->name,
			   owner->ref.size, kc_key_type_name(owner->ref.type),
			   owner->ref.desc,
			   r == -EKEYREJECTED ? "is the wrong one" : "not found");
	else
		owner->held = false;
	return r;
}

/* owner unlock <name> */
static int kc_msg_unlock(struct kc_msg *msg)
{
	struct kc_keys *keys = &msg->kd->keys;
	struct kc_owner *owner;
	LIST_HEAD(dying);
	int r;

	mutex_lock(&keys->slots.lock);
	owner = kc_owner_find(msg, msg->argv[2]);
	r = owner ? kc_msg_unlock_owner(msg, owner, &dying) : kc_no_owner(msg);
	mutex_unlock(&keys->slots.lock);
	kc_keyslots_quiesce(&keys->slots, &dying);
	return r;
}

static unsigned int kc_list_owner(const struct kc_owner *owner, u64 blocks, char *ids,
				  char *result, unsigned int maxlen)
{
	unsigned int sz = 0;

	if (owner->state == KC_DESTROYED) {
		DMEMIT("%s %u destroyed - - %llu", owner->name, owner->slot, blocks);
		return sz;
	}
	kc_ids_print(owner, ids, PAGE_SIZE);
	DMEMIT("%s %u %s %s :%u:%s:%s %llu", owner->name, owner->slot,
	       kc_lock_state_name(owner->state), ids, owner->ref.size,
	       kc_key_type_name(owner->ref.type), owner->ref.desc, blocks);
	return sz;
}

/* owner list */
static int kc_msg_list(struct kc_msg *msg)
{
	struct kc_dev *kd = msg->kd;
	unsigned int maxlen = msg->maxlen, sz = 0;
	char *result = msg->result, *ids;
	u64 *counts;
	u32 slot;
	int r;

	ids = kmalloc(PAGE_SIZE, GFP_KERNEL);
	counts = kvcalloc(kd->area.nr_slots, sizeof(*counts), GFP_KERNEL);
	r = ids && counts ? kc_keymap_count(&kd->map, counts) : -ENOMEM;
	if (r) {
		kc_msg_walk_error(msg, r);
		goto out;
	}
	mutex_lock(&kd->keys.slots.lock);
	for (slot = KC_SLOT_FIRST_OWNER; slot < kd->area.nr_slots; slot++) {
		const struct kc_owner *owner = kd->keys.owners[slot];

		if (!owner)
			continue;
		if (sz)
			DMEMIT("\n");
		sz += kc_list_owner(owner, counts[slot], ids, result + sz, maxlen - sz);
	}
	mutex_unlock(&kd->keys.slots.lock);
	r = 1;
out:
	kvfree(counts);
	kfree(ids);
	return r;
}

static int kc_msg_owner(struct kc_msg *msg, unsigned int argc)
{
	static const struct {
		const char *name;
		unsigned int argc;
		const char *usage;
		int (*run)(struct kc_msg *msg);
		bool changes;
	} verbs[] = {
		{ "add", 5, "owner add <name> <ids> <key>", kc_msg_add, true },
		{ "ids", 4, "owner ids <name> <ids>", kc_msg_ids, true },
		{ "lock", 3, "owner lock <name>", kc_msg_lock },
		{ "unlock", 3, "owner unlock <name>", kc_msg_unlock },
		{ "destroy", 3, "owner destroy <name>", kc_msg_destroy, true },
		{ "list", 2, "owner list", kc_msg_list },
	}, *verb;
	struct kc_target *t = msg->t;
	struct kc_dev *kd = msg->kd;
	char **argv = msg->argv;
	unsigned int i;
	int r;

	for (i = 0; argc > 1 && i < ARRAY_SIZE(verbs); i++)
		if (!strcmp(argv[1], verbs[i].name))
			break;
	if (argc < 2 || i == ARRAY_SIZE(verbs)) {
		KC_MSG_ERR(t, "owner %.64s: not one of add, ids, lock, unlock, destroy, list",
			   argc < 2 ? "" : argv[1]);
		return -EINVAL;
	}
	verb = &verbs[i];
	if (argc != verb->argc) {
		KC_MSG_ERR(t, "%u words, expected %u: %s", argc, verb->argc, verb->usage);
		return -EINVAL;
	}
	if (verb->changes && kd->area.mode == KC_FAILED) {
		KC_MSG_ERR(t, "owner %s: the metadata has failed", argv[1]);
		return -EIO;
	}
	if (verb->changes && kc_area_read_only(&kd->area)) {
		KC_MSG_ERR(t, "owner %s: the metadata is read-only", argv[1]);
		return -EROFS;
	}
	if (verb->changes) {
		mutex_lock(&kd->keys.admin);
		/* Once more: with it, the sealing key stays while admin is held. */
		r = kc_msg_device_key(msg);
		if (!r)
			r = verb->run(msg);
		mutex_unlock(&kd->keys.admin);
	} else {
		r = verb->run(msg);
	}
	if (r == -ENOMEM && argc > 2)
		KC_MSG_ERR(t, "owner %s %.64s: out of memory", argv[1], argv[2]);
	return r;
}

/* map <block> <count> */
static int kc_msg_map(struct kc_msg *msg, unsigned int argc)
{
	struct kc_target *t = msg->t;
	struct kc_dev *kd = msg->kd;
	char **argv = msg->argv, *result = msg->result;
	unsigned int maxlen = msg->maxlen;
	u64 block, count, start, run = 0;
	unsigned int first, n, sz = 0;
	struct kc_mapblk *mb;
	u16 slot, last = 0;

	if (argc != 3) {
		KC_MSG_ERR(t, "%u words, expected 3: map <block> <count>", argc);
		return -EINVAL;
	}
	if (kstrtou64(argv[1], 10, &block) || block >= kd->area.nr_blocks) {
		KC_MSG_ERR(t, "map: block %.24s is not a number below %llu", argv[1],
			   kd->area.nr_blocks);
		return -EINVAL;
	}
	if (kstrtou64(argv[2], 10, &count) || !count ||
	    count > kd->area.nr_blocks - block) {
		KC_MSG_ERR(t, "map: count %.24s is not a number from 1 to %llu",
			   argv[2], kd->area.nr_blocks - block);
		return -EINVAL;
	}
	start = block;
	/* a full result is thrown away, and dm asks again */
	while (count && sz + 1 < maxlen) {
		mb = kc_mapblk_get(&kd->map, kc_map_index(block, &first));
		if (IS_ERR(mb)) {
			KC_MSG_ERR(t, "map: cannot read the key map at block %llu",
				   block);
			return PTR_ERR(mb);
		}
		n = kc_mapblk_run(mb, first, min_t(u64, count, KC_ENTRIES - first),
				  &slot);
		kc_mapblk_put(&kd->map, mb);
		if (run && slot != last) {
			DMEMIT("%s%llu %llu %u", sz ? "\n" : "", start, run, last);
			start = block;
			run = 0;
		}
		last = slot;
		run += n;
		block += n;
		count -= n;
		if (fatal_signal_pending(current))
			return -EINTR;
		if (READ_ONCE(kd->map.suspending)) {
			KC_MSG_ERR(t, "map: the device is being suspended: ask again");
			return -EBUSY;
		}
	}
	DMEMIT("%s%llu %llu %u", sz ? "\n" : "", start, run, last);
	return 1;
}

/**
 * kc_message() - a message
 * @ti:		the target
 * @argc:	number of words
 * @argv:	the words
 * @result:	for a reply
 * @maxlen:	its size in bytes
 *
 * Process context of the sender.
 * Return: 0, 1 with a reply, or a negative errno with the reason in the log.
 */
int kc_message(struct dm_target *ti, unsigned int argc, char **argv,
	       char *result, unsigned int maxlen)
{
	struct kc_target *t = ti->private;
	struct kc_msg msg = {
		.t = t,
		.kd = t->kd,
		.argv = argv,
		.result = result,
		.maxlen = maxlen,
	};
	/* Suspending the device waits for messages, and what they wait for. */
	unsigned int noio = memalloc_noio_save();
	int r;

	r = kc_msg_device_key(&msg);
	if (r)
		goto out;
	if (!strcmp(argv[0], "owner")) {
		r = kc_msg_owner(&msg, argc);
	} else if (!strcmp(argv[0], "map")) {
		r = kc_msg_map(&msg, argc);
	} else if (strcmp(argv[0], "commit")) {
		KC_MSG_ERR(t, "%.64s: not one of owner, map, commit", argv[0]);
		r = -EINVAL;
	} else if (argc != 1) {
		KC_MSG_ERR(t, "%u words, expected 1: commit", argc);
		r = -EINVAL;
	} else {
		r = kc_journal_sync(&t->kd->journal, false);
		if (r)
			KC_MSG_ERR(t, "commit failed: %d", r);
	}
out:
	memalloc_noio_restore(noio);
	return r;
}
