#!/bin/bash
# Requests of every size and place end as they should: what is written is read, holes are zeros, the
# key map follows, whatever the size of the cache and of the journal; and what a disk with such blocks
# refuses is refused in the same way.
#
# SPDX-License-Identifier: GPL-2.0-only

VM_ARGS=(--disk data=1200M --disk meta=32M --disk half=32M --mem 768M --timeout 600
	--disk fourk=32M,logical_block_size=4096,physical_block_size=4096)
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/python.sh
. "$KC_TESTS/python.sh"

load_module
run_python requests.py
ok "the module can go" unload_module
done_testing
