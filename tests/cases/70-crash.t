#!/bin/bash
# After a crash at any point the key map tells the truth, and what was acknowledged is there.
#
# Every write and flush that reaches the disk under a mixed load is recorded with dm-log-writes;
# crash states are built from the record and activated.
#
# KC_STATES: how many, 300 if not given, up to 2500 from one load. KC_SEED: which, 1 if not given.
# After a failure, KC_STATE=<number> builds that state again from the same record, which is kept.
#
# SPDX-License-Identifier: GPL-2.0-only

# shellcheck disable=SC2034 # used by lib.sh
VM_ARGS=(--mem 2G --timeout 3000)

host_main() {
	local kept=$KC_TOP/build/crash${KC_ARCH:+-$KC_ARCH} states=${KC_STATES:-300} seed=${KC_SEED:-1} round n

	# Under emulation the wide vector units of the ciphers cost most, and waiting for RCU.
	VM_ARGS+=(--disk "log=$kept/log.img:512M"
		--append 'rcupdate.rcu_expedited=1 clearcpuid=avx512f,avx2,avx,ssse3')
	if [[ ${KC_STATE:-} ]]; then
		n=$(sed -n 's/^states //p' "$kept/run") && seed=$(sed -n 's/^seed //p' "$kept/run") || exit 1
		cp "$kept/oracle" "$VM_OUT/"
		vm_boot replay "$seed" "$n" "$KC_STATE"
		return
	fi
	mkdir -p "$kept"
	for ((round = 0; states > 0; round++, states -= n)); do
		n=$((states < 2500 ? states : 2500))
		printf 'seed %d\nstates %d\n' "$((seed + round))" "$n" > "$kept/run"
		rm -f "$kept/log.img"
		vm_boot load "$((seed + round))" "$n"
		cp "$VM_OUT/oracle" "$kept/"
		((!tap_failed)) || return
	done
	rm -rf "$kept"
}
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"

phase=$1 seed=$2 states=$3
load_module
must modprobe -a dm-log-writes
data_offset=4096
blocks=$((24 * 1920))
size=$((data_offset + blocks * 8))
# A disk to write to, and for each of two workers one to activate and a log
must modprobe brd rd_nr=5 rd_size=$((size / 2))
names=(device alice bob carol d0 d1 d2 d3 d4 d5 d6 d7 d8 d9)
for who in "${names[@]}"; do
	must add_key logon "kc:$who" "$(printf '%s' "$who $seed" | sha512sum | cut -d' ' -f1)" @u
done

table() { # device options
	printf '0 %d keyed-crypt aes-xts-plain64 :64:logon:kc:device 0 %s %d %d owner:uid %s\n' \
		$((blocks * 8)) "$1" "$data_offset" "$#" "${*:2}"
}

if [[ $phase == load ]]; then
	must dmsetup create log --table "0 $size log-writes /dev/ram0 /dev/disk/kc/log"
	table /dev/mapper/log allow_discards format > /tmp/table
	must dmsetup create kc /tmp/table
	must dmsetup message kc 0 owner add alice 1000 :64:logon:kc:alice
	must dmsetup message kc 0 owner add bob 1001 :64:logon:kc:bob
	must dmsetup message kc 0 owner add carol 1002 :64:logon:kc:carol
	ok "a mixed load of many owners runs" \
		/usr/bin/python3 -B -S "$KC_TESTS/guest/crash.py" load log kc /dev/mapper/kc "$KC_OUT/oracle" "$seed" 250
	diag < "$kc_log"
	diag "$(dmsetup status kc)"
	like "blocks changed owner" "$(dmsetup status kc)" ' rw [0-9]+ [0-9]+/[0-9]+ 0 [0-9]+ [1-9][0-9]+ 13 '
	must dmsetup remove kc
	must dmsetup remove log
fi

# the workers open one at the same time
table DISK clone > /tmp/table
ok "$states crash states hold what was acknowledged, under the key the map names" \
	/usr/bin/python3 -B -S "$KC_TESTS/guest/crash.py" replay /dev/disk/kc/log "$KC_OUT/oracle" "$seed" "$states" \
	/tmp/table /dev/ram1:/dev/ram2 /dev/ram3:/dev/ram4 ${4:+-- "$4"}
diag < "$kc_log"
done_testing
