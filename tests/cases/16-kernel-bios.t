#!/bin/bash
# Bios that only the kernel makes, and a target gets from drivers above it: vectors that are no blocks, memory
# of the slab allocator, polled ones; and large ones. They end, with an error if they must, and cost what they
# may. KC_ONLY: part of the name of what to run of kernel_bios.py.
#
# SPDX-License-Identifier: GPL-2.0-only

VM_ARGS=(--disk data=64M --disk meta=16M --mem 768M)

host_main() {
	vm_boot "bios of the kernel" "${KC_ONLY:-}"
}
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/python.sh
. "$KC_TESTS/python.sh"

load_module
for module in biosend failinject; do
	[[ -e $KC_OUT/$module.ko ]] || bail "$module.ko is not built: make $module"
	must insmod "$KC_OUT/$module.ko"
done
must modprobe null_blk nr_devices=0
must modprobe brd rd_nr=1 rd_size=8192
[[ -d /sys/kernel/config/nullb ]] || must mount -t configfs configfs /sys/kernel/config
run_python kernel_bios.py ${2:+"$2"}
ok "the module can go" unload_module
done_testing
