#!/bin/bash
# A sector that cannot be read costs what it describes, never the device: a data block an intent is about, a
# journal block, a map block with changes in the journal; and a read-only table opens whatever cannot be read.
# KC_ONLY: part of the name of what to run of unreadable.py.
#
# SPDX-License-Identifier: GPL-2.0-only

VM_ARGS=(--disk data=64M --disk meta=16M --disk cow=16M --mem 768M)

host_main() {
	vm_boot "sectors that cannot be read" "${KC_ONLY:-}"
}
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/python.sh
. "$KC_TESTS/python.sh"

load_module
must modprobe dm-snapshot
run_python unreadable.py ${2:+"$2"}
ok "the module can go" unload_module
done_testing
