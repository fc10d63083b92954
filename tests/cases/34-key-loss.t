#!/bin/bash
# What is under way when a key goes: nothing is sealed with a key that has been wiped, no write goes under the key of
# whoever got an owner's slot, and no lock waits for what others do.
# KC_ONLY: part of the name of what to run of key_loss.py.
#
# SPDX-License-Identifier: GPL-2.0-only

VM_ARGS=(--disk data=64M --disk meta=16M --mem 768M)

host_main() {
	vm_boot "keys go" "${KC_ONLY:-}"
}
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/python.sh
. "$KC_TESTS/python.sh"

load_module
[[ -e $KC_OUT/holdup.ko ]] || bail 'holdup.ko is not built: make failinject'
must insmod "$KC_OUT/holdup.ko"
run_python key_loss.py ${2:+"$2"}
ok "the module can go" unload_module
done_testing
