#!/bin/bash
# The kernel's own fault injection (failslab, fail_page_alloc, fail_make_request), at random: without memory
# I/O goes on and what else fails changes nothing; with a failing disk nothing wrong is read, nothing
# lost that was written before. tests/cases/13 and 14 fail each call once, on any kernel; this mixes them. KC_SEED: which.
#
# SPDX-License-Identifier: GPL-2.0-only

# A vmalloc() without memory prints a trace; a real fault prints more than that.
VM_ARGS=(--disk data=64M --disk meta=16M --mem 768M --timeout 600 --allow-dmesg 'Call Trace:$')
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/python.sh
. "$KC_TESTS/python.sh"

for kind in failslab fail_page_alloc fail_make_request; do
	ok "this kernel has $kind" test -d "/sys/kernel/debug/$kind"
done
load_module
run_python ../debug/faults.py "${KC_SEED:-1}"
ok "the module can go" unload_module
done_testing
