// SPDX-License-Identifier: GPL-2.0
/*
 * (blocks, slot) -> may go on, must wait.
 *
 *  - A read, or a write whose blocks all have its slot already, relies on the
 *    entries staying as they are and holds kc_mapblk.users while under way.
 *  - Any other write is a change.  It marks its blocks busy; a write that
 *    overlaps busy blocks is parked until they are free.  The entries change
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

/* Parks a claim; the lock of its map block held.  Its users become a pin. */
static void kc_claim_park(struct kc_claim *claim, const struct kc_claim_ops *ops)
{
	claim->ops = ops;
	atomic_inc(&claim->mb->pins);
	list_add_tail(&claim->list, &claim->mb->parked);
}

/**
 * kc_claim_read_slow() - the slow half of kc_claim_read()
 * @claims:	of the device
 * @claim:	the blocks, claim->mb with its users taken
 * @ops:	only ->retry
 *
 * Any context.
 * Return: true, or false if it was parked.
 */
bool kc_claim_read_slow(struct kc_claims *claims, struct kc_claim *claim,
			const struct kc_claim_ops *ops)
{
	struct kc_mapblk *mb = claim->mb;
	unsigned long flags;
	bool park;

	spin_lock_irqsave(&mb->lock, flags);
	park = mb->draining || kc_mapblk_busy(mb, claim->first, claim->nr);
	if (park)
		kc_claim_park(claim, ops);
	spin_unlock_irqrestore(&mb->lock, flags);
	if (park)
		kc_mapblk_put(claims->map, mb);
	return !park;
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

/**
 * kc_claim_write_slow() - the slow half of kc_claim_write()
 * @claims:	of the device
 * @claim:	the blocks, claim->mb with its users taken, and their slot
 * @ops:	of whose claim it is
 *
 * Any context.
 * Return: as kc_claim_write().
 */
enum kc_claimed kc_claim_write_slow(struct kc_claims *claims, struct kc_claim *claim,
				    const struct kc_claim_ops *ops)
{
	struct kc_mapblk *mb = claim->mb;
	enum kc_claimed claimed = KC_CLAIMED;
	unsigned int reassigned, end = claim->first + claim->nr;
	unsigned long flags;
	bool rw;

	spin_lock_irqsave(&mb->lock, flags);
	rw = READ_ONCE(claims->area->mode) == KC_RW && !bdev_read_only(claims->area->bdev);
	if (mb->draining || kc_mapblk_busy(mb, claim->first, claim->nr)) {
		kc_claim_park(claim, ops);
		claimed = KC_CLAIMED_PARKED;
		goto unlock;
	}
	if (find_next_bit(mb->unsettled, end, claim->first) < end) {
		claimed = KC_CLAIMED_FAILED;
		if (rw) {
			kc_claim_park(claim, ops);
			kc_journal_hurry(claims->journal);
			claimed = KC_CLAIMED_PARKED;
		}
		goto unlock;
	}
	reassigned = kc_claim_look(claims, claim);
	if (!(claim->flags & KC_CLAIM_CHANGE))
		goto unlock;
	if (!rw) {
		claimed = KC_CLAIMED_FAILED;
		goto unlock;
	}
	claim->ops = ops;
	claimed = KC_CLAIMED_BUSY;
	bitmap_set(mb->busy, claim->first, claim->nr);
	atomic_inc(&mb->pins);
	if (reassigned) {
		claimed = KC_CLAIMED_DRAINING;
		claim->flags |= KC_CLAIM_REASSIGN;
		mb->draining++;
		mb->reassigns++;
		kc_mapblk_update_slow(mb);
		if (claim->slot != KC_SLOT_NONE)
			atomic64_add(reassigned, &claims->reassigned);
	}
unlock:
	spin_unlock_irqrestore(&mb->lock, flags);
	if (claimed != KC_CLAIMED)
		kc_mapblk_put(claims->map, mb);
	return claimed;
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
	LIST_HEAD(parked);

	smp_mb();	/* slow is set before users are looked at */
	wait_event(claims->map->idle, !atomic_read(&mb->users));
	spin_lock_irq(&mb->lock);
	mb->draining--;
	kc_mapblk_update_slow(mb);
	list_splice_init(&mb->parked, &parked);
	spin_unlock_irq(&mb->lock);
	kc_mapblk_restart(claims->map, &parked);
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
	LIST_HEAD(parked);
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
	list_splice_init(&mb->parked, &parked);
	spin_unlock_irqrestore(&mb->lock, flags);
	if (claim->flags & KC_CLAIM_INTENT)
		kc_journal_intent_ended(claims->journal);
	kc_mapblk_restart(claims->map, &parked);
	kc_mapblk_unpin(claims->map, mb);
	claim->mb = NULL;
}
