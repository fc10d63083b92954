#!/bin/bash
# The demo does what it says it does; KC_ARCH: on which machine.
#
# Depends on: tests/demo
#
# SPDX-License-Identifier: GPL-2.0-only

host_main() {
	ok "the demo ends as it should" "$KC_TESTS/demo" || diag < "$kc_log"
}
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
