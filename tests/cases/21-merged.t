#!/bin/bash
# Bios and pages of several owners: what is merged is split, and each part is under its writer's key.
#
# SPDX-License-Identifier: GPL-2.0-only

VM_ARGS=(--disk scratch=160M --mem 1G)
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"

disk=/dev/disk/kc/scratch
kc=/dev/mapper/kc
start=32768
len=$(($(sectors $disk) - start))
trace=/sys/kernel/tracing
blocks=$KC_TESTS/guest/blocks.py
merged=$KC_TESTS/guest/merged.py

# create [KIND]: a new device, with the owners alice (1000, slot 2) and bob (1001, slot 3)
create() {
	dd if=/dev/zero of=$disk bs=1M count=16 conv=notrunc,fsync status=none &&
	dmsetup create kc --table "0 $len keyed-crypt aes-xts-plain64 :64:logon:kc:device 0 /dev/mapper/lower $start 2 owner:${1:-uid} format" &&
	chmod 666 "$(realpath $kc)" &&
	dmsetup message kc 0 owner add alice 1000 :64:logon:kc:alice &&
	dmsetup message kc 0 owner add bob 1001 :64:logon:kc:bob
}

map() { # [first count]
	dmsetup message kc 0 map "${1:-0}" "${2:-$((len / 8))}"
}

kc_minor() {
	dmsetup info -c --noheadings -o minor kc
}

reassigned() {
	dmsetup status kc | awk '{ print $9 }'
}

# trace_of COMMAND...: what went through while it ran, in $kc_tmp/trace
trace_of() {
	echo > $trace/trace
	echo 1 > $trace/tracing_on
	"$@"
	echo 0 > $trace/tracing_on
	cat $trace/trace > "$kc_tmp/trace"
}

# slots_of FILE...: "<slot> <blocks>;" for all blocks of the files
slots_of() {
	sync
	map > "$kc_tmp/map"
	"$blocks" extents "$@" > "$kc_tmp/extents"
	"$blocks" owners "$kc_tmp/map" "$kc_tmp/extents" | tr '\n' ';'
}

letters() { # letter blocks
	head -c $(($2 * 4096)) /dev/zero | tr '\0' "$1"
}

load_module
mkuser alice 1000
mkuser bob 1001
mkdir -p /mnt
for k in device alice bob; do
	must add_key logon kc:$k "$(rand_hex 64)" @u
done
must dmsetup create lower --table "0 $(sectors $disk) linear $disk 0"
must create
echo 32768 > $trace/buffer_size_kb
echo 0 > $trace/tracing_on
echo 1 > $trace/events/block/block_bio_queue/enable
echo 1 > $trace/events/keyed_crypt/keyed_crypt_io/enable

# --- the device itself ----------------------------------------------------------------------------

letters A 64 > /tmp/A
letters B 64 > /tmp/B
must as alice dd if=/tmp/A of=$kc bs=256k count=1 oflag=direct conv=notrunc status=none
must as bob dd if=/tmp/B of=$kc bs=256k count=1 seek=1 oflag=direct conv=notrunc status=none
is "two owners wrote side by side" "$(map 0 256 | tr '\n' ';')" '0 64 2;64 64 3;128 128 0;'
drop_caches
trace_of dd if=$kc of=/tmp/read bs=1M count=1 iflag=direct status=none
is "one request reads both, and what nobody wrote" \
	"$(grep -c 'block_bio_queue: 25[0-9],[0-9]* RS* 0 + 2048 ' "$kc_tmp/trace")" 1
is "it is split by key slot" \
	"$(grep -oE 'read block .*' "$kc_tmp/trace" | tr '\n' ';')" \
	'read block 0 count 64 slot 2 own;read block 64 count 64 slot 3 own;read block 128 count 128 slot 0 unassigned;'
