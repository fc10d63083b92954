/* SPDX-License-Identifier: GPL-2.0 */
/* Key derivation, sealed metadata, and sums of ciphertext. */
#ifndef _KC_SEAL_H
#define _KC_SEAL_H

#include <linux/rwsem.h>
#include <crypto/hash.h>

#include "format.h"

/**
 * struct kc_kdf - HKDF-SHA-512 after its extract step
 * @hmac:	keyed with the pseudorandom key
 */
struct kc_kdf {
	struct crypto_shash *hmac;
};

/**
 * struct kc_sealer - what seals the metadata
 * @sem:	held while the key is used or changed
 * @key:	sealing key
 * @sum_seed:	seed of the sums of intents
 * @ready:	both are there
 */
struct kc_sealer {
	struct rw_semaphore sem;
	u8 key[32];
	u64 sum_seed;
	bool ready;
};

int kc_kdf_init(struct kc_kdf *kdf, const u8 salt[KC_SALT_SIZE],
		const u8 *key, unsigned int key_size);
int kc_kdf_expand(struct kc_kdf *kdf, enum kc_kdf_context context,
		  const u8 uuid[KC_UUID_SIZE], u8 *out, unsigned int out_size);
void kc_kdf_exit(struct kc_kdf *kdf);
int kc_mac(const u8 *key, unsigned int key_size, const void *data,
	   unsigned int size, u8 mac[KC_MAC_SIZE]);

void kc_sealer_setup(struct kc_sealer *sealer);
int kc_sealer_init(struct kc_sealer *sealer, struct kc_kdf *kdf,
		   const u8 uuid[KC_UUID_SIZE]);
void kc_sealer_wipe(struct kc_sealer *sealer);
int kc_seal(struct kc_sealer *sealer, enum kc_kind kind, u64 area_sector, u8 *unit,
	    unsigned int size);
int kc_unseal(struct kc_sealer *sealer, enum kc_kind kind, u64 area_sector, u8 *unit,
	      unsigned int size);
int kc_unseal_to(struct kc_sealer *sealer, enum kc_kind kind, u64 area_sector,
		 const u8 *unit, unsigned int size, u8 *payload);
int kc_seal_block(struct kc_sealer *sealer, enum kc_kind kind, u64 area_block,
		  u8 *block);
int kc_unseal_block(struct kc_sealer *sealer, enum kc_kind kind, u64 area_block,
		    u8 *block);
u64 kc_sum(const struct kc_sealer *sealer, const void *block, unsigned int size);

#endif
