# What every test sources. A test is a bash script tests/cases/NN-name.t:
#
#	#!/bin/bash
#	# what this shows
#	VM_ARGS=(--disk scratch=256M --mem 1G)	# options of tests/vm; may be left out
#	. "$(dirname "$0")/../lib.sh"
#	load_module
#	ok "the disk is there" test -b /dev/disk/kc/scratch
#	done_testing
#
# Run on the host, the script boots a VM that runs it again (and goes no further than the line with
# lib.sh); lib.sh numbers the assertions, adds one on each boot's kernel log, and prints the plan.
# Several boots, whose disks live on:
#
#	VM_BOOTS="fill:kill check"	# in the guest, $1 is fill, then check; fill ends with power_cut
#
# or a function of one's own, run on the host:
#
#	host_main() {
#		vm_boot --kill fill		# options of tests/vm, the phase, its arguments
#		vm_boot --append init_on_free=1 check 2
#		is "seen on the host" "$(sha256sum < "$VM_DIR/scratch.img")" "$sum"
#	}
#
# There is no skip: what a test lacks is a failure.
#
# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-only

set -uo pipefail

KC_TESTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
KC_TOP=${KC_TESTS%/*}
KC_SCRIPT=$(realpath "$0")
KC_NAME=$(basename "$0" .t)

# --- assertions -----------------------------------------------------------------------------------

tap_count=0
tap_failed=0

# The one place that prints an assertion. In the guest they carry no number: the host gives it.
tap() { # ok|not-ok name
	local word=ok

	tap_count=$((tap_count + 1))
	if [[ $1 != ok ]]; then
		word='not ok'
		tap_failed=$((tap_failed + 1))
	fi
	if [[ ${KC_GUEST:-} ]]; then
		printf '%s - %s\n' "$word" "${2//\#/}"
	else
		printf '%s %d - %s\n' "$word" "$tap_count" "${2//\#/}"
	fi
	[[ $1 == ok ]]
}

# diag text...: a line, or with no text stdin, as a comment in the TAP stream
diag() {
	if (($#)); then
		printf '%s\n' "$*"
	else
		cat
	fi | sed 's/^/# /'
}

kc_tmp=$(mktemp -d "${TMPDIR:-/tmp}/kc-test.XXXXXX")
kc_log=$kc_tmp/output
trap 'rm -rf "$kc_tmp"' EXIT

# ok NAME COMMAND...: the command succeeds
ok() {
	local name=$1 rc

	shift
	"$@" > "$kc_log" 2>&1 && rc=0 || rc=$?
	if ((rc == 0)); then
		tap ok "$name"
	else
		tap not-ok "$name"
		diag "status $rc: $*"
		head -n 40 "$kc_log" | diag
		return 1
	fi
}

# nok NAME COMMAND...: the command fails (and is not killed by a signal)
nok() {
	local name=$1 rc

	shift
	"$@" > "$kc_log" 2>&1 && rc=0 || rc=$?
	if ((rc > 0 && rc < 126)); then
		tap ok "$name"
	else
		tap not-ok "$name"
		diag "status $rc, failure expected: $*"
		head -n 40 "$kc_log" | diag
		return 1
	fi
}

# is NAME GOT EXPECTED
is() {
	if [[ $2 == "$3" ]]; then
		tap ok "$1"
	else
		tap not-ok "$1"
		diag "     got: $2"
		diag "expected: $3"
		return 1
	fi
}

# isnt NAME GOT UNEXPECTED
isnt() {
	if [[ $2 != "$3" ]]; then
		tap ok "$1"
	else
		tap not-ok "$1"
		diag "got, and should not: $2"
		return 1
	fi
}

# like NAME STRING REGEX (extended)
like() {
	if [[ $2 =~ $3 ]]; then
		tap ok "$1"
	else
		tap not-ok "$1"
		diag "             got: $2"
		diag "expected a match: $3"
		return 1
	fi
}

# unlike NAME STRING REGEX
unlike() {
	if ! [[ $2 =~ $3 ]]; then
		tap ok "$1"
	else
		tap not-ok "$1"
		diag "                got: $2"
		diag "expected no match: $3"
		return 1
	fi
}

# within NAME GOT MIN MAX: MIN <= GOT <= MAX, integers
within() {
	if [[ $2 =~ ^-?[0-9]+$ ]] && (($3 <= $2 && $2 <= $4)); then
		tap ok "$1"
	else
		tap not-ok "$1"
		diag "got $2, expected $3 to $4"
		return 1
	fi
}

# errno_text ENOENT: what strerror says
errno_text() {
	perl -MErrno -e '$! = &{"Errno::$ARGV[0]"}(); print "$!\n"' "$1"
}

# fails_with NAME ERRNO_NAME COMMAND...: the command fails and its output gives that error
fails_with() {
	local name=$1 text rc

	text=$(errno_text "$2") || must false "no such error: $2"
	shift 2
	"$@" > "$kc_log" 2>&1 && rc=0 || rc=$?
	if ((rc > 0 && rc < 126)) && grep -qF -- "$text" "$kc_log"; then
		tap ok "$name"
	else
		tap not-ok "$name"
		diag "status $rc, expected failure with '$text': $*"
		head -n 40 "$kc_log" | diag
		return 1
	fi
}

# kmsg_mark; kmsg_since: the kernel log from the mark on
kmsg_mark() {
	kc_mark="kc-mark $BASHPID.$((kc_marks += 1))"
	printf '<7>%s\n' "$kc_mark" > /dev/kmsg
}
kc_marks=0
kc_mark=''

kmsg_since() {
	dmesg | sed "1,/$kc_mark\$/d"
}

# fails_msg NAME REGEX COMMAND...: the command fails, and a line it added to the kernel log matches
fails_msg() {
	local name=$1 re=$2 rc

	shift 2
	kmsg_mark
	"$@" > "$kc_log" 2>&1 && rc=0 || rc=$?
	if ((rc > 0 && rc < 126)) && kmsg_since | grep -qE -- "$re"; then
		tap ok "$name"
	else
		tap not-ok "$name"
		diag "status $rc, expected failure and in the kernel log /$re/: $*"
		head -n 20 "$kc_log" | diag
		kmsg_since | head -n 20 | diag
		return 1
	fi
}

# must COMMAND...: preparation without which the rest makes no sense; ends the test if it fails
must() {
	local rc

	"$@" > "$kc_log" 2>&1 && return
	rc=$?
	tap not-ok "preparation: $*"
	diag "status $rc"
	head -n 40 "$kc_log" | diag
	exit 1
}

# bail REASON: ends the test, failed
bail() {
	tap not-ok "$*"
	exit 1
}

# done_testing: the last line of every test (of every phase)
done_testing() {
	if [[ ${KC_GUEST:-} ]]; then
		printf 'kc-done %d\n' "$tap_count"
	else
		printf '1..%d\n' "$tap_count"
	fi
	((tap_count > 0 && tap_failed == 0))
	exit
}

# --- on the host ----------------------------------------------------------------------------------

# vm_run OPTION... -- COMMAND...: tests/vm in this test's folder, with its VM_ARGS
vm_run() {
	local boot=$((vm_boots += 1))

	"$KC_TESTS/vm" --name "${VM_DIR#"$KC_TOP/build/vm/"}" --log "$VM_DIR/boot$boot.log" \
		${VM_ARGS[@]+"${VM_ARGS[@]}"} "$@" 9>&-
}

# vm_boot [--kill] OPTION... [PHASE [ARGUMENT...]]: boots, runs this script in the guest with
# PHASE as $1, and takes its assertions over. --kill: the phase ends in power_cut.
# Options that take a value must be written as two words.
vm_boot() {
	local opts=() kill='' line rc ended='' fault='' before=$tap_failed what n=0

	while [[ ${1:-} == --* ]]; do
		case $1 in
		--kill) kill=1; shift ;;
		--icount | --verbose) opts+=("$1"); shift ;;
		*) opts+=("$1" "$2"); shift 2 ;;
		esac
	done
	[[ ! $kill ]] || opts+=(--kill-on kc-power-cut)
	what="boot $((vm_boots + 1))${1:+, $1}"
	[[ ! ${1:-} ]] || diag "$what"
	# The loop must be in this shell, for its counters; so the VM's status comes through a file.
	while IFS= read -r line; do
		case $line in
		'ok - '*) tap ok "${line#ok - }"; n=$((n + 1)) ;;
		'not ok - '*) tap not-ok "${line#not ok - }"; n=$((n + 1)) ;;
		'kc-done '*)
			# what the guest counted must be what came through
			[[ ${line#kc-done } != "$n" ]] || ended=1 ;;
		*kc-power-cut*) ;;
		'# '*) printf '%s\n' "$line" ;;
		*) [[ $line ]] && printf '# %s\n' "$line" ;;
		esac
	done < <(vm_run "${opts[@]}" -- "$KC_SCRIPT" "$@"; echo $? > "$kc_tmp/status")
	vm_boots=$((vm_boots + 1))
	rc=$(< "$kc_tmp/status")
	case $rc in
	120) fault=1 ;;
	124) tap not-ok "$what: ended within its time limit" ;;
	121) tap not-ok "$what: the guest lived until the end" ;;
	122) tap not-ok "$what: the power cut came" ;;
	125) tap not-ok "$what: the VM started" ;;
	0) [[ $kill || $ended ]] || tap not-ok "$what: ran to its done_testing" ;;
	*) ((tap_failed > before)) || tap not-ok "$what: exit status $rc" ;;
	esac
	if [[ $fault ]]; then
		tap not-ok "kernel log clean ($what)"
	elif ((rc != 121 && rc != 125)); then
		tap ok "kernel log clean ($what)"
	fi
	return "$rc"
}

vm_boots=0

kc_host() {
	local phase modules ko

	# The checkout may be anywhere: what the host needs is found by name.
	VM_DIR=$KC_TOP/build/vm/test${KC_ARCH:+-$KC_ARCH}/$KC_NAME
	VM_OUT=$VM_DIR/out
	mkdir -p "$VM_DIR"
	exec 9>"$VM_DIR.lock"
	if ! flock -n 9; then
		diag "waiting for another run of $KC_NAME"
		flock 9
	fi
	rm -rf "$VM_DIR"
	mkdir -p "$VM_OUT"
	# This very build, whatever is built while the test runs
	modules=$("$KC_TESTS/kernel.sh" module-dir)
	for ko in "$modules"/{,tests/modules/failinject/,tests/modules/biosend/}*.ko; do
		[[ ! -e $ko ]] || cp "$ko" "$VM_OUT/"
	done
	if declare -F host_main >/dev/null; then
		host_main
	else
		for phase in ${VM_BOOTS:-}; do
			case $phase in
			*:kill) vm_boot --kill "${phase%:kill}" ;;
			*) vm_boot "$phase" ;;
			esac
		done
		[[ ${VM_BOOTS:-} ]] || vm_boot
	fi
	printf '1..%d\n' "$tap_count"
	((tap_count > 0 && tap_failed == 0)) || exit 1
	# Images take room; what failed stays to be looked at.
	[[ ${KC_KEEP:-} ]] || find "$VM_DIR" -size +8M -type f -delete
	exit 0
}

if [[ ! ${KC_GUEST:-} ]]; then
	kc_host
fi

# --- in the guest ---------------------------------------------------------------------------------

# power_cut: ends a phase that was booted with --kill
power_cut() {
	printf 'kc-power-cut\n'
	exec sleep 1000
}

# load_module [PARAMETER...]: the module under test, with what it needs
load_module() {
	local ko=$KC_OUT/dm-keyed-crypt.ko dep

	if [[ ! -e $ko ]]; then
		bail "dm-keyed-crypt.ko is not built: make"
	fi
	must modprobe dm-mod
	for dep in $(modinfo -F depends "$ko" | tr , ' '); do
		must modprobe "$dep"
	done
	must insmod "$ko" "$@"
}

unload_module() {
	rmmod dm_keyed_crypt
}

# sectors DEVICE: its size in sectors of 512 bytes
sectors() {
	blockdev --getsz "$1"
}

# kc_sysfs DEVICE: its folder below /sys
kc_sysfs() {
	local nr

	nr=$(stat -Lc '%t %T' "$1") || return
	printf '/sys/dev/block/%d:%d\n' "0x${nr% *}" "0x${nr#* }"
}

# disk_stat DEVICE: "<reads> <writes>" completed
disk_stat() {
	local s

	read -r -a s < "$(kc_sysfs "$1")/stat" || return
	printf '%d %d\n' "${s[0]}" "${s[4]}"
}

# disk_stat_full DEVICE: "<reads> <sectors read> <writes> <sectors written> <discards> <flushes>"
disk_stat_full() {
	local s

	read -r -a s < "$(kc_sysfs "$1")/stat" || return
	printf '%d %d %d %d %d %d\n' "${s[0]}" "${s[2]}" "${s[4]}" "${s[6]}" "${s[11]}" "${s[15]}"
}

# drop_caches: everything to the disks, and nothing cached
drop_caches() {
	sync
	echo 3 > /proc/sys/vm/drop_caches
}

# mkuser NAME UID: a user, and a group of the same name and number
mkuser() {
	printf '%s:x:%d:%d::/home/%s:/bin/bash\n' "$1" "$2" "$2" "$1" >> /etc/passwd
	printf '%s:x:%d:\n' "$1" "$2" >> /etc/group
	mkdir -p "/home/$1" && chown "$2:$2" "/home/$1"
}

# as USER COMMAND...: as that user, with none of root's rights
as() {
	local uid gid

	uid=$(id -u "$1") && gid=$(id -g "$1") || return 126
	shift
	setpriv --reuid "$uid" --regid "$gid" --clear-groups -- "$@"
}

# hash_dev DEVICE [FIRST-BYTE BYTES]: sha256 of what is on it
hash_dev() {
	if (($# == 1)); then
		sha256sum < "$1"
	else
		dd if="$1" bs=1M iflag=skip_bytes,count_bytes,fullblock skip="$2" count="$3" status=none |
			sha256sum
	fi | cut -d' ' -f1
}

# add_key TYPE DESCRIPTION HEX KEYRING: puts a key with these bytes there; prints its serial number
add_key() {
	# shellcheck disable=SC2059 # the format is the payload
	printf "$(sed 's/../\\x&/g' <<< "$3")" | keyctl padd "$1" "$2" "$4"
}

# rand_hex N: N random bytes in hex
rand_hex() {
	od -An -v -tx1 -N "$1" /dev/urandom | tr -d ' \n'
	echo
}
