// SPDX-License-Identifier: GPL-2.0
/* Why a table line is refused. */

#include <linux/kernel.h>

#include "error.h"

/*
 * dm prints ti->error as soon as the constructor has returned; errors with
 * numbers in them need a place until then.  Constructors run one at a time
 * under kc_devs_lock, so at worst a line is printed twice.
 */
static char kc_error_buf[256];

/**
 * kc_error() - say why a table is refused
 * @fmt:	as printf's
 *
 * Called by whatever a constructor calls.  Who returns -ENOMEM need not: the
 * constructor says that.
 */
void kc_error(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vscnprintf(kc_error_buf, sizeof(kc_error_buf), fmt, args);
	va_end(args);
}

/**
 * kc_error_text() - what was said
 *
 * Return: the text, for ti->error.
 */
char *kc_error_text(void)
{
	return kc_error_buf;
}
