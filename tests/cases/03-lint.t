#!/bin/bash
# What static checkers say of the code: nothing. Each is then shown the same files with a fault in
# every one, and must find it there: a checker that did not look has nothing to say either. (smatch would
# be one more; no suite of Debian has it.)
#
# Depends on: Documentation/*.rst tests/check tests/*/*.py tests/*/*.c tests/modules/*/*
#
# SPDX-License-Identifier: GPL-2.0-only

# Findings of checkpatch --strict that are not taken, and why
ignored() { # file
	# Messages are not broken, so that they can be searched for.
	echo LONG_LINE_STRING
	# It takes the end of a chain of else-ifs for an else after a return.
	echo UNNECESSARY_ELSE
	# Locks are described in the kernel-doc comment of their struct, where it does not look.
	echo UNCOMMENTED_DEFINITION
	# gcc wants those that it calls unnecessary: a == (b == c).
	echo UNNECESSARY_PARENTHESES
	# A program has no kernel types and macros; and its options may be lines of a table.
	[[ $1 != tests/* || -e ${1%/*}/Kbuild ]] || echo PREFER_KERNEL_TYPES PREFER_DEFINED_ATTRIBUTE_MACRO \
		PREFER_FALLTHROUGH EMBEDDED_FUNCTION_NAME TRAILING_STATEMENTS
	case $1 in
	compat.h | tests/modules/failinject/compat.h)
		# Versions are what this file is about; it takes LINUX_VERSION_CODE for a constant, a macro's
		# parameter that is a name for an expression, and knows nothing of _Generic.
		echo LINUX_VERSION_CODE CONSTANT_COMPARISON MACRO_ARG_PRECEDENCE
		echo CAMELCASE INDENTED_LABEL SPACING ;;
	format.h)
		# For programs too: they have neither __packed nor BIT_ULL().
		echo PREFER_DEFINED_ATTRIBUTE_MACRO BIT_MACRO ;;
	trace.h)
		# How trace events are written
		echo OPEN_ENDED_LINE PARENTHESIS_ALIGNMENT EMBEDDED_FILENAME ;;
	metadata.c)
		# A format that is used twice, and can only be a literal
		echo MACRO_ARG_REUSE ;;
	tests/modules/failinject/failinject.c)
		# Declares what it defines in assembler
		echo AVOID_EXTERNS ;;
	esac
}

# Every checker below looks at the files in the folder it is called in, prints its findings as
# "<file>:<line>..." and nothing else.

# The module and those that tests use, compiled with more warnings, and looked at by sparse
build() {
	local dir

	for dir in . tests/modules/*/Kbuild; do
		dir=${dir%/Kbuild}
		# not a part of a make this test may be run from
		env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL make -k -C "$headers" M="$(realpath "$dir")" \
			W=1 C=2 CF=-D__CHECK_ENDIAN__ modules
	done > build.log 2>&1
	grep -E '(warning|error): |\*\*\*' build.log | sed "s|^$PWD/||"
}

# Only the compiler names the option; in a line without, it is sparse that speaks, or make.
check_gcc() {
	build > findings
	grep '\[-W' findings
}

check_sparse() {
	grep -v '\[-W' findings
}

# coccicheck is made for a whole kernel; it needs no more of one than this.
check_coccinelle() {
	{
		srctree=$linux KBUILD_EXTMOD=. MODE=report LINUXINCLUDE=-I. J=2 COCCI=${cocci:-} \
			bash "$linux/scripts/coccicheck" || echo 'coccicheck:0: failed'
	} 2>&1 | grep -E '^[^ ]+:[0-9]+[:-]' |
		# DMEMIT() changes sz, and a program has no max().
		grep -vE 'Unneeded variable: "sz"|^\./tests/[^:]*:[-0-9:]+ WARNING opportunity for (min|max)\(\)' |
		sed 's|^\./||'
}

check_checkpatch() {
	local f

	# It looks for names in mixed case in the kernel's headers as soon as it sees one (_Generic).
	mkdir -p include
	for f in *.[ch] tests/*/*.c tests/modules/*/*.c; do
		[[ $f != *.mod.c ]] || continue
		perl "$linux/scripts/checkpatch.pl" --no-tree --root=. --strict --terse --show-types --no-summary \
			--ignore "$(ignored "$f" | tr -s ' \n' ,)" -f "$f" 2>&1
	done | grep .
}

check_kernel_doc() {
	perl "$linux/scripts/kernel-doc" -none -v *.[ch] tests/*/*.c tests/modules/*/*.c 2>&1 |
		grep -vE ': info: |^[0-9]+ warnings'
}

check_analyzer() {
	local f

	for f in "${programs[@]}"; do
		gcc -O2 -Wall -Wextra -fanalyzer -c -o /dev/null "$f" 2>&1
	done | grep -E 'warning|error'
}

check_pyflakes() {
	pyflakes3 tests/check tests/*/*.py 2>&1
}

check_docutils() {
	local f

	for f in Documentation/*.rst; do
		rst2html --strict "$f" 2>&1 >/dev/null | grep '^[^ ]*:[0-9]*:'
	done
}

check_versions() {
	grep -nwE 'LINUX_VERSION_CODE|KERNEL_VERSION|LINUX_VERSION_(MAJOR|PATCHLEVEL)|UTS_RELEASE' *.[ch] |
		grep -v '^compat\.h:'
}

# The module's parts, each above those it may know: a file includes headers of what comes after it in this
# list, and its own. Only the first four know the device as a whole.
floors=(target message request device claim journal keymap whose owner crypt keyslot keyring metadata seal iv
	format compat trace error)

check_floors() {
	local f files=()

	for f in *.[ch]; do
		[[ $f == *.mod.c ]] || files+=("$f")
	done
	awk -v list="${floors[*]}" '
		BEGIN { n = split(list, name, " "); for (i = 1; i <= n; i++) floor[name[i]] = i }
		FNR == 1 {
			file = FILENAME; part = file; sub(/\.[ch]$/, "", part)
			if (!(part in floor)) print file ":1: stands on no floor"
		}
		/^#include "/ {
			other = $2; gsub(/"|\.h/, "", other)
			if (!(other in floor) || floor[other] < floor[part])
				print file ":" FNR ": includes " other ".h, which does not stand below it"
		}
		/struct kc_dev([^_a-z]|$)/ && floor[part] > floor["device"] {
			print file ":" FNR ": knows struct kc_dev"
		}' "${files[@]}"
}

# A copy of what is checked; objects of other builds stay out
copy() { # folder
	local f

	mkdir "$1"
	for f in Kbuild *.[ch] tests/check tests/*/*.c tests/*/*.py tests/modules/*/*.[ch] tests/modules/*/Kbuild Documentation/*.rst; do
		[[ $f == *.mod.c ]] || cp --parents "$f" "$1"
	done
}

# One fault for each checker at the end of every file of its kind
spoil() { # folder
	local f name

	for f in "${module[@]}"; do
		name=$(basename "$f" .c)
		cat >> "$1/$f" <<-EOC

		#include <linux/slab.h>

		/**
		 * kc_fault_${name//-/_}() - a function
		 * @value:	its argument
		 */
		u32 kc_fault_${name//-/_}(u32 value, void *p)
		{
			if(p)
				kfree(p);
			return cpu_to_le32(value); /* KERNEL_VERSION */
		}

		#if 0
		#include "target.h"
		#endif
		EOC
	done
	for f in "${programs[@]}"; do
		cat >> "$1/$f" <<-EOC

		int kc_fault(void);
		int kc_fault(void)
		{
			int *p = malloc(4);

			if(p[0])
				return 1;
			return 0;
		}
		EOC
	done
	for f in "$1"/tests/check "$1"/tests/*/*.py; do
		printf '\nimport this_is_not_used\n' >> "$f"
	done
	for f in "$1"/Documentation/*.rst; do
		printf '\n.. nosuch::\n' >> "$f"
	done
}

# lint NAME CHECKER REGEX FILE...: nothing is found in the files as they are, and in the spoilt
# ones a line that matches in every FILE
lint() {
	local name=$1 checker=$2 regex=$3 out f missed=''

	shift 3
	out=$(cd "$VM_DIR/good" && "$checker")
	is "$name has nothing to say" "$out" ''
	out=$(cd "$VM_DIR/bad" && cocci=${one_cocci:-} "$checker")
	for f in "$@"; do
		grep -qE "^$f:[0-9]+.*$regex" <<< "$out" || missed+=" $f"
	done
	is "and looks at every file" "$missed" '' || head -n 40 <<< "$out" | diag
}

host_main() {
	local linux headers module=() programs=() below=() f

	# shellcheck source=tests/kernel.sh
	. "$KC_TESTS/kernel.sh"
	linux=$kc_build/lint
	headers=$(kernel_headers)
	[[ -e $linux/scripts/checkpatch.pl ]] || bail "no $linux/scripts: run tests/setup lint"
	[[ $headers ]] || bail "no kernel headers: run tests/setup"
	shopt -s nullglob
	cd "$KC_TOP" || bail "no $KC_TOP"
	copy "$VM_DIR/good"
	copy "$VM_DIR/bad"
	cd "$VM_DIR/good" || bail "no copy"
	for f in *.c; do
		[[ $f == target.c ]] || below+=("$f")
	done
	for f in *.c tests/*/*.c tests/modules/*/*.c; do
		if [[ $f != tests/* || -e ${f%/*}/Kbuild ]]; then
			module+=("$f")
		else
			programs+=("$f")
		fi
	done
	spoil "$VM_DIR/bad"
	one_cocci=$linux/scripts/coccinelle/free/ifnullfree.cocci \
		lint coccinelle check_coccinelle 'NULL check before' "${module[@]}"
	lint "checkpatch --strict" check_checkpatch :SPACING: "${module[@]}" "${programs[@]}"
	lint kernel-doc check_kernel_doc "'p' not described" "${module[@]}"
	lint "gcc -fanalyzer" check_analyzer 'Wanalyzer-possible-null-dereference' "${programs[@]}"
	lint pyflakes check_pyflakes 'this_is_not_used' tests/check tests/*/*.py
	lint "rst2html --strict" check_docutils 'nosuch' Documentation/*.rst
	lint "the order of the module's parts" check_floors 'does not stand below' \
		"${below[@]}"
	lint "the search for kernel versions outside of compat.h" check_versions KERNEL_VERSION \
		*.c
	# last, since it leaves its files there
	lint "gcc (W=1)" check_gcc '\[-Wmissing-prototypes\]' "${module[@]}"
	lint sparse check_sparse 'incorrect type in return expression' "${module[@]}"
}
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
