#!/bin/bash
# Many owners write at once on xfs: every block is under its writer's key.
#
# SPDX-License-Identifier: GPL-2.0-only

VM_ARGS=(--disk scratch=400M --mem 1G)
VM_BOOTS='write check'
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/guest/owners.sh
. "$KC_TESTS/guest/owners.sh"

owners_test "$1" xfs gid
if [[ $1 == check ]]; then
	must own_open projid
	dmsetup message kc 0 owner list | grep -q '^root ' || must dmsetup message kc 0 owner ids o1000 0
	must mount /dev/mapper/kc /mnt
	must dd if=/dev/zero of=/mnt/projid bs=64k count=1 conv=fsync
	own_map > "$kc_tmp/map"
	"$KC_TESTS/guest/blocks.py" extents /mnt/projid > "$kc_tmp/extents"
	is "owner:projid: xfs does not tell projects, project 0 neither" \
		"$("$KC_TESTS/guest/blocks.py" owners "$kc_tmp/map" "$kc_tmp/extents" | tr '\n' ';')" '1 16;'
	must umount /mnt
	must dmsetup remove kc
fi
done_testing
