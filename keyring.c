// SPDX-License-Identifier: GPL-2.0
/*
 * Reference -> key bytes: the kernel's keyrings, searched and copied from with
 * the ordinary calls.
 */

#include <linux/key-type.h>
#include <linux/keyctl.h>
#include <linux/once.h>
#include <linux/random.h>
#include <linux/sched.h>
#include <linux/siphash.h>
#include <keys/encrypted-type.h>
#include <keys/user-type.h>
#if IS_REACHABLE(CONFIG_TRUSTED_KEYS)
#include <keys/trusted-type.h>
#endif

#include "keyring.h"

static const char * const kc_key_types[] = {
	[KC_KEY_LOGON] = "logon",
	[KC_KEY_USER] = "user",
	[KC_KEY_ENCRYPTED] = "encrypted",
	[KC_KEY_TRUSTED] = "trusted",
};

/**
 * kc_key_type_name() - name of a key type
 * @type:	the type, perhaps read from disk
 *
 * Return: its name, or NULL if there is no such type.
 */
const char *kc_key_type_name(enum kc_key_type type)
{
	return type < ARRAY_SIZE(kc_key_types) ? kc_key_types[type] : NULL;
}

static struct key_type *kc_key_type(enum kc_key_type type)
{
	switch (type) {
	case KC_KEY_LOGON:
		return &key_type_logon;
	case KC_KEY_USER:
		return &key_type_user;
#if IS_REACHABLE(CONFIG_ENCRYPTED_KEYS)
	case KC_KEY_ENCRYPTED:
		return &key_type_encrypted;
#endif
#if IS_REACHABLE(CONFIG_TRUSTED_KEYS)
	case KC_KEY_TRUSTED:
		return &key_type_trusted;
#endif
	default:
		return NULL;
	}
}

/**
 * kc_keyref_parse() - parse ":<size>:<type>:<description>"
 * @ref:	result
 * @s:		the text
 * @error:	what is wrong with it
 *
 * Return: 0, -EINVAL, or -EOPNOTSUPP for a key type this kernel lacks.
 */
int kc_keyref_parse(struct kc_keyref *ref, const char *s, const char **error)
{
	const char *colon, *p;
	unsigned int type;
	char size[8];
	int n;

	if (*s != ':') {
		*error = "key is not a keyring reference :<size>:<type>:<description>";
		return -EINVAL;
	}
	s++;
	colon = strchr(s, ':');
	if (!colon || colon - s >= sizeof(size)) {
		*error = "key has no size";
		return -EINVAL;
	}
	memcpy(size, s, colon - s);
	size[colon - s] = '\0';
	if (kstrtouint(size, 10, &ref->size) || !ref->size ||
	    ref->size > KC_MAX_KEY_SIZE) {
		*error = "key size is not a number from 1 to 256";
		return -EINVAL;
	}
	s = colon + 1;
	colon = strchr(s, ':');
	for (type = KC_KEY_LOGON; colon && type < ARRAY_SIZE(kc_key_types); type++) {
		n = strlen(kc_key_types[type]);
		if (n == colon - s && !strncmp(s, kc_key_types[type], n))
			break;
	}
	if (!colon || type == ARRAY_SIZE(kc_key_types)) {
		*error = "key type is not one of logon, user, encrypted, trusted";
		return -EINVAL;
	}
	ref->type = type;
	s = colon + 1;
	for (p = s; *p; p++) {
		if (*p <= ' ' || *p == 0x7f) {
			*error = "key description has white space or control characters";
			return -EINVAL;
		}
	}
	if (p == s) {
		*error = "key has no description";
		return -EINVAL;
	}
	if (strscpy(ref->desc, s, sizeof(ref->desc)) < 0) {
		*error = "key description is longer than 127 characters";
		return -EINVAL;
	}
	if (!kc_key_type(ref->type)) {
		*error = "key type is not supported by this kernel";
		return -EOPNOTSUPP;
	}
	return 0;
}

/**
 * kc_keyring_get() - look up the keyring of a table line
 * @spec:	serial number or "%:<description>"; NULL for the user keyring
 *		of the caller
 * @error:	what is wrong with it
 *
 * Process context of the caller.
 * Return: a reference, or an ERR_PTR().
 */
struct key *kc_keyring_get(const char *spec, const char **error)
{
	key_ref_t ref;
	struct key *key;
	int serial;

	if (!spec) {
		ref = lookup_user_key(KEY_SPEC_USER_KEYRING, KEY_LOOKUP_CREATE,
				      KEY_NEED_SEARCH);
	} else if (strstarts(spec, "%:")) {
		key = request_key(&key_type_keyring, spec + 2, NULL);
		if (IS_ERR(key))
			*error = "keyring: no such keyring";
		return key;
	} else {
		if (kstrtoint(spec, 10, &serial)) {
			*error = "keyring: is neither a serial number nor %:<description>";
			return ERR_PTR(-EINVAL);
		}
		ref = lookup_user_key(serial, 0, KEY_NEED_SEARCH);
	}
	if (IS_ERR(ref)) {
		*error = "keyring: no such keyring";
		return ERR_CAST(ref);
	}
	key = key_ref_to_ptr(ref);
	if (key->type != &key_type_keyring) {
		*error = "keyring: is a key, not a keyring";
		key_put(key);
		return ERR_PTR(-ENOTDIR);
	}
	return key;
}

