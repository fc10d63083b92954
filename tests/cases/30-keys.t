#!/bin/bash
# Keys: of every type, in every keyring; every way they go, and how they come back.
#
# SPDX-License-Identifier: GPL-2.0-only

VM_ARGS=(--disk scratch=128M --mem 768M)

# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"

disk=/dev/disk/kc/scratch
dev=/dev/mapper/kc
offset=16384
# A second is the promise, and kio.py measures it; a dozen processes on an emulated machine take longer.
second=2500

table() { # key [option...]
	local key=$1

	shift
	printf '0 %d keyed-crypt aes-xts-plain64 %s 0 %s %d %d%s\n' \
		$(($(sectors $disk) - offset)) "$key" $disk $offset $#  "${*:+ $*}"
}

writes() {
	disk_stat $disk | cut -d' ' -f2
}

msg() { dmsetup message kc 0 "$@"; }

state() { # owner
	local s

	s=$(dmsetup status kc)
	[[ $s =~ \ $1:[0-9]+:([a-z-]+) ]] && printf '%s\n' "${BASH_REMATCH[1]}"
}

now_ms() {
	local t=$EPOCHREALTIME

	printf '%d\n' $((${t/./} / 1000))
}

# becomes NAME OWNER STATE [MAX-MS]
becomes() {
	local start end=0 got

	start=$(now_ms)
	while end=$(($(now_ms) - start)); do
		got=$(state "$2")
		[[ $got != "$3" ]] || break
		((end < 8000)) || break
		sleep 0.05
	done
	[[ $got == "$3" ]] || diag "$2 is $got, not $3"
	within "$1" "$end" 0 "${4:-$second}"
}

# kio COMMAND...: see kio.py
kio() {
	printf '%s\n' "$*" >&11 && read -r -t 30 answer <&10 && printf '%s\n' "$answer"
}

coproc "$KC_TESTS/guest/kio.py" $dev
exec 10<&"${COPROC[0]}" 11>&"${COPROC[1]}"

load_module
dkey=$(rand_hex 64)
akey=$(rand_hex 64)
bkey=$(rand_hex 64)

new_device() { # [option...]
	must add_key logon kc:dev "$dkey" @u
	must dmsetup create kc --table "$(table :64:logon:kc:dev owner:uid "$@")"
}

