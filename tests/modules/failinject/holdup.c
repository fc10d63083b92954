// SPDX-License-Identifier: GPL-2.0
/*
 * Holds a task up where it calls a function, until it is told to go on, for tests of
 * what may happen meanwhile; on stock kernels.
 *
 * Writing "<function> [<pid>]" to @hold arms a place: the first kernel thread that
 * calls the function, or the task with that number, waits.  A kprobe sends it to a
 * function that sleeps and makes the call then, with the same arguments, so the
 * function must be one that may sleep, with at most six arguments in registers.
 * Writing "<function>" to @release lets it go on, and takes the probe away; @waiting
 * has the functions that tasks wait for now.
 */

#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/sched.h>

#ifndef CONFIG_X86_64
#error "how to go on somewhere else is only known for x86-64"
#endif

typedef unsigned long (*hold_fn)(unsigned long a, unsigned long b, unsigned long c,
				 unsigned long d, unsigned long e, unsigned long f);

/**
 * struct hold_place - a function where somebody is held up
 * @probe:	on its first instruction
 * @name:	its name; empty for a place that is free
 * @pid:	who is meant, or 0 for kernel threads
 * @taken:	somebody has come, all others pass
 * @waiting:	and has not gone on yet
 * @go:		that he may
 */
struct hold_place {
	struct kprobe probe;
	char name[KSYM_NAME_LEN];
	pid_t pid;
	unsigned long taken;
	bool waiting;
	struct completion go;
};

static struct hold_place hold_places[3];
static DEFINE_MUTEX(hold_lock);

static unsigned long hold_here(struct hold_place *place, unsigned long a,
			       unsigned long b, unsigned long c, unsigned long d,
			       unsigned long e, unsigned long f)
{
	hold_fn fn = (hold_fn)place->probe.addr;

	wait_for_completion(&place->go);
	WRITE_ONCE(place->waiting, false);
	return fn(a, b, c, d, e, f);
}

#define HOLD_FUNCTION(n)							\
static unsigned long hold_##n(unsigned long a, unsigned long b, unsigned long c, \
			      unsigned long d, unsigned long e, unsigned long f) \
{										\
	return hold_here(&hold_places[n], a, b, c, d, e, f);			\
}

HOLD_FUNCTION(0)
HOLD_FUNCTION(1)
HOLD_FUNCTION(2)

static const hold_fn hold_functions[] = { hold_0, hold_1, hold_2 };

static int hold_pre(struct kprobe *p, struct pt_regs *regs)
{
	struct hold_place *place = container_of(p, struct hold_place, probe);

	if (place->pid ? current->pid != place->pid : !(current->flags & PF_KTHREAD))
		return 0;
	if (test_and_set_bit(0, &place->taken))
		return 0;
	WRITE_ONCE(place->waiting, true);
	instruction_pointer_set(regs,
				(unsigned long)hold_functions[place - hold_places]);
	return 1;
}

/* A kprobe that has one may change where to go on. */
static void hold_post(struct kprobe *p, struct pt_regs *regs, unsigned long flags)
{
}

static struct hold_place *hold_find(const char *name)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(hold_places); i++)
		if (!strcmp(hold_places[i].name, name))
			return &hold_places[i];
	return NULL;
}

static int hold_arm(const char *value, const struct kernel_param *kp)
{
	char name[KSYM_NAME_LEN];
	struct hold_place *place;
	int pid = 0, r = -EBUSY;

	if (sscanf(value, "%127s %d", name, &pid) < 1)
		return -EINVAL;
	mutex_lock(&hold_lock);
	place = hold_find("");
	if (!place || hold_find(name))
		goto unlock;
	memset(place, 0, sizeof(*place));
	init_completion(&place->go);
	strscpy(place->name, name, sizeof(place->name));
	place->pid = pid;
	place->probe.symbol_name = place->name;
	place->probe.pre_handler = hold_pre;
	place->probe.post_handler = hold_post;
	r = register_kprobe(&place->probe);
	if (r)
		place->name[0] = '\0';
unlock:
	mutex_unlock(&hold_lock);
	return r;
}

static void hold_end(struct hold_place *place)
{
	set_bit(0, &place->taken);	/* nobody comes any more */
	complete(&place->go);
	while (READ_ONCE(place->waiting))
		msleep(20);
	unregister_kprobe(&place->probe);
	place->name[0] = '\0';
}

static int hold_release(const char *value, const struct kernel_param *kp)
{
	char name[KSYM_NAME_LEN];
	struct hold_place *place;

	if (sscanf(value, "%127s", name) < 1)
		return -EINVAL;
	mutex_lock(&hold_lock);
	place = hold_find(name);
	if (place)
		hold_end(place);
	mutex_unlock(&hold_lock);
	return place ? 0 : -ENOENT;
}

static int hold_waiting(char *buffer, const struct kernel_param *kp)
{
	unsigned int i;
	int n = 0;

	mutex_lock(&hold_lock);
	for (i = 0; i < ARRAY_SIZE(hold_places); i++)
		if (hold_places[i].name[0] && READ_ONCE(hold_places[i].waiting))
			n += sysfs_emit_at(buffer, n, "%s\n", hold_places[i].name);
	mutex_unlock(&hold_lock);
	return n;
}

static const struct kernel_param_ops hold_arm_ops = { .set = hold_arm };
static const struct kernel_param_ops hold_release_ops = { .set = hold_release };
static const struct kernel_param_ops hold_waiting_ops = { .get = hold_waiting };

module_param_cb(hold, &hold_arm_ops, NULL, 0200);
MODULE_PARM_DESC(hold, "function, and who is to wait there");
module_param_cb(release, &hold_release_ops, NULL, 0200);
MODULE_PARM_DESC(release, "function whose call may go on");
module_param_cb(waiting, &hold_waiting_ops, NULL, 0400);
MODULE_PARM_DESC(waiting, "functions whose calls wait");

static int __init hold_init(void)
{
	return 0;
}

/* Code of this module may still be under way to its end. */
static void __exit hold_exit(void)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(hold_places); i++)
		if (hold_places[i].name[0])
			hold_end(&hold_places[i]);
	synchronize_rcu();
}

module_init(hold_init);
module_exit(hold_exit);

MODULE_DESCRIPTION("Holds a task up where it calls a function");
MODULE_AUTHOR("dm-keyed-crypt maintainers");
MODULE_LICENSE("GPL");
