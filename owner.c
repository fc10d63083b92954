// SPDX-License-Identifier: GPL-2.0
/*
 * Whose bio is it?
 *
 * Filesystems are unmodified, so the pages of a write must tell:
 *
 *  - a page of a regular file's page cache that is under writeback belongs to
 *    the file's inode, whoever runs the writeback;
 *  - anonymous memory, the zero page, and page cache that is not under writeback
 *    (a mapping of a file or of shared memory used as a buffer) come from a direct
 *    write, which filesystems submit in the writer's own context; such a buffer may
 *    be under writeback for its own file's sake, but only direct writes are REQ_IDLE;
 *    a direct write may also have pages without mapping: copies that btrfs and xfs make
 *    (7.x) lest the data change on its way, or the huge page of zeros;
 *  - everything else (the block device's own page cache, other inodes of the
 *    filesystem, slab, vmalloc, pages without mapping, swap) is nobody's in
 *    particular and goes under the device key.
 *
 * Kernel threads have no writer's context: their direct writes go under the
 * device key too.
 */

#include <linux/cred.h>
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/quota.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/uidgid.h>

#include "dm-keyed-crypt.h"

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

static u16 kc_ids_find(struct kc_dev *kd, u32 id)
{
	const struct kc_ids *ids = rcu_dereference(kd->ids);
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
 * @kd:		the device
 *
 * There is room for those of one more owner.  Process context, kd->lock held.
 * Return: for kc_ids_update() or kvfree(); NULL without memory.
 */
struct kc_ids *kc_ids_alloc(struct kc_dev *kd)
{
	unsigned int nr = KC_MAX_IDS;
	struct kc_ids *ids;
	u32 slot;

	lockdep_assert_held(&kd->lock);
	for (slot = 0; slot < kd->nr_slots; slot++)
		if (kd->owners[slot])
			nr += kd->owners[slot]->nr_ids;
	return kvzalloc(struct_size(ids, range, nr), GFP_KERNEL);
}

/**
 * kc_ids_update() - publish the ids of all owners
 * @kd:		the device
 * @ids:	from kc_ids_alloc(), taken over
 *
 * Process context, kd->lock held.
 */
void kc_ids_update(struct kc_dev *kd, struct kc_ids *ids)
{
	struct kc_ids *old;
	unsigned int i;
	u32 slot;

	lockdep_assert_held(&kd->lock);
	for (slot = 0; slot < kd->nr_slots; slot++) {
		const struct kc_owner *owner = kd->owners[slot];

		for (i = 0; owner && i < owner->nr_ids; i++)
			ids->range[ids->nr++] = (struct kc_id_slot) {
				.first = owner->ids[i].first,
				.last = owner->ids[i].last,
				.slot = slot,
			};
	}
	sort(ids->range, ids->nr, sizeof(ids->range[0]), kc_id_slot_cmp, NULL);
	old = rcu_replace_pointer(kd->ids, ids, lockdep_is_held(&kd->lock));
	if (old) {
		synchronize_rcu();
		kvfree(old);
	}
}

/**
 * kc_ids_free() - free the published ids
 * @kd:		the device, without bios
 */
void kc_ids_free(struct kc_dev *kd)
{
	kvfree(rcu_dereference_protected(kd->ids, 1));
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
 * @kd:		the device
 * @owner:	whose ids; compared with owners of other slots
 * @id:		such an id
 *
 * Process context, kd->lock held.
 * Return: the other owner or NULL.
 */
struct kc_owner *kc_ids_conflict(struct kc_dev *kd, const struct kc_owner *owner,
				 u32 *id)
{
	unsigned int i, j;
	u32 slot;

	for (slot = 0; slot < kd->nr_slots; slot++) {
		struct kc_owner *other = kd->owners[slot];

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

static u16 kc_owner_of_inode(struct kc_dev *kd, enum kc_owner_kind kind,
			     struct inode *inode)
{
	const struct dquot_operations *dq = inode->i_sb->dq_op;
	kprojid_t projid;

	switch (kind) {
	case KC_OWNER_BY_UID:
		return kc_ids_find(kd, from_kuid(&init_user_ns, inode->i_uid));
	case KC_OWNER_BY_GID:
		return kc_ids_find(kd, from_kgid(&init_user_ns, inode->i_gid));
	case KC_OWNER_BY_PROJID:
		if (dq && dq->get_projid && !dq->get_projid(inode, &projid))
			return kc_ids_find(kd, from_kprojid(&init_user_ns, projid));
		return KC_SLOT_DEVICE;
	default:
		return KC_SLOT_DEVICE;
	}
}

/* A direct write; a process has no project id. */
static u16 kc_owner_of_current(struct kc_dev *kd, enum kc_owner_kind kind)
{
	if (current->flags & PF_KTHREAD)
		return KC_SLOT_DEVICE;
	switch (kind) {
	case KC_OWNER_BY_UID:
		return kc_ids_find(kd, from_kuid(&init_user_ns, current_fsuid()));
	case KC_OWNER_BY_GID:
		return kc_ids_find(kd, from_kgid(&init_user_ns, current_fsgid()));
	default:
		return KC_SLOT_DEVICE;
	}
}

/*
 * What tells a folio's owner: an inode, current for a direct write, or NULL.
 *
 * Under RCU, which keeps a file's inode while its pages may be leaving the page
 * cache: they are pinned by the bio, but those of a direct write's buffer may be
 * truncated meanwhile.
 */
static const void *kc_folio_source(struct folio *folio, bool direct)
{
	struct address_space *mapping;
	struct inode *inode;

	/* The zero page is what memory nobody has written to looks like. */
	if (folio_test_anon(folio) || is_zero_pfn(folio_pfn(folio)))
		return current;
	if (folio_test_slab(folio) || folio_test_reserved(folio))
		return NULL;
	mapping = folio_mapping(folio);
	inode = mapping ? READ_ONCE(mapping->host) : NULL;
	if (!inode)
		return direct ? current : NULL;
	if (direct || !folio_test_writeback(folio))
		return S_ISBLK(inode->i_mode) ? NULL : (void *)current;
	/*
	 * Only files have data: a directory's blocks are names.  Inodes a
	 * filesystem keeps for itself have no file operations, and a mode that
	 * may be anything; or they are quota files.
	 */
	if (!S_ISREG(inode->i_mode) || IS_NOQUOTA(inode) || !inode->i_fop ||
	    !inode->i_fop->write_iter)
		return NULL;
	return inode;
}

static u16 kc_owner_of_source(struct kc_dev *kd, enum kc_owner_kind kind,
			      const void *source)
{
	if (!source)
		return KC_SLOT_DEVICE;
	if (source == current)
		return kc_owner_of_current(kd, kind);
	return kc_owner_of_inode(kd, kind, (struct inode *)source);
}

/**
 * kc_owner_of_bio() - owner of the first blocks of a write
 * @kd:		the device
 * @kind:	what the owner is read from
 * @bio:	the write, aligned to blocks
 * @nr_blocks:	in: how many blocks to look at; out: how many have this owner
 *
 * Context of ->map().
 * Return: the key slot.
 */
u16 kc_owner_of_bio(struct kc_dev *kd, enum kc_owner_kind kind,
		    struct bio *bio, unsigned int *nr_blocks)
{
	struct bvec_iter iter = bio->bi_iter;
	const void *source, *last = NULL;
	struct folio *folio, *seen = NULL;
	u16 slot = KC_SLOT_DEVICE;
	unsigned int n;

	if (kind == KC_OWNER_BY_NONE || bio->bi_opf & (REQ_META | REQ_SWAP))
		return KC_SLOT_DEVICE;
	rcu_read_lock();
	for (n = 0; n < *nr_blocks; n++) {
		folio = page_folio(bio_iter_page(bio, iter));
		if (folio != seen) {
			seen = folio;
			source = kc_folio_source(folio, bio->bi_opf & REQ_IDLE);
			if (!n)
				slot = kc_owner_of_source(kd, kind, source);
			else if (source != last &&
				 kc_owner_of_source(kd, kind, source) != slot)
				break;
			last = source;
		}
		bio_advance_iter_single(bio, &iter, kd->sector_size);
	}
	rcu_read_unlock();
	*nr_blocks = n;
	return slot;
}
