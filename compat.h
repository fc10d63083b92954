/* SPDX-License-Identifier: GPL-2.0 */
/* Every difference between kernel versions, and nothing else. */
#ifndef _KC_COMPAT_H
#define _KC_COMPAT_H

#include <linux/version.h>
#include <linux/blkdev.h>
#include <linux/dm-io.h>
#include <linux/pagemap.h>
#include <linux/workqueue.h>
#include <crypto/skcipher.h>

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 1, 0)
#error "dm-keyed-crypt needs Linux 6.1 or later"
#endif

/* 6.5 made the open mode of a block device a type of its own. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 5, 0)
#define KC_MODE_WRITE	BLK_OPEN_WRITE
#else
#define KC_MODE_WRITE	FMODE_WRITE
#endif

/*
 * 6.9 gave dm_io() an I/O priority, and stable kernels back to 6.1 got it too; 7.x
 * tells errors and what is not supported apart.  Only its type tells: one that is
 * none of these does not compile.
 */
typedef int (*kc_dm_io_v1)(struct dm_io_request *, unsigned int,
			struct dm_io_region *, unsigned long *);
typedef int (*kc_dm_io_v2)(struct dm_io_request *, unsigned int,
			struct dm_io_region *, unsigned long *, unsigned short);
typedef int (*kc_dm_io_v3)(struct dm_io_request *, unsigned int,
			struct dm_io_region *, unsigned long *, unsigned long *,
			unsigned short);

static inline int kc_dm_io_call_v1(kc_dm_io_v1 fn, struct dm_io_request *req,
				   struct dm_io_region *where)
{
	return fn(req, 1, where, NULL);
}

static inline int kc_dm_io_call_v2(kc_dm_io_v2 fn, struct dm_io_request *req,
				   struct dm_io_region *where)
{
	return fn(req, 1, where, NULL, IOPRIO_DEFAULT);
}

static inline int kc_dm_io_call_v3(kc_dm_io_v3 fn, struct dm_io_request *req,
				   struct dm_io_region *where)
{
	return fn(req, 1, where, NULL, NULL, IOPRIO_DEFAULT);
}

#define kc_dm_io(req, where)						\
	_Generic(&dm_io,						\
		 kc_dm_io_v1: kc_dm_io_call_v1,				\
		 kc_dm_io_v2: kc_dm_io_call_v2,				\
		 kc_dm_io_v3: kc_dm_io_call_v3)(dm_io, req, where)

/*
 * The end of an asynchronous dm_io(): KC_DM_IO_DONE(name) after a function
 * void name(unsigned long error, void *context), and kc_dm_io_done(name) for
 * notify.fn.  What is not supported is an error as any other.
 */
typedef void (*kc_dm_io_done_v1)(unsigned long, void *);
typedef void (*kc_dm_io_done_v3)(unsigned long, unsigned long, void *);

#define KC_DM_IO_DONE(name)						\
	static void __maybe_unused					\
	name##_v3(unsigned long error, unsigned long unsupported,	\
		  void *context)					\
	{								\
		name(error | unsupported, context);			\
	}

#define kc_dm_io_done(name)						\
	_Generic((io_notify_fn)NULL,					\
		 kc_dm_io_done_v1: name,					\
		 kc_dm_io_done_v3: name##_v3)

/* 6.3 made the argument of a crypto completion what was its data field. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)
#define KC_CRYPTO_DONE(name, arg)	void name(void *arg, int error)
#define kc_crypto_data(arg)		(arg)
#else
#define KC_CRYPTO_DONE(name, arg) \
	void name(struct crypto_async_request *arg, int error)
#define kc_crypto_data(arg)		((arg)->data)
#endif

/*
 * The system's workqueue for work that may run anywhere has another name since 6.17,
 * and 7.2 warns of the old one.
 */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 18, 0)
#define kc_unbound_wq	system_dfl_wq
#else
#define kc_unbound_wq	system_unbound_wq
#endif

/* 6.12 moved unaligned access out of asm. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0)
#include <linux/unaligned.h>
#else
#include <asm/unaligned.h>
#endif

#endif
