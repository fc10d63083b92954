// SPDX-License-Identifier: GPL-2.0
/*
 * Key derivation and sealing.
 *
 * All keys of the format come from the device key by HKDF-SHA-512 (RFC 5869)
 * with the superblock's salt; a key's check value is derived the same way, so
 * it says nothing about the key and equal keys have equal check values.  Metadata
 * is sealed with XChaCha20-Poly1305: its 192-bit nonces may be random without
 * counting writes, and it is as fast without AES instructions.
 */

#include <linux/random.h>
#include <linux/xxhash.h>
#include <crypto/chacha20poly1305.h>

#include "compat.h"
#include "seal.h"

#define KC_HMAC_SIZE	64

/**
 * kc_kdf_init() - HKDF extract
 * @kdf:	result, to be ended with kc_kdf_exit()
 * @salt:	the superblock's salt
 * @key:	input key material
 * @key_size:	its size in bytes
 *
 * May sleep.
 * Return: 0 or a negative errno.
 */
int kc_kdf_init(struct kc_kdf *kdf, const u8 salt[KC_SALT_SIZE],
		const u8 *key, unsigned int key_size)
{
	u8 prk[KC_HMAC_SIZE];
	int r;

	kdf->hmac = crypto_alloc_shash("hmac(sha512)", 0, 0);
	if (IS_ERR(kdf->hmac)) {
		r = PTR_ERR(kdf->hmac);
		kdf->hmac = NULL;
		return r;
	}
	r = crypto_shash_setkey(kdf->hmac, salt, KC_SALT_SIZE);
	if (!r)
		r = crypto_shash_tfm_digest(kdf->hmac, key, key_size, prk);
	if (!r)
		r = crypto_shash_setkey(kdf->hmac, prk, sizeof(prk));
	memzero_explicit(prk, sizeof(prk));
	if (r)
		kc_kdf_exit(kdf);
	return r;
}

/**
 * kc_kdf_expand() - HKDF expand, one block
 * @kdf:	from kc_kdf_init()
 * @context:	what the result is for
 * @uuid:	the superblock's UUID
 * @out:	result
 * @out_size:	its size in bytes, at most KC_HMAC_SIZE
 *
 * May sleep.
 * Return: 0 or a negative errno.
 */
int kc_kdf_expand(struct kc_kdf *kdf, enum kc_kdf_context context,
		  const u8 uuid[KC_UUID_SIZE], u8 *out, unsigned int out_size)
{
	struct {
		char label[14];
		u8 context;
		u8 uuid[KC_UUID_SIZE];
		u8 counter;
	} __packed info;
	u8 okm[KC_HMAC_SIZE];
	int r;

	memcpy(info.label, KC_MAGIC, sizeof(info.label));
	info.context = context;
	memcpy(info.uuid, uuid, sizeof(info.uuid));
	info.counter = 1;
	r = crypto_shash_tfm_digest(kdf->hmac, (u8 *)&info, sizeof(info), okm);
	if (!r)
		memcpy(out, okm, out_size);
	memzero_explicit(okm, sizeof(okm));
	return r;
}

/**
 * kc_kdf_exit() - wipe the pseudorandom key
 * @kdf:	from kc_kdf_init()
 *
 * May sleep.
 */
void kc_kdf_exit(struct kc_kdf *kdf)
{
	crypto_free_shash(kdf->hmac);
	kdf->hmac = NULL;
}

/**
 * kc_mac() - HMAC-SHA-512, truncated to KC_MAC_SIZE
 * @key:	the key
 * @key_size:	its size in bytes
 * @data:	what to authenticate
 * @size:	its size in bytes
 * @mac:	result
 *
 * May sleep.
 * Return: 0 or a negative errno.
 */
int kc_mac(const u8 *key, unsigned int key_size, const void *data,
	   unsigned int size, u8 mac[KC_MAC_SIZE])
{
	struct crypto_shash *hmac = crypto_alloc_shash("hmac(sha512)", 0, 0);
	u8 digest[KC_HMAC_SIZE];
	int r;

	if (IS_ERR(hmac))
		return PTR_ERR(hmac);
	r = crypto_shash_setkey(hmac, key, key_size);
	if (!r)
		r = crypto_shash_tfm_digest(hmac, data, size, digest);
	if (!r)
		memcpy(mac, digest, KC_MAC_SIZE);
	crypto_free_shash(hmac);
	return r;
}

/**
 * kc_sealer_setup() - set up what cannot fail
 * @sealer:	zeroed
 */
void kc_sealer_setup(struct kc_sealer *sealer)
{
	init_rwsem(&sealer->sem);
}

/**
 * kc_sealer_init() - derive the sealing key and the seed of sums
 * @sealer:	gets them
 * @kdf:	of the device key
 * @uuid:	the superblock's UUID
 *
 * May sleep.
 * Return: 0 or a negative errno.
 */
int kc_sealer_init(struct kc_sealer *sealer, struct kc_kdf *kdf,
		   const u8 uuid[KC_UUID_SIZE])
{
	__le64 seed;
	int r;

	down_write(&sealer->sem);
	r = kc_kdf_expand(kdf, KC_KDF_INTENT, uuid, (u8 *)&seed, sizeof(seed));
	if (!r)
		r = kc_kdf_expand(kdf, KC_KDF_SEAL, uuid, sealer->key,
				  sizeof(sealer->key));
	if (!r) {
		sealer->sum_seed = le64_to_cpu(seed);
		sealer->ready = true;
	}
	up_write(&sealer->sem);
	memzero_explicit(&seed, sizeof(seed));
	return r;
}

