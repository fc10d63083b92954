#!/bin/bash
# The Debian package, in a machine that has never seen it: DKMS builds the module for the running kernel
# and for one that is installed later, it loads, a device works, and nothing stays when it is purged.
# `make check-deb` makes the package and fetches dkms and another kernel's headers first. Nearly all of the time,
# 25 minutes on a busy machine of two cores, goes to the two builds under emulation.
#
# Depends on: debian/* debian/*/* dkms.conf tests/deb/*
#
# SPDX-License-Identifier: GPL-2.0-only

VM_ARGS=(--disk scratch=64M --mem 3G --timeout 3600)

host_main() {
	local debs=$KC_TOP/build/deb

	must cp "$debs"/keyed-crypt-dkms_*_all.deb "$VM_OUT/package.deb"
	must cp -r "$debs/archives" "$VM_OUT/archives"
	# The VM is to have only what the package makes.
	rm -f "$VM_OUT/dm-keyed-crypt.ko"
	vm_boot
}
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"

export DEBIAN_FRONTEND=noninteractive
release=$(uname -r)
second=$(basename "$KC_OUT"/archives/headers/linux-headers-*-"${release##*-}"_*.deb)
second=${second#linux-headers-}
second=${second%%_*}

# Every file that installing and removing may leave. dkms makes its signing key once, for all modules;
# caches and dpkg's own tables change with every package; depmod's files for a kernel go with its image.
snapshot() {
	find /etc /boot /lib/modules /usr/src /usr/share/doc /usr/share/keyed* /usr/lib/dkms /var/lib \
		\( -path '/usr/src/linux-headers-*' -o -path '/usr/share/doc/*/*' -o -path '/lib/modules/*/kernel' -o \
		-path "/lib/modules/$second" -o -path '/var/lib/apt' -o -path '/var/lib/dpkg/status*' -o \
		-path '/var/lib/dpkg/lock*' -o -path '/var/lib/dpkg/triggers' -o -path '/var/lib/dkms/mok.*' \) \
		-prune -o -print 2>/dev/null | sort
}

# The running kernel's modules, as far as they matter here: they may be there read-only, without the
# link to the headers that a package makes, and under emulation depmod would take minutes for all.
modules=$(realpath "/lib/modules/$release")
mkdir /run/modules
must cp -r --parents "$modules"/modules.{order,builtin,builtin.modinfo} "$modules"/kernel/{arch,block,crypto,drivers/md,lib} \
	/run/modules
must mount --bind "/run/modules$modules" "$modules"
ln -s "/usr/src/linux-headers-$release" "$modules/build"
must depmod

must dpkg -i "$KC_OUT"/archives/dkms/*.deb
diag "dkms is there after $SECONDS seconds"
snapshot > /tmp/before
nok "there is no module at first" modinfo dm-keyed-crypt

ok "the package installs" dpkg -i "$KC_OUT/package.deb"
grep -v '^\.*$' "$kc_log" | tail -n 20 | diag
diag "$(dkms status) after $SECONDS seconds"
like "DKMS built the module for the running kernel" "$(dkms status -k "$release")" \
	"^keyed-crypt/[0-9.]+, $release, [^:]*: installed"
like "modprobe finds it there" "$(modinfo -n dm-keyed-crypt)" "/$release/updates/dkms/dm-keyed-crypt\.ko"
is "built for that kernel" "$(modinfo -F vermagic dm-keyed-crypt | cut -d' ' -f1)" "$release"
is "no tests are in the package" "$(dpkg -L keyed-crypt-dkms | grep -E '/tests|\.py$|\.t$')" ''
ok "it loads" modprobe dm-keyed-crypt

must add_key logon kc:device "$(rand_hex 64)" @u
disk=/dev/disk/kc/scratch
length=$(($(sectors $disk) - 8192))
ok "a device is made" dmsetup create vault --table \
	"0 $length keyed-crypt aes-xts-plain64 :64:logon:kc:device 0 $disk 8192 1 format"
must dmsetup mknodes
must dd if=/dev/urandom of=/tmp/data bs=1M count=4 status=none
must dd if=/tmp/data of=/dev/mapper/vault bs=1M oflag=direct status=none
is "and keeps data" "$(hash_dev /dev/mapper/vault 0 4194304)" "$(hash_dev /tmp/data)"
isnt "which is not there in the clear" "$(hash_dev $disk 4194304 4194304)" "$(hash_dev /tmp/data)"
ok "and goes" dmsetup remove vault
ok "the module unloads" modprobe -r dm-keyed-crypt

ok "another kernel's headers install" dpkg -i "$KC_OUT"/archives/headers/*.deb
grep -v '^\.*$' "$kc_log" | tail -n 20 | diag
like "DKMS built the module for it" "$(dkms status -k "$second")" \
	"^keyed-crypt/[0-9.]+, $second, [^:]*: installed"
diag "after $SECONDS seconds"
is "for that kernel" "$(modinfo -k "$second" -F vermagic dm-keyed-crypt | cut -d' ' -f1)" "$second"

ok "the package is purged" dpkg --purge keyed-crypt-dkms
is "no module stays" "$(find /lib/modules -name '*keyed*')" ''
is "nor an entry of it" "$(cat /lib/modules/*/modules.{dep,alias,softdep} 2>/dev/null | grep keyed)" ''
mapfile -t headers < <(cd "$KC_OUT/archives/headers" && for f in *.deb; do echo "${f%%_*}"; done)
must dpkg --purge "${headers[@]}"
snapshot > /tmp/after
is "nor a file" "$(diff /tmp/before /tmp/after)" ''
diag "$(wc -l < /tmp/before) files compared"
done_testing
