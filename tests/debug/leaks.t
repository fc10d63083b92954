#!/bin/bash
# No memory is lost track of when any allocation fails: 13-alloc-failures.t with a leak checker (kmemleak), which
# looks when the machine ends (tests/guest/start), the module unloaded by then.
#
# SPDX-License-Identifier: GPL-2.0-only

# shellcheck disable=SC2034 # used there
append=kmemleak=on
# shellcheck source=tests/cases/13-alloc-failures.t
. "$(dirname "$0")/../cases/13-alloc-failures.t"
