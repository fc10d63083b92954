// SPDX-License-Identifier: GPL-2.0
/*
 * (blocks, slot) -> may go on, must wait.
 *
 *  - A read, or a write whose blocks all have its slot already, relies on the
 *    entries staying as they are and holds kc_mapblk.users while under way.
 *  - Any other write is a change.  It marks its blocks busy; a write that
 *    overlaps busy blocks is parked until they are its own.  The entries change
 *    when the data has been written, before the bio completes.  Reads of blocks
 *    that were unassigned need not wait: they are zeros until then.
 *  - A change of assigned blocks (another owner's, or a discard) cannot be
 *    under way together with bios that rely on the entries.  It waits until
 *    kc_mapblk.users is zero, during which all claims of the map block are parked,
 *    and then only the ones that overlap.  The order of "take users, look at slow"
 *    and "set slow, look at users" makes sure that one sees the other.
 *  - After a strict change of owner its blocks are unsettled: only the sum
 *    of the intent tells what they hold after a crash, so they cannot be written
 *    again before a commit has settled them.
 */

#include "claim.h"

static bool kc_mapblk_busy(const struct kc_mapblk *mb, unsigned int first,
			   unsigned int nr)
{
	return find_next_bit(mb->busy, first + nr, first) < first + nr;
}

/* How many of its blocks have an entry that a change of must wait for others? */
static unsigned int kc_claim_look(struct kc_claims *claims, struct kc_claim *claim)
{
	unsigned int i, reassigned = 0;
	u16 old;

	/* A discard changes its blocks in any case: writes must not overtake it. */
	if (claim->slot == KC_SLOT_NONE)
		claim->flags |= KC_CLAIM_CHANGE;
	for (i = claim->first; i < claim->first + claim->nr; i++) {
		old = kc_entry(claim->mb, i);
		if (old == claim->slot)
			continue;
		claim->flags |= KC_CLAIM_CHANGE;
		/* A discard takes the entries of destroyed owners away as well. */
		if (claim->slot == KC_SLOT_NONE || kc_slot_kept(claims->area, old))
			reassigned++;
	}
	return reassigned;
}

/*
 * Claims the blocks of a write or discard; the map block's lock held.  Busy blocks
 * and draining come with a pin.
 */
static enum kc_claimed kc_claim_decide_write(struct kc_claims *claims,
					     struct kc_claim *claim)
{
	struct kc_mapblk *mb = claim->mb;
	unsigned int reassigned, end = claim->first + claim->nr;
	bool rw = READ_ONCE(claims->area->mode) == KC_RW &&
		  !bdev_read_only(claims->area->bdev);

	if (find_next_bit(mb->unsettled, end, claim->first) < end) {
		if (!rw)
			return KC_CLAIMED_FAILED;
		kc_journal_hurry(claims->journal);
		return KC_CLAIMED_PARKED;
	}
	reassigned = kc_claim_look(claims, claim);
	if (!(claim->flags & KC_CLAIM_CHANGE))
		return KC_CLAIMED;
	if (!rw)
		return KC_CLAIMED_FAILED;
	bitmap_set(mb->busy, claim->first, claim->nr);
	atomic_inc(&mb->pins);
	if (!reassigned)
		return KC_CLAIMED_BUSY;
	claim->flags |= KC_CLAIM_REASSIGN;
	mb->draining++;
	mb->reassigns++;
	kc_mapblk_update_slow(mb);
	if (claim->slot != KC_SLOT_NONE)
		atomic64_add(reassigned, &claims->reassigned);
	return KC_CLAIMED_DRAINING;
}

static enum kc_claimed kc_claim_decide(struct kc_claims *claims, struct kc_claim *claim)
{
	struct kc_mapblk *mb = claim->mb;

	lockdep_assert_held(&mb->lock);
	if (mb->draining || kc_mapblk_busy(mb, claim->first, claim->nr))
		return KC_CLAIMED_PARKED;
	if (claim->flags & KC_CLAIM_READ)
		return KC_CLAIMED;
	return kc_claim_decide_write(claims, claim);
}

/**
 * kc_claim_slow() - the slow half of kc_claim_read() and kc_claim_write()
 * @claims:	of the device
 * @claim:	the blocks, claim->mb with its users taken, flags, and a write's slot
 * @ops:	of whose claim it is
 *
 * Any context.
 * Return: as kc_claim_write().
 */
enum kc_claimed kc_claim_slow(struct kc_claims *claims, struct kc_claim *claim,
			      const struct kc_claim_ops *ops)
{
	struct kc_mapblk *mb = claim->mb;
	enum kc_claimed claimed;
	unsigned long flags;

	spin_lock_irqsave(&mb->lock, flags);
	claim->ops = ops;
	claimed = kc_claim_decide(claims, claim);
	if (claimed == KC_CLAIMED_PARKED) {
		atomic_inc(&mb->pins);
		list_add_tail(&claim->list, &mb->parked);
	}
	spin_unlock_irqrestore(&mb->lock, flags);
	if (claimed != KC_CLAIMED)
		kc_mapblk_put(claims->map, mb);
	return claimed;
}

/*
 * Gives blocks that have become free, or have been settled, to those that wait, in their
 * order: so each is looked at again where it may go on, however many wait for
 * the same blocks.  Moves them to @granted; the map block's lock held.
 */
