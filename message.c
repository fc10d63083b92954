// SPDX-License-Identifier: GPL-2.0
/*
 * Messages: dmsetup message <dev> 0 ...
 *
 * A bad message changes nothing, and its one line in the log names the word
 * that is wrong.
 */

#include <linux/ctype.h>
#include <linux/slab.h>

#include "device.h"
#include "error.h"
#include "message.h"
#include "trace.h"

#define KC_MSG_ERR(t, fmt, ...) \
	DMERR("%s: message: " fmt, dm_device_name((t)->kd->area.md), ##__VA_ARGS__)

static struct kc_owner *kc_owner_find(struct kc_dev *kd, const char *name)
{
	u32 slot;

	for (slot = KC_SLOT_FIRST_OWNER; slot < kd->area.nr_slots; slot++)
		if (kd->keys.owners[slot] && kd->keys.owners[slot]->state != KC_DESTROYED &&
		    !strcmp(kd->keys.owners[slot]->name, name))
			return kd->keys.owners[slot];
	return NULL;
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

/*
 * A slot for a new owner: one never used, or a destroyed owner's of which no
 * block remains, nor would after a crash.  Return: 0, with *@slot kd->area.nr_slots if there
 * is none, or a negative errno.
 */
static int kc_slot_find(struct kc_dev *kd, u32 *slot)
{
	u64 *counts;
	int r;

	for (*slot = KC_SLOT_FIRST_OWNER; *slot < kd->area.nr_slots; ++*slot)
		if (!kd->keys.owners[*slot])
			return 0;
	if (bitmap_empty(kd->area.destroyed, kd->area.nr_slots))
		return 0;
	counts = kvcalloc(kd->area.nr_slots, sizeof(*counts), GFP_KERNEL);
	if (!counts)
		return -ENOMEM;
	r = kc_keymap_count(&kd->map, counts);
	if (!r)
		for_each_set_bit(*slot, kd->area.destroyed, kd->area.nr_slots)
			if (!counts[*slot])
				break;
	/* No block gets it any more; of those that had it, all changes are durable. */
	if (!r && *slot < kd->area.nr_slots)
		r = kc_journal_sync(&kd->journal, false);
	kvfree(counts);
	return r;
}

/* owner add <name> <ids> <key> */
static int kc_msg_add(struct kc_target *t, const char *name, const char *ids,
		      char *key)
{
	struct kc_dev *kd = t->kd;
	struct kc_owner *owner;
	const char *error, *user;
	struct kc_ids *new_ids;
	u32 slot;
	int r;

	if (!kc_name_valid(name)) {
		KC_MSG_ERR(t, "name %.64s is not 1 to 31 of A-Za-z0-9._-", name);
		return -EINVAL;
	}
	if (kc_owner_find(kd, name)) {
		KC_MSG_ERR(t, "there is an owner %s already", name);
		return -EEXIST;
	}
	r = kc_slot_find(kd, &slot);
	if (r) {
		KC_MSG_ERR(t, "cannot look for a slot for owner %s: %d", name, r);
		return r;
	}
	if (slot == kd->area.nr_slots) {
		KC_MSG_ERR(t, "no room for owner %s: all %u slots are in use", name,
			   kd->area.nr_slots);
		return -ENOSPC;
	}
	owner = kzalloc(sizeof(*owner), GFP_KERNEL);
	new_ids = kc_ids_alloc(&kd->keys);
	if (!owner || !new_ids) {
		r = -ENOMEM;
		goto free;
	}
	owner->slot = slot;
	strscpy(owner->name, name, sizeof(owner->name));
	r = kc_check_ids(t, owner, ids);
	if (r)
		goto free;
	r = kc_keyref_parse(&owner->ref, key, &error);
	if (r) {
		/* It may be a key by mistake. */
		memzero_explicit(key, strlen(key));
		KC_MSG_ERR(t, "owner %s: %s", name, error);
		goto free;
	}
	r = kc_owner_check(&kd->keys, owner, owner->check);
	if (r == -ENOMEM)
		goto free;
	if (r) {
		if (r == -EMSGSIZE)
			error = "has another size";
		else if (r == -EINVAL)
			error = "is not one the cipher takes";
		else
			error = "not found";
		KC_MSG_ERR(t, "key %s %s", key, error);
		if (r == -EMSGSIZE)
			r = -EKEYREJECTED;
		goto free;
	}
	user = kc_key_user(kd, owner->check);
	if (user) {
		KC_MSG_ERR(t, "key %s is %s's already", key, user);
		r = -EEXIST;
		goto free;
	}
	r = kc_owner_write(&kd->keys, slot, owner);
	if (r)
		goto free;
	/* From here on the owner is there; at worst its key is locked. */
	swap(kd->keys.owners[slot], owner);
	if (!owner)
		kd->keys.nr_owners++;
	clear_bit(slot, kd->area.destroyed);
	kc_owner_unlock(&kd->keys, kd->keys.owners[slot], true);
	kc_ids_update(&kd->keys, new_ids);
	kfree(owner);
	return 0;
free:
	kvfree(new_ids);
	if (owner)
		key_put(owner->home);
	kfree(owner);
	return r;
}

/* owner ids <name> <ids> */
static int kc_msg_ids(struct kc_target *t, struct kc_owner *owner, const char *ids)
{
	struct kc_dev *kd = t->kd;
	struct kc_owner *new = kmemdup(owner, sizeof(*owner), GFP_KERNEL);
	struct kc_ids *new_ids = kc_ids_alloc(&kd->keys);
	int r = -ENOMEM;

	if (new && new_ids)
		r = kc_check_ids(t, new, ids);
	if (!r)
		r = kc_owner_write(&kd->keys, owner->slot, new);
	if (!r) {
		owner->nr_ids = new->nr_ids;
		memcpy(owner->ids, new->ids, sizeof(owner->ids));
		kc_ids_update(&kd->keys, new_ids);
		new_ids = NULL;
	}
	kvfree(new_ids);
	kfree(new);
	return r;
}

/* owner destroy <name> */
static int kc_msg_destroy(struct kc_target *t, struct kc_owner *owner)
{
	struct kc_dev *kd = t->kd;
	struct kc_owner *new = kzalloc(sizeof(*new), GFP_KERNEL);
	struct kc_ids *new_ids = kc_ids_alloc(&kd->keys);
	bool held = owner->held;
	int r = -ENOMEM;

	if (!new || !new_ids)
		goto free;
	new->slot = owner->slot;
	new->state = KC_DESTROYED;
	new->held = true;
	strscpy(new->name, owner->name, sizeof(new->name));
	/*
	 * When its last bio has ended no entry gets its slot any more, and no read
	 * that began before sees what others write where its blocks were.
	 */
	owner->held = true;
	kc_owner_drain(&kd->keys, owner);
	r = kc_owner_write(&kd->keys, owner->slot, new);
	if (r) {
		KC_MSG_ERR(t, "owner %s: cannot be destroyed: %d", owner->name, r);
		owner->held = held;
		goto free;
	}
	set_bit(new->slot, kd->area.destroyed);
	swap(kd->keys.owners[new->slot], new);
	kc_ids_update(&kd->keys, new_ids);
	new_ids = NULL;
	trace_keyed_crypt_key(kd->area.md, owner->slot, KC_DESTROYED);
	key_put(owner->home);
	memzero_explicit(owner->check, sizeof(owner->check));
free:
	kvfree(new_ids);
	kfree(new);
	return r;
}

static int kc_msg_unlock(struct kc_target *t, struct kc_owner *owner)
{
	int r = 0;

	if (!kc_keyslot_valid(&t->kd->keys.slots, owner->slot)) {
		kc_owner_lock(&t->kd->keys, owner);
		r = kc_owner_unlock(&t->kd->keys, owner, true);
	}
	if (r == -ENOMEM)
		return r;
	if (r)
		KC_MSG_ERR(t, "owner %s: key :%u:%s:%s %s", owner->name,
			   owner->ref.size, kc_key_type_name(owner->ref.type),
			   owner->ref.desc,
			   r == -EKEYREJECTED ? "is the wrong one" : "not found");
	else
		owner->held = false;
	return r;
}

/* owner list */
static int kc_msg_list(struct kc_target *t, char *result, unsigned int maxlen)
{
	struct kc_dev *kd = t->kd;
	unsigned int sz = 0;
	char *ids;
	u64 *counts;
	u32 slot;
	int r;

	ids = kmalloc(PAGE_SIZE, GFP_KERNEL);
	counts = kvcalloc(kd->area.nr_slots, sizeof(*counts), GFP_KERNEL);
	r = ids && counts ? kc_keymap_count(&kd->map, counts) : -ENOMEM;
	if (r) {
		KC_MSG_ERR(t, "owner list: cannot read the key map: %d", r);
		goto out;
	}
	mutex_lock(&kd->keys.slots.lock);
	for (slot = KC_SLOT_FIRST_OWNER; slot < kd->area.nr_slots; slot++) {
		struct kc_owner *owner = kd->keys.owners[slot];

		if (!owner)
			continue;
		if (owner->state == KC_DESTROYED) {
			DMEMIT("%s%s %u destroyed - - %llu", sz ? "\n" : "",
			       owner->name, slot, counts[slot]);
			continue;
		}
		kc_ids_print(owner, ids, PAGE_SIZE);
		DMEMIT("%s%s %u %s %s :%u:%s:%s %llu", sz ? "\n" : "", owner->name,
		       slot, kc_lock_state_name(owner->state), ids,
		       owner->ref.size, kc_key_type_name(owner->ref.type),
		       owner->ref.desc, counts[slot]);
	}
	mutex_unlock(&kd->keys.slots.lock);
	r = 1;
out:
	kvfree(counts);
	kfree(ids);
	return r;
}

static int kc_msg_owner(struct kc_target *t, unsigned int argc, char **argv,
			char *result, unsigned int maxlen)
{
	static const struct {
		const char *verb;
		unsigned int argc;
		const char *usage;
	} verbs[] = {
		{ "add", 5, "owner add <name> <ids> <key>" },
		{ "ids", 4, "owner ids <name> <ids>" },
		{ "lock", 3, "owner lock <name>" },
		{ "unlock", 3, "owner unlock <name>" },
		{ "destroy", 3, "owner destroy <name>" },
		{ "list", 2, "owner list" },
	};
	struct kc_owner *owner;
	unsigned int i;
	int r;

	for (i = 0; argc > 1 && i < ARRAY_SIZE(verbs); i++)
		if (!strcmp(argv[1], verbs[i].verb))
			break;
	if (argc < 2 || i == ARRAY_SIZE(verbs)) {
		KC_MSG_ERR(t, "owner %.64s: not one of add, ids, lock, unlock, destroy, list",
			   argc < 2 ? "" : argv[1]);
		return -EINVAL;
	}
	if (argc != verbs[i].argc) {
		KC_MSG_ERR(t, "%u words, expected %u: %s", argc, verbs[i].argc,
			   verbs[i].usage);
		return -EINVAL;
	}
	if (t->kd->area.mode != KC_RW &&
	    (!strcmp(argv[1], "add") || !strcmp(argv[1], "ids") ||
	     !strcmp(argv[1], "destroy"))) {
		KC_MSG_ERR(t, "owner %s: the metadata %s", argv[1],
			   t->kd->area.mode == KC_RO ? "is read-only" : "has failed");
		return t->kd->area.mode == KC_RO ? -EROFS : -EIO;
	}
	if (!strcmp(argv[1], "list"))
		return kc_msg_list(t, result, maxlen);

	mutex_lock(&t->kd->keys.slots.lock);
	if (!strcmp(argv[1], "add")) {
		r = kc_msg_add(t, argv[2], argv[3], argv[4]);
		goto unlock;
	}
	owner = kc_owner_find(t->kd, argv[2]);
	if (!owner) {
		KC_MSG_ERR(t, "there is no owner %.64s", argv[2]);
		r = -ENOENT;
	} else if (!strcmp(argv[1], "ids")) {
		r = kc_msg_ids(t, owner, argv[3]);
	} else if (!strcmp(argv[1], "unlock")) {
		r = kc_msg_unlock(t, owner);
	} else if (!strcmp(argv[1], "destroy")) {
		r = kc_msg_destroy(t, owner);
	} else {
		owner->held = true;
		kc_owner_lock(&t->kd->keys, owner);
		r = 0;
	}
unlock:
	mutex_unlock(&t->kd->keys.slots.lock);
	if (r == -ENOMEM)
		KC_MSG_ERR(t, "owner %s %.64s: out of memory", argv[1], argv[2]);
	return r;
}

/* map <block> <count> */
static int kc_msg_map(struct kc_target *t, unsigned int argc, char **argv,
		      char *result, unsigned int maxlen)
{
	struct kc_dev *kd = t->kd;
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
		if (kc_slot_vacant(&kd->area, slot))
			slot = KC_SLOT_NONE;
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
	struct kc_dev *kd = t->kd;
	int r = -EINVAL;

	if (!kc_keyslot_valid(&kd->keys.slots, KC_SLOT_DEVICE)) {
		KC_MSG_ERR(t, "%.64s: the device key is gone", argv[0]);
		return -ENOKEY;
	}
	if (!strcmp(argv[0], "owner")) {
		r = kc_msg_owner(t, argc, argv, result, maxlen);
	} else if (!strcmp(argv[0], "map")) {
		r = kc_msg_map(t, argc, argv, result, maxlen);
	} else if (strcmp(argv[0], "commit")) {
		KC_MSG_ERR(t, "%.64s: not one of owner, map, commit", argv[0]);
	} else if (argc != 1) {
		KC_MSG_ERR(t, "%u words, expected 1: commit", argc);
	} else {
		r = kc_journal_sync(&kd->journal, false);
		if (r)
			KC_MSG_ERR(t, "commit failed: %d", r);
	}
	return r;
}
