#!/bin/bash
# Every block is, bit for bit, what stock dm-crypt writes with its owner's key: on the disk dm-crypt
# reads what each owner wrote there, and the ciphertext equals that of dm-crypt on another disk.
#
# SPDX-License-Identifier: GPL-2.0-only

VM_ARGS=(--disk data=64M --disk twin=64M --disk meta=16M --disk huge=2300G --mem 768M
	--append cryptd.cryptd_max_cpu_qlen=5)
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/python.sh
. "$KC_TESTS/python.sh"

load_module
run_python ciphertext.py
ok "the module can go" unload_module
done_testing
