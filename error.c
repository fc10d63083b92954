// SPDX-License-Identifier: GPL-2.0
/* Why a table line is refused. */

#include <linux/kernel.h>
#include <linux/sched.h>
#include <linux/spinlock.h>

#include "error.h"

/*
 * dm prints ti->error as soon as the constructor has returned; errors with
 * numbers in them need a place until then, each constructor its own.  They are used
 * in turn: a line is lost only when as many constructors run at once.
 */
static struct kc_error_text {
	struct task_struct *task;	/* whose it is; not dereferenced */
	char text[256];
} kc_errors[16];

static unsigned int kc_errors_next;
static DEFINE_SPINLOCK(kc_errors_lock);

/**
 * kc_error_begin() - a constructor begins, in process context
 *
 * Return: a place for what kc_error() says, for ti->error.
 */
char *kc_error_begin(void)
{
	struct kc_error_text *error;

	spin_lock(&kc_errors_lock);
	error = &kc_errors[kc_errors_next++ % ARRAY_SIZE(kc_errors)];
	error->task = current;
	strscpy(error->text, "cannot be loaded", sizeof(error->text));
	spin_unlock(&kc_errors_lock);
	return error->text;
}

/**
 * kc_error_end() - a constructor ends
 *
 * Process context.
 */
void kc_error_end(void)
{
	unsigned int i;

	spin_lock(&kc_errors_lock);
	for (i = 0; i < ARRAY_SIZE(kc_errors); i++)
		if (kc_errors[i].task == current)
			kc_errors[i].task = NULL;
	spin_unlock(&kc_errors_lock);
}

/**
 * kc_error() - say why a table is refused
 * @fmt:	as printf's
 *
 * Called by whatever a constructor calls, in its task.  Who returns -ENOMEM need not:
 * the constructor says that.
 */
void kc_error(const char *fmt, ...)
{
	unsigned int i;
	va_list args;

	spin_lock(&kc_errors_lock);
	for (i = 0; i < ARRAY_SIZE(kc_errors); i++) {
		if (kc_errors[i].task != current)
			continue;
		va_start(args, fmt);
		vscnprintf(kc_errors[i].text, sizeof(kc_errors[i].text), fmt, args);
		va_end(args);
	}
	spin_unlock(&kc_errors_lock);
}
