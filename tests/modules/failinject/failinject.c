// SPDX-License-Identifier: GPL-2.0
/*
 * Makes memory allocations or ciphers of one module fail, or I/O of one disk, for
 * tests; on stock kernels, which are built without fault injection.
 *
 * Every slab and page allocation asks should_failslab() or
 * should_fail_alloc_page(), which always say no there; or, on kernels that leave these
 * out, is a call of one of some functions.  A kprobe answers for them: those from
 * allocation @nth on, @times of them, whose call chain comes through the kernel text
 * from @start to @end fail.  That is before any mempool looks at its reserve, as with
 * the kernel's own fault injection.
 *
 * Or, with @chains, one allocation of each call chain that has not had its turn
 * yet with so many @times, and those that follow it: a loop that fills a pool takes
 * one.
 *
 * With @disk set, its bios fail instead: submit_bio_noacct(), through which they
 * all go, is not called for them.
 *
 * Or, with @cipher, what the module encrypts or decrypts.
 *
 * With @io only allocations count that may wait for I/O, with @softirq only
 * ciphers in soft interrupts; @times zero only counts, and @site is the first one's.
 *
 * Writing @nth arms it, and sets the counters back; zero disarms it.
 */

#include <linux/blkdev.h>
#include <linux/jhash.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/sched/mm.h>
#include <linux/spinlock.h>
#include <linux/stacktrace.h>
#include <asm/ibt.h>
#include <asm/linkage.h>
#include "compat.h"

#ifndef CONFIG_X86_64
#error "how to return from a function early is only known for x86-64"
#endif

#define FAIL_FRAMES	64
#define FAIL_CHAINS	4096

static unsigned long start, end;
static unsigned int disk;
static bool cipher;
static bool io, softirq;
static unsigned int times = 1;
static unsigned int nth, seen, injected;
static char site[KSYM_SYMBOL_LEN];
static bool chains;
static u32 chain[FAIL_CHAINS];
static unsigned int nr_chains;
static DEFINE_RAW_SPINLOCK(fail_lock);

/* What the function that must not run is replaced by. */
void failinject_return(void);
asm(".pushsection .text\n"
	".type failinject_return, @function\n"
	"failinject_return:\n"
	ASM_ENDBR
	ASM_RET
	".size failinject_return, .-failinject_return\n"
	".popsection\n");

static bool fail_ours(unsigned long address)
{
	return address >= READ_ONCE(start) && address < READ_ONCE(end);
}

/*
 * The function of the module that made the call, or 0, and a hash of the call chain
 * up to the last of the module's functions.
 */
static unsigned long fail_caller(u32 *hash)
{
	unsigned long frames[FAIL_FRAMES], caller = 0;
	unsigned int nr, last = 0, i;

	nr = stack_trace_save(frames, FAIL_FRAMES, 0);
	for (i = 0; i < nr; i++) {
		if (!fail_ours(frames[i]))
			continue;
		if (!caller)
			caller = frames[i];
		last = i + 1;
	}
	*hash = jhash(frames, last * sizeof(frames[0]), 0);
	return caller;
}

static bool fail_new_chain(u32 hash)
{
	unsigned int i;

	for (i = 0; i < nr_chains; i++)
		if (chain[i] == hash)
			return false;
	if (nr_chains == FAIL_CHAINS)
		return false;
	chain[nr_chains++] = hash;
	return true;
}

/* Is it the turn of this one? */
static bool fail_count(unsigned long caller, u32 hash)
{
	unsigned long flags;
	bool fail;

	raw_spin_lock_irqsave(&fail_lock, flags);
	seen++;
	fail = nth && seen >= nth && injected < times &&
	       (!chains || injected || fail_new_chain(jhash_1word(times, hash)));
	if (fail)
		injected++;
	if (fail || (nth && !times && !site[0]))
		sprint_symbol_no_offset(site, caller);
	raw_spin_unlock_irqrestore(&fail_lock, flags);
	return fail;
}

static bool fail_now(gfp_t gfp)
{
	unsigned long caller;
	u32 hash;

	/* An interrupt's allocations are not the interrupted one's. */
	if (!READ_ONCE(nth) || READ_ONCE(disk) || READ_ONCE(cipher) ||
	    gfp & __GFP_NOFAIL || !in_task())
		return false;
	if (READ_ONCE(io) && !(current_gfp_context(gfp) & __GFP_IO))
		return false;
	caller = fail_caller(&hash);
	return caller && fail_count(caller, hash);
}

static struct kprobe fail_probes[ARRAY_SIZE(fail_functions)];

static int fail_alloc(struct kprobe *p, struct pt_regs *regs)
{
	const struct fail_function *f = &fail_functions[p - fail_probes];

	if (!fail_now((__force gfp_t)regs_get_kernel_argument(regs, f->gfp)))
		return 0;
	regs_set_return_value(regs, f->result);
	instruction_pointer_set(regs, (unsigned long)failinject_return);
	return 1;
}

