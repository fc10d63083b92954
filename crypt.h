/* SPDX-License-Identifier: GPL-2.0 */
/* Blocks in, ciphertext out. */
#ifndef _KC_CRYPT_H
#define _KC_CRYPT_H

#include <linux/bio.h>
#include <linux/mempool.h>
#include <linux/mutex.h>
#include <linux/percpu_counter.h>
#include <linux/scatterlist.h>
#include <linux/workqueue.h>
#include <crypto/skcipher.h>

#include "iv.h"
#include "keyslot.h"

struct kc_page_cache;

/**
 * struct kc_crypt - what the conversions of a device share
 * @cipher:	the cipher
 * @block_size:	unit of encryption in bytes
 * @block_shift: log2 of it in sectors
 * @iv_large_sectors: IVs count blocks, not sectors
 * @iv_offset:	in sectors
 * @wq:		conversion by other processors, or that cannot be done where a read
 *		completed
 * @page_cache:	bounce pages for the next writes
 * @nr_pages:	bounce pages in use or kept
 */
struct kc_crypt {
	struct kc_cipher cipher;
	unsigned int block_size;
	unsigned int block_shift;
	bool iv_large_sectors;
	u64 iv_offset;
	struct workqueue_struct *wq;
	struct kc_page_cache __percpu *page_cache;
	struct percpu_counter nr_pages;
};

/**
 * struct kc_crypt_pools - what the conversions of a table never wait for in vain
 * @reqsize:	request context of a transform, in bytes
 * @bios:	bios of bounce pages
 * @reqs:	further requests, for asynchronous ciphers
 * @pages:	bounce pages
 * @page_lock:	one allocator at a time may wait for @pages
 */
struct kc_crypt_pools {
	unsigned int reqsize;
	struct bio_set bios;
	mempool_t reqs;
	mempool_t pages;
	struct mutex page_lock;
};

/**
 * struct kc_req - one block under way in the crypto API
 * @conv:	whose it is
 * @pooled:	from the pool, to be freed
 * @sg_in:	source
 * @sg_out:	destination
 * @iv:		initialization vector
 * @req:	with the transform's context behind it
 */
struct kc_req {
	struct kc_conv *conv;
	bool pooled;
	struct scatterlist sg_in;
	struct scatterlist sg_out;
	u8 iv[KC_MAX_IV_SIZE] __aligned(CRYPTO_MINALIGN);
	struct skcipher_request req;
};

/**
 * struct kc_part - a conversion, or a part of it
 * @conv:	whose it is
 * @next:	further parts; of a conversion's own part, NULL if there are none
 * @nr:		blocks
 * @handed:	of these, the ones an asynchronous driver has got
 * @large:	counted among the large conversions
 * @req_used:	the crypto API may still have @req
 * @work:	conversion elsewhere
 * @in:		what is left of the source
 * @out:	and of the destination
 * @sector:	and the IV's sector number
 * @req:	first request; the transform's context lies behind
 */
struct kc_part {
	struct kc_conv *conv;
	struct kc_part *next;
	unsigned int nr;
	unsigned int handed;
	bool large;
	bool req_used;
	struct work_struct work;
	struct bvec_iter in;
	struct bvec_iter out;
	u64 sector;
	struct kc_req req;	/* last */
};

/* Pages of a write whose bio need not be allocated. */
#define KC_SMALL_VECS	4

/**
 * struct kc_conv - a conversion: encryption into bounce pages, or decryption in place
 * @crypt:	of the device
 * @pools:	of the table
 * @ks:		the key
 * @src:	the source
 * @dst:	the destination; @src when it is decrypted
 * @block:	first data block
 * @done:	called when it is done and was not at once
 * @status:	how it went
 * @pending:	blocks and parts not yet converted
 * @work:	for @done
 * @cpu:	whose bounce pages it has
 * @small_bio:	@dst of a small write
 * @small_vecs:	its pages
 * @part:	all of it or the first part
 */
struct kc_conv {
	struct kc_crypt *crypt;
	struct kc_crypt_pools *pools;
	struct kc_keyslot *ks;
	struct bio *src;
	struct bio *dst;
	u64 block;
	void (*done)(struct kc_conv *conv);
	blk_status_t status;
	atomic_t pending;
	struct work_struct work;
	unsigned int cpu;
	struct bio small_bio;
	struct bio_vec small_vecs[KC_SMALL_VECS];
	struct kc_part part;	/* last */
};

int kc_crypt_init(struct kc_crypt *crypt);
void kc_crypt_exit(struct kc_crypt *crypt);
void kc_crypt_trim(struct kc_crypt *crypt, bool all);
int kc_crypt_pools_init(struct kc_crypt_pools *pools, struct kc_crypt *crypt,
			unsigned int reqsize);
void kc_crypt_pools_exit(struct kc_crypt_pools *pools);
void kc_bounce_alloc(struct kc_conv *conv, struct block_device *bdev);
void kc_bounce_free(struct kc_conv *conv);
bool kc_encrypt(struct kc_conv *conv);
bool kc_decrypt(struct kc_conv *conv);

/**
 * kc_conv_read() - a bio is to be read, and decrypted when it has been
 * @conv:	the conversion
 * @bio:	the bio, before it goes down
 *
 * Any context.
 */
static inline void kc_conv_read(struct kc_conv *conv, struct bio *bio)
{
	conv->src = bio;
	conv->dst = bio;
	conv->part.in = bio->bi_iter;
}

#endif
