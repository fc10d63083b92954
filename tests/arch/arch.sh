# Where the things of other architectures are: what tests/arch/setup makes, tests/arch/build and
# tests/vm --arch use. Sourced, with tests/kernel.sh.
#
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # set for who sources this; kc_build is of kernel.sh
# SPDX-License-Identifier: GPL-2.0-only

# arch_vars ARCH: what is known of one, by Debian's name for it; false when there is no such one here
arch_vars() {
	arch_root=$kc_build/arch/$1/root	# the files of its VMs
	arch_module=$kc_build/arch/$1/module	# where the module is built for it
	case $1 in
	arm64)
		arch_kernel=arm64 arch_flavour=arm64
		arch_cross=aarch64-linux-gnu- arch_gcc=gcc-aarch64-linux-gnu
		arch_qemu=qemu-system-aarch64 arch_qemu_package=qemu-system-arm ;;
	armhf)
		arch_kernel=arm arch_flavour=armmp
		arch_cross=arm-linux-gnueabihf- arch_gcc=gcc-arm-linux-gnueabihf
		arch_qemu=qemu-system-arm arch_qemu_package=qemu-system-arm ;;
	s390x)
		arch_kernel=s390 arch_flavour=s390x
		arch_cross=s390x-linux-gnu- arch_gcc=gcc-s390x-linux-gnu
		arch_qemu=qemu-system-s390x arch_qemu_package=qemu-system-misc ;;
	*) return 1 ;;
	esac
}

# arch_release ARCH: the kernel tests/arch/setup fetched last for it
arch_release() {
	cat "$kc_build/arch/$1/release" 2>/dev/null
}
