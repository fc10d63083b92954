#!/bin/bash
# The cache of map blocks keeps within meta_cache:, also with a read-only table, is as fast when that was raised later,
# and loses nobody's blocks when they are counted while it is full.
# KC_ONLY: part of the name of what to run of cache.py.
#
# SPDX-License-Identifier: GPL-2.0-only

VM_ARGS=(--disk meta=16M --mem 768M --timeout 600)

host_main() {
	vm_boot counted "${KC_ONLY:-}"
	vm_boot --icount raised "${KC_ONLY:-}"
}
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/python.sh
. "$KC_TESTS/python.sh"

# With --icount the clock jumps on while the machine waits for its host: what the crypto API waits for with a time limit
# must be there.
for module in cryptd aesni_intel xts hmac sha512_generic sha512_ssse3 chacha_x86_64; do
	modprobe -q "$module"
done
load_module
run_python cache.py "$1" ${2:+"$2"}
ok "the module can go" unload_module
done_testing
