#!/bin/bash
# With a locked owner, each bio for that owner's blocks fails at once, before any I/O to the disk, and
# everything else goes on.
#
# SPDX-License-Identifier: GPL-2.0-only

VM_ARGS=(--disk scratch=256M --mem 768M)

# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"

disk=/dev/disk/kc/scratch
dev=/dev/mapper/kc
fs=/mnt/kc
offset=16384
immediate=150		# ms, on an emulated machine

msg() { dmsetup message kc 0 "$@"; }

# kio COMMAND...: see kio.py
kio() {
	printf '%s\n' "$*" >&11 && read -r -t 30 answer <&10 && printf '%s\n' "$answer"
}

coproc "$KC_TESTS/guest/kio.py" $dev
exec 10<&"${COPROC[0]}" 11>&"${COPROC[1]}"

# locked: "<locked read errors> <locked write errors>" from the status line
locked() {
	local s

	read -r -a s <<< "$(dmsetup status kc)"
	printf '%d %d\n' "${s[6]}" "${s[7]}"
}

# The device has nothing to write by itself any more, not even after a while.
settled() {
	dmsetup suspend kc && dmsetup resume kc
}

# fails_early NAME COUNTER COMMAND...: EIO at once, COUNTER (read or write) goes up, the disk sees nothing
fails_early() {
	local name=$1 counter=$2 before now r w r1 w1

	shift 2
	before=$(disk_stat_full $disk)
	read -r r w <<< "$(locked)"
	is "$name: EIO" "$(kio "$@")" EIO
	within "$name: immediately (ms)" "$(kio ms)" 0 $immediate
	now=$(disk_stat_full $disk)
	is "$name: and the disk saw nothing" "$now" "$before"
	read -r r1 w1 <<< "$(locked)"
	case $counter in
	read) ok "$name: it is counted as a read" test "$r1" -gt "$r" -a "$w1" -eq "$w" ;;
	write) ok "$name: it is counted as a write" test "$w1" -gt "$w" -a "$r1" -eq "$r" ;;
	esac
}

load_module
mkuser alice 1000
mkuser bob 1001
for i in dev alice bob; do
	must add_key logon kc:$i "$(rand_hex 64)" @u
done
must modprobe dm-delay
size=$(sectors $disk)
must dmsetup create lower --table "0 $size linear $disk 0"
must dmsetup create kc --table "0 $((size - offset)) keyed-crypt aes-xts-plain64 :64:logon:kc:dev 0 \
/dev/mapper/lower $offset 2 owner:uid format"
must msg owner add alice 1000 :64:logon:kc:alice
must msg owner add bob 1001 :64:logon:kc:bob

# --- the device itself
is "alice writes" "$(kio write 1000 100 32)" ok
is "bob writes behind that" "$(kio write 1001 132 32)" ok
is "nobody in particular writes" "$(kio write 0 200 32)" ok
is "the map says so" "$(msg map 100 64)" $'100 32 2\n132 32 3'
ok "owner lock" msg owner lock bob
must settled

fails_early "direct read" read read 140
fails_early "direct read of many blocks" read read 132 32
fails_early "buffered read" read bread 140
fails_early "readahead" read readahead 132 32
fails_early "direct write over own blocks" write write 1001 140
fails_early "direct write of new blocks" write write 1001 1000 16
fails_early "direct write over another's blocks" write write 1001 100 8
fails_early "direct write over blocks of nobody's" write write 1001 200 8
is "no block changed hands" "$(msg map 1000 16)" "1000 16 0"
is "none of another's" "$(msg map 100 64)" $'100 32 2\n132 32 3'

# A bio across alice's and bob's blocks: the disk may be asked for alice's
read -r r rs rest <<< "$(disk_stat_full $disk)"
is "a direct read across both" "$(kio read 116 32)" EIO
within "immediately (ms)" "$(kio ms)" 0 $immediate
read -r r1 rs1 rest1 <<< "$(disk_stat_full $disk)"
within "the disk is asked for no more than alice's part (sectors)" $((rs1 - rs)) 0 $((16 * 8))
is "and nothing is written" "$rest1" "$rest"
like "a buffered read across both gives alice's at most" "$(kio bread 116 32)" '^(EIO|short)$'
is "the other way round, from bob's into the unassigned" "$(kio read 148 32)" EIO
is "alice's part alone" "$(kio same 116 16)" ok
is "alice reads" "$(kio same 100 32)" ok
is "alice writes" "$(kio write 1000 100 16)" ok
is "and reads it" "$(kio same 100 32)" ok
is "the device's blocks are read" "$(kio same 200 32)" ok
is "unassigned blocks too" "$(kio read 5000 8)" ok
is "somebody else may write over bob's block" "$(kio write 1000 163)" ok