is "each part right" "$(sha256sum < /tmp/read)" "$({ cat /tmp/A /tmp/B; head -c 512K /dev/zero; } | sha256sum)"
is "and the part of nobody asks nothing of the disk" \
	"$(grep -oE "block_bio_queue: $(dmsetup info -c --noheadings --separator , -o major,minor lower) R[^ ]* [0-9]+ \\+ [0-9]+" "$kc_tmp/trace" |
		awk -v start=$start '$4 >= start { print $4 - start, $6 }' | tr '\n' ';')" '0 512;512 512;'
must dmsetup message kc 0 owner lock bob
nok "with one key missing the request fails" dd if=$kc of=/dev/null bs=1M count=1 iflag=direct status=none
ok "while a request for the other part does not" dd if=$kc of=/dev/null bs=256k count=1 iflag=direct status=none
must dmsetup message kc 0 owner unlock bob

# Alternating, block by block
for ((i = 0; i < 8; i++)); do
	who=alice
	((i % 2)) && who=bob
	must as $who dd if="$([[ $who == alice ]] && echo /tmp/A || echo /tmp/B)" of=$kc bs=4k count=1 seek=$((256 + i)) \
		oflag=direct conv=notrunc status=none
done
is "blocks of two owners alternate" "$(map 256 8 | awk '{ printf "%s", $3 }')" 23232323
is "and one request reads them" "$(dd if=$kc bs=32k skip=32 count=1 iflag=direct status=none | sha256sum)" \
	"$(for i in 1 2 3 4; do letters A 1; letters B 1; done | sha256sum)"

was=$(reassigned)
letters a 64 > /tmp/a
must as alice dd if=/tmp/a of=$kc bs=256k count=1 seek=131072 oflag=direct,seek_bytes conv=notrunc status=none
is "a write across the border takes the other's blocks" "$(map 0 256 | tr '\n' ';')" '0 96 2;96 32 3;128 128 0;'
is "status counts the blocks reassigned, not those that were the writer's" "$(($(reassigned) - was))" 32
is "both sides of it are right" "$(dd if=$kc bs=512k count=1 iflag=direct status=none | sha256sum)" \
	"$({ letters A 32; cat /tmp/a; letters B 32; } | sha256sum)"

must as alice "$merged" untouched $kc 512 64
is "memory nobody wrote to is written as the writer's, too" "$(map 512 65 | tr '\n' ';')" '512 64 2;576 1 0;'

# --- f2fs: small files of two owners in one bio ---------------------------------------------------

must dmsetup remove kc
must create
must mkfs.f2fs -q -f $kc
must mount $kc /mnt
mkdir /mnt/1000 /mnt/1001
must sync
"$merged" small /mnt 150 1000 1001
is "f2fs: files of two owners, written by root, are their owners'" "$(slots_of /mnt/1000)$(slots_of /mnt/1001)" '2 450;3 450;'
# It writes each file's pages by themselves, except when it moves them.
trace_of must "$merged" gc /mnt
is "and still, after garbage collection" "$(slots_of /mnt/1000)$(slots_of /mnt/1001)" '2 336;3 336;'
read -r bios crossing <<< "$("$merged" bios "$kc_tmp/trace" "$kc_tmp/map" "$(kc_minor)")"
diag "$bios bios, $crossing with blocks of several owners"
within "which moves blocks of several owners with one bio" "$crossing" 1 "$bios"
mkdir /mnt/names
for ((i = 0; i < 300; i++)); do
	: > "/mnt/names/a-name-nobody-else-uses-$i"
done
chown -R alice /mnt/names
umount /mnt
map > "$kc_tmp/map"
is "names in directories are under the device key, though f2fs has them in pages of the directory" \
	"$("$merged" find $kc "$kc_tmp/map" a-name-nobody-else-uses | sort -u)" 1
must mount $kc /mnt
mkdir /tmp/1000 /tmp/1001
"$merged" small /tmp 150 1000 1001
for ((i = 0; i < 150; i += 4)); do
	rm "/tmp/1000/$i" "/tmp/1001/$i"
done
ok "the contents are right" bash -c 'diff -r /tmp/1000 /mnt/1000 && diff -r /tmp/1001 /mnt/1001'
umount /mnt
ok "f2fs is clean" fsck.f2fs -f --dry-run $kc
must dmsetup remove kc

