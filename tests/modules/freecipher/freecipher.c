// SPDX-License-Identifier: GPL-2.0
/*
 * A cipher that costs nothing and does nothing, for benchmarks: what is left of
 * an I/O's cost is the target's own.  Its key and IV have the sizes of xts(aes)'s.
 * It does not even copy, since that is a cipher's work, too: what is written
 * through it is lost.
 *
 * Only make bench builds and loads it, in its VM.
 */

#include <crypto/internal/skcipher.h>
#include <linux/module.h>

#define FREE_KEY_SIZE	64
#define FREE_BLOCK_SIZE	16

static int free_setkey(struct crypto_skcipher *tfm, const u8 *key,
		       unsigned int len)
{
	return 0;
}

static int free_crypt(struct skcipher_request *req)
{
	return 0;
}

static struct skcipher_alg free_alg = {
	.base.cra_name		= "kc-bench-free",
	.base.cra_driver_name	= "kc-bench-free-nothing",
	.base.cra_priority	= 100,
	.base.cra_blocksize	= FREE_BLOCK_SIZE,
	.base.cra_module	= THIS_MODULE,
	.min_keysize		= FREE_KEY_SIZE,
	.max_keysize		= FREE_KEY_SIZE,
	.ivsize			= FREE_BLOCK_SIZE,
	.setkey			= free_setkey,
	.encrypt		= free_crypt,
	.decrypt		= free_crypt,
};

static int __init free_init(void)
{
	return crypto_register_skcipher(&free_alg);
}

static void __exit free_exit(void)
{
	crypto_unregister_skcipher(&free_alg);
}

module_init(free_init);
module_exit(free_exit);

MODULE_DESCRIPTION("A cipher that does nothing, to measure what is around it");
MODULE_AUTHOR("dm-keyed-crypt maintainers");
MODULE_LICENSE("GPL");
