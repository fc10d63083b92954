#!/bin/bash
# Random I/O of every kind that is always compared with what must be there, by several users on ext4 and on the
# device itself, while owners are locked, the map is committed, tables are loaded, the device is
# suspended: nobody reads anything wrong, only who is locked gets errors, and all is there after
# the device has been opened anew.
#
# KC_SECONDS: for how long, 40 if not given; KC_SEED: which. The seed gives the operations of each
# process, not how they mix.
#
# SPDX-License-Identifier: GPL-2.0-only

VM_ARGS=(--disk fs=200M --disk raw=64M --mem 1G --timeout $((${KC_SECONDS:-40} * 2 + 400)))

host_main() {
	ok "fsx is built" gcc -O2 -Wall -o "$VM_OUT/fsx" "$KC_TESTS/guest/fsx.c"
	vm_boot run "${KC_SECONDS:-40}" "${KC_SEED:-1}"
}
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/python.sh
. "$KC_TESTS/python.sh"
# shellcheck source=tests/guest/owners.sh
. "$KC_TESTS/guest/owners.sh"

seconds=$2 seed=$3
users=(1000 1001 1002 1003)
start=16384
res=/tmp/results
fsx=$KC_OUT/fsx

create() { # NAME [OPTION...]
	local opts=(owner:uid allow_discards "${@:2}")

	dmsetup create "$1" --table "0 $(($(sectors "/dev/disk/kc/$1") - start)) keyed-crypt aes-xts-plain64 \
		:64:logon:kc:0 0 /dev/disk/kc/$1 $start ${#opts[@]} ${opts[*]}"
	chmod 666 "/dev/mapper/$1"
}

user() { # UID COMMAND...
	setpriv --reuid "$1" --regid "$1" --clear-groups -- "${@:2}"
}

# fsx_start NAME UID OPTION... FILE
names=()
declare -A pid where
fsx_start() {
	local name=$1 uid=$2

	shift 2
	names+=("$name")
	where[$name]=${*: -1}
	seed=$((seed + 1))
	user "$uid" nice "$fsx" -s "$seed" -t "$seconds" -m "$res/$name.model" "$@" > "$res/$name" 2>&1 &
	pid[$name]=$!
}

# fio with a header in each 4 KiB, so that all can be compared once more at the end
verify=(--verify=crc32c --verify_interval=4096 --verify_fatal=1 --verify_state_save=0)

fio_start() { # NAME UID OPTION...
	names+=("$1")
	user "$2" nice fio --name="$1" --rw=randrw --bsrange=4k-64k --time_based --runtime="$seconds" \
		--verify_backlog=32 --randrepeat=0 "${verify[@]}" "${@:3}" > "$res/$1" 2>&1 &
	pid[$1]=$!
}

fio_check() { # OPTION...
	fio --name=check --rw=read --bs=64k --direct=1 "${verify[@]}" "$@"
}

fio_layout() { # UID OPTION...
	user "$1" fio --name=layout --rw=write --bs=64k --direct=1 --do_verify=0 "${verify[@]}" "${@:2}"
}

load_module
must own_keys 4
must install -d -m 777 $res
for dev in fs raw; do
	must create $dev format
	for i in "${users[@]}"; do
		must dmsetup message $dev 0 owner add "o$i" "$i" ":64:logon:kc:$i"
	done
done
must mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0,nodiscard /dev/mapper/fs
must mount -o errors=remount-ro /dev/mapper/fs /mnt
for i in "${users[@]}"; do
	must install -d -o "$i" -g "$i" "/mnt/$i"
done
raw=/dev/mapper/raw
carol=(--filename="$raw" --offset=16M --size=4M)
alice=(--filename="$raw" --offset=20M --size=4M)
file=(--filename=/mnt/1002/fio --size=8M)
must fio_layout 1002 "${carol[@]}"
must fio_layout 1000 "${alice[@]}"
must fio_layout 1002 "${file[@]}"

# 1001 and 1003 are locked now and then.
fsx_start fs-alice 1000 -l 2000000 /mnt/1000/file
fsx_start fs-bob 1001 -e -l 1000000 /mnt/1001/file
fsx_start fs-dave 1003 -e -l 300000 /mnt/1003/file
fsx_start raw-alice 1000 -b 0 -l $((2 << 20)) $raw
fsx_start raw-bob 1001 -e -b $((4 << 20)) -l 1000000 $raw
fsx_start raw-carol 1002 -b $((8 << 20)) -l 200000 $raw
fio_start fio-raw-carol 1002 --direct=1 --ioengine=libaio --iodepth=8 "${carol[@]}"
fio_start fio-raw-alice 1000 --direct=1 --ioengine=psync "${alice[@]}"
fio_start fio-fs-carol 1002 --ioengine=psync --fsync=64 "${file[@]}"
run_python long.py "$seconds" "$seed" /mnt fs=/dev/disk/kc/fs raw=/dev/disk/kc/raw
noticed=0
for name in "${names[@]}"; do
	wait "${pid[$name]}" && rc=0 || rc=$?
	if ! is "$name: never anything wrong" $rc 0; then
		tail -n 40 "$res/$name" | diag
		continue
	fi
	case $name in
	fio*) diag "$name: $(grep -E '(read|write): IOPS' "$res/$name" | tr -s ' \n' ' ')" ;;
	*)
		read -r ops errors compared unknown < "$res/$name"
		diag "$name: $ops operations, $errors with EIO, $compared bytes compared, $unknown unknown at the end"
		ok "$name: there was a load" test $((ops)) -gt "$((seconds / 2))"
		case $name in
		*bob | *dave) noticed=$((noticed + errors)) ;;
		*) is "$name: never an error" "$errors" 0 ;;
		esac
		;;
	esac
done
ok "locks were noticed" test $noticed -gt 0
for dev in fs raw; do
	diag "$(dmsetup status $dev | sed 's/ new[0-9]*:[0-9]*:unlocked//g')"
	like "$dev is as it should be" "$(dmsetup status $dev)" ' keyed-crypt rw '
done
like "the filesystem has seen no error" "$(grep ' /mnt ' /proc/mounts)" ' rw,'

ok "unmount" umount /mnt
for dev in fs raw; do
	must drop_caches
	ok "$dev is removed" dmsetup remove $dev
	ok "$dev is opened anew" create $dev
done
ok "mount" mount /dev/mapper/fs /mnt
for name in "${names[@]}"; do
	[[ $name != fio* ]] || continue
	opts=()
	case $name in
	raw-alice) opts=(-b 0) ;;
	raw-bob) opts=(-b $((4 << 20))) ;;
	raw-carol) opts=(-b $((8 << 20))) ;;
	esac
	ok "$name: all of it is there" "$fsx" -c "${opts[@]}" -m "$res/$name.model" "${where[$name]}"
	diag < "$kc_log"
done
ok "carol's data of fio on the device is there" fio_check "${carol[@]}"
ok "alice's too" fio_check "${alice[@]}"
ok "and that on the filesystem" fio_check "${file[@]}"
ok "unmount" umount /mnt
ok "the filesystem is clean" e2fsck -fn /dev/mapper/fs
must dmsetup remove fs
must dmsetup remove raw
ok "the module can go" unload_module
done_testing