types() {
	local id blob type n ring

	# --- types, for the device and for owners
	for type in logon user encrypted; do
		if [[ $type == encrypted ]]; then
			must keyctl add user kmk "$(rand_hex 16)" @u
			must keyctl add encrypted kc:dev-encrypted "new user:kmk 64" @u
			must keyctl add encrypted kc:alice-encrypted "new user:kmk 64" @u
		else
			must add_key $type kc:dev-$type "$(rand_hex 64)" @u
			must add_key $type kc:alice-$type "$(rand_hex 64)" @u
		fi
		must dd if=/dev/zero of=$disk bs=1M count=8 conv=fsync status=none
		ok "$type: as the device key" dmsetup create kc --table \
			"$(table :64:$type:kc:dev-$type owner:uid format)"
		ok "$type: as an owner's key" msg owner add alice 1000 :64:$type:kc:alice-$type
		like "$type: the owner is listed" "$(msg owner list)" \
			"^alice 2 unlocked 1000 :64:$type:kc:alice-$type 0$"
		is "$type: the owner writes" "$(kio write 1000 5)" ok
		like "$type: and has the block" "$(msg owner list)" "^alice 2 unlocked .* 1$"
		id=$(keyctl search @u $type kc:alice-$type)
		if [[ $type == encrypted ]]; then
			keyctl pipe "$id" > "$kc_tmp/blob" || bail "no blob"
		fi
		must keyctl unlink "$id" @u
		becomes "$type: locked within a second of keyctl unlink" alice locked
		is "$type: a read fails then" "$(kio read 5)" EIO
		must dmsetup remove kc
		ok "$type: the table loads without the owner's key" dmsetup create kc --table \
			"$(table :64:$type:kc:dev-$type owner:uid)"
		is "$type: which is locked" "$(state alice)" locked
		is "$type: and unreadable" "$(kio read 5)" EIO
		if [[ $type == encrypted ]]; then
			blob=$(keyctl pipe "$(keyctl search @u encrypted kc:dev-encrypted)")
			unlike "the blob of an encrypted key is no key" "$blob" "$akey"
			must keyctl add encrypted kc:alice-encrypted "load $(cat "$kc_tmp/blob")" @u
			becomes "encrypted: unlocked when the key is back" alice unlocked
			is "encrypted: reads what was written" "$(kio same 5)" ok
		fi
		must dmsetup remove kc
	done

	new_wiped
	new_device format
	fails_msg "trusted: refused, and why is said" 'key type is not supported by this kernel' \
		msg owner add alice 1000 :64:trusted:kc:alice
	fails_msg "trusted: for the device too" 'key type is not supported by this kernel' \
		dmsetup create kc2 --table "$(table :64:trusted:kc:dev)"
	fails_msg "a type that does not exist is another mistake" 'key type is not one of logon, user' \
		msg owner add alice 1000 :64:gpg:kc:alice

	# --- one key, one owner
	must add_key logon kc:alice "$akey" @u
	must msg owner add alice 1000 :64:logon:kc:alice
	must add_key user kc:same "$akey" @u
	must add_key user kc:same-dev "$dkey" @u
	must add_key logon kc:short "${bkey:0:64}" @u
	fails_with "a key two owners would share is refused" EEXIST \
		msg owner add bob 1001 :64:logon:kc:alice
	fails_msg "also under another name; whose it is is said" "is alice's already" \
		msg owner add bob 1001 :64:user:kc:same
	fails_with "the device's key is refused for an owner" EEXIST \
		msg owner add bob 1001 :64:logon:kc:dev
	fails_msg "also under another name; whose it is is said" "is the device's already" \
		msg owner add bob 1001 :64:user:kc:same-dev
	fails_with "a key that is not there is refused" ENOKEY \
		msg owner add bob 1001 :64:logon:kc:nowhere
	fails_msg "a key of another size is refused" 'key :64:logon:kc:short has another size' \
		msg owner add bob 1001 :64:logon:kc:short
	is "and no owner came of all this" "$(msg owner list)" \
		"alice 2 unlocked 1000 :64:logon:kc:alice 0"

	# --- keyrings
	# The caller's session keyring, which the device's keyring is not linked to
	n=$(keyctl session - bash -c '
		keyctl padd logon kc:carol @s <<< "'"${bkey:0:63}"'" >/dev/null &&
		dmsetup message kc 0 owner add carol 1002 :64:logon:kc:carol &&
		dmsetup status kc' 2>/dev/null)
	like "a key in the session keyring of who adds the owner" "$n" ' carol:3:unlocked'
	nok "which nobody else has" keyctl search @s logon kc:carol
	is "is used" "$(kio write 1002 6)" ok
	is "and decrypts" "$(kio same 6)" ok
	must msg owner lock carol
	must dmsetup remove kc
	new_device
	is "is not there for a table loaded elsewhere" "$(state carol)" locked
	fails_with "nor for a message from elsewhere" ENOKEY msg owner unlock carol
	keyctl session - bash -c '
		keyctl padd logon kc:carol @s <<< "'"${bkey:0:63}"'" >/dev/null &&
		dmsetup message kc 0 owner unlock carol' > /dev/null 2>&1
	is "but for one from a session that has it" "$(state carol)" unlocked
	is "what was written is read" "$(kio same 6)" ok
	must dmsetup remove kc

	# The device's keyring, by serial number: one that only another session has
	mkfifo "$kc_tmp/ring"
	keyctl session - bash -c 'id=$(keyctl newring kc-ring @s) && keyctl setperm $id 0x3f3f0000 &&
		echo $id && exec sleep 1000' > "$kc_tmp/ring" 2>/dev/null &
	read -r ring < "$kc_tmp/ring"
	like "a keyring of another session's" "$ring" '^[0-9]+$'
	must keyctl clear @u
	new_wiped
	new_device format "keyring:$ring"
	like "the table names it" "$(dmsetup table kc)" " keyring:$ring\$"
	id=$(add_key logon kc:alice "$akey" "$ring")
	nok "the caller has no such key" keyctl search @s logon kc:alice
	ok "a key in keyring:<serial> is found" msg owner add alice 1000 :64:logon:kc:alice
	is "and used" "$(kio write 1000 7)" ok
	must keyctl unlink "$id" "$ring"
	becomes "keyring:<serial>: locked when it is unlinked" alice locked
	must add_key logon kc:alice "$akey" @u
	sleep 1.2
	is "another keyring does not count" "$(state alice)" locked
	must add_key logon kc:alice "$akey" "$ring"
	becomes "keyring:<serial>: unlocked when it is back" alice unlocked
	is "and decrypts" "$(kio same 7)" ok
	must dmsetup remove kc
	kill $!

	# By name
	must keyctl clear @u
	new_wiped
	must add_key logon kc:dev "$dkey" @u
	mkfifo "$kc_tmp/named"
	keyctl session - bash -c '
		id=$(keyctl newring kc-named @s) && keyctl setperm $id 0x3f3f0000 &&
		keyctl link @u @s && dmsetup create kc --table "'"$(table :64:logon:kc:dev owner:uid \
			format keyring:%:kc-named)"'" && echo $id && exec sleep 1000' > "$kc_tmp/named" 2>"$kc_tmp/err" &
	read -r ring < "$kc_tmp/named"
	like "a table with keyring:%:<name> is loaded" "$ring" '^[0-9]+$' || diag < "$kc_tmp/err"
	must add_key logon kc:alice "$akey" "$ring"
	nok "the caller has no such key" keyctl search @s logon kc:alice
	ok "a key in keyring:%:<name> is found" msg owner add alice 1000 :64:logon:kc:alice
	is "and used" "$(kio write 1000 7)" ok
	must keyctl clear "$ring"
	becomes "keyring:%:<name>: locked when it is gone" alice locked
	must add_key logon kc:alice "$akey" "$ring"
	becomes "keyring:%:<name>: unlocked when it is back" alice unlocked
	must dmsetup remove kc
	kill $!
	fails_msg "a keyring that is not there is refused" 'no such keyring: %:kc-nowhere' \
		dmsetup create kc --table "$(table :64:logon:kc:dev keyring:%:kc-nowhere)"
	id=$(keyctl search @u logon kc:dev)
	fails_msg "a key is no keyring" 'is a key, not a keyring' \
		dmsetup create kc --table "$(table :64:logon:kc:dev "keyring:$id")"
	fails_msg "a word is no keyring" 'is neither a serial number nor' \
		dmsetup create kc --table "$(table :64:logon:kc:dev keyring:mine)"
}

new_wiped() {
	must dd if=/dev/zero of=$disk bs=1M count=8 conv=fsync status=none
}

# again_right OWNER HEX BLOCK: the key back, the owner unlocked by itself, all as it was
again_right() {
	must add_key logon "kc:$1" "$2" @u
	becomes "$1 is unlocked by itself when the key is back" "$1" unlocked
	is "and reads right" "$(kio same "$3")" ok
}

ways() {
	local id op got n rest i

	new_device format
	must add_key logon kc:alice "$akey" @u
	must add_key logon kc:bob "$bkey" @u
	must msg owner add alice 1000 :64:logon:kc:alice
	must msg owner add bob 1001 :64:logon:kc:bob
	is "alice writes" "$(kio write 1000 100)" ok
	is "bob writes" "$(kio write 1001 200)" ok

	# --- by message
	ok "owner lock" msg owner lock alice
	is "locks" "$(state alice)" locked
	like "the list says so" "$(msg owner list)" $'^alice 2 locked 1000 :64:logon:kc:alice 1\nbob 3 unlocked'
	is "reads fail" "$(kio read 100)" EIO
	is "writes fail" "$(kio write 1000 101)" EIO
	must add_key logon kc:alice "$akey" @u
	sleep 1.5
	is "and stays locked, with its key there" "$(state alice)" locked
	id=$(keyctl search @u logon kc:alice)
	must keyctl unlink "$id" @u
	fails_with "owner unlock without the key fails" ENOKEY msg owner unlock alice
	fails_msg "and says which is missing" 'owner alice: key :64:logon:kc:alice not found' \
		msg owner unlock alice
	must add_key logon kc:alice "$akey" @u
	sleep 1.2
	is "and changes nothing" "$(state alice)" locked
	ok "owner unlock" msg owner unlock alice
	is "unlocks at once" "$(state alice)" unlocked
	is "writes work again" "$(kio write 1000 100)" ok
	is "reads too" "$(kio same 100)" ok
	ok "owner unlock of an unlocked owner is no error" msg owner unlock alice
	ok "owner lock twice is none either" eval 'msg owner lock alice && msg owner lock alice'
	must msg owner unlock alice
	is "the other owner never noticed" "$(state bob)" unlocked

	# --- from the next bio on: no time to look around between the call and the bio
	for op in revoke invalidate revoke invalidate; do
		id=$(keyctl search @u logon kc:alice)
		is "$op: the next bio fails" "$(kio after $op "$id" 100)" "ok EIO"
		becomes "$op: and the state follows" alice locked
		is "$op: the other owner goes on" "$(kio same 200)" ok
		[[ $op == invalidate ]] || must keyctl unlink "$id" @u
		again_right alice "$akey" 100
	done
	for n in 2 3; do
		id=$(keyctl search @u logon kc:alice)
		read -r got rest <<< "$(kio expiry "$id" $n 100)"
		is "timeout $n: reads fail when it has expired" "$got" EIO
		within "timeout $n: not later (ms)" "$rest" 0 150
		becomes "timeout $n: and the state follows" alice locked
		keyctl unlink "$id" @u > /dev/null 2>&1
		again_right alice "$akey" 100
	done
	for n in 1 2 3; do
		id=$(keyctl search @u logon kc:alice)
		read -r got rest <<< "$(kio unlink "$id" -4 100)"
		is "unlink: reads fail" "$got" EIO
		within "unlink: within a second (ms)" "$rest" 0 1000
		becomes "unlink: and the state follows" alice locked
		again_right alice "$akey" 100
	done

	# --- the wrong key
	must keyctl unlink "$(keyctl search @u logon kc:alice)" @u
	must add_key logon kc:alice "$(rand_hex 64)" @u
	becomes "another key under the name: wrong-key" alice wrong-key
	like "the list says so" "$(msg owner list)" 'alice 2 wrong-key 1000'
	is "it does not decrypt" "$(kio read 100)" EIO
	is "nor encrypt" "$(kio write 1000 101)" EIO
	is "no block was written" "$(msg map 101 1)" "101 1 0"
	fails_with "owner unlock is refused" EKEYREJECTED msg owner unlock alice
	fails_msg "and says why" 'owner alice: key :64:logon:kc:alice is the wrong one' \
		msg owner unlock alice
	is "the state stays" "$(state alice)" wrong-key
	must dd if=$dev of=/dev/null bs=4096 count=1 iflag=direct
	must keyctl unlink "$(keyctl search @u logon kc:alice)" @u
	becomes "gone, the owner is just locked" alice locked
	must add_key logon kc:alice "${akey:0:64}" @u
	becomes "a key of another size is a wrong key too" alice wrong-key
	must keyctl unlink "$(keyctl search @u logon kc:alice)" @u
	again_right alice "$akey" 100

	# --- the same key, other bytes
	must add_key logon kc:alice "$(rand_hex 64)" @u	# add_key updates a key of that name
	becomes "keyctl padd with other bytes: wrong-key within a second" alice wrong-key
	is "and unreadable" "$(kio read 100)" EIO
	must add_key logon kc:alice "$akey" @u
	becomes "the right bytes again: unlocked" alice unlocked
	is "and read right" "$(kio same 100)" ok
	id=$(keyctl search @u logon kc:alice)
	must bash -c 'head -c 64 /dev/urandom | keyctl pupdate "$1"' - "$id"
	becomes "keyctl pupdate with other bytes: wrong-key within a second" alice wrong-key
	must add_key logon kc:alice "$akey" @u
	becomes "and back" alice unlocked
	is "and read right" "$(kio same 100)" ok
	must add_key logon kc:alice "${akey:0:64}" @u
	becomes "keyctl padd with fewer bytes: wrong-key within a second" alice wrong-key
	is "and unreadable" "$(kio read 100)" EIO
	must add_key logon kc:alice "$akey" @u
	becomes "and back" alice unlocked
	is "and read right" "$(kio same 100)" ok

	# --- the same key, the same bytes: nobody notices
	for i in "alice $akey" "dev $dkey"; do
		printf 'steady 3000 100\n' >&11
		must add_key logon "kc:${i% *}" "${i#* }" @u
		sleep 1.2
		must add_key logon "kc:${i% *}" "${i#* }" @u
		read -r -t 30 got <&10
		is "the same bytes once more for ${i% *}: no read fails" "$got" ok
	done
	unlike "the device was never locked" "$(dmesg)" 'device key is gone'
	is "alice is not" "$(state alice)" unlocked

	# --- the end with a locked owner
	must msg owner lock alice
	must keyctl unlink "$(keyctl search @u logon kc:bob)" @u
	becomes "one owner locked by message, one by keyring" bob locked
	ok "the device can be removed" dmsetup remove kc
	ok "and loaded again" dmsetup create kc --table "$(table :64:logon:kc:dev owner:uid)"
	is "a lock by message ends with the device" "$(state alice)" unlocked
	is "and reads right" "$(kio same 100)" ok
	is "the other key is still missing" "$(state bob)" locked
	must dmsetup remove kc
	ok "nothing holds the module" unload_module
}

device() {
	local id before wait i got

	new_wiped
	new_device format allow_discards
	must add_key logon kc:alice "$akey" @u
	must msg owner add alice 1000 :64:logon:kc:alice
	is "alice writes" "$(kio write 1000 100)" ok
	is "nobody in particular writes" "$(kio write 0 300)" ok

	# Written, and nothing of it made durable: the key goes at once
	id=$(keyctl search @u logon kc:dev)
	is "the next bio fails when the device key is revoked" \
		"$(kio after revoke "$id" 300)" "ok EIO"
	is "an owner's too" "$(kio read 100)" EIO
	must keyctl unlink "$id" @u
	becomes "the owners are locked with it" alice locked
	sleep 1
	before=$(disk_stat_full $disk)
	is "reads of the device's blocks fail" "$(kio read 300)" EIO
	is "reads of owners' blocks fail" "$(kio read 100)" EIO
	is "reads of blocks of nobody fail" "$(kio read 5000)" EIO
	is "of map blocks never read too" "$(kio read 9000)" EIO
	is "writes fail" "$(kio write 0 300)" EIO
	is "owners' writes fail" "$(kio write 1002 101)" EIO
	is "discards fail" "$(kio discard 100)" EIO
	is "flushes fail" "$(kio flush)" EIO
	fails_with "messages fail" ENOKEY msg owner list
	fails_with "all of them" ENOKEY msg map 0 1
	fails_msg "and say why" 'the device key is gone' msg owner lock alice
	ok "status works" dmsetup status kc
	ok "table works" dmsetup table kc
	is "and the disk saw nothing of it" "$(disk_stat_full $disk)" "$before"
	must add_key logon kc:dev "$(rand_hex 64)" @u
	sleep 1.2
	is "another key does not help" "$(kio read 300)" EIO
	is "and the disk saw nothing of it" "$(disk_stat_full $disk)" "$before"
	must add_key logon kc:dev "$dkey" @u
	becomes "the key back, the owners are unlocked" alice unlocked 2000
	is "nothing is lost of an owner's" "$(kio same 100)" ok
	is "nothing of the device's" "$(kio same 300)" ok
	is "the map is whole" "$(msg map 99 3)" $'99 1 0\n100 1 2\n101 1 0'
	is "alice writes" "$(kio write 1000 102)" ok
	is "writes work" "$(kio same 102)" ok
	must keyctl unlink "$(keyctl search @u logon kc:dev)" @u
	becomes "keyctl unlink: locked within a second" alice locked
	is "all of it" "$(kio read 300)" EIO
	must add_key logon kc:dev "$dkey" @u
	becomes "and back" alice unlocked 2000
	is "nothing is lost" "$(kio same 102)" ok

	# The next bio of all that can be done without the device key's own transform
	for i in "102 an owner's block" "5000 a block of nobody" "102 discard a discard"; do
		got=${i%% *}
		[[ $i != *' discard '* ]] || got+=' discard'
		id=$(keyctl search @u logon kc:dev)
		# shellcheck disable=SC2086 # one word or two
		is "device key revoked, and at once: ${i#"$got "}" "$(kio after revoke "$id" $got)" "ok EIO"
		becomes "and the state follows" alice locked
		must keyctl unlink "$id" @u
		must add_key logon kc:dev "$dkey" @u
		becomes "and back" alice unlocked 2000
		is "nothing is lost" "$(kio same 102)" ok
	done

	# The device is removed with its key gone: at once, and later
	for wait in 0 2; do
		is "alice writes" "$(kio write 1000 $((110 + wait)))" ok
		must keyctl revoke "$(keyctl search @u logon kc:dev)"
		sleep $wait
		ok "removed with the device key gone for ${wait} s" dmsetup remove kc
		keyctl unlink "$(keyctl search @u logon kc:dev)" @u > /dev/null 2>&1
		must keyctl clear @u
		nok "it does not load without the key" dmsetup create kc \
			--table "$(table :64:logon:kc:dev owner:uid)"
		must add_key logon kc:alice "$akey" @u
		new_device
		is "with it, nothing is lost" "$(kio same $((110 + wait)))" ok
	done
	must dmsetup remove kc

	# --- tables
	must keyctl clear @u
	before=$(writes)
	fails_with "a table without its key is refused" ENOKEY dmsetup create kc \
		--table "$(table :64:logon:kc:dev)"
	fails_msg "and says which" 'device key :64:logon:kc:dev not found' dmsetup create kc \
		--table "$(table :64:logon:kc:dev)"
	must add_key logon kc:dev "$(rand_hex 64)" @u
	fails_with "with the wrong key too" EKEYREJECTED dmsetup create kc \
		--table "$(table :64:logon:kc:dev)"
	fails_msg "and says so" 'device key is the wrong one' dmsetup create kc \
		--table "$(table :64:logon:kc:dev)"
	must add_key logon kc:dev "${dkey:0:64}" @u
	fails_msg "with one of another size" 'has another size' dmsetup create kc \
		--table "$(table :64:logon:kc:dev)"
	fails_msg "a key in the table is refused" 'key is not a keyring reference' dmsetup create kc \
		--table "$(table "$dkey")"
	unlike "and is not in the log" "$(dmesg)" "$dkey"
	id=$(add_key logon kc:dev "$dkey" @u)
	must keyctl revoke "$id"
	nok "with a revoked key" dmsetup create kc --table "$(table :64:logon:kc:dev)"
	is "and nothing was written by any of it" "$(writes)" "$before"
	new_wiped
	before=$(writes)
	must keyctl clear @u
	nok "an empty disk is not formatted without a key" dmsetup create kc \
		--table "$(table :64:logon:kc:dev format)"
	is "nothing was written" "$(writes)" "$before"
}

types
must keyctl clear @u
new_wiped
ways
must keyctl clear @u
load_module
device
done_testing
