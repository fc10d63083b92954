#!/bin/bash
# The commands of Documentation/low-end.rst that compare raw, dm-crypt and keyed-crypt on a board's own disk do so,
# as they are written there; KC_ARCH: on which machine.
#
# Depends on: Documentation/low-end.rst
#
# SPDX-License-Identifier: GPL-2.0-only

VM_ARGS=(--disk scratch=640M --mem 1G --timeout 1200)
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"

load_module
must modprobe dm-crypt
commands=$(sed -n '/^    export DISK=/,/^    dmsetup remove board; keyctl/s/^    //p' "$KC_TESTS/../Documentation/low-end.rst")
is "there are ten commands" "$(wc -l <<< "$commands")" 10
# another disk, less time; and the module is there already, not where modprobe finds it
here=${commands/'/dev/mmcblk0p3 RUNTIME=10'//dev/disk/kc/scratch RUNTIME=2}
here=${here/'modprobe dm-keyed-crypt && '/}
nok "the disk and the module are named as is expected here" test "$here" = "$commands"
cat > "$kc_tmp/commands" <<< "set -e -o pipefail; cd $kc_tmp; ln -sfn $KC_TESTS tests
$here"
ok "they run to their end" bash "$kc_tmp/commands" && diag < "$kc_log"
jobs=$(grep -c '^\[' "$KC_TESTS/bench/board.fio")
for who in raw dm-crypt keyed-crypt; do
	is "$who: each job of fio moved data" "$(awk -F';' '$2 + $3 > 0' "$kc_tmp/$who.txt" | wc -l)" $((jobs - 1))
done
is "the last one prints them all" "$(grep -cE '^[a-z0-9-]+( +[0-9]+){3}$' "$kc_log")" $((jobs - 1))
nok "no key is left" keyctl search @u logon board:device
is "nor a mapped device" "$(dmsetup ls)" 'No devices found'
done_testing