static void kc_claims_grant(struct kc_claims *claims, struct kc_mapblk *mb,
			    unsigned int first, unsigned int nr, struct list_head *granted)
{
	struct kc_claim *claim, *tmp;

	list_for_each_entry_safe(claim, tmp, &mb->parked, list) {
		if (mb->draining ||
		    find_next_zero_bit(mb->busy, first + nr, first) >= first + nr)
			break;
		claim->claimed = kc_claim_decide(claims, claim);
		if (claim->claimed == KC_CLAIMED_PARKED)
			continue;
		if (claim->claimed == KC_CLAIMED)
			atomic_inc(&mb->users);	/* before the pin goes */
		list_move_tail(&claim->list, granted);
	}
}

/* Those go on; no map block's lock held. */
static void kc_claims_go(struct kc_claims *claims, struct list_head *granted)
{
	struct kc_claim *claim, *tmp;

	list_for_each_entry_safe(claim, tmp, granted, list) {
		struct kc_mapblk *mb = claim->mb;

		list_del_init(&claim->list);
		claim->ops->claimed(claim, claim->claimed);
		kc_mapblk_unpin(claims->map, mb);	/* of its time in parked */
	}
}

/**
 * kc_claims_settled() - blocks of a map block have been settled, or cannot be
 * @claims:	of the device
 * @mb:		the map block, which cannot go meanwhile
 *
 * Any context.
 */
void kc_claims_settled(struct kc_claims *claims, struct kc_mapblk *mb)
{
	LIST_HEAD(granted);
	unsigned long flags;

	spin_lock_irqsave(&mb->lock, flags);
	kc_claims_grant(claims, mb, 0, KC_ENTRIES, &granted);
	spin_unlock_irqrestore(&mb->lock, flags);
	kc_claims_go(claims, &granted);
}

/**
 * kc_claim_drain() - wait until nobody relies on the map block's entries
 * @claims:	of the device
 * @claim:	one that got KC_CLAIMED_DRAINING
 *
 * Process context, not from within ->map(); sleeps.
 */
void kc_claim_drain(struct kc_claims *claims, struct kc_claim *claim)
{
	struct kc_mapblk *mb = claim->mb;
	LIST_HEAD(granted);

	smp_mb();	/* slow is set before users are looked at */
	wait_event(claims->map->idle, !atomic_read(&mb->users));
	spin_lock_irq(&mb->lock);
	mb->draining--;
	kc_mapblk_update_slow(mb);
	kc_claims_grant(claims, mb, 0, KC_ENTRIES, &granted);
	spin_unlock_irq(&mb->lock);
	kc_claims_go(claims, &granted);
}

/* Changes entries; the map block's lock held. */
static void kc_claim_set(struct kc_claims *claims, struct kc_claim *claim)
{
	__le16 entry = cpu_to_le16(claim->slot);
	struct kc_mapblk *mb = claim->mb;
	bool changed = false;
	unsigned int i;

	for (i = claim->first; i < claim->first + claim->nr; i++) {
		if (mb->entries[i] == entry)
			continue;
		WRITE_ONCE(mb->entries[i], entry);
		__set_bit(i, mb->unlogged);
		changed = true;
	}
	if (changed && !test_and_set_bit(KC_MB_UNLOGGED, &mb->flags))
		kc_journal_note(claims->journal, mb);
}

/**
 * kc_claim_assign() - give the blocks their slot while the change goes on
 * @claims:	of the device
 * @claim:	a change
 *
 * Any context.
 */
void kc_claim_assign(struct kc_claims *claims, struct kc_claim *claim)
{
	unsigned long flags;

	spin_lock_irqsave(&claim->mb->lock, flags);
	kc_claim_set(claims, claim);
	spin_unlock_irqrestore(&claim->mb->lock, flags);
}

/* Only their intent tells from now on what the blocks hold; lock held. */
static void kc_claim_unsettle(struct kc_claims *claims, struct kc_claim *claim)
{
	struct kc_mapblk *mb = claim->mb;
	unsigned int i;
	u16 old;

	for (i = claim->first; i < claim->first + claim->nr; i++) {
		old = kc_entry(mb, i);
		if (kc_slot_kept(claims->area, old) && old != claim->slot)
			__set_bit(i, mb->unsettled);
	}
	set_bit(KC_MB_UNSETTLED, &mb->flags);
}

/**
 * kc_claim_end_change() - a change has ended
 * @claims:	of the device
 * @claim:	it, which is done with the map block
 * @assign:	give the blocks their slot
 *
 * Any context.
 */
void kc_claim_end_change(struct kc_claims *claims, struct kc_claim *claim,
			 bool assign)
{
	struct kc_mapblk *mb = claim->mb;
	LIST_HEAD(granted);
	unsigned long flags;

	spin_lock_irqsave(&mb->lock, flags);
	if (claim->flags & KC_CLAIM_INTENT) {
		mb->intents--;
		if (assign)
			kc_claim_unsettle(claims, claim);
	}
	if (assign)
		kc_claim_set(claims, claim);
	bitmap_clear(mb->busy, claim->first, claim->nr);
	if (claim->flags & KC_CLAIM_REASSIGN)
		mb->reassigns--;
	kc_mapblk_update_slow(mb);
	kc_claims_grant(claims, mb, claim->first, claim->nr, &granted);
	spin_unlock_irqrestore(&mb->lock, flags);
	if (claim->flags & KC_CLAIM_INTENT)
		kc_journal_intent_ended(claims->journal);
	kc_claims_go(claims, &granted);
	kc_mapblk_unpin(claims->map, mb);
	claim->mb = NULL;
}
