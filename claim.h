/* SPDX-License-Identifier: GPL-2.0 */
/*
 * (blocks, slot) -> may go on, must wait.
 *
 * The life of a claim, of blocks of one map block (struct kc_claim in keymap.h).  Its
 * owner finds the map block (kc_mapblk_get(), which takes its users), then:
 *
 *	                 kc_claim_read(), kc_claim_write()
 *	                               |
 *	     +-----------+-------------+---------------+-----------+
 *	     |           |             |               |           |
 *	 KC_CLAIMED    _BUSY       _DRAINING        _PARKED     _FAILED
 *	 users held   blocks busy  blocks busy,    ops->claimed()   |
 *	     |           |         others parked   comes with one   |
 *	     |           |             |           of the others    |
 *	     |           |       kc_claim_drain()                   |
 *	     |           |             |                            |
 *	     |           |             +-- kc_journal_intend()      |
 *	     |           |             |     ops->sums()            |
 *	     |           |             |     ops->intended()        |
 *	     |           |             |                            |
 *	   (data is read or written, or not)                        |
 *	     |           |             |                            |
 *	kc_mapblk_put()  +-- kc_claim_end_change() --> entries set, or as they were
 *
 * Only a change (KC_CLAIM_CHANGE) has busy blocks.  One of assigned blocks
 * (KC_CLAIM_REASSIGN) drains; a write of these may have an intent
 * (KC_CLAIM_INTENT).  With an intent, the blocks are unsettled from the end of the
 * change until a commit has settled them; who claims them meanwhile is parked.
 */
#ifndef _KC_CLAIM_H
#define _KC_CLAIM_H

#include "journal.h"
#include "keymap.h"

/**
 * struct kc_claims - claims of a device's blocks
 * @area:	its metadata area
 * @map:	its key map
 * @journal:	what makes changes durable
 * @reassigned:	blocks that went from one owner to another
 */
struct kc_claims {
	struct kc_area *area;
	struct kc_keymap *map;
	struct kc_journal *journal;
	atomic64_t reassigned;
};

enum kc_claimed kc_claim_slow(struct kc_claims *claims, struct kc_claim *claim,
			      const struct kc_claim_ops *ops);
void kc_claims_settled(struct kc_claims *claims, struct kc_mapblk *mb);
void kc_claim_drain(struct kc_claims *claims, struct kc_claim *claim);
void kc_claim_assign(struct kc_claims *claims, struct kc_claim *claim);
void kc_claim_end_change(struct kc_claims *claims, struct kc_claim *claim,
			 bool assign);

/**
 * kc_claim_read() - may a read rely on the entries?
 * @claims:	of the device
 * @claim:	the blocks, claim->mb with its users taken
 * @ops:	only ->claimed, which gets KC_CLAIMED with users taken
 *
 * Any context.
 * Return: true to go on; or false, and the claim has been parked and may be
 * going on already.
 */
static inline bool kc_claim_read(struct kc_claims *claims, struct kc_claim *claim,
				 const struct kc_claim_ops *ops)
{
	/* with kc_mapblk_update_slow() */
	if (likely(!smp_load_acquire(&claim->mb->slow)))
		return true;
	claim->flags = KC_CLAIM_READ;
	return kc_claim_slow(claims, claim, ops) == KC_CLAIMED;
}

/**
 * kc_claim_write() - claim the blocks of a write or discard
 * @claims:	of the device
 * @claim:	the blocks, claim->mb with its users taken, and what they are to
 *		get: KC_SLOT_NONE for a discard
 * @ops:	of whose claim it is
 *
 * Any context.
 * Return: KC_CLAIMED with users still taken; KC_CLAIMED_BUSY or _DRAINING with
 * the blocks busy and users dropped; KC_CLAIMED_PARKED or _FAILED with the map
 * block given away.
 */
static inline enum kc_claimed kc_claim_write(struct kc_claims *claims,
					     struct kc_claim *claim,
					     const struct kc_claim_ops *ops)
{
	u16 old;

	claim->flags = 0;
	/* with kc_mapblk_update_slow() */
	if (likely(!smp_load_acquire(&claim->mb->slow) &&
		   claim->slot != KC_SLOT_NONE &&
		   kc_mapblk_run(claim->mb, claim->first, claim->nr, &old) == claim->nr &&
		   old == claim->slot))
		return KC_CLAIMED;
	return kc_claim_slow(claims, claim, ops);
}

#endif
