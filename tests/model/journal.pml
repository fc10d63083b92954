/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The journal of dm-keyed-crypt, for spin: Documentation/journal.rst says what is
 * modelled and what is left out, tests/cases/02-model.t runs it.
 *
 * Two owners write two data blocks; power may go between any two steps. A step
 * is a d_step or atomic below, with the name of the function it stands for, and
 * has at most one write or flush of the disk.
 *
 * The disk has a volatile cache: of each place there is what reads return (_c)
 * and what is on the medium (_m). A write changes _c; when it is overwritten or
 * power goes, it may have reached the medium or not, each place by itself. A
 * flush makes the medium what the cache is, and a FUA write that for its place;
 * until it has completed it is in the cache as any other. Where several sectors
 * or blocks are written at once, each is a place of its own: writes are torn.
 *
 * Not power but only the kernel may go: then the cache stays (a warm start).
 *
 * -DTWO		each data block has a map block of its own; else both are
 *		sectors of one
 * -DSEPARATE	data and metadata are on two disks
 * -DWRITES=n	writes and discards, of both owners together
 * -DDISCARDS=n	discards among them
 * -DFUAS=n	FUA writes among them
 * -DPRESSURES=n	write-backs because the cache is full, and checkpoints
 * -DCRASHES=n	crashes, those in recovery included
 * -DBREAK_x	without one of the orderings, see there
 */

#ifndef WRITES
#define WRITES		3
#endif
#ifndef DISCARDS
#define DISCARDS	1
#endif
#ifndef FUAS
#define FUAS		1
#endif
#ifndef PRESSURES
#define PRESSURES	1
#endif
#ifndef CRASHES
#define CRASHES		2
#endif

#ifdef TWO
#define MB(b)		(b)	/* map block of a data block */
#else
#define MB(b)		0
#endif

#define J		4	/* blocks of the journal */

/* ---- the disk ---- */

byte data_c[2], data_m[2];	/* number of the write that made the content */
byte map_c[2], map_m[2];	/* key map: slots */
bool state_c[2], state_m[2];	/* map state, by map block */
#define NO_MAP		9	/* never written: not authentic */
int anchor_c, anchor_m;
int jrn_c[J], jrn_m[J];

#define ANCHOR(tail, dur, clean)	((tail) | (dur) << 8 | (clean) << 16)
#define A_TAIL(a)	((a) & 255)
#define A_DUR(a)	(((a) >> 8) & 255)
#define A_CLEAN(a)	((a) >> 16)

/*
 * A journal block has at most one record for each data block:
 *	0		none
 *	1 + slot	KC_RECORD_MAP
 *	8 + 4 * write + old	KC_RECORD_INTENT; the write stands for its checksum
 */
#define JBLOCK(seq, dur, r0, r1)	((seq) | (dur) << 8 | (r0) << 16 | (r1) << 22)
#define J_SEQ(j)	((j) & 255)
#define J_DUR(j)	(((j) >> 8) & 255)
#define J_REC(j, b)	(((j) >> (16 + 6 * (b))) & 63)
#define REC_MAP(slot)		(1 + (slot))
#define REC_INTENT(write, old)	(8 + 4 * (write) + (old))

inline put_data(b, v)
{
	if
	:: data_m[b] != data_c[b] -> data_m[b] = data_c[b]
	:: true
	fi;
	data_c[b] = v
}

inline put_map(b, v)
{
	if
	:: map_m[b] != map_c[b] -> map_m[b] = map_c[b]
	:: true
	fi;
	map_c[b] = v
}

inline flush_data_disk()
{
	data_m[0] = data_c[0]; data_m[1] = data_c[1]
}

inline flush_meta_disk()
{
	map_m[0] = map_c[0]; map_m[1] = map_c[1];
	state_m[0] = state_c[0]; state_m[1] = state_c[1];
	anchor_m = anchor_c;
	jrn_m[0] = jrn_c[0]; jrn_m[1] = jrn_c[1];
	jrn_m[2] = jrn_c[2]; jrn_m[3] = jrn_c[3]
}

/* A flush sent to the data device, or to the metadata device */
inline flush_data()
{
	flush_data_disk();
#ifndef SEPARATE
	flush_meta_disk();
#endif
}

inline flush_meta()
{
	flush_meta_disk();
#ifndef SEPARATE
	flush_data_disk();
#endif
}

/* ---- kc_keymap, kc_journal: gone with the power ---- */

byte entry[2];			/* kc_mapblk.entries */
bool unlogged[2];		/* kc_mapblk.unlogged */
bool unsettled[2];		/* kc_mapblk.unsettled */
bool mb_unlogged[2];		/* KC_MB_UNLOGGED, by map block */
bool mb_unsettled[2];		/* KC_MB_UNSETTLED */
bool mb_writing[2];		/* KC_MB_WRITING */
byte first_seq[2];		/* kc_mapblk.first_seq; 0: not KC_MB_DIRTY */
byte next_seq, tail_seq, durable_seq;
bool clean, committing, settling;
bool running;			/* recovered */

