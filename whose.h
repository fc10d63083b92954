/* SPDX-License-Identifier: GPL-2.0 */
/* Whose bio is it? */
#ifndef _KC_WHOSE_H
#define _KC_WHOSE_H

#include <linux/bio.h>

#include "owner.h"

enum kc_owner_kind {
	KC_OWNER_BY_NONE,
	KC_OWNER_BY_UID,
	KC_OWNER_BY_GID,
	KC_OWNER_BY_PROJID,
};

u16 kc_whose(struct kc_keys *keys, enum kc_owner_kind kind, struct bio *bio,
	     unsigned int block_size, unsigned int *nr_blocks);

#endif
