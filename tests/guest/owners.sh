# Many owners on one filesystem: what the tests 20-owners-*.t share. Two owners,
# then fifty, write at once with fio, buffered and direct, each under its own user id, data that
# tells whose it is. Then the whole device is read and held against the whole map.
#
# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-only

own_disk=/dev/disk/kc/scratch
own_start=32768			# sectors: room for the metadata area
own_first=1000			# the first owner's id; his slot is 2
own_root=9999			# the id in root's data; his slot comes after that of the fifty

# own_keys NR: the device key, and keys for root and so many owners, the same in every boot. Under
# emulation that many keyctl take long.
own_keys() {
	# shellcheck disable=SC2016 # perl's
	perl -e 'require "sys/syscall.ph";
		for (@ARGV) {
			my ($type, $name, $key) = ("logon", "kc:$_", sprintf("%064d", $_));
			syscall(&SYS_add_key, $type, $name, $key, 64, -4) > 0 or die "$name: $!";
		}' 0 $(seq $own_first $((own_first + $1 - 1))) $own_root
}

# own_create KIND [DISK]: a new device, its owners read from KIND
own_create() {
	own_open "$1 format" "${@:2}"
}

# own_open KIND [DISK]: the device as it was left
own_open() {
	local disk=${2:-$own_disk} opts

	read -r -a opts <<< "owner:$1"

	own_len=$(($(sectors "$disk") - own_start))
	dmsetup create kc --table "0 $own_len keyed-crypt aes-xts-plain64 :64:logon:kc:0 0 $disk $own_start ${#opts[@]} ${opts[*]}"
}

# own_add NR: as many owners
own_add() {
	local i

	for ((i = own_first; i < own_first + $1; i++)); do
		dmsetup message kc 0 owner add "o$i" "$i" ":64:logon:kc:$i" || return
	done
}

own_map() {
	dmsetup message kc 0 map 0 $((own_len / 8))
}

# own_fio NR BY SIZE KINDS: so many owners, and root, write at once (as owners.py job has it); fio
# reads it again and compares
own_fio() {
	"$KC_TESTS/guest/owners.py" job /mnt "$2" "$3" "$4" $(seq $own_first $((own_first + $1 - 1))) \
		$own_root > "${kc_tmp:?}/job" || return
	fio "$kc_tmp/job" > "$kc_tmp/fio.out" 2>&1 || {
		grep -iE 'err|verify' "$kc_tmp/fio.out"
		return 1
	}
}

own_mkfs() { # ext4...
	case $1 in
	ext4) mkfs.ext4 -q "${@:2}" /dev/mapper/kc ;;
	*) "mkfs.$1" -q -f "${@:2}" /dev/mapper/kc ;;
	esac
}

own_fsck() {
	case $1 in
	ext4) e2fsck -fn /dev/mapper/kc ;;
	xfs) xfs_repair -n /dev/mapper/kc ;;
	btrfs) btrfs check /dev/mapper/kc ;;
	f2fs) fsck.f2fs -f --dry-run /dev/mapper/kc ;;
	esac
}

# own_scan WHAT: the device and its map agree: the blocks of everybody who has a file below /mnt, which
# is unmounted, are in his slot, his slot holds nothing else, and everything else is in slot 1.
own_scan() {
	local content slot count wrong='' seen='' id

	drop_caches
	own_map > "$kc_tmp/map" || bail "$1: no map"
	"$KC_TESTS/guest/owners.py" scan /dev/mapper/kc "$kc_tmp/map" > "$kc_tmp/scan" || bail "$1: no scan"
	while read -r content slot count; do
		case $content in
		zeros) id=0 ;;
		other) id=1 ;;
		$own_root?) id=52 ;;
		*) id=$((${content%?} - own_first + 2)) ;;
		esac
		[[ $slot == "$id" ]] || wrong+=" $content under slot $slot: $count blocks;"
		seen+=" $content"
	done < "$kc_tmp/scan"
	is "$1: every block is under its writer's key, and only those" "$wrong" ''
	wrong=''
	while read -r content; do
		[[ "$seen " == *" $content "* ]] || wrong+=" $content"
	done < <(sed -n 's/^\[\([0-9].*\)]$/\1/p' "$kc_tmp/job" "$KC_OUT/job")
	is "$1: data of everybody was found" "$wrong" ''
	like "$1: and metadata under the device key" "$(tr '\n' ';' < "$kc_tmp/scan")" ';other 1 [0-9]{2,}'
}

# owners_test PHASE FILESYSTEM BY [OPTION-OF-MKFS...]: the owners are users; at last they are what BY
# says, gid or projid
owners_test() {
	local fs=$2 by=$3

	load_module
	must own_keys 50
	mkdir -p /mnt
	case $1 in
	write)
		must own_create uid
		must own_add 50
		must own_mkfs "$fs" "${@:4}"
		# From here on, since mkfs may write directly, as root. Metadata must not be his.
		must dmsetup message kc 0 owner add root 0 :64:logon:kc:$own_root
		must mount /dev/mapper/kc /mnt
		ok "$fs: two owners write at once, and read the same" own_fio 2 uid 2048 bd
		cp "$kc_tmp/job" "$KC_OUT/job"
		ok "unmount" umount /mnt
		own_scan 'two owners'
		ok "mount again" mount /dev/mapper/kc /mnt
		is "contents are right" "$("$KC_TESTS/guest/owners.py" files /mnt 2>&1)" 6
		ok "$fs: fifty owners write at once, and read the same" own_fio 50 uid 128 b/d
		cp "$kc_tmp/job" "$KC_OUT/job"
		ok "unmount" umount /mnt
		;;
	check)
		must own_open uid
		: > "$kc_tmp/job"
		own_scan 'fifty owners, after a reboot'
		ok "the filesystem is clean" own_fsck "$fs"
		ok "mount" mount /dev/mapper/kc /mnt
		is "contents are right" "$("$KC_TESTS/guest/owners.py" files /mnt 2>&1)" 54
		ok "unmount" umount /mnt
		must dmsetup remove kc
		must own_open "$by"
		must mount /dev/mapper/kc /mnt
		case $by in
		gid) ok "$fs: owners by group id" own_fio 2 gid 256 bd ;;
		# a process has no project id
		projid) ok "$fs: owners by project id" own_fio 2 projid 256 b ;;
		esac
		is "contents are right" "$("$KC_TESTS/guest/owners.py" files /mnt 2>&1)" 54
		ok "unmount" umount /mnt
		own_scan "$by"
		ok "the filesystem is clean" own_fsck "$fs"
		;;
	esac
	must dmsetup remove kc
}
