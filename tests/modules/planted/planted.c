// SPDX-License-Identifier: GPL-2.0
/*
 * Has one bug of each kind that the debug kernels look for, and shows the one it is
 * loaded for: tests/debug/planted.t asks whether they see it, in a module such as ours.
 */

#include <linux/compiler.h>
#include <linux/delay.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/string.h>
#include <linux/timer.h>

static char *bug = "";
static int ten = 10;
static int four[4];
static int raced;
static DEFINE_SPINLOCK(planted_spin);
static DEFINE_MUTEX(planted_first);
static DEFINE_MUTEX(planted_second);

/* Neither the compiler nor a checker is to see it. */
static u8 *planted_alloc(void)
{
	u8 *p = kmalloc(64, GFP_KERNEL);

	OPTIMIZER_HIDE_VAR(p);
	return p;
}

static void planted_freed(void)
{
	u8 *p = planted_alloc(), *q = p;

	OPTIMIZER_HIDE_VAR(q);
	kfree(p);
	WRITE_ONCE(q[8], 1);
}

static void planted_behind(void)
{
	u8 *p = planted_alloc(), *q = p + 64;

	OPTIMIZER_HIDE_VAR(q);
	if (p)
		WRITE_ONCE(q[0], 1);
	kfree(p);
}

static void planted_index(void)
{
	four[READ_ONCE(ten) - 6] = 1;
}

static void planted_shift(void)
{
	WRITE_ONCE(four[0], 1 << (READ_ONCE(ten) * 4));
}

static void planted_order(void)
{
	mutex_lock(&planted_first);
	mutex_lock(&planted_second);
	mutex_unlock(&planted_second);
	mutex_unlock(&planted_first);

	mutex_lock(&planted_second);
	mutex_lock(&planted_first);
	mutex_unlock(&planted_first);
	mutex_unlock(&planted_second);
}

static void planted_sleep(void)
{
	spin_lock(&planted_spin);
	might_sleep();
	spin_unlock(&planted_spin);
}

static void planted_ring(struct timer_list *timer)
{
}

static void planted_timer(void)
{
	struct timer_list *timer = kmalloc(sizeof(*timer), GFP_KERNEL);

	if (!timer)
		return;
	timer_setup(timer, planted_ring, 0);
	mod_timer(timer, jiffies + 1000 * HZ);
	kfree(timer);
}

static void planted_leak(void)
{
	int i;

	for (i = 0; i < 10; i++)
		planted_alloc();
}

static int planted_thread(void *unused)
{
	while (!kthread_should_stop()) {
		raced++;
		cond_resched();
	}
	return 0;
}

/* Some seconds: a data race is seen when the other one comes while the one waits. */
static void planted_race(void)
{
	struct task_struct *threads[2];
	int i;

	for (i = 0; i < 2; i++)
		threads[i] = kthread_run(planted_thread, NULL, "planted/%d", i);
	msleep(5000);
	for (i = 0; i < 2; i++)
		if (!IS_ERR(threads[i]))
			kthread_stop(threads[i]);
}

static const struct {
	const char *name;
	void (*show)(void);
} planted_bugs[] = {
	{ "freed", planted_freed },
	{ "behind", planted_behind },
	{ "index", planted_index },
	{ "shift", planted_shift },
	{ "order", planted_order },
	{ "sleep", planted_sleep },
	{ "timer", planted_timer },
	{ "leak", planted_leak },
	{ "race", planted_race },
};

static int __init planted_init(void)
{
	unsigned int i;

	if (!strcmp(bug, "none"))
		return 0;
	for (i = 0; i < ARRAY_SIZE(planted_bugs); i++) {
		if (!strcmp(bug, planted_bugs[i].name)) {
			planted_bugs[i].show();
			return 0;
		}
	}
	return -EINVAL;
}

static void __exit planted_exit(void)
{
}

module_param(bug, charp, 0400);
MODULE_PARM_DESC(bug, "which one; none for none");

module_init(planted_init);
module_exit(planted_exit);

MODULE_DESCRIPTION("Has bugs, for debug kernels to find");
MODULE_AUTHOR("dm-keyed-crypt maintainers");
MODULE_LICENSE("GPL");