/* A write or discard under way, by owner */
mtype = { W_IDLE, W_DRAIN, W_INTENT, W_INTENT_TAKEN, W_READY, W_GO, W_SENT,
	  W_FUA, W_FUA_TAKEN };
mtype w_pc[2] = W_IDLE;
byte w_block[2], w_slot[2], w_write[2];
bool w_fua[2];
bool w_change[2];		/* its blocks are busy */
bool w_intent[2];		/* counts in kc_journal.live and kc_mapblk.intents */

/* A flush from above */
mtype = { F_IDLE, F_WAIT, F_TAKEN, F_SUBMIT, F_END };
mtype f_pc = F_IDLE;
byte f_seq;			/* kc_io.seq */
byte f_covers[2];		/* writes completed before it came */

/* The journal worker, and recovery */
mtype = { K_SCAN, K_REC_MAP, K_REC_STATE, K_REC_STATE_END, K_REC_END,
	  K_REC_CLEAN, K_CHECK,
	  K_IDLE, K_COMMIT, K_COMMIT_FLUSH, K_COMMIT_LOG, K_ANSWER,
	  K_JRN_DATA, K_JRN_PREFLUSH, K_JRN_PUT, K_JRN_END, K_ANCHOR,
	  K_INTENTS, K_GO, K_RECLAIM, K_RECLAIM_LOG, K_WRITEBACK,
	  K_WB_FLUSH, K_WB_STATE, K_WB_STATE_END, K_WB_ANCHOR, K_END };
mtype k_pc = K_SCAN;
mtype k_after_jrn = K_IDLE;	/* where kc_journal_write() returns to */
mtype k_after_anchor = K_IDLE;
mtype k_after_reclaim = K_IDLE;	/* K_IDLE: write-back is not from reclaim */
bool k_list[2];			/* map blocks on its own unlogged list */
bool k_durable, k_kicked, k_checkpoint;
bool k_jrn_durable;
byte k_jrn_seq;			/* durable_seq when kc_journal_write() began */
byte fill, buf[4];		/* kc_journal.fill, .buf: [2 * block + record] */
byte r_seq, r_durable;		/* recovery */
bool r_written, r_full;

#define OTHER(i)	(1 - (i))
#define BUSY(b)		((w_change[0] && w_block[0] == b) || \
			 (w_change[1] && w_block[1] == b))
#define DRAINING(mb)	((w_pc[0] == W_DRAIN && MB(w_block[0]) == mb) || \
			 (w_pc[1] == W_DRAIN && MB(w_block[1]) == mb))
#define RELIES(i, mb)	((w_pc[i] == W_GO || w_pc[i] == W_SENT) && \
			 !w_change[i] && MB(w_block[i]) == mb)
#define IO(mb)		(RELIES(0, mb) || RELIES(1, mb))
#define LIVE		(w_intent[0] || w_intent[1])
#ifdef BREAK_HELD	/* map blocks with intents are written back, too */
#define HELD(mb)	false
#else
#define HELD(mb)	(mb_unsettled[mb] || \
			 (w_intent[0] && MB(w_block[0]) == mb) || \
			 (w_intent[1] && MB(w_block[1]) == mb))
#endif
#define DIRTY(mb)	(first_seq[mb] && !mb_writing[mb])
#ifdef SEPARATE
#define SAME		false
#else
#define SAME		true
#endif

/* kc_journal_idle(), kc_journal_durable() */
#define JRN_LOGGED	(!mb_unlogged[0] && !mb_unlogged[1] && !committing)
#define JRN_IDLE	(JRN_LOGGED && (SAME || durable_seq == next_seq))
#define JRN_DURABLE	(JRN_LOGGED && durable_seq == next_seq)

/* ---- what has been promised ---- */

byte writes;			/* begun so far; numbers from 1 */
byte crashes, discards, fuas, pressures;
byte w_made[WRITES + 1];	/* by which slot; a discard is by slot 0 */
byte may[2];			/* writes that may be found after a crash, bits */
bool undefined[2];		/* anything may be: never written, or what made it
				   so was not yet flushed */
byte undefined_by[2];		/* number of the last first write or discard */
byte completed[2];		/* last completed write, until it is promised */

/* For one step only. spin makes them variables of C: they must not be named as its own. */
hidden byte h_i, h_b, h_w, h_n, h_rec;

/* A flush, or FUA, that covers write @w of block @b has been acknowledged. */
inline promise(b, w)
{
	if
	:: w ->
		may[b] = may[b] & ~((1 << w) - 1);
		if
		:: w >= undefined_by[b] -> undefined[b] = false; undefined_by[b] = 0
		:: else
		fi;
		completed[b] = (completed[b] == w -> 0 : completed[b])
	:: else
	fi
}

/* What is found: write @w is the content, and its key the entry. */
#define FITS(b, w)	((w_made[w] == 0 && entry[b] == 0) || \
			 (w_made[w] != 0 && entry[b] == w_made[w] && data_c[b] == w))
