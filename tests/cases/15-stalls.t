#!/bin/bash
# Disks that stand still, and then go on or fail: what waits for them ends in one way or the other, and
# the map stays right. So does it where the journal ends in the middle of a commit or has no room for it, where
# the cache is smaller than what is in use, and when the device key goes meanwhile.
# KC_ONLY: part of the name of what to run of stalls.py.
#
# SPDX-License-Identifier: GPL-2.0-only

VM_ARGS=(--disk data=64M --disk meta=16M --mem 768M --timeout 600)

host_main() {
	vm_boot "disks that stand still" "${KC_ONLY:-}"
}
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/python.sh
. "$KC_TESTS/python.sh"

load_module
must modprobe dm-delay
[[ -e $KC_OUT/failinject.ko ]] || bail 'failinject.ko is not built: make failinject'
must insmod "$KC_OUT/failinject.ko"
run_python stalls.py ${2:+"$2"}
ok "the module can go" unload_module
done_testing
