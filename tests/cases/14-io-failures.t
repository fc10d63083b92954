#!/bin/bash
# A disk fails at any place: each I/O to the metadata, and to the data, of tables, messages and writes
# fails once, and then all from each on. No wrong data, nothing lost that was flushed, and when the disk is
# well all goes on, where the map was stopped with another table.
# KC_ONLY: part of the name of what to run of io_failures.py.
#
# SPDX-License-Identifier: GPL-2.0-only

VM_ARGS=(--disk data=64M --disk meta=16M --mem 768M --timeout 900
	--append 'rcupdate.rcu_expedited=1 clearcpuid=avx512f,avx2,avx,ssse3')

host_main() {
	vm_boot "a disk that fails" "${KC_ONLY:-}"
}
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/python.sh
. "$KC_TESTS/python.sh"

load_module
[[ -e $KC_OUT/failinject.ko ]] || bail 'failinject.ko is not built: make failinject'
must insmod "$KC_OUT/failinject.ko"
run_python io_failures.py ${2:+"$2"}
ok "the module can go" unload_module
done_testing