# A write whose beginning is bob's: what is behind that is somebody else's, and may be gone if it is not written
# now (f2fs puts files of several owners into one bio, and gives no page of it a second try).
read -r r w <<< "$(locked)"
is "a direct write of bob's block and of nobody's behind it" "$(kio mixed 1001 1100 $disk)" EIO
is "nobody's part is written all the same" "$(msg map 1100 3)" $'1100 1 0\n1101 1 1\n1102 1 0'
is "and right" "$(kio same 1101)" ok
is "one write was locked" "$(locked)" "$r $((w + 1))"
is "the same over a block of alice's" "$(kio mixed 1001 99 $disk)" EIO
is "that is under nobody's key then" "$(msg map 99 3)" $'99 1 0\n100 1 1\n101 1 2'
is "and has what was written" "$(kio same 100)" ok

# With a slow disk: what does not fail has to wait, what fails does not
must msg commit
must dmsetup load lower --table "0 $size delay $disk 0 400"
must dmsetup suspend --nolockfs --noflush lower
must dmsetup resume lower
is "on a slow disk, alice reads" "$(kio same 100)" ok
within "and waits for it (ms)" "$(kio ms)" 300 5000
is "bob's reads fail" "$(kio read 140)" EIO
within "without waiting (ms)" "$(kio ms)" 0 $immediate
is "writes too" "$(kio write 1001 140)" EIO
within "without waiting (ms)" "$(kio ms)" 0 $immediate
must dmsetup load lower --table "0 $size linear $disk 0"
must dmsetup suspend --nolockfs --noflush lower
must dmsetup resume lower

ok "owner unlock" msg owner unlock bob
is "bob's blocks are what they were" "$(kio same 132 31)" ok
is "all are" "$(kio same 100 64)" ok
is "bob writes again" "$(kio write 1001 1000 16)" ok
is "and reads it" "$(kio same 1000 16)" ok

# --- a filesystem on it
must mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0,nodiscard $dev
must mkdir -p $fs
must mount -o errors=continue,noatime $dev $fs
for i in alice bob; do
	must install -d -o $i -g $i $fs/$i
	must dd if=/dev/urandom of="/tmp/$i" bs=64k count=16 status=none
	must chmod 644 "/tmp/$i"
	must as $i cp "/tmp/$i" $fs/$i/file
	must as $i cp "/tmp/$i" $fs/$i/other
done
must cp /tmp/alice $fs/root
sync
like "bob's files are under bob's key" "$(msg owner list)" $'\nbob 3 unlocked 1001 [^ ]* 5[1-9][0-9]$'
must msg owner lock bob
drop_caches
must stat $fs/bob/file $fs/bob/other $fs/alice/file $fs/root
sync
must settled
before=$(disk_stat_full $disk)
fails_with "reading bob's file fails" EIO cat $fs/bob/file
fails_with "with direct reads too" EIO dd if=$fs/bob/file of=/dev/null bs=64k iflag=direct
is "and the disk saw nothing of it" "$(disk_stat_full $disk)" "$before"
fails_with "bob's direct write fails" EIO as bob dd if=/tmp/bob of=$fs/bob/file bs=64k count=1 \
	oflag=direct conv=notrunc
fails_with "bob's buffered write fails at fsync" EIO as bob dd if=/tmp/alice of=$fs/bob/file bs=64k count=2 \
	conv=notrunc,fsync
fails_with "and so does that of a new file" EIO as bob dd if=/tmp/alice of=$fs/bob/new bs=64k count=2 \
	conv=fsync
ok "alice's file is read" cmp /tmp/alice $fs/alice/file
ok "alice's buffered writes go on" as alice dd if=/tmp/alice of=$fs/alice/new bs=64k conv=fsync
ok "direct ones too" as alice dd if=/tmp/alice of=$fs/alice/direct bs=64k oflag=direct
ok "files of nobody's are read" cmp /tmp/alice $fs/root
ok "bob's directory is listed" ls -l $fs/bob
ok "bob makes directories and empty files" as bob bash -c "mkdir $fs/bob/dir && : > $fs/bob/dir/empty"
ok "and renames a file" as bob mv $fs/bob/other $fs/bob/renamed
ok "the filesystem's journal goes on" bash -c "> $fs/alice/empty && sync $fs/alice/empty $fs/alice"
like "the filesystem is still writable" "$(grep " $fs " /proc/mounts)" ' rw,'
unlike "and has found no error in itself" "$(dmesg)" 'EXT4-fs error|Remounting|Aborting journal'
must rm -f $fs/bob/new
ok "owner unlock" msg owner unlock bob
drop_caches
ok "what bob could not overwrite is unchanged" cmp /tmp/bob $fs/bob/file
ok "bob's other file too" cmp /tmp/bob $fs/bob/renamed
ok "alice's, written before" cmp /tmp/alice $fs/alice/file
ok "and written meanwhile" cmp /tmp/alice $fs/alice/new
ok "also directly" cmp /tmp/alice $fs/alice/direct
ok "bob writes again" as bob dd if=/tmp/alice of=$fs/bob/file bs=64k conv=fsync
drop_caches
ok "and reads it" cmp /tmp/alice $fs/bob/file
must umount $fs
ok "the filesystem is clean" fsck.ext4 -fn $dev
must dmsetup remove kc
must dmsetup remove lower
done_testing
