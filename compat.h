/* SPDX-License-Identifier: GPL-2.0 */
/* Every difference between kernel versions, and nothing else. */
#ifndef _KC_COMPAT_H
#define _KC_COMPAT_H

#include <linux/version.h>
#include <linux/blkdev.h>
#include <linux/dm-io.h>
#include <linux/pagemap.h>
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
 * 6.9 gave dm_io() an I/O priority, and stable kernels back to 6.1 got it too:
 * only its type tells.
 */
typedef int (*kc_dm_io_old)(struct dm_io_request *, unsigned int,
			    struct dm_io_region *, unsigned long *);
typedef int (*kc_dm_io_new)(struct dm_io_request *, unsigned int,
			    struct dm_io_region *, unsigned long *,
			    unsigned short);

static inline int kc_dm_io(struct dm_io_request *req, struct dm_io_region *where)
{
	void *fn = dm_io;

	if (__builtin_types_compatible_p(typeof(&dm_io), kc_dm_io_old))
		return ((kc_dm_io_old)fn)(req, 1, where, NULL);
	return ((kc_dm_io_new)fn)(req, 1, where, NULL, IOPRIO_DEFAULT);
}

/* 6.3 made the argument of a crypto completion what was its data field. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)
#define KC_CRYPTO_DONE(name, arg)	void name(void *arg, int error)
#define kc_crypto_data(arg)		(arg)
#else
#define KC_CRYPTO_DONE(name, arg) \
	void name(struct crypto_async_request *arg, int error)
#define kc_crypto_data(arg)		((arg)->data)
#endif

/* 6.12 moved unaligned access out of asm. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0)
#include <linux/unaligned.h>
#else
#include <asm/unaligned.h>
#endif

#endif
