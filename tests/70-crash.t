#!/bin/bash
# After a crash at any point the key map tells the truth, and what was acknowledged is there.
#
# Every write and flush that reaches the disk under a mixed load is recorded with dm-log-writes;
# crash states are built from the record and activated. KC_STATES: how many, 100 if not given; KC_SEED: which.
#
# SPDX-License-Identifier: GPL-2.0-only

VM_ARGS=(--disk "log=512M" --mem 1500M --timeout 1800)

host_main() {
	vm_boot load "${KC_SEED:-1}" "${KC_STATES:-100}"
}
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/lib.sh"

seed=$2
states=$3
load_module
must modprobe -a dm-log-writes loop
data_offset=8192
blocks=1536
size=$((data_offset * 512 + blocks * 4096))
must truncate -s "$size" /tmp/disk
must truncate -s "$size" /tmp/state
disk=$(losetup -f --show /tmp/disk)
state=$(losetup -f --show /tmp/state)
for who in device alice bob carol; do
	must add_key logon "kc:$who" "$(rand_hex 64)" @u
done

table() { # device
	printf '0 %d keyed-crypt aes-xts-plain64 :64:logon:kc:device 0 %s %d 1 owner:uid\n' \
		$((blocks * 8)) "$1" "$data_offset"
}

must dmsetup create log --table "0 $((size / 512)) log-writes $disk /dev/disk/kc/log"
table /dev/mapper/log > /tmp/table
must dmsetup create kc /tmp/table
must dmsetup message kc 0 owner add alice 1000 :64:logon:kc:alice
must dmsetup message kc 0 owner add bob 1001 :64:logon:kc:bob
must dmsetup message kc 0 owner add carol 1002 :64:logon:kc:carol
ok "a mixed load of four owners runs" \
	/usr/bin/python3 "$KC_TESTS/crash.py" load log /dev/mapper/kc /tmp/oracle "$seed" 250
diag < "$kc_log"
diag "$(dmsetup status kc)"
like "blocks changed owner" "$(dmsetup status kc)" ' rw [0-9]+ [0-9]+/[0-9]+ 0 0 [1-9][0-9]+ 3 '
must dmsetup remove kc
must dmsetup remove log

table "$state" > /tmp/table
ok "$states crash states hold what was acknowledged, under the key the map names" \
	/usr/bin/python3 "$KC_TESTS/crash.py" replay /dev/disk/kc/log "$state" /tmp/table \
	/tmp/oracle "$seed" "$states" "$size" "$data_offset"
diag < "$kc_log"
done_testing
