#!/bin/bash
# No key leaks: not into tables, status, logs and traces, and not into memory that outlives the key; and when the
# device key is gone, there is nothing left in memory of what the metadata say.
#
# KC_ONLY=map: only the latter.
#
# The host makes the keys and hands them over masked, so that the guest's memory has them only where the
# kernel has put them; then it looks for them in dumps of that memory.
#
# SPDX-License-Identifier: GPL-2.0-only

VM_ARGS=(--disk scratch=64M --mem 384M --smp 2)

mask() { perl -ne 'chomp; print unpack("H*", pack("H*", $_) ^ ("Z" x (length() / 2))), "\n"'; }

host_main() {
	local dev alice dump args=(--append "init_on_free=1") tweakdec
	declare -A seen

	dev=$(openssl rand -hex 64)
	alice=$(openssl rand -hex 64)
	mask <<< "$dev" > "$VM_OUT/dev"
	mask <<< "$alice" > "$VM_OUT/alice"
	search() { # how file [name=hex...]
		local name what found of number keys=("dev=$dev" "alice=$alice")

		(($# < 3)) || keys=("${@:3}")
		seen=()
		while read -r name what found of number; do
			seen[$name.$what]=$found/$number
			[[ $of == of ]] || bail "what is $name $what $found $of $number?"
		done < <("$KC_TESTS/cases/secrets.py" "$1" "$2" "$VM_DIR/scratch.img" "${keys[@]}")
	}
	all() { is "$1: $2 are all there" "${seen[$2]}" "$3"; }
	none() {
		local what

		for what in "${@:2}"; do
			like "$1: no $what" "${seen[$what]:-}" '^0/'
		done
	}

	if [[ ${KC_ONLY:-} == map ]]; then
		map_host
		return
	fi
	for dump in unlocked locked revoked lost removed; do
		args+=(--memdump-on "kc-dump-$dump=$VM_DIR/$dump")
	done
	vm_boot "${args[@]}" guest

	# Nothing is ever decrypted with the tweak's key; up to 6.12 at least it is made ready for that.
	case $(< "$VM_OUT/release") in
	[1-6].*) tweakdec=13/13 ;;
	*) tweakdec=0/13 ;;
	esac
	search memory "$VM_DIR/unlocked"
	for name in dev alice; do
		all unlocked $name.enc 30/30
		all unlocked $name.dec 13/13
		all unlocked $name.tweakdec $tweakdec
	done
	all unlocked dev.seal 2/2
	all unlocked dev.intent 1/1
	none unlocked {dev,alice}.{hex,words,prk,super}
	for dump in locked revoked; do
		search memory "$VM_DIR/$dump"
		none $dump alice.{enc,dec,tweakdec,hex,words,prk}
		all $dump dev.enc 30/30
		all $dump dev.dec 13/13
		all $dump dev.tweakdec $tweakdec
		all $dump dev.seal 2/2
	done
	for dump in lost removed; do
		search memory "$VM_DIR/$dump"
		none $dump {dev,alice}.{enc,dec,tweakdec,hex,words,prk,seal,super,intent}
	done

	ok "the guest has printed something" test -s "$VM_OUT/text"
	search text "$VM_OUT/text"
	none text {dev,alice}.{enc,hex,seal,super}
	{
		cat "$VM_OUT/text"
		sed 's/../& /g' <<< "$alice"
	} > "$VM_DIR/text"
	search text "$VM_DIR/text"
	all "text with a key" alice.hex 4/8

	map_host
}

# What the guest's second boot writes: blocks 5 to 20 have these slots, and changes of single blocks are logged
slots=(2 1 3 2 3 3 1 2 1 1 2 3 1 2 2 3)
single=(4321 4322 4323)

# The memory is not wiped by the kernel when it is freed, here.
map_host() {
	local dump args=() wanted s

	wanted=(map="$(printf '%02x00' "${slots[@]}")")
	# a record: the block, of kind 1; a count of 1; slot 2
	for s in "${single[@]}"; do
		wanted+=("$s=$(printf '%02x%02x0000000000010100000002000000' $((s & 255)) $((s >> 8)))")
	done
	for dump in open lost failed read-only removed; do
		args+=(--memdump-on "kc-dump-map-$dump=$VM_DIR/map-$dump")
	done
	vm_boot --mem 256M "${args[@]}" map

	search raw "$VM_DIR/map-open" "${wanted[@]}"
	all "metadata, unlocked" map.raw 1/1
	for dump in lost failed read-only removed; do
		search raw "$VM_DIR/map-$dump" "${wanted[@]}"
		none "metadata, $dump" map.raw "${single[@]/%/.raw}"
	done
	search memory "$VM_DIR/map-removed" "alice=$alice"
	none "metadata, removed" alice.check
}

# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"

disk=/dev/disk/kc/scratch
dev=/dev/mapper/kc
offset=16384

msg() { dmsetup message kc 0 "$@"; }

# load_key NAME: its bytes are in two pipes and two short-lived processes
load_key() {
	perl -e 'chomp($_ = <STDIN>); print pack("H*", $_) ^ ("Z" x (length() / 2))' < "$KC_OUT/$1" |
		keyctl padd logon "kc:$1" @u
}

# dump NAME: when keys that are gone have been collected
dump() {
	must keyctl reap
	sleep 2
	vm-memdump "kc-dump-$1"
}

