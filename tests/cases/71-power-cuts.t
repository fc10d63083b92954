#!/bin/bash
# After power cuts in the middle of heavy loads, on the device itself and on ext4, xfs, f2fs and btrfs: the
# journals are replayed, every flushed block and file is whole, everything is under its writer's key, and the
# filesystems are clean.
#
# Each cut is the killing of a VM in which one of the five loads runs, at a random time; its next boot
# checks, and goes on. One cut in four comes while a boot still recovers and checks, and one boot in three does
# not unmount before it goes on, so crash follows crash. The first five cuts and two in three of the others take
# what the disk had not been told to flush, as far as tests/vm --volatile can; the rest only the guest's
# memory.
# Caches that lose writes in any order are for 70-crash.t.
#
# KC_CUTS: how many cuts, 5 if not given; KC_SEED: which; KC_KINDS: on what, all five in turn. The seed gives the loads and the delays, but
# where a cut hits also depends on the machine.
#
# SPDX-License-Identifier: GPL-2.0-only

VM_ARGS=(--mem 1G --timeout 200)
kinds=(raw ext4 xfs f2fs btrfs)
declare -A size=([raw]=48M [ext4]=64M [xfs]=336M [f2fs]=96M [btrfs]=160M)

host_main() {
	local cuts=${KC_CUTS:-5} boot kind opts loses early rough delay disks=()

	RANDOM=${KC_SEED:-1}
	read -r -a kinds <<< "${KC_KINDS:-${kinds[*]}}"
	for ((boot = 1; boot <= cuts; boot++)); do
		kind=${kinds[(boot - 1) % ${#kinds[@]}]}
		opts=(--disk "$kind=${size[$kind]}")
		loses='the memory'
		if ((RANDOM % 3 || boot <= 5)); then
			opts+=(--volatile "$kind")
			loses='the disk cache, too'
		fi
		early=$((boot > 5 && RANDOM % 4 == 0)) rough=$((RANDOM % 3 == 0))
		delay=$((early ? RANDOM % 6000 : 2000 + RANDOM % 4000))
		diag "$kind: $delay ms after $( ((early)) && echo power-on || echo 'the load began'), losing $loses"
		vm_boot --kill "${opts[@]}" cut "$kind" "$boot" "$RANDOM" $delay $early $rough
	done
	for kind in "${kinds[@]}"; do
		[[ ! -e $VM_DIR/$kind.img ]] || disks+=(--disk "$kind=$VM_DIR/$kind.img")
	done
	vm_boot "${disks[@]}" check "$boot"
}
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/python.sh
. "$KC_TESTS/python.sh"
# shellcheck source=tests/guest/owners.sh
. "$KC_TESTS/guest/owners.sh"

users=(1000 1001 1002 1003)

# open_device: with the options that this boot's seed gives
open_device() { # [option...]
	local disk=/dev/disk/kc/$kind opts=(owner:uid "$@")

	((RANDOM % 2)) || opts+=(meta_cache:1)
	((RANDOM % 2)) || opts+=(allow_discards)
	# What was flushed and what a journal covers does not need reassign:strict, whose intents flush the
	# disk all the time; the device itself does.
	[[ $kind == raw ]] || ((RANDOM % 3 == 0)) || opts+=(reassign:lazy)
	printf '# %s: %s\n' "$kind" "${opts[*]}" >&9
	dmsetup create kc --table "0 $(($(sectors "$disk") - own_start)) keyed-crypt aes-xts-plain64 \
		:64:logon:kc:0 0 $disk $own_start ${#opts[@]} ${opts[*]}"
}

mount_it() {
	local opts=()

	((RANDOM % 2)) || [[ $kind == f2fs ]] || opts=(-o discard)
	mount -t "$kind" "${opts[@]}" /dev/mapper/kc /mnt
}

# Several users over the same blocks; verify's header in each of them, so that every block tells
# whether it is whole.
fio_load() { # OPTION...
	local job=() i

	for i in 1000 1001 1002; do
		job+=(--name="u$i" --uid="$i" --gid="$i")
	done
	fio --filename=/dev/mapper/kc --offset=12M --size=8M --rw=randwrite --bsrange=4k-32k --direct=1 \
		--ioengine=libaio --iodepth=8 --verify=crc32c --verify_interval=4096 --do_verify=0 \
		--verify_state_save=0 --randrepeat=0 --thread=0 "$@" "${job[@]}"
}

fio_check() {
	fio --name=check --filename=/dev/mapper/kc --offset=12M --size=8M --rw=read --bs=64k --direct=1 \
		--ioengine=psync --verify=crc32c --verify_interval=4096 --verify_fatal=1 --verify_state_save=0
}

make_it() {
	local i

	must open_device format
	chmod 666 /dev/mapper/kc
	for i in "${users[@]}"; do
		must dmsetup message kc 0 owner add "o$i" "$i" ":64:logon:kc:$i"
	done
	case $kind in
	raw)
		must fio_load --rw=write --end_fsync=1
		;;
	ext4) must mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 /dev/mapper/kc ;;
	*) must "mkfs.$kind" -q -f /dev/mapper/kc ;;
	esac
	if [[ $kind != raw ]]; then
		must mount_it
		for i in "${users[@]}"; do
			must install -d -o "$i" -g "$i" "/mnt/$i"
		done
	fi
	must sync
	mkdir "$logs" && touch "$logs/made" && sync
}

# check_it [SCAN]: after a cut
check_it() {
	ok "$kind: the journal is replayed" open_device
	like "$kind: the device is as it should be" "$(dmsetup status kc)" ' keyed-crypt rw '
	if [[ $kind == raw ]]; then
		chmod 666 /dev/mapper/kc
		ok "raw: what fio wrote is old or new, block by block" fio_check
	else
		ok "$kind: mount, which replays its journal" mount_it
	fi
	run_python cuts.py check "$kind" "$logs" "$boot"
	[[ ${1:-} ]] || return
	if [[ $kind != raw ]]; then
		ok "$kind: unmount" umount /mnt
		ok "$kind: the filesystem is clean" own_fsck "$kind"
		run_python cuts.py scan "$kind"
	fi
}

exec 9>&1	# what ok and must run has no output
load_module
must own_keys 4
case $1 in
cut)
	kind=$2 boot=$3 RANDOM=$4 delay=$5 early=$6 rough=$7 logs=$KC_OUT/$2
	if [[ ! -e $logs/made ]]; then
		make_it
	else
		((!early)) || { sleep "$((delay / 1000)).$(printf %03d $((delay % 1000)))"; echo kc-power-cut; } &
		if ((rough)); then
			check_it
		else
			check_it scan
			[[ $kind == raw ]] || must mount_it
		fi
	fi
	[[ $kind != raw ]] || fio_load --time_based --runtime=60 > "$kc_tmp/fio" 2>&1 &
	"$KC_TESTS/guest/cuts.py" load "$kind" "$logs" "$boot" "$RANDOM" "$delay"
	bail "the load has ended"
	;;
check)
	boot=$2
	for kind in "${kinds[@]}"; do
		logs=$KC_OUT/$kind
		[[ -e $logs/made ]] || continue
		check_it scan
		must dmsetup remove kc
	done
	;;
esac
done_testing