/**
 * kc_sealer_wipe() - wipe them
 * @sealer:	has them, or not
 *
 * Waits for units that are being sealed or unsealed; sealing any more is a bug.  May
 * sleep.
 */
void kc_sealer_wipe(struct kc_sealer *sealer)
{
	down_write(&sealer->sem);
	sealer->ready = false;
	memzero_explicit(sealer->key, sizeof(sealer->key));
	memzero_explicit(&sealer->sum_seed, sizeof(sealer->sum_seed));
	up_write(&sealer->sem);
}

static void kc_nonce(u8 nonce[XCHACHA20POLY1305_NONCE_SIZE], const u8 *unit,
		     u64 area_sector)
{
	memcpy(nonce, unit, KC_NONCE_SIZE);
	put_unaligned_le64(area_sector, nonce + KC_NONCE_SIZE);
}

/**
 * kc_seal() - encrypt and authenticate a unit in place
 * @sealer:	has the sealing key
 * @kind:	what it is
 * @area_sector: where it goes: sectors from the start of the metadata area
 * @unit:	the payload lies KC_NONCE_SIZE bytes behind its start
 * @size:	of the unit in bytes, KC_SEAL_OVERHEAD more than the payload
 *
 * Process context.
 * Return: 0; or -ENOKEY if the key has been wiped, which is a bug of the caller's:
 * nothing may be written then.
 */
int kc_seal(struct kc_sealer *sealer, enum kc_kind kind, u64 area_sector, u8 *unit,
	    unsigned int size)
{
	u8 nonce[XCHACHA20POLY1305_NONCE_SIZE];
	__le32 ad = cpu_to_le32(kind);
	u8 *payload = unit + KC_NONCE_SIZE;
	int r = -ENOKEY;

	get_random_bytes(unit, KC_NONCE_SIZE);
	kc_nonce(nonce, unit, area_sector);
	down_read(&sealer->sem);
	if (!WARN_ON_ONCE(!sealer->ready)) {
		xchacha20poly1305_encrypt(payload, payload, size - KC_SEAL_OVERHEAD,
					  (u8 *)&ad, sizeof(ad), nonce, sealer->key);
		r = 0;
	}
	up_read(&sealer->sem);
	return r;
}

/**
 * kc_unseal_to() - check and decrypt a unit
 * @sealer:	has the sealing key
 * @kind:	what it must be
 * @area_sector: where it was read
 * @unit:	the unit
 * @size:	of the unit in bytes
 * @payload:	gets the payload, KC_SEAL_OVERHEAD less; may lie in its place in @unit
 *
 * Process context.
 * Return: 0, -EBADMSG if it is not what was sealed there, or -ENOKEY if the key has
 * been wiped.
 */
int kc_unseal_to(struct kc_sealer *sealer, enum kc_kind kind, u64 area_sector,
		 const u8 *unit, unsigned int size, u8 *payload)
{
	u8 nonce[XCHACHA20POLY1305_NONCE_SIZE];
	__le32 ad = cpu_to_le32(kind);
	int r = -ENOKEY;

	kc_nonce(nonce, unit, area_sector);
	down_read(&sealer->sem);
	if (sealer->ready)
		r = xchacha20poly1305_decrypt(payload, unit + KC_NONCE_SIZE,
					      size - KC_NONCE_SIZE, (u8 *)&ad,
					      sizeof(ad), nonce, sealer->key) ?
			0 : -EBADMSG;
	up_read(&sealer->sem);
	return r;
}

/* As kc_unseal_to(), in place. */
int kc_unseal(struct kc_sealer *sealer, enum kc_kind kind, u64 area_sector, u8 *unit,
	      unsigned int size)
{
	return kc_unseal_to(sealer, kind, area_sector, unit, size, unit + KC_NONCE_SIZE);
}

/**
 * kc_seal_block() - seal the units of an area block in place
 * @sealer:	has the sealing key
 * @kind:	what it is
 * @area_block:	where it goes
 * @block:	KC_UNITS units
 *
 * Process context.
 * Return: as kc_seal().
 */
int kc_seal_block(struct kc_sealer *sealer, enum kc_kind kind, u64 area_block,
		  u8 *block)
{
	unsigned int i;
	int r = 0;

	for (i = 0; !r && i < KC_UNITS; i++)
		r = kc_seal(sealer, kind, area_block * KC_BLOCK_SECTORS + i,
			    block + i * KC_UNIT_SIZE, KC_UNIT_SIZE);
	return r;
}

/**
 * kc_unseal_block() - check and decrypt the units of an area block in place
 * @sealer:	has the sealing key
 * @kind:	what it must be
 * @area_block:	where it was read
 * @block:	KC_UNITS units
 *
 * Process context.
 * Return: as kc_unseal_to().
 */
int kc_unseal_block(struct kc_sealer *sealer, enum kc_kind kind, u64 area_block,
		    u8 *block)
{
	unsigned int i;
	int r = 0;

	for (i = 0; !r && i < KC_UNITS; i++)
		r = kc_unseal(sealer, kind, area_block * KC_BLOCK_SECTORS + i,
			      block + i * KC_UNIT_SIZE, KC_UNIT_SIZE);
	return r;
}

/**
 * kc_sum() - sum of a block of ciphertext, for an intent
 * @sealer:	has the seed
 * @block:	the block
 * @size:	its size in bytes
 *
 * Any context.  Who wipes the key has made sure that no intent is under way.
 * Return: the sum.
 */
u64 kc_sum(const struct kc_sealer *sealer, const void *block, unsigned int size)
{
	return xxh64(block, size, sealer->sum_seed);
}