/* Called in the place of submit_bio_noacct(). */
static void fail_submit(struct bio *bio)
{
	bio_io_error(bio);
}

static int fail_bio(struct kprobe *p, struct pt_regs *regs)
{
	struct bio *bio = (void *)regs_get_kernel_argument(regs, 0);

	if (!READ_ONCE(nth) || new_encode_dev(bio_dev(bio)) != READ_ONCE(disk) ||
	    !fail_count((unsigned long)fail_submit, 0))
		return 0;
	/* The arguments are where the other function finds them, too. */
	instruction_pointer_set(regs, (unsigned long)fail_submit);
	return 1;
}

static int fail_cipher(struct kprobe *p, struct pt_regs *regs)
{
	unsigned long caller = regs_get_kernel_stack_nth(regs, 0);

	if (!READ_ONCE(nth) || !READ_ONCE(cipher) || !fail_ours(caller) ||
	    (READ_ONCE(softirq) && !in_serving_softirq()) || !fail_count(caller, 0))
		return 0;
	regs_set_return_value(regs, -EIO);
	instruction_pointer_set(regs, (unsigned long)failinject_return);
	return 1;
}

/* A kprobe that has one is not optimized into a jump, and may change where to go on. */
static void fail_post(struct kprobe *p, struct pt_regs *regs, unsigned long flags)
{
}

static struct kprobe fail_bio_probe = {
	.symbol_name = "submit_bio_noacct",
	.pre_handler = fail_bio,
	.post_handler = fail_post,
};

static struct kprobe fail_encrypt_probe = {
	.symbol_name = "crypto_skcipher_encrypt",
	.pre_handler = fail_cipher,
	.post_handler = fail_post,
};

static struct kprobe fail_decrypt_probe = {
	.symbol_name = "crypto_skcipher_decrypt",
	.pre_handler = fail_cipher,
	.post_handler = fail_post,
};

static struct kprobe *all_probes[ARRAY_SIZE(fail_probes) + 3];

static int fail_arm(const char *value, const struct kernel_param *kp)
{
	unsigned long flags;
	unsigned int n;
	int r = kstrtouint(value, 0, &n);

	if (r)
		return r;
	raw_spin_lock_irqsave(&fail_lock, flags);
	if (n) {
		seen = 0;
		injected = 0;
		site[0] = '\0';
	}
	nth = n;
	raw_spin_unlock_irqrestore(&fail_lock, flags);
	return 0;
}

static const struct kernel_param_ops fail_nth_ops = {
	.set = fail_arm,
	.get = param_get_uint,
};

module_param_cb(nth, &fail_nth_ops, &nth, 0600);
MODULE_PARM_DESC(nth, "first one that fails, counted from now; 0 for none");
module_param(disk, uint, 0600);
MODULE_PARM_DESC(disk, "device number: its I/O fails, and no allocation");
module_param(cipher, bool, 0600);
MODULE_PARM_DESC(cipher, "encryptions and decryptions fail, and no allocation");
module_param(io, bool, 0600);
MODULE_PARM_DESC(io, "only allocations that may wait for I/O");
module_param(softirq, bool, 0600);
MODULE_PARM_DESC(softirq, "only ciphers in soft interrupts");
module_param(times, uint, 0600);
MODULE_PARM_DESC(times, "how many fail");
module_param(chains, bool, 0600);
MODULE_PARM_DESC(chains, "begin with one of each call chain");
module_param(start, ulong, 0600);
MODULE_PARM_DESC(start, "only allocations and ciphers that come from this address on");
module_param(end, ulong, 0600);
MODULE_PARM_DESC(end, "and before this one");
module_param(seen, uint, 0400);
MODULE_PARM_DESC(seen, "how many were counted since nth was set");
module_param(injected, uint, 0400);
MODULE_PARM_DESC(injected, "how many of them failed");
module_param_string(site, site, sizeof(site), 0400);
MODULE_PARM_DESC(site, "the last one's caller");

static int __init fail_init(void)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(fail_probes); i++) {
		fail_probes[i].symbol_name = fail_functions[i].name;
		fail_probes[i].pre_handler = fail_alloc;
		fail_probes[i].post_handler = fail_post;
		all_probes[i] = &fail_probes[i];
	}
	all_probes[i++] = &fail_bio_probe;
	all_probes[i++] = &fail_encrypt_probe;
	all_probes[i] = &fail_decrypt_probe;
	return register_kprobes(all_probes, ARRAY_SIZE(all_probes));
}

static void __exit fail_exit(void)
{
	unregister_kprobes(all_probes, ARRAY_SIZE(all_probes));
}

module_init(fail_init);
module_exit(fail_exit);

MODULE_DESCRIPTION("Makes memory allocations or ciphers of one module fail, or I/O of one disk");
MODULE_AUTHOR("dm-keyed-crypt maintainers");
MODULE_LICENSE("GPL");