#define FINDS(b, w)	((may[b] & (1 << (w))) && FITS(b, w))

/* Guarantees 2, 3 and 4 after recovery. */
inline check(b)
{
	h_n = 0;
	h_w = 1;
	do
	:: h_w <= writes ->
		if
		:: FINDS(b, h_w) -> h_n = h_w
		:: else
		fi;
		h_w++
	:: else -> break
	od;
	assert(undefined[b] || h_n);
	/* From here on it is this one, unless another start finds the cache lost. */
	if
	:: undefined[b] ->
		undefined_by[b] = writes;
		completed[b] = 0;
		may[b] = 0
	:: else ->
		completed[b] = h_n;
		if
		:: data_c[b] == data_m[b] -> may[b] = 1 << h_n
		:: else
		fi
	fi
}

/* ---- a write or discard ---- */

/* kc_change_claim(): kc_claim_write(). A bio that would be parked comes later. */
#ifdef BREAK_UNSETTLED	/* unsettled blocks may be written again */
#define MAY_CLAIM(b)	(!BUSY(b) && !DRAINING(MB(b)))
#else
#define MAY_CLAIM(b)	(!BUSY(b) && !DRAINING(MB(b)) && !unsettled[b])
#endif

inline claim(i, b)
{
	writes++;
	w_block[i] = b;
	w_write[i] = writes;
	if
	:: w_slot[i] = i + 1; w_fua[i] = false
	:: fuas < FUAS -> fuas++; w_slot[i] = i + 1; w_fua[i] = true
	:: discards < DISCARDS -> discards++; w_slot[i] = 0; w_fua[i] = false
	fi;
	w_made[writes] = w_slot[i];
	if
	:: entry[b] == 0 || w_slot[i] == 0 ->
		undefined[b] = true;
		undefined_by[b] = writes;
		may[b] = 1 << writes
	:: else -> may[b] = may[b] | 1 << writes
	fi;
	if
	:: entry[b] == w_slot[i] && w_slot[i] -> w_pc[i] = W_GO	/* KC_CLAIM_OWN */
	:: entry[b] == 0 ->			/* KC_CLAIM_CHANGE */
		w_change[i] = true;
		w_pc[i] = W_GO
	:: else ->				/* KC_CLAIM_DRAIN */
		w_change[i] = true;
		w_pc[i] = W_DRAIN
	fi
#ifdef BREAK_ENTRY	/* the entry changes before the data is written */
	;
	if
	:: w_change[i] -> set(b, w_slot[i])
	:: else
	fi
#endif
}

/* kc_claim_set(), kc_journal_note() */
inline set(b, slot)
{
	if
	:: entry[b] != slot ->
		entry[b] = slot;
		unlogged[b] = true;
		mb_unlogged[MB(b)] = true
	:: else
	fi
}

/* kc_drain_work(): kc_claim_drain(), then kc_claim_assign() or kc_write_encrypted() */
#ifdef BREAK_DRAIN	/* does not wait for who relies on the entries */
#define MAY_DRAIN(mb)	true
#else
#define MAY_DRAIN(mb)	(!IO(mb))
#endif

inline drain(i)
{
	if
	:: w_slot[i] == 0 ->
		set(w_block[i], 0);
		w_pc[i] = W_GO
	:: else -> w_pc[i] = W_INTENT
	fi
}

/* kc_write_endio(): kc_write_end(), kc_claim_end_change() */
inline write_end(i)
{
	h_b = w_block[i];
	if
	:: w_fua[i] -> data_m[h_b] = data_c[h_b]
	:: else
	fi;
	h_w = (w_fua[i] && (w_change[i] || mb_unlogged[MB(h_b)] || first_seq[MB(h_b)]));
	if
	:: w_intent[i] ->
		unsettled[h_b] = true;
		mb_unsettled[MB(h_b)] = true;
		w_intent[i] = false
	:: else
	fi;
	if
	:: w_change[i] && w_slot[i] -> set(h_b, w_slot[i])
	:: else
	fi;
	w_change[i] = false;
	completed[h_b] = w_write[i];
	/* Guarantee 5, and 2 while running: the entry fits the content. */
	assert(entry[h_b] == w_slot[i]);
	assert(w_slot[i] == 0 || data_c[h_b] == w_write[i]);
#ifdef BREAK_FUA	/* a FUA write does not wait for the map */
	h_w = false;
#endif
	if
	:: h_w && !JRN_DURABLE -> w_pc[i] = W_FUA
	:: else -> write_ack(i)
	fi
}

inline write_ack(i)
{
	if
	:: w_fua[i] -> promise(w_block[i], w_write[i])
	:: else
	fi;
	w_pc[i] = W_IDLE;
	w_block[i] = 0; w_slot[i] = 0; w_write[i] = 0; w_fua[i] = false
}

/* ---- the journal ---- */

