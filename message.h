/* SPDX-License-Identifier: GPL-2.0 */
/* dmsetup message <dev> 0 ... */
#ifndef _KC_MESSAGE_H
#define _KC_MESSAGE_H

#include <linux/device-mapper.h>

int kc_message(struct dm_target *ti, unsigned int argc, char **argv,
	       char *result, unsigned int maxlen);

#endif
