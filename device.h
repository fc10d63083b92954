/* SPDX-License-Identifier: GPL-2.0 */
/* A device: all parts together; and a table that uses it. */
#ifndef _KC_DEVICE_H
#define _KC_DEVICE_H

#include <linux/device-mapper.h>
#include <linux/list.h>
#include <linux/workqueue.h>

#include "claim.h"
#include "crypt.h"
#include "journal.h"
#include "keymap.h"
#include "metadata.h"
#include "owner.h"
#include "whose.h"

enum kc_dev_state {
	KC_DEV_OPENING,
	KC_DEV_OPEN,
	KC_DEV_CLOSING,
};

/**
 * struct kc_dev - a device
 * @list:	in the list of all devices
 * @state:	of its life
 * @refs:	tables that use it, old and new ones
 * @event_lock:	protects @table
 * @table:	the live table, for events; NULL while there is none
 * @loading:	the table that took the last reference; not dereferenced
 * @identified:	the area's UUID is known
 * @meta_len:	sectors its area has, or while it is opened may have
 * @data_len:	sectors of data of its longest table
 * @area:	metadata
 * @keys:	owners and their keys
 * @map:	the key map in memory
 * @journal:	what makes it durable
 * @claims:	who uses it
 * @crypt:	what conversions share
 * @watch:	looks after the keys
 * @slow_wq:	bios that must wait for a map block; freeing of keyslots
 * @drain_wq:	bios that hold one and must wait for others
 * @go_wq:	bios that hold one and have waited: what they hold waits for none of the above
 * @locked_reads: reads failed for a missing key
 * @locked_writes: writes failed for a missing key
 */
struct kc_dev {
	struct list_head list;
	enum kc_dev_state state;
	unsigned int refs;
	struct mutex event_lock;
	struct dm_table *table;
	struct dm_table *loading;
	bool identified;
	u64 meta_len;
	u64 data_len;

	struct kc_area area;
	struct kc_keys keys;
	struct kc_keymap map;
	struct kc_journal journal;
	struct kc_claims claims;
	struct kc_crypt crypt;

	struct delayed_work watch;
	struct workqueue_struct *slow_wq;
	struct workqueue_struct *drain_wq;
	struct workqueue_struct *go_wq;
	atomic64_t locked_reads;
	atomic64_t locked_writes;
};

/**
 * struct kc_target - one table's use of a device
 * @kd:		the device
 * @ti:		the target
 * @dev:	data device
 * @start:	first data sector on it
 * @meta_dev:	metadata device if it is another one, else NULL
 * @ref:	the device key as this table names it
 * @owner_kind:	what a write's owner is read from
 * @keyring:	searched for owners' keys
 * @keyring_spec: as in the table line, NULL when it is the default
 * @meta_offset: as in the table line
 * @meta_cache:	bound on the cache in MiB
 * @lazy:	reassign:lazy
 * @clone:	may have the UUID of an area that is open
 * @wants_uuid:	@uuid is in the table line
 * @uuid:	what the area must have
 * @io_size:	bytes of a bio's own data, that of its first request included
 * @pools:	of conversions
 * @split_bs:	parts of reads that had to wait, a bio's own data in front
 */
struct kc_target {
	struct kc_dev *kd;
	struct dm_target *ti;
	struct dm_dev *dev;
	sector_t start;
	struct dm_dev *meta_dev;
	struct kc_keyref ref;
	enum kc_owner_kind owner_kind;
	struct key *keyring;
	char *keyring_spec;
	u64 meta_offset;
	unsigned int meta_cache;
	bool lazy;
	bool clone;
	bool wants_uuid;
	uuid_t uuid;

	unsigned int io_size;
	struct kc_crypt_pools pools;
	struct bio_set split_bs;
};

#endif
