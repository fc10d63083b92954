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
#include <linux/uidgid.h>

#include "whose.h"

static u16 kc_owner_of_inode(struct kc_keys *keys, enum kc_owner_kind kind,
			     struct inode *inode)
{
	const struct dquot_operations *dq = inode->i_sb->dq_op;
	kprojid_t projid;

	switch (kind) {
	case KC_OWNER_BY_UID:
		return kc_ids_find(keys, from_kuid(&init_user_ns, inode->i_uid));
	case KC_OWNER_BY_GID:
		return kc_ids_find(keys, from_kgid(&init_user_ns, inode->i_gid));
	case KC_OWNER_BY_PROJID:
		if (dq && dq->get_projid && !dq->get_projid(inode, &projid))
			return kc_ids_find(keys, from_kprojid(&init_user_ns, projid));
		return KC_SLOT_DEVICE;
	default:
		return KC_SLOT_DEVICE;
	}
}

/* A direct write; a process has no project id. */
static u16 kc_owner_of_current(struct kc_keys *keys, enum kc_owner_kind kind)
{
	if (current->flags & PF_KTHREAD)
		return KC_SLOT_DEVICE;
	switch (kind) {
	case KC_OWNER_BY_UID:
		return kc_ids_find(keys, from_kuid(&init_user_ns, current_fsuid()));
	case KC_OWNER_BY_GID:
		return kc_ids_find(keys, from_kgid(&init_user_ns, current_fsgid()));
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
	if (is_zero_pfn(folio_pfn(folio)))
		return current;
	/* A slab's word in the place of the mapping may look like anything. */
	if (folio_test_slab(folio) || folio_test_reserved(folio))
		return NULL;
	if (folio_test_anon(folio))
		return current;
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

static u16 kc_owner_of_source(struct kc_keys *keys, enum kc_owner_kind kind,
			      const void *source)
{
	if (!source)
		return KC_SLOT_DEVICE;
	if (source == current)
		return kc_owner_of_current(keys, kind);
	return kc_owner_of_inode(keys, kind, (struct inode *)source);
}

/*
 * Does the vector at @iter, of which a block is next, consist of blocks?  The queue limits
 * bind only programs; a driver above may build anything.
 */
static bool kc_vector_of_blocks(struct bio *bio, struct bvec_iter iter,
				unsigned int block_size)
{
	struct bio_vec bv = mp_bvec_iter_bvec(bio->bi_io_vec, iter);

	return !((bv.bv_offset | bv.bv_len) & (block_size - 1));
}

/**
 * kc_whose() - owner of the first blocks of a write
 * @keys:	the keys of a device
 * @kind:	what the owner is read from
 * @bio:	the write, aligned to blocks
 * @block_size:	of a block, in bytes
 * @nr_blocks:	in: how many blocks to look at; out: how many have this owner
 *
 * Context of ->map().
 * Return: the key slot.  @nr_blocks is 0 if the first block is not in one piece of
 * memory: no page has been looked at.
 */
u16 kc_whose(struct kc_keys *keys, enum kc_owner_kind kind, struct bio *bio,
	     unsigned int block_size, unsigned int *nr_blocks)
{
	struct bvec_iter iter = bio->bi_iter;
	const void *source, *last = NULL;
	struct folio *folio, *seen = NULL;
	u16 slot = KC_SLOT_DEVICE;
	unsigned int n, vector = 0;

	if (kind == KC_OWNER_BY_NONE || bio->bi_opf & (REQ_META | REQ_SWAP))
		return KC_SLOT_DEVICE;
	rcu_read_lock();
	for (n = 0; n < *nr_blocks; n++) {
		if (!n || iter.bi_idx != vector) {
			vector = iter.bi_idx;
			if (unlikely(!kc_vector_of_blocks(bio, iter, block_size)))
				break;
		}
		folio = page_folio(bio_iter_page(bio, iter));
		if (folio != seen) {
			seen = folio;
			source = kc_folio_source(folio, bio->bi_opf & REQ_IDLE);
			if (!n)
				slot = kc_owner_of_source(keys, kind, source);
			else if (source != last &&
				 kc_owner_of_source(keys, kind, source) != slot)
				break;
			last = source;
		}
		bio_advance_iter_single(bio, &iter, block_size);
	}
	rcu_read_unlock();
	*nr_blocks = n;
	return slot;
}
