#!/bin/bash
# The benchmarks' harness: every contestant has its figure, and the same one when it is run again; a
# missed budget fails the run and is named; a device of this machine is not overwritten unasked.
#
# SPDX-License-Identifier: GPL-2.0-only

bench() {
	"$KC_TESTS/bench/bench" --vm-name "test/$KC_NAME.vm" --build "$VM_DIR/bench" --no-plot --cipher aes "$@" \
		</dev/null
}

budgets() { # name min
	cat > "$VM_DIR/$1.json" <<-END
	[{"name": "$1", "cases": ["rand-read-*"], "unit": "MiB/s", "contestant": "keyed",
	  "against": ["crypt", "crypt-nowq"], "min": $2},
	 {"name": "other", "cases": ["locked-*"], "unit": "disk I/Os", "contestant": "keyed", "max": 0}]
	END
}

# figures FILE: "case cipher unit contestant value" lines
figures() {
	python3 -S - "$1" <<-'END'
	import json, sys
	for case, ciphers in json.load(open(sys.argv[1]))["cases"].items():
	    for cipher, units in ciphers.items():
	        for unit, e in units.items():
	            for who, value in e["figures"].items():
	                print(case, cipher, unit.replace(" ", "-"), who, value)
	            for who, value in e.get("ratio", {}).items():
	                print(case, cipher, "ratio", who, value)
	END
}

host_main() {
	local cases=(rand-read-4k-qd1 locked-read-4k) out rc

	KC_MODULES=$("$KC_TESTS/kernel.sh" module-dir)
	export KC_MODULES
	must make -C "$KC_TOP" --no-print-directory bench-programs
	budgets easy 0.01
	budgets impossible 100

	out=$(bench --budgets "$VM_DIR/easy.json" --json "$VM_DIR/a.json" "${cases[@]}") && rc=0 || rc=$?
	is "budgets that are met: exit status" "$rc" 0 || diag "$out"
	figures "$VM_DIR/a.json" > "$VM_DIR/a"
	is "every contestant has its figures" "$(cut -d' ' -f1-4 "$VM_DIR/a" | sort)" \
		"$(printf '%s aes-xts-plain64 %s\n' \
			rand-read-4k-qd1 'MiB/s raw' rand-read-4k-qd1 'MiB/s crypt' \
			rand-read-4k-qd1 'MiB/s crypt-nowq' rand-read-4k-qd1 'MiB/s keyed' \
			rand-read-4k-qd1 'ratio raw' rand-read-4k-qd1 'ratio keyed' \
			locked-read-4k 'instructions keyed' locked-read-4k 'disk-I/Os keyed' | sort)"

	out=$(bench --budgets "$VM_DIR/impossible.json" --json "$VM_DIR/b.json" "${cases[@]}") && rc=0 || rc=$?
	is "a budget that is not met: exit status" "$rc" 1 || diag "$out"
	like "it is named, with case, figure and limit" "$out" \
		'MISSED impossible: rand-read-4k-qd1, aes: keyed MiB/s to crypt-nowq [0-9.]+, at least 100'
	like "the others are not" "$out" '1 budgets met, 1 missed'
	figures "$VM_DIR/b.json" > "$VM_DIR/b"
	# What is left is the place of interrupts, in runs of some ten milliseconds, and when workqueues run.
	ok "the figures repeat to 0.5 %" awk '
		NR == FNR { value[$1, $3, $4] = $5; next }
		{
			a = value[$1, $3, $4]; d = a - $5; n++
			if (d < 0) d = -d
			print $0, d
			if (d > a / 200) bad = 1
		}
		END { exit bad || n != 8 }' "$VM_DIR/a" "$VM_DIR/b"
	diag < "$kc_log"

	out=$(bench no-such-case 2>&1) && rc=0 || rc=$?
	is "a case that there is not: exit status" "$rc" 2
	like "it is named" "$out" "no case matches 'no-such-case'"
	out=$(bench --cipher rot13 2>&1) && rc=0 || rc=$?
	is "a cipher that there is not: exit status" "$rc" 2

	cp "$KC_TOP/build/bench/io" "$KC_MODULES/tests/modules/freecipher/freecipher.ko" "$VM_OUT/"
	vm_boot
}
VM_ARGS=(--mem 1G)
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"

# A device "of this machine", which is the VM here
refused() { # name regex
	local out rc

	out=$("${run[@]}" 2>&1 </dev/null) && rc=0 || rc=$?
	is "$1: exit status" "$rc" 2
	like "$1: says why" "$out" "$2" || diag "$out"
}

disk=/dev/ram0
export KC_BENCH_FACTOR=1
run=("$KC_TESTS/bench/bench" --build "$kc_tmp/bench" --programs "$KC_OUT" --no-plot --cipher aes --dev "$disk"
	rand-read-4k-qd1)
must modprobe brd rd_nr=2 rd_size=98304
refused "nobody said yes" 'BENCH_YES=/dev/ram0 means yes'
export BENCH_YES=/dev/ram1
refused "yes to another device" "'/dev/ram1' is not '/dev/ram0'"
export BENCH_YES=$disk
must mkfs.ext4 -q $disk
sum=$(hash_dev $disk)
must mkdir /tmp/mnt
must mount -o ro,noload $disk /tmp/mnt
refused "a mounted device" '/dev/ram0: in use'
must umount /tmp/mnt
must dmsetup create user --table "0 1000 linear $disk 0"
refused "a device in use" '/dev/ram0: in use'
must dmsetup remove user
is "nothing was written" "$(hash_dev $disk)" "$sum"
ok "a device that is nobody's" "${run[@]}"
diag < "$kc_log"
like "it was measured" "$(< "$kc_log")" 'rand-read-4k-qd1 +aes +MiB/s +[0-9.]+ +[0-9.]+ +[0-9.]+ +[0-9.]+ +[0-9.]+'
isnt "and written" "$(hash_dev $disk)" "$sum"
is "no key is left" "$(keyctl list @u | grep -c kc-bench)" 0
nok "nor the module" test -e /sys/module/dm_keyed_crypt
is "nor a mapped device" "$(dmsetup ls)" 'No devices found'
done_testing
