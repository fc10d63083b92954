#!/bin/bash
# Damaged metadata: whatever is on the disk, an activation refuses it, with one error that says why and
# without a write, or it gets map, owners and data right; what a damaged map block says is an I/O error.
#
# Metadata areas of several kinds are damaged at random: bits, sectors and blocks, torn, moved, older, of
# other areas, device too short; and by somebody who knows the device key and seals impossible
# values. One table in twenty says format, which is never to be taken here. tests/guest/kcformat.py, an
# independent reader, says what must become of each image.
# KC_IMAGES: how many, 300 if not given; KC_SEED: which; KC_FIRST: the first one's number, to see one again (the areas
# they are made from are not the same to the byte: nonces are random, and a timer commits).
#
# SPDX-License-Identifier: GPL-2.0-only

VM_ARGS=(--mem 1500M --timeout 7200 --append rcupdate.rcu_expedited=1)

host_main() {
	vm_boot "seed ${KC_SEED:-1}" "${KC_SEED:-1}" "${KC_IMAGES:-300}" "${KC_FIRST:-0}"
}
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/python.sh
. "$KC_TESTS/python.sh"

load_module
must modprobe brd rd_nr=2 rd_size=$((512 << 10))
run_python damage.py "$2" "$3" "$4"
ok "the module can go" unload_module
done_testing
