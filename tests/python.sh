# For tests that are written in Python: sourced after lib.sh.
#
# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-only

# run_python SCRIPT [ARGUMENT...]: a script of guest/, built on kc.py; its "ok - " and
# "not ok - " lines become assertions, and it must get to its done().
run_python() {
	local script=$1 line n=0 ended=''

	shift
	while IFS= read -r line; do
		case $line in
		'ok - '*) tap ok "${line#ok - }"; n=$((n + 1)) ;;
		'not ok - '*) tap not-ok "${line#not ok - }"; n=$((n + 1)) ;;
		'done '*) [[ ${line#done } != "$n" ]] || ended=1 ;;
		*) printf '%s\n' "$line" | sed 's/^#* */# /' ;;
		esac
	done < <(python3 -B -S "$KC_TESTS/guest/$script" "$@" 2>&1)
	[[ $ended ]] || tap not-ok "$script ran to its end"
}
