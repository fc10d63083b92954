#!/bin/bash
# What comes late: a flush that succeeds behind one that has failed; the worker of a table that has failed, behind the
# recovery of the next one; and a map in memory that is older than the disk, as after hibernation.
# KC_ONLY: part of the name of what to run of late.py.
#
# SPDX-License-Identifier: GPL-2.0-only

VM_ARGS=(--disk data=64M --disk meta=16M --mem 768M)

host_main() {
	vm_boot "what comes late" "${KC_ONLY:-}"
}
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/python.sh
. "$KC_TESTS/python.sh"

load_module
for module in failinject holdup; do
	[[ -e $KC_OUT/$module.ko ]] || bail "$module.ko is not built: make failinject"
	must insmod "$KC_OUT/$module.ko"
done
run_python late.py ${2:+"$2"}
ok "the module can go" unload_module
done_testing