inline flushed(seq)		/* kc_journal_flushed() */
{
	if
	:: durable_seq < seq -> durable_seq = seq
	:: else
	fi
}

inline dirty(mb, seq)		/* kc_mapblk_dirty() */
{
	if
	:: !first_seq[mb] -> first_seq[mb] = seq
	:: else
	fi
}

/* kc_journal_log() of block @b into the last block of the buffer */
inline log(b)
{
	buf[2 * (fill - 1) + b] = REC_MAP(entry[b]);
	unlogged[b] = false
}

inline log_mapblk(mb, all)
{
	h_b = 0;
	do
	:: h_b < 2 ->
		if
		:: MB(h_b) == mb && unlogged[h_b] && (all || unsettled[h_b]) -> log(h_b)
		:: else
		fi;
		h_b++
	:: else -> break
	od;
	dirty(mb, next_seq + fill - 1);
	if
	:: mb_unsettled[mb] -> settling = true
	:: else
	fi
}

/* kc_journal_write(), which returns to @after */
inline journal_write(is_durable, after)
{
	k_jrn_durable = is_durable;
	k_jrn_seq = durable_seq;
	k_after_jrn = after;
	k_pc = K_JRN_DATA
}

/* kc_journal_anchor() */
inline journal_anchor(tail, is_clean, after)
{
	anchor_c = ANCHOR(tail, durable_seq, is_clean);
	k_after_anchor = after;
	k_pc = K_ANCHOR
}

inline settle(mb)		/* kc_mapblk_settle() */
{
	h_b = 0;
	h_n = 0;
	do
	:: h_b < 2 ->
		if
		:: MB(h_b) == mb ->
			unsettled[h_b] = unsettled[h_b] && unlogged[h_b];
			h_n = h_n + unsettled[h_b]
		:: else
		fi;
		h_b++
	:: else -> break
	od;
	if
	:: !h_n -> mb_unsettled[mb] = false
	:: else
	fi
}

/* kc_intent_log() of write @i */
inline intent_log(i)
{
	h_b = w_block[i];
	fill++;
	buf[2 * (fill - 1) + h_b] = REC_INTENT(w_write[i], entry[h_b]);
	dirty(MB(h_b), next_seq + fill - 1);
#ifndef BREAK_OLD	/* the old entry, if not logged yet, is logged behind the intent */
	unlogged[h_b] = false;
#endif
	w_intent[i] = true;
	w_pc[i] = W_READY
}

/* kc_replay_record() of block @b */
inline replay(b)
{
	h_rec = J_REC(jrn_c[r_seq % J], b);
	if
	:: h_rec == 0
	:: h_rec >= 8 ->		/* kc_replay_intent() */
		if
		:: data_c[b] == (h_rec - 8) / 4 -> entry[b] = w_made[(h_rec - 8) / 4]
		:: else -> entry[b] = (h_rec - 8) % 4
		fi;
		dirty(MB(b), r_seq)
	:: else ->
		entry[b] = h_rec - 1;
		dirty(MB(b), r_seq)
	fi
}

/* kc_journal_work() begins */
#define UNLOGGED	(mb_unlogged[0] || mb_unlogged[1])
#define ASKED		(f_pc == F_WAIT || w_pc[0] == W_FUA || w_pc[1] == W_FUA || \
			 w_pc[0] == W_INTENT || w_pc[1] == W_INTENT)

inline work()
{
	k_durable = k_durable || !SAME || w_pc[0] == W_FUA || w_pc[1] == W_FUA;
	if
	:: k_durable || k_kicked || f_pc == F_WAIT ->
		committing = true;
		k_list[0] = mb_unlogged[0];
		k_list[1] = mb_unlogged[1];
		k_pc = K_COMMIT
	:: else -> k_pc = K_INTENTS
	fi;
	f_pc = (f_pc == F_WAIT -> F_TAKEN : f_pc);
	w_pc[0] = (w_pc[0] == W_FUA -> W_FUA_TAKEN :
		   (w_pc[0] == W_INTENT -> W_INTENT_TAKEN : w_pc[0]));
	w_pc[1] = (w_pc[1] == W_FUA -> W_FUA_TAKEN :
		   (w_pc[1] == W_INTENT -> W_INTENT_TAKEN : w_pc[1]))
}

/* ---- power ---- */

inline lose_byte(c, m)
{
	if
	:: c != m -> if :: m = c :: c = m fi
	:: else
	fi
}

inline power_cut()
{
	lose_byte(data_c[0], data_m[0]);
	lose_byte(data_c[1], data_m[1]);
	lose_byte(map_c[0], map_m[0]);
	lose_byte(map_c[1], map_m[1]);
	lose_byte(state_c[0], state_m[0]);
	lose_byte(state_c[1], state_m[1]);
	lose_byte(anchor_c, anchor_m);
	lose_byte(jrn_c[0], jrn_m[0]);
	lose_byte(jrn_c[1], jrn_m[1]);
	lose_byte(jrn_c[2], jrn_m[2]);
	lose_byte(jrn_c[3], jrn_m[3])
}

