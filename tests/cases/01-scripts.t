#!/bin/bash
# The scripts of this repository are in order.
#
# Depends on: tests/* tests/*/* tools/* .ci/run .shellcheckrc
#
# SPDX-License-Identifier: GPL-2.0-only

host_main() {
	local f

	cd "$KC_TOP" || bail "no $KC_TOP"
	for f in tests/* tests/*/* tools/* .ci/run; do
		[[ -f $f ]] && head -n 1 "$f" | grep -qE '^#!.*[/ ](ba)?sh\b' || continue
		ok "shellcheck has nothing to say on $f" shellcheck -S warning "$f"
	done
	ok "shellcheck has nothing to say on tests/lib.sh" shellcheck -S warning tests/lib.sh
}
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
