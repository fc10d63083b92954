#!/bin/bash
# What the debug kernels look for they find, in a module built as ours is, and each of it alone fails a
# run: tests/modules/planted has one bug of each kind. Without one nothing is found.
#
# SPDX-License-Identifier: GPL-2.0-only

VM_ARGS=(--mem 512M)

host_main() {
	local out rc name says append bugs=()

	cp "$("$KC_TESTS/kernel.sh" module-dir)/tests/modules/planted/planted.ko" "$VM_OUT/"
	case $("$KC_TESTS/kernel.sh" resolve "${KERNEL:-}") in
	*-debug)
		bugs=(
			'freed:KASAN: (slab-)?use-after-free in planted_'
			'behind:KASAN: slab-out-of-bounds in planted_'
			'index:UBSAN: array-index-out-of-bounds in .*planted\.c'
			'shift:UBSAN: shift-out-of-bounds in .*planted\.c'
			'order:possible circular locking dependency'
			'sleep:sleeping function called from invalid context at .*planted\.c'
			'timer:ODEBUG: free active'
			'leak:unreferenced object .*size 64'
		)
		;;
	*-kcsan) bugs=('race:KCSAN: data-race in planted_thread') ;;
	esac
	ok "this kernel looks for something" test "${#bugs[@]}" -gt 0
	for name in none "${bugs[@]}"; do
		says=${name#*:} name=${name%%:*}
		[[ $name == leak ]] && append=kmemleak=on || append=''
		out=$(vm_run --log "$VM_DIR/$name.log" --append "$append" -- insmod /run/kc/out/planted.ko "bug=$name") && rc=0 || rc=$?
		if [[ $name == none ]]; then
			is "no bug: the run passes" "$rc" 0
			continue
		fi
		is "$name: the run fails" "$rc" 120
		like "$name: with what was found" "$out" "$says"
	done
}
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
done_testing