/* Nothing in memory is left; kc_journal_recover() begins. */
inline restart()
{
	d_step {
	h_b = 0;
	do
	:: h_b < 2 ->
		unlogged[h_b] = false; unsettled[h_b] = false;
		mb_unlogged[h_b] = false; mb_unsettled[h_b] = false;
		mb_writing[h_b] = false; first_seq[h_b] = 0;
		w_pc[h_b] = W_IDLE; w_block[h_b] = 0; w_slot[h_b] = 0; w_write[h_b] = 0;
		w_fua[h_b] = false; w_change[h_b] = false; w_intent[h_b] = false;
		f_covers[h_b] = 0; k_list[h_b] = false;
		buf[2 * h_b] = 0; buf[2 * h_b + 1] = 0;
		/* kc_mapblk_load() */
		entry[h_b] = (state_c[MB(h_b)] -> map_c[h_b] : 0);
		assert(entry[h_b] != NO_MAP);
		h_b++
	:: else -> break
	od;
	running = false;
	fill = 0; f_pc = F_IDLE; f_seq = 0; settling = false; committing = false;
	k_durable = false; k_kicked = false; k_checkpoint = false;
	k_jrn_durable = false; k_jrn_seq = 0;
	k_after_jrn = K_IDLE; k_after_anchor = K_IDLE; k_after_reclaim = K_IDLE;
	r_written = false; r_full = false;
	/* kc_area_read_anchor() */
	tail_seq = A_TAIL(anchor_c);
	durable_seq = A_DUR(anchor_c);
	assert(tail_seq <= durable_seq && durable_seq - tail_seq <= J);
	next_seq = durable_seq;
	clean = A_CLEAN(anchor_c);
	if
	:: clean ->
		r_seq = 0; r_durable = 0;
		k_pc = K_CHECK
	:: else ->
		r_seq = tail_seq; r_durable = durable_seq;
		k_pc = K_SCAN
	fi
	}
}

