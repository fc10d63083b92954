#!/bin/bash
# A destroyed owner's blocks fail until they are written or discarded, whatever key comes back; what others own stays;
# and the slot is used again only when no block names it any more.
#
# SPDX-License-Identifier: GPL-2.0-only

VM_ARGS=(--disk data=64M --mem 768M --append rcupdate.rcu_expedited=1)
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/python.sh
. "$KC_TESTS/python.sh"

load_module
must modprobe dm-delay
run_python destroy.py
ok "the module can go" unload_module
done_testing
