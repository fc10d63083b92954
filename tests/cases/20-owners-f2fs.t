#!/bin/bash
# Many owners write at once on f2fs: every block is under its writer's key.
#
# SPDX-License-Identifier: GPL-2.0-only

VM_ARGS=(--disk scratch=400M --mem 1G)
VM_BOOTS='write check'
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/guest/owners.sh
. "$KC_TESTS/guest/owners.sh"

owners_test "$1" f2fs projid -O extra_attr,project_quota
done_testing