active proctype kc()
{
	d_step {
		/* kc_area_format() */
		anchor_c = ANCHOR(1, 1, 1);
		anchor_m = anchor_c;
		map_c[0] = NO_MAP; map_m[0] = NO_MAP;
		map_c[1] = NO_MAP; map_m[1] = NO_MAP;
		undefined[0] = true;
		undefined[1] = true
	};
	restart();

	do
	/* ---- power may go at any time ---- */
	:: atomic { crashes < CRASHES -> crashes++; power_cut(); restart() }
	:: atomic { crashes < CRASHES -> crashes++; restart() }	/* warm */

	/* ---- kc_journal_recover(): kc_journal_scan(), kc_journal_replay() ---- */
	:: d_step { k_pc == K_SCAN && r_seq - tail_seq < J &&
		    J_SEQ(jrn_c[r_seq % J]) == r_seq && !r_full ->
		replay(0);
		replay(1);
		if
		:: r_durable < J_DUR(jrn_c[r_seq % J]) -> r_durable = J_DUR(jrn_c[r_seq % J])
		:: else
		fi;
		r_seq++
	   }
	/* kc_replay_record(): once the cache has no room */
	:: atomic { k_pc == K_SCAN && (first_seq[0] || first_seq[1]) && !r_written &&
		    J_SEQ(jrn_c[r_seq % J]) == r_seq ->
		r_written = true;
		r_full = true;
		k_pc = K_REC_MAP
	   }
	:: d_step { k_pc == K_SCAN && !r_full &&
		    (r_seq - tail_seq >= J || J_SEQ(jrn_c[r_seq % J]) != r_seq) ->
		h_n = 0;
		do
		:: h_n < J ->
			if
			:: J_SEQ(jrn_c[h_n]) > r_seq && J_DUR(jrn_c[h_n]) > r_durable ->
				r_durable = J_DUR(jrn_c[h_n])
			:: else
			fi;
			h_n++
		:: else -> break
		od;
		/* kc_journal_scan(): "journal block is damaged" */
		assert(r_seq >= r_durable);
		k_pc = K_REC_MAP
	   }
	/* kc_writeback() */
	:: atomic { k_pc == K_REC_MAP ->
		if
		:: first_seq[MB(0)] -> put_map(0, entry[0])
		:: else
		fi;
		if
		:: first_seq[MB(1)] -> put_map(1, entry[1])
		:: else
		fi;
		k_pc = K_REC_STATE
	   }
	:: d_step { k_pc == K_REC_STATE ->
		if
		:: first_seq[0] || first_seq[1] -> flush_meta()
		:: else
		fi;
		k_pc = K_REC_STATE_END
	   }
	:: d_step { k_pc == K_REC_STATE_END && ((first_seq[0] && !state_c[0]) ||
						(first_seq[1] && !state_c[1])) ->
		state_c[0] = state_c[0] || first_seq[0];
		state_c[1] = state_c[1] || first_seq[1]
	   }
	:: d_step { k_pc == K_REC_STATE_END && (!first_seq[0] || state_c[0]) &&
		    (!first_seq[1] || state_c[1]) ->
		state_m[0] = state_c[0];
		state_m[1] = state_c[1];
		first_seq[0] = 0;
		first_seq[1] = 0;
		if
		:: r_full -> r_full = false; k_pc = K_SCAN
		:: else -> k_pc = K_REC_END
		fi
	   }
	:: d_step { k_pc == K_REC_END ->
#ifndef BREAK_RECOVERY	/* the data recovery has looked at is not made durable */
		flush_data();
#endif
		k_pc = K_REC_CLEAN
	   }
	:: d_step { k_pc == K_REC_CLEAN ->
#ifdef BREAK_SKIP	/* the new journal begins where the old one ended */
		next_seq = r_seq;
#else
		next_seq = r_seq + J;
#endif
		durable_seq = next_seq;
		r_seq = 0; r_durable = 0; r_written = false;
		journal_anchor(next_seq, 1, K_CHECK)
	   }
	:: d_step { k_pc == K_CHECK && crashes < CRASHES ->
		check(0);
		check(1);
		running = true;
		k_pc = K_IDLE
	   }
	:: d_step { k_pc == K_CHECK && crashes == CRASHES -> check(0); check(1) } -> break

	/* ---- writes and discards; the first is owner 0's, to block 0: all else is the same ---- */
	:: atomic { running && writes < WRITES &&
		    w_pc[0] == W_IDLE && MAY_CLAIM(0) -> claim(0, 0) }
	:: atomic { running && writes < WRITES &&
		    writes && w_pc[1] == W_IDLE && MAY_CLAIM(0) -> claim(1, 0) }
	:: atomic { running && writes < WRITES &&
		    writes && w_pc[0] == W_IDLE && MAY_CLAIM(1) -> claim(0, 1) }
	:: atomic { running && writes < WRITES &&
		    writes && w_pc[1] == W_IDLE && MAY_CLAIM(1) -> claim(1, 1) }
	:: d_step { w_pc[0] == W_DRAIN && MAY_DRAIN(MB(w_block[0])) -> drain(0) }
	:: d_step { w_pc[1] == W_DRAIN && MAY_DRAIN(MB(w_block[1])) -> drain(1) }
	/* kc_write_go(): the data reaches the disk */
	:: atomic { w_pc[0] == W_GO -> put_data(w_block[0], w_write[0]); w_pc[0] = W_SENT }
	:: atomic { w_pc[1] == W_GO -> put_data(w_block[1], w_write[1]); w_pc[1] = W_SENT }
	:: d_step { w_pc[0] == W_SENT -> write_end(0) }
	:: d_step { w_pc[1] == W_SENT -> write_end(1) }

	/* ---- a flush from above: kc_flush_map(), kc_flush_endio() ---- */
	:: d_step { f_pc == F_IDLE && running &&
		    (completed[0] || completed[1]) ->
		f_covers[0] = completed[0];
		f_covers[1] = completed[1];
		f_seq = 0;
		if
#ifdef BREAK_FLUSH	/* does not wait for the map */
		:: true -> f_pc = F_SUBMIT
#else
		:: JRN_IDLE -> f_pc = F_SUBMIT
		:: else -> f_pc = F_WAIT
#endif
		fi
	   }
	:: d_step { f_pc == F_SUBMIT -> flush_data(); f_pc = F_END }
	:: d_step { f_pc == F_END ->
		flushed(f_seq);
		promise(0, f_covers[0]);
		promise(1, f_covers[1]);
		f_covers[0] = 0; f_covers[1] = 0; f_seq = 0;
		f_pc = F_IDLE
	   }

	/* ---- kc_journal_work() ---- */
	/* somebody asks; the timer fires; the cache needs room; a checkpoint */
	:: d_step { k_pc == K_IDLE && ASKED -> work() }
	:: d_step { k_pc == K_IDLE && (UNLOGGED || durable_seq != next_seq) ->
		k_durable = true;
		work()
	   }
	:: d_step { k_pc == K_IDLE && (UNLOGGED || DIRTY(0) || DIRTY(1)) && pressures < PRESSURES ->
		pressures++;
		k_kicked = true;
		work()
	   }
	:: d_step { k_pc == K_IDLE && (UNLOGGED || !clean) && pressures < PRESSURES ->
		pressures++;
		k_durable = true;
		k_checkpoint = true;
		work()
	   }
	/* or all is done */
	:: k_pc == K_IDLE && !UNLOGGED && durable_seq == next_seq && f_pc == F_IDLE &&
	   w_pc[0] == W_IDLE && w_pc[1] == W_IDLE -> break
	/* kc_commit() */
	:: d_step { k_pc == K_COMMIT ->
		if
		:: !k_list[0] && !k_list[1] ->
			k_pc = (k_durable && durable_seq != next_seq -> K_COMMIT_FLUSH : K_ANSWER)
		:: else ->
			if	/* kc_journal_begin() */
			:: clean -> journal_anchor(tail_seq, 0, K_COMMIT_LOG)
			:: else -> k_pc = K_COMMIT_LOG
			fi
		fi
	   }
	:: d_step { k_pc == K_COMMIT_FLUSH ->
		flush_meta();
		flushed(next_seq);
		k_pc = K_ANSWER
	   }
	:: d_step { k_pc == K_COMMIT_LOG ->
		if	/* kc_journal_reserve() */
		:: next_seq - tail_seq >= J - J / 4 ->
			k_after_reclaim = K_COMMIT_LOG;
			k_pc = K_RECLAIM
		:: else ->
			fill = 1;
			if
			:: k_list[0] -> log_mapblk(0, true); mb_unlogged[0] = false
			:: else
			fi;
			if
			:: k_list[1] -> log_mapblk(1, true); mb_unlogged[1] = false
			:: else
			fi;
			k_list[0] = false;
			k_list[1] = false;
			journal_write(k_durable, K_ANSWER)
		fi
	   }
	/* kc_journal_answer() */
	:: d_step { k_pc == K_ANSWER ->
		committing = false;
		k_durable = false;
		if
		:: f_pc == F_TAKEN -> f_seq = next_seq; f_pc = F_SUBMIT
		:: else
		fi;
		if
		:: w_pc[0] == W_FUA_TAKEN -> write_ack(0)
		:: else
		fi;
		if
		:: w_pc[1] == W_FUA_TAKEN -> write_ack(1)
		:: else
		fi;
		k_pc = K_INTENTS
	   }

	/* kc_journal_write() */
	:: d_step { k_pc == K_JRN_DATA ->
#if defined(SEPARATE) && !defined(BREAK_SETTLE)
		if
		:: settling -> flush_data()
		:: else
		fi;
#endif
		k_pc = K_JRN_PREFLUSH
	   }
	:: d_step { k_pc == K_JRN_PREFLUSH ->
		if
#ifndef BREAK_SETTLE	/* what settles intents does not make the data durable first */
		:: settling -> flush_meta()
#endif
		:: k_jrn_durable && k_jrn_seq != next_seq -> flush_meta()
		:: else
		fi;
		k_pc = K_JRN_PUT
	   }
	:: d_step { k_pc == K_JRN_PUT ->
		/* there is room, as the tail on the medium says */
		assert(next_seq + fill - tail_seq <= J);
		jrn_c[next_seq % J] = JBLOCK(next_seq, k_jrn_seq, buf[0], buf[1]);
		if
		:: fill == 2 ->
			jrn_c[(next_seq + 1) % J] = JBLOCK(next_seq + 1, k_jrn_seq, buf[2], buf[3])
		:: else
		fi;
		k_pc = K_JRN_END
	   }
	:: d_step { k_pc == K_JRN_END ->
		if
		:: k_jrn_durable || settling ->
			jrn_m[next_seq % J] = jrn_c[next_seq % J];
			if
			:: fill == 2 -> jrn_m[(next_seq + 1) % J] = jrn_c[(next_seq + 1) % J]
			:: else
			fi;
			flushed(next_seq + fill)
		:: else
		fi;
		next_seq = next_seq + fill;
		fill = 0;
		buf[0] = 0; buf[1] = 0; buf[2] = 0; buf[3] = 0;
		if
		:: settling ->		/* kc_journal_settled() */
			settle(0);
			settle(1);
			settling = false
		:: else
		fi;
		k_jrn_durable = false;
		k_jrn_seq = 0;
		k_pc = k_after_jrn;
		k_after_jrn = K_IDLE
	   }

	/* kc_journal_anchor(): kc_area_write_anchor() has ended */
	:: d_step { k_pc == K_ANCHOR ->
		if
#ifdef BREAK_ANCHOR	/* the first commit does not wait for the anchor */
		:: A_CLEAN(anchor_m) && !A_CLEAN(anchor_c) -> skip
#endif
#ifdef BREAK_REUSE	/* space before the tail is used before the anchor is durable */
		:: !A_CLEAN(anchor_m) && !A_CLEAN(anchor_c) -> skip
#endif
		:: else -> anchor_m = anchor_c
		fi;
		tail_seq = A_TAIL(anchor_c);
		clean = A_CLEAN(anchor_c);
		k_pc = k_after_anchor;
		k_after_anchor = K_IDLE
	   }

	/* kc_intents() */
	:: d_step { k_pc == K_INTENTS &&
		    (w_pc[0] == W_INTENT_TAKEN || w_pc[1] == W_INTENT_TAKEN) ->
		h_i = (w_pc[0] == W_INTENT_TAKEN -> 0 : 1);
		if
		:: clean -> journal_anchor(tail_seq, 0, K_INTENTS)
		:: !clean && next_seq + fill - tail_seq + 1 > J / 2 ->
			if
			:: fill -> journal_write(true, K_GO)
			:: else -> k_after_reclaim = K_INTENTS; k_pc = K_RECLAIM
			fi
		:: else ->
			if	/* kc_journal_reserve(): a write does not wrap */
			:: fill && (next_seq + fill) % J == 0 -> journal_write(false, K_INTENTS)
			:: else -> intent_log(h_i)
			fi
		fi
	   }
	:: d_step { k_pc == K_INTENTS &&
		    w_pc[0] != W_INTENT_TAKEN && w_pc[1] != W_INTENT_TAKEN ->
		if
#ifdef BREAK_INTENT	/* the data is sent before its intent is durable */
		:: fill -> journal_write(false, K_GO)
#else
		:: fill -> journal_write(true, K_GO)
#endif
		:: else -> k_pc = K_GO
		fi
	   }
	/* kc_intents_go() */
	:: d_step { k_pc == K_GO ->
		w_pc[0] = (w_pc[0] == W_READY -> W_GO : w_pc[0]);
		w_pc[1] = (w_pc[1] == W_READY -> W_GO : w_pc[1]);
		k_pc = ((w_pc[0] == W_INTENT_TAKEN || w_pc[1] == W_INTENT_TAKEN) ->
			K_INTENTS : K_WRITEBACK)
	   }

	/* kc_journal_reclaim() */
	:: d_step { k_pc == K_RECLAIM && !LIVE ->
		if
		:: (unsettled[0] && unlogged[0]) || (unsettled[1] && unlogged[1]) ->
			fill = 1;
			if
			:: mb_unsettled[0] -> log_mapblk(0, false)
			:: else
			fi;
			if
			:: mb_unsettled[1] -> log_mapblk(1, false)
			:: else
			fi;
			journal_write(true, K_WRITEBACK)
		:: else -> k_pc = K_WRITEBACK
		fi
	   }

	/* kc_writeback(): kc_snapshot(), kc_write_snapshots() */
	:: atomic { k_pc == K_WRITEBACK ->
		if
		:: ((k_after_reclaim != K_IDLE) || k_checkpoint || k_kicked ||
		    next_seq - tail_seq > J / 2) &&
		   ((DIRTY(0) && !HELD(0)) || (DIRTY(1) && !HELD(1))) ->
			mb_writing[0] = DIRTY(0) && !HELD(0);
			mb_writing[1] = DIRTY(1) && !HELD(1);
			if
			:: mb_writing[MB(0)] -> put_map(0, entry[0])
			:: else
			fi;
			if
			:: mb_writing[MB(1)] -> put_map(1, entry[1])
			:: else
			fi;
#ifdef BREAK_STATE	/* the map state says too early that a map block was written */
			state_c[0] = state_c[0] || mb_writing[0];
			state_c[1] = state_c[1] || mb_writing[1];
			state_m[0] = state_c[0];
			state_m[1] = state_c[1];
#endif
			k_pc = K_WB_FLUSH
		:: else ->
			if
			:: k_after_reclaim != K_IDLE ->
				k_pc = k_after_reclaim;
				k_after_reclaim = K_IDLE
			:: else -> k_pc = K_END
			fi
		fi
	   }
	:: d_step { k_pc == K_WB_FLUSH ->
#ifndef BREAK_TAIL	/* the tail moves before the map blocks are durable */
		flush_meta();
		flushed(next_seq);
#endif
		k_pc = K_WB_STATE
	   }
	:: d_step { k_pc == K_WB_STATE ->
		state_c[0] = state_c[0] || mb_writing[0];
		state_c[1] = state_c[1] || mb_writing[1];
		k_pc = K_WB_STATE_END
	   }
	:: d_step { k_pc == K_WB_STATE_END ->
		state_m[0] = state_c[0];
		state_m[1] = state_c[1];
		first_seq[0] = (mb_writing[0] -> 0 : first_seq[0]);
		first_seq[1] = (mb_writing[1] -> 0 : first_seq[1]);
		mb_writing[0] = false;
		mb_writing[1] = false;
		k_pc = K_WB_ANCHOR
	   }
	:: d_step { k_pc == K_WB_ANCHOR ->
		h_w = next_seq;
		if
		:: first_seq[0] && first_seq[0] < h_w -> h_w = first_seq[0]
		:: else
		fi;
		if
		:: first_seq[1] && first_seq[1] < h_w -> h_w = first_seq[1]
		:: else
		fi;
		if
		:: h_w != tail_seq -> journal_anchor(h_w, 0, K_WRITEBACK)
		:: else -> k_pc = K_WRITEBACK
		fi
	   }

	/* kc_journal_work(): the end */
	:: d_step { k_pc == K_END ->
		h_w = k_checkpoint && !first_seq[0] && !first_seq[1] && !clean;
		k_kicked = false;
		k_checkpoint = false;
		if
		:: h_w -> journal_anchor(next_seq, 1, K_IDLE)
		:: else -> k_pc = K_IDLE
		fi
	   }
	od
}
