#!/bin/bash
# Bad table lines, messages and metadata areas: each ends with its errno and one line in the kernel
# log that says why, changes nothing on the disk, and does the module no harm. No key gets to the log.
#
# SPDX-License-Identifier: GPL-2.0-only

VM_ARGS=(--disk data=64M --disk meta=32M --mem 768M)
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/python.sh
. "$KC_TESTS/python.sh"

load_module
run_python bad_input.py
ok "the module can go" unload_module
done_testing
