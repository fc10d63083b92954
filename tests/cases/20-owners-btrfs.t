#!/bin/bash
# Many owners write at once on btrfs: every block is under its writer's key.
#
# Direct writes too: 6.1 sends them to the disk in the writer's context, with any checksum (crc32c,
# xxhash and sha256 were tried) and without (nodatasum, nodatacow). Only a direct write that it has to
# send as several bios, to a striped profile of several devices, it leaves to a worker, by its source.
#
# SPDX-License-Identifier: GPL-2.0-only

VM_ARGS=(--disk scratch=400M --mem 1G)
VM_BOOTS='write check'
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/guest/owners.sh
. "$KC_TESTS/guest/owners.sh"

owners_test "$1" btrfs gid
done_testing
