#!/bin/bash
# Memory runs out at any place: tables, messages, suspend and resume fail with ENOMEM and change nothing,
# or work in spite of it; I/O does not fail. Afterwards the same works.
#
# SPDX-License-Identifier: GPL-2.0-only

# A vmalloc() without memory prints a trace; a real fault prints more than that.
VM_ARGS=(--disk data=16M --mem 768M --timeout 1200 --append "rcupdate.rcu_expedited=1 ${append:-}"
	--allow-dmesg 'Call Trace:$')
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
# shellcheck source=tests/python.sh
. "$KC_TESTS/python.sh"

load_module
[[ -e $KC_OUT/failinject.ko ]] || bail 'failinject.ko is not built: make failinject'
must modprobe brd rd_nr=1 rd_size=2048
must insmod "$KC_OUT/failinject.ko"
run_python alloc_failures.py
ok "the module can go" unload_module
done_testing