# everything FILE: all that is printed anywhere goes there too
everything() {
	dmsetup table kc
	dmsetup table --showkeys kc
	dmsetup status kc
	msg owner list
	msg map 0 100
	cat /proc/keys /proc/key-users
	cat /proc/crypto
	dmesg
	cat /sys/kernel/tracing/trace
	ls -l /sys/kernel/debug /sys/module/dm_keyed_crypt
	cat /sys/block/dm-*/dm/*
} >> "$1" 2>/dev/null

# What is left of the metadata when the device key goes: while it could be written, after a failure, and read-only
map_guest() {
	local b users=('' root alice bob)

	put() { # user block
		must as "$1" dd if=/dev/zero of=$dev bs=4k seek="$2" count=1 oflag=direct status=none
	}
	get() { dd if=$dev of=/dev/null bs=4k skip=5 count=16 iflag=direct status=none; }
	lose() {
		must keyctl unlink "$(keyctl search @u logon kc:dev)" @u
		sleep 2.5
		nok "metadata, $1: nothing is read" get
		dump "map-$1"
		must load_key dev
		sleep 2.5
	}
	meta() { # kind
		dmsetup suspend meta && dmsetup load meta --table "0 $offset $1" && dmsetup resume meta
	}

	mkuser alice 1000
	mkuser bob 1001
	for b in dev alice; do
		must load_key $b
	done
	must add_key logon kc:bob "$(rand_hex 64)" @u
	must dd if=/dev/zero of=$disk bs=1M count=8 conv=fsync
	must dmsetup create meta --table "0 $offset linear $disk 0"
	table="0 $(($(sectors $disk) - offset)) keyed-crypt aes-xts-plain64 :64:logon:kc:dev 0 $disk $offset 2 \
owner:uid meta_device:/dev/mapper/meta"
	must dmsetup create kc --table "${table/ 2 / 3 format }"
	must chmod 666 $dev
	must msg owner add alice 1000 :64:logon:kc:alice
	must msg owner add bob 1001 :64:logon:kc:bob
	for b in "${!slots[@]}"; do
		put "${users[slots[b]]}" $((b + 5))
	done
	must dmsetup remove kc
	must dmsetup create kc --table "$table"
	must chmod 666 $dev
	ok "metadata: the map is read" get
	must msg owner list
	put alice "${single[0]}"
	must msg commit
	dump map-open
	lose lost

	ok "metadata: the map is read again" get
	must dd if=$dev of=/dev/null bs=4k skip="${single[1]}" count=1 iflag=direct
	must meta error
	put alice "${single[1]}"
	put alice 40
	nok "metadata: the journal cannot be written" msg commit
	lose failed
	must meta "linear $disk 0"
	must dmsetup remove kc

	must dmsetup create kc --table "$table"
	must chmod 666 $dev
	put alice "${single[2]}"
	put alice 41
	must msg commit
	must dd if=/dev/mapper/meta of=/tmp/meta bs=1M count=8 status=none
	must dmsetup remove kc
	must dd if=/tmp/meta of=/dev/mapper/meta bs=1M oflag=direct status=none
	must dmsetup create kc --readonly --table "$table"
	ok "metadata, read-only: the map is read" get
	lose read-only
	must dmsetup remove kc
	must keyctl clear @u
	dump map-removed
	must dmsetup remove meta
}

uname -r > "$KC_OUT/release"
load_module
if [[ $1 == map ]]; then
	map_guest
	done_testing
fi
ok "memory is wiped when it is freed" grep -q init_on_free=1 /proc/cmdline
mkuser alice 1000
ok "tracing is on" bash -c 'echo 1 > /sys/kernel/tracing/events/keyed_crypt/enable'
must load_key dev
must load_key alice
must dmsetup create kc --table "0 $(($(sectors $disk) - offset)) keyed-crypt aes-xts-plain64 \
:64:logon:kc:dev 0 $disk $offset 2 owner:uid format"
must msg owner add alice 1000 :64:logon:kc:alice
must chmod 666 $dev
must as alice dd if=/dev/zero of=$dev bs=64k count=4 oflag=direct
must dd if=/dev/zero of=$dev bs=64k seek=4 count=4 oflag=direct
must dd if=$dev of=/dev/null bs=64k count=8 iflag=direct
dump unlocked
everything "$KC_OUT/text"

must msg owner lock alice
must keyctl unlink "$(keyctl search @u logon kc:alice)" @u
nok "a locked owner's blocks are not read" dd if=$dev of=/dev/null bs=4k count=1 iflag=direct
dump locked
everything "$KC_OUT/text"

must load_key alice
must msg owner unlock alice
must dd if=$dev of=/dev/null bs=64k count=8 iflag=direct
id=$(keyctl search @u logon kc:alice)
must keyctl revoke "$id"
must keyctl unlink "$id" @u
dump revoked
everything "$KC_OUT/text"

must load_key alice
sleep 1
must dd if=$dev of=/dev/null bs=64k count=8 iflag=direct
must keyctl clear @u
dump lost
everything "$KC_OUT/text"

must load_key dev
must load_key alice
sleep 2
must dd if=$dev of=/dev/null bs=64k count=8 iflag=direct
fails_msg "a wrong line says what is wrong" 'unknown option' dmsetup create kc2 --table "0 8 keyed-crypt \
aes-xts-plain64 :64:logon:kc:dev 0 $disk 0 1 wrong"
everything "$KC_OUT/text"
must dmsetup remove kc
must keyctl clear @u
dump removed
ok "the trace has the target's events" grep -q 'keyed_crypt_io' "$KC_OUT/text"
ok "and those of keys" grep -q 'keyed_crypt_key' "$KC_OUT/text"
unload_module
dmesg >> "$KC_OUT/text"
done_testing