static struct key *kc_keyring_search(struct key *keyring, bool possessed,
				     const struct kc_keyref *ref)
{
	struct key_type *type = kc_key_type(ref->type);
	key_ref_t found;

	if (!type)
		return ERR_PTR(-EOPNOTSUPP);
	found = keyring_search(make_key_ref(keyring, possessed), type, ref->desc,
			       true);
	if (IS_ERR(found))	/* a search that finds nothing says EAGAIN */
		return found == ERR_PTR(-EAGAIN) ? ERR_PTR(-ENOKEY) : ERR_CAST(found);
	return key_ref_to_ptr(found);
}

/**
 * kc_key_find() - find a key
 * @ref:	its reference
 * @home:	the keyring it was last found in, or NULL; gets where it is now
 * @keyring:	searched last
 * @callers:	search the caller's keyrings first
 *
 * Process context, that of the caller with @callers.
 * Return: a reference, or an ERR_PTR(): -ENOKEY and its kin, -EOPNOTSUPP.
 */
struct key *kc_key_find(const struct kc_keyref *ref, struct key **home,
			struct key *keyring, bool callers)
{
	static const key_serial_t special[] = {
		KEY_SPEC_THREAD_KEYRING, KEY_SPEC_PROCESS_KEYRING,
		KEY_SPEC_SESSION_KEYRING,
	};
	struct key *key = ERR_PTR(-ENOKEY), *ring;
	key_ref_t r;
	int i;

	for (i = 0; callers && i < ARRAY_SIZE(special); i++) {
		r = lookup_user_key(special[i], 0, KEY_NEED_SEARCH);
		if (IS_ERR(r))
			continue;
		ring = key_ref_to_ptr(r);
		key = kc_keyring_search(ring, is_key_possessed(r), ref);
		if (!IS_ERR(key)) {
			key_put(*home);
			*home = ring;
			return key;
		}
		key_put(ring);
	}
	if (*home) {
		key = kc_keyring_search(*home, true, ref);
		if (!IS_ERR(key))
			return key;
	}
	key = kc_keyring_search(keyring, true, ref);
	if (!IS_ERR(key)) {
		key_put(*home);
		*home = key_get(keyring);
	}
	return key;
}

/* What tells the bytes of two keys apart, without their check value */
static void kc_key_digest(const void *data, unsigned int size, struct kc_key_digest *digest)
{
	static siphash_key_t secret[ARRAY_SIZE(digest->word)];
	unsigned int i;

	get_random_once(secret, sizeof(secret));
	for (i = 0; i < ARRAY_SIZE(secret); i++)
		digest->word[i] = siphash(data, size, &secret[i]);
}

/**
 * kc_key_copy() - copy the bytes of a key
 * @key:	the key
 * @ref:	what was searched for
 * @buf:	gets @ref->size bytes; to be wiped by the caller
 * @digest:	gets what tells these bytes from others
 *
 * Process context.
 * Return: 0; -EKEYREVOKED and its kin; -EMSGSIZE if the key has another size.
 */
int kc_key_copy(struct key *key, const struct kc_keyref *ref, u8 *buf,
		struct kc_key_digest *digest)
{
	const struct user_key_payload *ukp;
	const struct encrypted_key_payload *ekp;
	const void *data = NULL;
	unsigned int size = 0;
	int r;

	down_read(&key->sem);
	r = key_validate(key);
	if (!r && !rcu_access_pointer(key->payload.rcu_data0))
		r = -EKEYREVOKED;
	if (r)
		goto out;
	switch (ref->type) {
	case KC_KEY_LOGON:
	case KC_KEY_USER:
		ukp = user_key_payload_locked(key);
		data = ukp->data;
		size = ukp->datalen;
		break;
	case KC_KEY_ENCRYPTED:
		ekp = key->payload.data[0];
		data = ekp->decrypted_data;
		size = ekp->decrypted_datalen;
		break;
	case KC_KEY_TRUSTED:
#if IS_REACHABLE(CONFIG_TRUSTED_KEYS)
		{
			const struct trusted_key_payload *tkp = key->payload.data[0];

			data = tkp->key;
			size = tkp->key_len;
		}
#endif
		break;
	}
	if (size == ref->size) {
		memcpy(buf, data, size);
		kc_key_digest(buf, size, digest);
	} else {
		r = -EMSGSIZE;
	}
out:
	up_read(&key->sem);
	return r;
}
