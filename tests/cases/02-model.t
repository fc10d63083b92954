#!/bin/bash
# The journal's protocol keeps its promises, as far as its model goes: tests/model/journal.pml, checked by
# spin with power going at every point. And the model can tell: with one ordering taken out, it finds
# a state that is wrong. KC_MODEL=full (make check-model) has larger bounds.
#
# What the map in memory asks of processors that reorder reads and writes is in tests/model/litmus: tests for
# the kernel's memory model, in herd7's format, and beside each one that never fails variants that can.
# tests/model/litmus.py checks them; so does herd7, which Debian 12 does not have, if it is there and HERD_MODEL
# names the folder tools/memory-model of a kernel.
#
# Depends on: tests/model/*/*
#
# SPDX-License-Identifier: GPL-2.0-only

# explore DEFINE...: all states of the model; what spin says is in $kc_log
explore() {
	local dir=$VM_DIR/model

	rm -rf "$dir"
	mkdir -p "$dir"
	(
		cd "$dir" || exit
		cp "$KC_TESTS/model/journal.pml" .
		spin -a "$@" journal.pml && gcc -O2 -w -o pan -DSAFETY -DNOREDUCE -DCOLLAPSE -DMEMLIM=7000 pan.c &&
			./pan -m1000000
	) > "$kc_log" 2>&1
}

# found NAME: what the model holds, for the log
found() {
	local states depth

	states=$(sed -n 's/^ *\([0-9e.+]*\) states, stored.*/\1/p' "$kc_log")
	depth=$(sed -n 's/.*depth reached \([0-9]*\),.*/\1/p' "$kc_log")
	diag "$1: ${states:-no} states, depth ${depth:-none}"
}

# complete: every state was looked at, and none is wrong
complete() {
	grep -q 'errors: 0$' "$kc_log" && grep -q '^Full statespace search' "$kc_log" &&
		! grep -qE 'Search not completed|max search depth too small|out of memory' "$kc_log"
}

good() { # what, defines...
	local what=$1

	shift
	explore "$@"
	if complete; then
		tap ok "no crash breaks a promise: $what"
	else
		tap not-ok "no crash breaks a promise: $what"
		diag < "$kc_log"
	fi
	found "$what ($*)"
}

broken() { # what, defines...
	local what=$1

	shift
	explore "$@"
	# an assertion, not a model that cannot go on
	if grep -q '^pan:1: assertion violated' "$kc_log"; then
		tap ok "the model finds it: $what"
	else
		tap not-ok "the model finds it: $what"
		diag < "$kc_log"
	fi
	diag "$*: $(grep '^pan:1' "$kc_log")"
}

litmus() {
	local f name result got

	for f in "$KC_TESTS"/model/litmus/*.litmus; do
		name=$(basename "$f" .litmus)
		result=$(sed -n 's/^ \* Result: //p' "$f")
		got=$("$KC_TESTS/model/litmus.py" "$f")
		diag "$got"
		is "litmus test $name" "${got% *}" "$name $result"
		if [[ ${HERD_MODEL:-} ]] && command -v herd7 > /dev/null; then
			got=$(cd "$HERD_MODEL" && herd7 -conf linux-kernel.cfg "$f" | sed -n 's/^Observation //p')
			is "litmus test $name with herd7" "${got%% [0-9]*}" "$name $result"
		fi
	done
}

host_main() {
	local plain=(-DWRITES=2 -DCRASHES=1 -DDISCARDS=0) more=(-DWRITES=3 -DCRASHES=1 -DDISCARDS=0 -DFUAS=0)

	litmus
	ok "spin is there" spin -V
	if [[ ${KC_MODEL:-} == full ]]; then
		full
	else
		good "one disk" -DWRITES=3 -DCRASHES=1 -DPRESSURES=0
		good "one disk, two map blocks" -DWRITES=3 -DCRASHES=1 -DDISCARDS=0 -DFUAS=0 -DTWO
		good "two disks" -DSEPARATE -DWRITES=3 -DCRASHES=1 -DDISCARDS=0 -DFUAS=0
		good "three crashes" -DWRITES=2 -DCRASHES=3 -DFUAS=0
	fi
	broken "what settles intents is written without a flush of the data" "${plain[@]}" -DBREAK_SETTLE
	broken "the same with two disks" "${plain[@]}" -DSEPARATE -DBREAK_SETTLE
	broken "data is sent before its intent is durable" "${plain[@]}" -DBREAK_INTENT
	broken "the old entry is logged behind the intent" "${plain[@]}" -DBREAK_OLD
	broken "an unsettled block is written again" "${more[@]}" -DPRESSURES=0 -DBREAK_UNSETTLED
	broken "a map block with intents is written back" "${plain[@]}" -DBREAK_HELD
	broken "the tail moves before the map blocks are durable" "${plain[@]}" -DBREAK_TAIL
	broken "the map state is written before the map blocks are durable" "${plain[@]}" -DBREAK_STATE
	broken "journal space is used again before the anchor is durable" "${more[@]}" -DBREAK_REUSE
	broken "the journal is written before the anchor says that it is in use" "${more[@]}" -DBREAK_ANCHOR
	broken "an entry changes before the data is written" "${plain[@]}" -DBREAK_ENTRY
	broken "a change of owner does not wait for writes under way" "${more[@]}" -DPRESSURES=0 -DBREAK_DRAIN
	broken "a flush does not wait for the map" "${plain[@]}" -DBREAK_FLUSH
	broken "a FUA write does not wait for the map" "${plain[@]}" -DBREAK_FUA
	broken "recovery does not make durable what it has compared" -DWRITES=2 -DCRASHES=2 -DSEPARATE \
		-DBREAK_RECOVERY
	broken "recovery goes on with the next number" -DWRITES=3 -DCRASHES=2 -DDISCARDS=0 -DFUAS=0 \
		-DBREAK_SKIP
	rm -rf "$VM_DIR/model"
}

full() {
	local disks map

	for disks in "" -DSEPARATE; do
		for map in "" -DTWO; do
			good "all kinds of writes" $disks $map -DWRITES=3 -DCRASHES=1
			good "two crashes" $disks $map -DWRITES=3 -DCRASHES=2 -DDISCARDS=0 -DFUAS=0
			good "three crashes" $disks $map -DWRITES=2 -DCRASHES=3
		done
	done
	good "four writes" -DWRITES=4 -DCRASHES=1 -DDISCARDS=0 -DFUAS=0
}
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
