#!/bin/bash
# The harness itself: what it promises to the other tests, and that it notices what goes wrong.
#
# SPDX-License-Identifier: GPL-2.0-only

VM_ARGS=(--disk scratch=64M --disk big=32M,logical_block_size=4096,physical_block_size=4096
	--disk cached=16M --volatile cached --mem 512M)

small_test() { # name line...
	local file=$VM_DIR/$1.t

	shift
	{
		printf '#!/bin/bash\n. "%s/lib.sh"\n' "$KC_TESTS"
		printf '%s\n' "$@"
	} > "$file"
	chmod +x "$file"
}

host_main() {
	local out rc boot i hogs

	vm_boot --kill write
	vm_boot --allow-dmesg 'WARNING: expected' --memdump-on "kc-dump-now=$VM_DIR/memory" \
		--memdump-on "kc-dump-again=$VM_DIR/memory2" check
	ok "the guest's memory is dumped while it waits" test -s "$VM_DIR/memory"
	ok "more than once" test -s "$VM_DIR/memory2"
	ok "and holds what a process of it knew" grep -aq kc-needle-4711-in-memory "$VM_DIR/memory"
	is "what the guest writes to its shared folder is here" "$(cat "$VM_OUT/result")" shared

	ok "what a volatile disk holds at the end of an ordinary run is in its image" \
		grep -aq 'written in another boot' "$VM_DIR/cached.img"
	boot=$SECONDS
	out=$(vm_run -- bash -c 'echo out; echo err >&2; exit 42') && rc=0 || rc=$?
	boot=$((SECONDS - boot))
	is "the command's exit status comes back" "$rc" 42
	is "and so do its output and its errors" "$out" $'out\nerr'

	# Faults must be noticed: one boot each.
	out=$(vm_run -- bash -c 'echo "<4>WARNING: fake" > /dev/kmsg') && rc=0 || rc=$?
	is "a warning in the kernel log fails a run whose command succeeds" "$rc" 120
	like "and is shown" "$out" 'WARNING: fake'
	out=$(vm_run --timeout $((10 + 2 * boot)) -- bash -c 'echo before; sleep 1000') && rc=0 || rc=$?
	is "a guest that hangs is killed at its time limit" "$rc" 124
	like "and what it printed before is there" "$out" before
	hogs=()
	for ((i = 0; i < 8 * $(nproc); i++)); do
		timeout $((2 * boot + 6)) bash -c 'while :; do :; done' &
		hogs+=($!)
	done
	out=$(vm_run --timeout $((boot + 3)) -- echo slowly) && rc=0 || rc=$?
	is "a guest is not killed for the time that the host's processors had for others" "$rc $out" '0 slowly'
	wait "${hogs[@]}"
	out=$(vm_run -- bash -c 'echo c > /proc/sysrq-trigger; sleep 100') && rc=0 || rc=$?
	is "a crash of the kernel fails the run" "$rc" 121

	# Tests that must not pass
	small_test 00-harness-fails 'is "one is two" 1 2' 'done_testing'
	nok "a failing assertion makes prove fail" prove -Q "$VM_DIR/00-harness-fails.t"
	small_test 00-harness-stops 'ok "true is true" true' 'exit 0' 'done_testing'
	nok "a test that stops early makes prove fail" prove -Q "$VM_DIR/00-harness-stops.t"
}
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"

scratch=/dev/disk/kc/scratch
cached=/dev/disk/kc/cached

put() { # DEVICE BLOCK TEXT [flush]: a block of 4 KiB
	printf '%-4096s' "$3" | dd of="$1" bs=4k seek="$2" oflag=direct iflag=fullblock conv=notrunc${4:+,fsync} status=none
}

text() { # DEVICE BLOCK
	dd if="$1" bs=4k skip="$2" count=1 status=none | tr -d '\0' | sed 's/ *$//'
}

case $1 in
write)
	is "the disk has its size" "$(sectors $scratch)" 131072
	must dd if=/dev/zero of=$scratch bs=1M count=1 conv=fsync status=none
	must bash -c "echo survives | dd of=$scratch conv=fsync,notrunc status=none"
	must put $scratch 100 unflushed
	must put $cached 0 flushed flush
	must put $cached 1 unflushed
	must put $cached 0 rewritten
	power_cut
	;;
check)
	is "a disk survives a power cut" "$(head -n 1 $scratch | tr -d '\0')" survives
	is "with all that was sent to it" "$(text $scratch 100)" unflushed
	is "a volatile disk keeps what was flushed, and what went to the same place" "$(text $cached 0)" rewritten
	is "and loses what was not flushed" "$(text $cached 1)" ''
	must put $cached 2 'written in another boot'
	is "a disk can have large blocks" "$(blockdev --getss /dev/disk/kc/big)" 4096
	for tool in dmsetup cryptsetup keyctl fio mkfs.ext4 mkfs.xfs mkfs.btrfs mkfs.f2fs; do
		ok "$tool is there" command -v "$tool"
	done
	ok "the kernel finds its modules itself" bash -c 'mount -t ext4 /dev/zero /mnt; grep -w ext4 /proc/filesystems'
	ok "device mapper works" dmsetup create t --table "0 8 linear $scratch 0"
	read -r reads writes <<< "$(disk_stat $scratch)"
	must dd if=/dev/mapper/t of=/dev/null bs=4096 count=1 iflag=direct
	is "reads are counted" "$(disk_stat $scratch)" "$((reads + 1)) $writes"
	fails_with "an error has a name" EBUSY dmsetup create t --table "0 8 linear $scratch 0"
	fails_msg "an error has its line in the kernel log" 'linear: Device lookup failed' \
		dmsetup create u --table "0 8 linear /dev/mapper/none 0"
	must dmsetup remove t

	hex=$(rand_hex 32)
	id=$(add_key user kc-test "$hex" @u)
	is "a key of any bytes can be added" "$(keyctl pipe "$id" | od -An -v -tx1 | tr -d ' \n')" "$hex"
	ok "a logon key too" add_key logon kc:test "00${hex}0a" @s
	mkuser alice 1000
	is "a user is another user" "$(as alice id -u):$(as alice id -g)" 1000:1000
	nok "with no rights of root's" as alice dmsetup version

	echo '<4>WARNING: expected by the test' > /dev/kmsg

	needle=kc-needle-4711
	needle+=-in-memory
	vm-memdump kc-dump-now
	ok "the guest goes on after the memory dump" test -n "$needle"
	vm-memdump kc-dump-again
	echo shared > "$KC_OUT/result"
	;;
esac
done_testing
