#!/bin/bash
# Runs in parts: what passed is taken over as long as nothing changes that it depends on, and only then; what
# failed comes first; who stops a run loses what was under way; and `make results` tells which is which. In a
# checkout of its own, with tests that need no VM.
#
# Depends on: tests/check
#
# SPDX-License-Identifier: GPL-2.0-only

# fake NAME LINE...: a test that notes that it was run
fake() {
	{
		printf '#!/bin/bash\necho "%s" >> log\n' "$1"
		printf '%s\n' "${@:2}"
	} > "tests/cases/$1.t"
	chmod +x "tests/cases/$1.t"
}

check() { # [VARIABLE=VALUE...] ARGUMENT...
	: > log
	env -i PATH="$PATH" HOME="${HOME:-/}" KERNEL=fake "$@" > out 2>&1
}
# shellcheck disable=SC2120 # most have none
run() { check "$@" tests/check --built check; }
ran() { sort log | tr '\n' ' '; }
last() { tail -n 1 out; }

# state NAME: what `make results` says of that test on this kernel
state() {
	tests/check results | sed -n "s/^fake: $1  *\(passed\|failed\|stale\|never run\) .*/\1/p" | head -n 1
}

# refused WHAT LINE...: a test that prints this does not pass
refused() {
	fake 12-c "${@:2}"
	nok "does not pass: $1" run
	is "and counts as failed" "$(last)" "$expect"
}

host_main() {
	local pid i t expect all='10-a 11-b 12-c 13-d '

	unset KC_ARCH
	export KERNEL=fake
	mkdir -p "$VM_DIR/tree"/{Documentation,tests/{cases,guest}} && cd "$VM_DIR/tree" || bail 'no folder'
	cp "$KC_TESTS"/{check,kernel.sh} tests/
	touch Kbuild Makefile target.c target.mod.c Documentation/text.rst tests/guest/{b.py,other.py} tests/vm
	fake 10-a 'echo "ok 1 - seed ${KC_SEED:-1}"' 'echo 1..1'
	fake 11-b 'test -e tests/guest/b.py && echo "ok 1 - b"' 'echo 1..1'
	fake 12-c '[[ ! -e broken ]] || printf "not "' 'echo "ok 1 - c"' 'echo 1..1; [[ ! -e broken ]]'
	fake 13-d 'to=build/vm/test/13-d/out/gcov/boot; mkdir -p $to; echo counters > $to/x.gcda' \
		'echo $$ > pid; while [[ -e slow ]]; do sleep 0.1; done' 'echo "ok 1 - d"' 'echo 1..1'

	is "of a test never run that is said" "$(state 10-a)" 'never run'
	ok "all are run at first" run
	is "each once" "$(ran)" "$all"
	is "with the totals in the last line" "$(last)" '4 passed, 0 failed'
	is "the counters of its guests are kept" "$(cat build/results/*.gcov/boot/x.gcda)" counters
	is "what has passed is known as that" "$(state 10-a)" passed
	ok "what has passed is taken over" run
	is "not run" "$(ran)" ''
	like "that is said" "$(< out)" 'fake: 11-b: passed .*taken over.*4 parts: 4 taken over, 0 to run'
	is "it counts" "$(last)" '4 passed, 0 failed'
	ok "FRESH=1 runs it" run FRESH=1
	is "all of it" "$(ran)" "$all"

	for t in Documentation/text.rst tests/guest/other.py target.mod.c; do
		echo new >> "$t"
		ok "$t changes" run
		is "and nothing is run for that" "$(ran)" ''
	done
	for t in target.c Kbuild Makefile tests/vm; do
		echo new >> "$t"
		is "$t changes: what passed is stale" "$(state 13-d)" stale
		ok "it is run" run
		is "all of it" "$(ran)" "$all"
	done
	echo new >> tests/guest/b.py
	is "a file that a test names changes: that test is stale" "$(state 11-b) $(state 10-a)" 'stale passed'
	ok "it is run" run
	is "and no other" "$(ran)" '11-b '
	echo '# new' >> tests/cases/10-a.t
	ok "a test changes" run
	is "it is run and no other" "$(ran)" '10-a '
	ok "a parameter" run KC_SEED=2
	is "is of the tests that know it" "$(ran)" '10-a '
	ok "without it" run
	is "what passed without it still counts" "$(ran)" ''

	touch broken
	nok "a test fails" run FRESH=1
	is "that is in the last line" "$(last)" '3 passed, 1 failed'
	like "and what it said, further up" "$(< out)" 'not ok 1 - c'
	is "it is known as failed" "$(state 12-c) $(state 13-d)" 'failed passed'
	nok "it fails again" run
	is "it alone was run" "$(ran)" '12-c '
	rm broken
	echo more >> target.c
	ok "mended, and all is stale" run JOBS=1
	is "it is run first" "$(head -n 1 log)" 12-c
	is "then the others" "$(ran)" "$all"

	touch slow
	echo more >> target.c
	: > log
	setsid env -i PATH="$PATH" KERNEL=fake tests/check --built check > out 2>&1 9>&- &
	pid=$!
	for ((i = 0; i < 600; i++)); do
		(($(grep -c ': 1 passed' out) < 3)) && kill -0 "$pid" 2>/dev/null || break
		sleep 0.1
	done
	is "a run is stopped when one is under way" "$(state 13-d)" stale
	kill -TERM "$pid"
	wait "$pid"
	is "by its signal" $? 143
	for ((i = 0; i < 100; i++)); do
		kill -0 "$(< pid)" 2>/dev/null || break
		sleep 0.1
	done
	nok "what it ran is stopped too" kill -0 "$(< pid)"
	is "what has ended is kept" "$(state 10-a) $(state 11-b) $(state 12-c)" 'passed passed passed'
	rm slow
	ok "it goes on" run
	is "where it was" "$(ran)" '13-d '
	ok "once more" run
	is "and there is nothing left" "$(ran)" ''
	is "no more than the records is kept" "$(find build/results -name '*.new' -o -name '*.run' | wc -l)" 0
	fake 11-b 'echo more >> target.c' 'echo "ok 1 - b"' 'echo 1..1'
	run
	is "what the sources changed under does not count" "$(state 11-b)" stale

	fake 11-b 'echo "ok 1 - b"' 'echo 1..1'
	expect='3 passed, 1 failed'
	refused "one that says nothing"
	refused "a skipped assertion" 'echo "ok 1 - c # SKIP no c"' 'echo 1..1'
	expect='4 passed, 1 failed'
	refused "a test without a plan" 'echo "ok 1 - c"'
	refused "one assertion too few" 'echo "ok 1 - c"' 'echo 1..2'
	refused "a status" 'echo "ok 1 - c"' 'echo 1..1' 'exit 3'
	expect='5 passed, 1 failed'
	refused "a number that is missing" 'echo "ok 1 - c"' 'echo "ok 3 - c"' 'echo 1..2'
}
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
