/* SPDX-License-Identifier: GPL-2.0 */
/* Why a table line is refused, and the name log lines begin with. */
#ifndef _KC_ERROR_H
#define _KC_ERROR_H

#include <linux/compiler_attributes.h>

#define DM_MSG_PREFIX "keyed-crypt"

void kc_error(const char *fmt, ...) __printf(1, 2);
char *kc_error_begin(void);
void kc_error_end(void);

#endif
