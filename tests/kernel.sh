#!/bin/bash
# Where the kernels are: the headers a module is built against, the image and the modules a VM boots,
# and the folder the module for a kernel is in. Sourced by tests/setup, tests/vm and others; the
# Makefile runs it.
#
# SPDX-License-Identifier: GPL-2.0-only

kc_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
kc_build=$kc_root/build

# kernel_release_of HEADERS: the release modules built with them are for. (Debian's kernel.release
# file holds the upstream version, so it is no help.)
kernel_release_of() {
	sed -n 's/^#define UTS_RELEASE "\(.*\)"$/\1/p' "$1/include/generated/utsrelease.h" 2>/dev/null
}

# The newest installed headers. Cloud flavours have no 9p, so no VM of theirs can boot.
kernel_headers() {
	local d rel

	for d in /lib/modules/*/build /usr/src/linux-headers-*; do
		rel=$(kernel_release_of "$d") || continue
		[[ ! $rel || $rel == *cloud* ]] || printf '%s %s\n' "$rel" "$d"
	done | sort -V -s -k1,1 | tail -n 1 | cut -d' ' -f2-
}

# kernel_resolve NAME: the release of that name, which may be the beginning of its version ("6.12"): that of
# the newest installed headers, or one that tests/fetch-kernel fetched; or the name of one of tests/debug/build.
kernel_resolve() {
	local installed

	if [[ ! $1 =~ ^([0-9]+(\.[0-9]+)?|debug|kcsan|gcov)$ ]]; then
		printf '%s\n' "$1"
		return
	fi
	installed=$(kernel_release_of "$(kernel_headers)") || installed=''
	if [[ $installed == "$1".* ]]; then
		printf '%s\n' "$installed"
	elif [[ -L $kc_build/kernel/$1 ]]; then
		readlink "$kc_build/kernel/$1"
	else
		return 1
	fi
}

# The release to boot: $KERNEL, else that of the newest headers.
kernel_release() {
	local h

	if [[ ${KERNEL:-} ]]; then
		kernel_resolve "$KERNEL"
		return
	fi
	h=$(kernel_headers)
	[[ $h ]] && kernel_release_of "$h"
}

# kernel_headers_for RELEASE: the folder with its headers
kernel_headers_for() {
	local d

	for d in "/lib/modules/$1/build" "/usr/src/linux-headers-$1" "$kc_build/kernel/$1/usr/src/linux-headers-$1"; do
		if [[ $(kernel_release_of "$d") == "$1" ]]; then
			printf '%s\n' "$d"
			return 0
		fi
	done
	return 1
}

# The folder the modules for the kernel to boot are built in: tests/arch's, or $KC_MODULES, which the Makefile sets, else the
# top folder for the newest installed headers, and a folder each for other kernels
kernel_module_dir() {
	local release

	if [[ ${KC_ARCH:-} ]]; then
		printf '%s\n' "$kc_build/arch/$KC_ARCH/module"
		return
	fi
	if [[ ${KC_MODULES:-} ]]; then
		printf '%s\n' "$KC_MODULES"
		return
	fi
	release=$(kernel_release) || release=''
	if [[ ! $release || $release == "$(KERNEL='' kernel_release)" ]]; then
		printf '%s\n' "$kc_root"
	else
		printf '%s\n' "$kc_build/module/$release"
	fi
}

# The folders a kernel may live in: the host's own (unless KC_NO_HOST_KERNEL is set), then those
# tests/setup unpacked.
kernel_bases() {
	[[ ${KC_NO_HOST_KERNEL:-} ]] || printf '\n'
	printf '%s\n' "$kc_build/kernel/$1"
}

# kernel_image RELEASE: the bootable image
kernel_image() {
	local b f

	while IFS= read -r b; do
		for f in "$b/boot/vmlinuz-$1" "$b/lib/modules/$1/vmlinuz" "$b/usr/lib/modules/$1/vmlinuz"; do
			# an image without its modules boots, but finds no disk
			if [[ -r $f ]] && kernel_modules_in "$b" "$1" >/dev/null; then
				printf '%s\n' "$f"
				return 0
			fi
		done
	done < <(kernel_bases "$1")
	return 1
}

kernel_modules_in() {
	local d

	for d in "$1/lib/modules/$2" "$1/usr/lib/modules/$2"; do
		if [[ -d $d/kernel ]]; then
			printf '%s\n' "$d"
			return 0
		fi
	done
	return 1
}

# kernel_modules RELEASE: the folder with modules.dep and kernel/
kernel_modules() {
	local b

	while IFS= read -r b; do
		kernel_modules_in "$b" "$1" && return 0
	done < <(kernel_bases "$1")
	return 1
}

# kernel_source FOLDER: the tar of the kernel's source in Debian's linux-source package, which is fetched
# into the folder if it is not installed
kernel_source() {
	local package tar

	package=$(apt-cache depends linux-source | sed -n 's/^ *Depends: \(linux-source-[0-9.]*\)$/\1/p')
	[[ $package ]] || return
	tar=/usr/src/$package.tar.xz
	if [[ ! -e $tar ]]; then
		printf 'fetching %s\n' "$package" >&2
		(cd "$1" && apt-get -qq -o APT::Sandbox::User=root download "$package") >&2 || return
		dpkg --fsys-tarfile "$1/$package"_*.deb | tar -xOf - ".$tar" > "$1/tar.xz" || return
		rm -f "$1/$package"_*.deb
		tar=$1/tar.xz
	fi
	printf '%s\n' "$tar"
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
	case ${1:-headers} in
	headers) kernel_headers ;;
	headers-for) kernel_headers_for "$2" || : ;;
	release) kernel_release_of "$2" ;;
	image) kernel_image "$2" ;;
	resolve) kernel_resolve "$2" || printf '%s\n' "$2" ;;
	module-dir) kernel_module_dir ;;
	esac
fi
