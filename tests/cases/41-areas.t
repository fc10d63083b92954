#!/bin/bash
# A metadata area and its data belong together while a device is open: no other table of the same mapped device
# makes a new area, none of another takes data or metadata of an open one; and what is read-only is not written.
# KC_ONLY: part of the name of what to run of areas.py.
#
# SPDX-License-Identifier: GPL-2.0-only

VM_ARGS=(--disk data=64M --disk meta=32M --mem 768M)

host_main() {
	vm_boot "areas" "${KC_ONLY:-}"
}
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/python.sh
. "$KC_TESTS/python.sh"

load_module
run_python areas.py ${2:+"$2"}
ok "the module can go" unload_module
done_testing
