#!/bin/bash
# A block that is written by one owner and at once by another, whose data is still on its way when the
# first one's entry is committed: recovery must find what is there.
#
# SPDX-License-Identifier: GPL-2.0-only

VM_ARGS=(--disk data=64M --disk meta=16M --mem 512M)
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/python.sh
. "$KC_TESTS/python.sh"

load_module
must modprobe dm-delay
run_python intents.py
done_testing
