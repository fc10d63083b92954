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

int kc_keyref_parse(struct kc_keyref *ref, const char *s, const char **error);
const char *kc_key_type_name(enum kc_key_type type);
struct key *kc_keyring_get(const char *spec, const char **error);
struct key *kc_key_find(const struct kc_keyref *ref, struct key **home,
			struct key *keyring, bool callers);
const void *kc_key_payload(const struct key *key);
int kc_key_copy(struct key *key, const struct kc_keyref *ref, u8 *buf,
		const void **payload);

#endif
