/* SPDX-License-Identifier: GPL-2.0 */
/* IV modes, and the cipher specifications of table lines. */
#ifndef _KC_IV_H
#define _KC_IV_H

#include <linux/crypto.h>
#include <linux/string.h>

#include "compat.h"

#define KC_MAX_IV_SIZE		32

enum kc_iv_mode {
	KC_IV_NONE,		/* the cipher takes none (ecb) */
	KC_IV_PLAIN,
	KC_IV_PLAIN64,		/* essiv too: its template encrypts it */
	KC_IV_PLAIN64BE,
	KC_IV_NULL,
};

/**
 * struct kc_cipher - a cipher specification of a table line, taken apart
 * @api:	name for the crypto API
 * @iv_mode:	how an IV is made from a sector number
 * @iv_size:	bytes, 0 with KC_IV_NONE
 */
struct kc_cipher {
	char api[CRYPTO_MAX_ALG_NAME];
	enum kc_iv_mode iv_mode;
	unsigned int iv_size;
};

int kc_cipher_parse(struct kc_cipher *cipher, const char *spec,
		    const char **error);
/**
 * kc_iv_gen() - make the IV of a sector
 * @cipher:	says how
 * @iv:		result, KC_MAX_IV_SIZE bytes, aligned to u64
 * @sector:	sector number with iv_offset added, in units of the IV
 *
 * Any context.
 */
static inline void kc_iv_gen(const struct kc_cipher *cipher, u8 *iv, u64 sector)
{
	memset(iv, 0, KC_MAX_IV_SIZE);
	switch (cipher->iv_mode) {
	case KC_IV_PLAIN64:
		*(__le64 *)iv = cpu_to_le64(sector);
		break;
	case KC_IV_PLAIN:
		*(__le32 *)iv = cpu_to_le32(sector);
		break;
	case KC_IV_PLAIN64BE:
		put_unaligned_be64(sector, iv + cipher->iv_size - sizeof(u64));
		break;
	case KC_IV_NULL:
	case KC_IV_NONE:
		break;
	}
}

#endif
