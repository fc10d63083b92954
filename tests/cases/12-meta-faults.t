#!/bin/bash
# Disk errors stop, never spread: after a failed write of any part of the metadata the map changes no
# more, which status, log and an event tell, while own blocks are read and written as before; a failed
# read fails its bio; and when the disk is well, another table brings all back that was durable.
#
# SPDX-License-Identifier: GPL-2.0-only

VM_ARGS=(--disk data=64M --disk meta=16M --mem 768M)
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/python.sh
. "$KC_TESTS/python.sh"

load_module
run_python meta_faults.py
ok "the module can go" unload_module
done_testing
