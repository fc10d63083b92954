#!/bin/bash
# A disk written on one architecture is read, and changed, on every other: whatever the size and the
# order of the bytes of a number there, and with what a power cut left in the journal.
#
# Each architecture writes a disk; then each reads all of them and changes them, one after the
# other; then each reads them all. All but the last end in power cuts. Four architectures take twelve boots,
# half an hour on a busy machine of two cores.
#
# KC_ARCHES: which, "amd64 arm64 armhf s390x" if not given; amd64 is the machine this runs on.
#
# SPDX-License-Identifier: GPL-2.0-only

arches=${KC_ARCHES:-amd64 arm64 armhf s390x}
# shellcheck disable=SC2034 # used by lib.sh
VM_ARGS=(--mem 768M --timeout 1200)
for a in $arches; do
	VM_ARGS+=(--disk "$a=64M")
done

boot() { # architecture vm_boot's-arguments...
	export KC_ARCH=$1
	[[ $1 != amd64 ]] || KC_ARCH=''
	cp "$("$KC_TESTS/kernel.sh" module-dir)/dm-keyed-crypt.ko" "$VM_OUT/"
	vm_boot "${@:2}"
	# each builds on what was before
	((!tap_failed)) || return 1
}

host_main() {
	local a

	for a in $arches; do
		boot "$a" --kill "written on $a" write "$a" || return
	done
	for a in $arches; do
		# shellcheck disable=SC2086 # a list of words
		boot "$a" --kill "changed on $a" check change "$a" $arches || return
	done
	for a in $arches; do
		# shellcheck disable=SC2086
		boot "$a" "read on $a" check $arches || return
	done
}
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/python.sh
. "$KC_TESTS/python.sh"

load_module
must modprobe ext4
must modprobe adiantum
run_python ../arch/interchange.py "${@:2}"
[[ $2 == write || $3 == change ]] && power_cut
done_testing
