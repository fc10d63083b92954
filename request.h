/* SPDX-License-Identifier: GPL-2.0 */
/* dm's bios. */
#ifndef _KC_REQUEST_H
#define _KC_REQUEST_H

#include "device.h"

int kc_request_init(struct kc_target *t);
void kc_request_exit(struct kc_target *t);
int kc_request_map(struct dm_target *ti, struct bio *bio);

#endif
