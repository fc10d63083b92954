// SPDX-License-Identifier: GPL-2.0
/*
 * IV modes, and the cipher specifications of table lines; kc_iv_gen() is inline.
 *
 * Both mean exactly what they mean to dm-crypt: a block can be read by either.
 */

#include <linux/string.h>
#include <crypto/skcipher.h>

#include "format.h"
#include "iv.h"

static const struct {
	const char *name;
	enum kc_iv_mode mode;
} kc_iv_modes[] = {
	{ "plain", KC_IV_PLAIN },
	{ "plain64", KC_IV_PLAIN64 },
	{ "plain64be", KC_IV_PLAIN64BE },
	{ "essiv", KC_IV_PLAIN64 },
	{ "null", KC_IV_NULL },
};

static int kc_parse_iv(struct kc_cipher *cipher, const char *mode,
		       const char **error)
{
	unsigned int i;

	cipher->iv_mode = KC_IV_NONE;
	if (!mode)
		return 0;
	for (i = 0; i < ARRAY_SIZE(kc_iv_modes); i++) {
		if (!strcmp(mode, kc_iv_modes[i].name)) {
			cipher->iv_mode = kc_iv_modes[i].mode;
			return 0;
		}
	}
	*error = "IV is not one of plain, plain64, plain64be, null, essiv";
	return -EINVAL;
}

/* Composes the crypto API's name; @essiv is the digest or NULL. */
static int kc_api_name(struct kc_cipher *cipher, const char *mode,
		       const char *name, const char *essiv, const char **error)
{
	char base[CRYPTO_MAX_ALG_NAME];
	int n;

	if (mode)
		n = snprintf(base, sizeof(base), "%s(%s)", mode, name);
	else
		n = snprintf(base, sizeof(base), "%s", name);
	if (n < sizeof(base)) {
		if (essiv)
			n = snprintf(cipher->api, sizeof(cipher->api),
				     "essiv(%s,%s)", base, essiv);
		else
			n = snprintf(cipher->api, sizeof(cipher->api), "%s", base);
	}
	if (n >= sizeof(cipher->api)) {
		*error = "cipher specification is too long";
		return -EINVAL;
	}
	return 0;
}

/**
 * kc_cipher_parse() - take a cipher specification apart
 * @cipher:	result; iv_size is that of the algorithm
 * @spec:	"cipher-mode-iv[:opts]" or "capi:api-iv[:opts]"
 * @error:	what is wrong
 *
 * Allocates the transform once to see that it is there.  May sleep and load
 * modules.
 * Return: 0, -EINVAL, or what the crypto API said.
 */
int kc_cipher_parse(struct kc_cipher *cipher, const char *spec,
		    const char **error)
{
	char buf[KC_CIPHER_SIZE];
	char *s = buf, *name, *mode = NULL, *iv, *opts = NULL;
	struct crypto_skcipher *tfm;
	int r;

	if (strscpy(buf, spec, sizeof(buf)) < 0) {
		*error = "cipher specification is too long";
		return -EINVAL;
	}
	if (strstarts(buf, "capi:")) {
		name = buf + strlen("capi:");
		opts = strrchr(name, ':');
		if (opts)
			*opts++ = '\0';
		iv = strrchr(name, '-');
		if (iv)
			*iv++ = '\0';
	} else {
		if (strchr(buf, '(')) {
			*error = "cipher specification has parentheses but no capi:";
			return -EINVAL;
		}
		name = strsep(&s, "-");
		mode = strsep(&s, "-");
		iv = strsep(&s, ":");
		opts = s;
		if (strchr(name, ':')) {
			*error = "cipher with several keys is not supported";
			return -EINVAL;
		}
		/* What dm-crypt makes of a bare cipher name. */
		if (!mode || (!strcmp(mode, "plain") && !iv)) {
			mode = "cbc";
			iv = "plain";
		}
		if (!iv && strcmp(mode, "ecb")) {
			*error = "cipher specification has no IV";
			return -EINVAL;
		}
	}
	if (!*name) {
		*error = "cipher specification has no cipher";
		return -EINVAL;
	}

	r = kc_parse_iv(cipher, iv, error);
	if (r)
		return r;
	if (iv && !strcmp(iv, "essiv")) {
		if (!opts || !*opts) {
			*error = "essiv needs a digest, as in essiv:sha256";
			return -EINVAL;
		}
	} else if (opts && *opts) {
		*error = "only essiv takes an option";
		return -EINVAL;
	} else {
		opts = NULL;
	}
	r = kc_api_name(cipher, mode, name, opts, error);
	if (r)
		return r;

	tfm = crypto_alloc_skcipher(cipher->api, 0, CRYPTO_ALG_ALLOCATES_MEMORY);
	if (IS_ERR(tfm)) {
		*error = "cipher is not known to the kernel";
		return PTR_ERR(tfm);
	}
	cipher->iv_size = crypto_skcipher_ivsize(tfm);
	r = -EINVAL;
	if (!crypto_skcipher_max_keysize(tfm))
		*error = "cipher has no key: it would write plaintext";
	else if (cipher->iv_size > KC_MAX_IV_SIZE)
		*error = "cipher's IV is too large";
	else if (cipher->iv_size && cipher->iv_size < sizeof(u64))
		*error = "cipher's IV is too small for a sector number";
	else if (cipher->iv_size && cipher->iv_mode == KC_IV_NONE)
		*error = "cipher specification has no IV";
	else
		r = 0;
	if (!cipher->iv_size)
		cipher->iv_mode = KC_IV_NONE;
	crypto_free_skcipher(tfm);
	return r;
}
