#!/bin/bash
# The module builds for this kernel without a warning, with all that kbuild has (W=1).
#
# SPDX-License-Identifier: GPL-2.0-only

host_main() {
	local log=$VM_DIR/build.log

	# in a folder of its own: all of it is built, and nothing that others use is touched
	ok "it builds" env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL make -C "$KC_TOP" --no-print-directory \
		KERNEL="${KERNEL:-}" KC_MODULES="$VM_DIR/module" W=1 module
	cp "$kc_log" "$log"
	like "all of it was built" "$(< "$log")" 'CC \[M\] .*target\.o'
	is "without a warning" "$(grep -E '(warning|error): |\*\*\*' "$log")" ''
}
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
