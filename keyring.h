/* SPDX-License-Identifier: GPL-2.0 */
/* Reference -> key bytes. */
#ifndef _KC_KEYRING_H
#define _KC_KEYRING_H

#include <linux/key.h>

#include "format.h"

/**
 * struct kc_keyref - where a key is: ":<size>:<type>:<description>"
 * @size:	of the key in bytes
 * @type:	of the key
 * @desc:	description in the keyring
 */
struct kc_keyref {
	unsigned int size;
	enum kc_key_type type;
	char desc[KC_DESC_SIZE];
};

/**
 * struct kc_key_digest - tells whether key bytes are the same as before
 * @word:	SipHash of them, under secrets of this boot
 *
 * An address does not tell: two updates of a key can bring one back.
 */
struct kc_key_digest {
	u64 word[2];
};

int kc_keyref_parse(struct kc_keyref *ref, const char *s, const char **error);
const char *kc_key_type_name(enum kc_key_type type);
struct key *kc_keyring_get(const char *spec, const char **error);
struct key *kc_key_find(const struct kc_keyref *ref, struct key **home,
			struct key *keyring, bool callers);
int kc_key_copy(struct key *key, const struct kc_keyref *ref, u8 *buf,
		struct kc_key_digest *digest);

static inline bool kc_key_digest_equal(const struct kc_key_digest *a,
				       const struct kc_key_digest *b)
{
	return a->word[0] == b->word[0] && a->word[1] == b->word[1];
}

#endif
