/* SPDX-License-Identifier: GPL-2.0 */
/* Tracepoints: keyed_crypt_io, keyed_crypt_key, keyed_crypt_commit. */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM keyed_crypt

#if !defined(_KC_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _KC_TRACE_H

#include <linux/device-mapper.h>
#include <linux/tracepoint.h>

#ifndef KC_TRACE_OWN
#define KC_TRACE_OWN		0	/* under the key it has */
#define KC_TRACE_CHANGE		1	/* under another key than before */
#define KC_TRACE_UNASSIGNED	2	/* zeros, no I/O */
#define KC_TRACE_LOCKED		3	/* key missing, no I/O */
#endif

TRACE_EVENT(keyed_crypt_io,
	TP_PROTO(struct mapped_device *md, bool write, u64 block,
		 unsigned int nr, u16 slot, u8 result),
	TP_ARGS(md, write, block, nr, slot, result),
	TP_STRUCT__entry(
		__field(dev_t, dev)
		__field(bool, write)
		__field(u64, block)
		__field(unsigned int, nr)
		__field(u16, slot)
		__field(u8, result)
	),
	TP_fast_assign(
		__entry->dev = disk_devt(dm_disk(md));
		__entry->write = write;
		__entry->block = block;
		__entry->nr = nr;
		__entry->slot = slot;
		__entry->result = result;
	),
	TP_printk("%d:%d %s block %llu count %u slot %u %s",
		  MAJOR(__entry->dev), MINOR(__entry->dev),
		  __entry->write ? "write" : "read", __entry->block,
		  __entry->nr, __entry->slot,
		  __print_symbolic(__entry->result,
				   { KC_TRACE_OWN, "own" },
				   { KC_TRACE_CHANGE, "change" },
				   { KC_TRACE_UNASSIGNED, "unassigned" },
				   { KC_TRACE_LOCKED, "locked" }))
);

TRACE_EVENT(keyed_crypt_key,
	TP_PROTO(struct mapped_device *md, u32 slot, u8 state),
	TP_ARGS(md, slot, state),
	TP_STRUCT__entry(
		__field(dev_t, dev)
		__field(u32, slot)
		__field(u8, state)
	),
	TP_fast_assign(
		__entry->dev = disk_devt(dm_disk(md));
		__entry->slot = slot;
		__entry->state = state;
	),
	TP_printk("%d:%d slot %u %s", MAJOR(__entry->dev), MINOR(__entry->dev),
		  __entry->slot,
		  __print_symbolic(__entry->state,
				   { KC_LOCKED, "locked" },
				   { KC_WRONG_KEY, "wrong-key" },
				   { KC_UNLOCKED, "unlocked" },
				   { KC_DESTROYED, "destroyed" }))
);

TRACE_EVENT(keyed_crypt_commit,
	TP_PROTO(struct mapped_device *md, u64 seq, unsigned int blocks, int error),
	TP_ARGS(md, seq, blocks, error),
	TP_STRUCT__entry(
		__field(dev_t, dev)
		__field(u64, seq)
		__field(unsigned int, blocks)
		__field(int, error)
	),
	TP_fast_assign(
		__entry->dev = disk_devt(dm_disk(md));
		__entry->seq = seq;
		__entry->blocks = blocks;
		__entry->error = error;
	),
	TP_printk("%d:%d seq %llu blocks %u error %d", MAJOR(__entry->dev),
		  MINOR(__entry->dev), __entry->seq, __entry->blocks,
		  __entry->error)
);

#endif

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