# --- ext4: whose pages? ---------------------------------------------------------------------------

must create
must mkfs.ext4 -q $kc
must mount -o noinit_itable $kc /mnt
install -d -o alice -g alice /mnt/alice
install -d -o bob -g bob /mnt/bob
must as alice "$merged" mmap /mnt/alice/mapped 16 M
is "a mapped file is its owner's" "$(slots_of /mnt/alice/mapped)" '2 16;'

must as bob "$merged" mmap /mnt/bob/source 16 S
drop_caches
must as alice "$merged" direct /mnt/alice/from-bob /mnt/bob/source 16
is "a direct write is the writer's, when its buffer is a mapping of another's file" "$(slots_of /mnt/alice/from-bob)" '2 16;'
ok "and is right" cmp /mnt/bob/source /mnt/alice/from-bob
must as bob "$merged" redirty /mnt/bob/source 16 D
must as alice "$merged" direct /mnt/alice/from-dirty /mnt/bob/source 16
is "also when that file's pages are dirty" "$(slots_of /mnt/alice/from-dirty)" '2 16;'
letters T 16 > /dev/shm/tmpfile
must as alice "$merged" direct /mnt/alice/from-tmpfs /dev/shm/tmpfile 16
is "or the file is on tmpfs" "$(slots_of /mnt/alice/from-tmpfs)" '2 16;'

# Under writeback too, for as long as the disk below takes
must as alice "$merged" direct /mnt/alice/from-writeback /mnt/bob/source 16
must sync
must as bob "$merged" redirty /mnt/bob/source 16 W
must dmsetup suspend --nolockfs --noflush lower
as bob dd if=/dev/null of=/mnt/bob/source conv=notrunc,fsync status=none &
sleep 2
as alice "$merged" direct /mnt/alice/from-writeback /mnt/bob/source 16 &
sleep 2
must dmsetup resume lower
wait
is "or its pages are being written back" "$(slots_of /mnt/alice/from-writeback /mnt/bob/source)" '2 16;3 16;'

must as alice "$merged" mmap /mnt/alice/roots 16 R
must bash -c "head -c 65536 /dev/zero | tr '\\0' r | dd of=/mnt/alice/roots bs=64k conv=notrunc status=none"
is "what root writes to a user's file is the user's" "$(slots_of /mnt/alice/roots)" '2 16;'
must "$merged" direct /mnt/alice/roots /dev/shm/tmpfile 16
is "except directly: then it is under the device key, as root has none" "$(slots_of /mnt/alice/roots)" '1 16;'
ok "which is right nevertheless" cmp /dev/shm/tmpfile /mnt/alice/roots

must chown bob /mnt/alice/mapped
is "chown changes no block" "$(slots_of /mnt/alice/mapped)" '2 16;'
was=$(reassigned)
must "$merged" mmap /mnt/alice/mapped 8 N
is "a write by the new owner does" "$(slots_of /mnt/alice/mapped)" '2 8;3 8;'
is "and is counted" "$(($(reassigned) - was))" 8

for ((i = 0; i < 100; i++)); do
	: > "/mnt/alice/a-name-nobody-else-uses-$i"
done
chown -R alice /mnt/alice
umount /mnt
map > "$kc_tmp/map"
is "names in directories are under the device key on ext4" \
	"$("$merged" find $kc "$kc_tmp/map" a-name-nobody-else-uses | sort -u)" 1
ok "ext4 is clean" e2fsck -fn $kc
must dmsetup remove kc

must create projid
must dmsetup message kc 0 owner ids alice 0
must mkfs.ext4 -q -O ^project $kc
must mount -o noinit_itable $kc /mnt
must "$merged" mmap /mnt/file 16 P
is "owner:projid: ext4 made without projects has none, not project 0" "$(slots_of /mnt/file)" '1 16;'
umount /mnt
must dmsetup remove kc
must dmsetup remove lower
ok "the module can go" unload_module
done_testing
