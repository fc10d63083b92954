/* SPDX-License-Identifier: GPL-2.0 */
/* Making changes of the key map durable, and recovery. */
#ifndef _KC_JOURNAL_H
#define _KC_JOURNAL_H

#include <linux/workqueue.h>

#include "keymap.h"

/**
 * struct kc_waiter - who waits for a commit: a flush, a FUA write, a synchronous
 * caller
 * @list:	in kc_journal.waiters
 * @durable:	the commit is to be durable; else the waiter flushes the disk
 * @checkpoint:	wait for the whole map to be in place, with a clean journal
 * @check:	see whether another system has used the disk
 * @done:	called with 0 or a negative errno, and the number of the journal block
 *		that comes next: those before it are written.  Process context
 */
struct kc_waiter {
	struct list_head list;
	bool durable;
	bool checkpoint;
	bool check;
	void (*done)(struct kc_waiter *waiter, int error, u64 seq);
};

/**
 * struct kc_journal - the journal
 * @area:	where it is on disk
 * @map:	what it makes durable
 * @settled:	from kc_journal_setup()
 * @wq:		where @work runs
 * @lock:	protects all up to @kicked; taken in interrupts
 * @unlogged:	map blocks with changes not yet in the journal
 * @waiters:	who waits for a commit (struct kc_waiter.list)
 * @intents:	claims waiting for their intents (struct kc_claim.list)
 * @committing:	a commit is writing
 * @timed:	the timer has fired
 * @kicked:	the cache needs clean blocks
 * @nr_intents:	intents in the journal whose data is under way
 * @intents_ended: for these to be none
 * @flushes:	flushes from above under way, in two turns
 * @flush_turn:	the turn of those that come; changed by @work alone
 * @flushes_ended: for one of the turns to be none
 * @work:	commits and writes back; all below is its alone
 * @timer:	bounds how long a change rides in memory
 * @dirty:	map blocks with logged changes, by first_seq
 * @nr_dirty:	how many
 * @next_seq:	sequence number of the next journal block
 * @tail_seq:	of the first one still needed, as in the anchor on disk
 * @durable_seq: all blocks before it are on stable storage
 * @clean:	the anchor on disk says clean
 * @failed:	changes could not be logged, or a cache flush failed: no flush may
 *		succeed any more
 * @settling:	the journal blocks in @buf settle intents
 * @reclaiming:	the journal is being emptied, and may use its reserve
 * @buf:	KC_JOURNAL_BATCH area blocks
 * @fill:	area blocks of @buf in use, the last one perhaps in part
 * @snap:	KC_WRITEBACK_BATCH area blocks
 */
struct kc_journal {
	struct kc_area *area;
	struct kc_keymap *map;
	void (*settled)(struct kc_journal *j, struct kc_mapblk *mb);
	struct workqueue_struct *wq;

	spinlock_t lock;
	struct list_head unlogged;
	struct list_head waiters;
	struct list_head intents;
	bool committing;
	bool timed;
	bool kicked;
	atomic_t nr_intents;
	wait_queue_head_t intents_ended;
	atomic_t flushes[2];
	unsigned int flush_turn;
	wait_queue_head_t flushes_ended;

	struct work_struct work;
	struct delayed_work timer;
	struct list_head dirty;
	unsigned int nr_dirty;
	u64 next_seq;
	u64 tail_seq;
	atomic64_t durable_seq;
	bool clean;
	bool failed;
	bool settling;
	bool reclaiming;
	u8 *buf;
	unsigned int fill;
	u8 *snap;
};

void kc_journal_setup(struct kc_journal *j, struct kc_area *area, struct kc_keymap *map,
		      void (*settled)(struct kc_journal *j, struct kc_mapblk *mb));
int kc_journal_init(struct kc_journal *j);
int kc_journal_recover(struct kc_journal *j);
void kc_journal_exit(struct kc_journal *j);
void kc_journal_note(struct kc_journal *j, struct kc_mapblk *mb);
bool kc_journal_idle(struct kc_journal *j, u64 *seq);
bool kc_journal_durable(struct kc_journal *j);
void kc_journal_wait(struct kc_journal *j, struct kc_waiter *waiter);
void kc_journal_intend(struct kc_journal *j, struct kc_claim *claim);
void kc_journal_intent_ended(struct kc_journal *j);
void kc_journal_hurry(struct kc_journal *j);
int kc_journal_flushed(struct kc_journal *j, u64 seq);
unsigned int kc_journal_flush_begin(struct kc_journal *j);
void kc_journal_flush_end(struct kc_journal *j, unsigned int turn, bool failed);
void kc_journal_lost(struct kc_journal *j, int error);
int kc_journal_check(struct kc_journal *j);
int kc_journal_sync(struct kc_journal *j, bool checkpoint);
bool kc_journal_busy(struct kc_journal *j);
void kc_journal_kick(struct kc_journal *j);

#endif
