#!/bin/bash
# What one crash leaves in the journal, behind a block that was lost, must not count after the next.
#
# SPDX-License-Identifier: GPL-2.0-only

VM_ARGS=(--disk data=64M --disk meta=16M --mem 512M)
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/python.sh
. "$KC_TESTS/python.sh"

load_module
run_python second_crash.py
ok "the module can go" unload_module
done_testing
