/* SPDX-License-Identifier: GPL-2.0 */
/* What allocates memory, which differs between kernel versions; and nothing else. */
#ifndef _FAILINJECT_COMPAT_H
#define _FAILINJECT_COMPAT_H

#include <linux/version.h>

/**
 * struct fail_function - a function through which memory is allocated
 * @name: its name
 * @gfp: which of its arguments has the flags, counted from 0
 * @result: what it returns when there is no memory
 */
struct fail_function {
	const char *name;
	unsigned int gfp;
	unsigned long result;
};

/* The kinds of kmalloc() may have more arguments between the size and the flags. */
#define FAIL_TOKEN	IS_ENABLED(CONFIG_KMALLOC_PARTITION_CACHES)
#define FAIL_BUCKET	(IS_ENABLED(CONFIG_SLAB_BUCKETS) + FAIL_TOKEN)

/* 6.11 left out the hooks for fault injection where that is not configured. */
static const struct fail_function fail_functions[] = {
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 11, 0) || defined(CONFIG_FAILSLAB)
	{ "should_failslab", 1, -ENOMEM },
#else
	{ "kmem_cache_alloc_noprof", 1, 0 },
	{ "kmem_cache_alloc_lru_noprof", 2, 0 },
	{ "kmem_cache_alloc_node_noprof", 1, 0 },
	{ "kmem_cache_alloc_bulk_noprof", 1, 0 },
	{ "__kmalloc_noprof", 1 + FAIL_TOKEN, 0 },
	{ "__kmalloc_node_noprof", 1 + FAIL_BUCKET, 0 },
	{ "__kmalloc_node_track_caller_noprof", 1 + FAIL_BUCKET, 0 },
	{ "__kmalloc_cache_noprof", 1, 0 },
	{ "__kmalloc_cache_node_noprof", 1, 0 },
	/* Since kvmalloc() takes an alignment it calls none of these. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 18, 0)
	{ "__kvmalloc_node_noprof", 2 + FAIL_BUCKET, 0 },
#endif
#endif
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 11, 0) || defined(CONFIG_FAIL_PAGE_ALLOC)
	{ "should_fail_alloc_page", 0, true },
#else
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 14, 0)
	{ "__alloc_frozen_pages_noprof", 0, 0 },
#else
	{ "__alloc_pages_noprof", 0, 0 },
#endif
	{ "alloc_pages_bulk_noprof", 0, 0 },
#endif
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 10, 0)
	{ "pcpu_alloc", 3, 0 },
#else
	{ "pcpu_alloc_noprof", 3, 0 },
#endif
};

#endif
