# SPDX-License-Identifier: GPL-2.0-only
#
# `make help` lists the targets. The list of objects is kbuild's, in Kbuild.

top	:= $(dir $(lastword $(MAKEFILE_LIST)))
asked	:= $(KERNEL)
ifdef KERNEL
override KERNEL := $(shell $(top)tests/kernel.sh resolve $(KERNEL))
KDIR	?= $(shell $(top)tests/kernel.sh headers-for $(KERNEL))
else
KDIR	?= $(shell $(top)tests/kernel.sh headers)
override KERNEL := $(shell $(top)tests/kernel.sh release $(KDIR))
endif
# Tests that are named are run; of all, what there is no record of (see tests/check)
named	:= $(TESTS)

# The kernel the module is built for is the one its VM boots.
export KERNEL

# Modules for other kernels than the newest installed headers are built in a folder of their own, from
# links to the sources; with the compiler that came with the kernel, if it was fetched.
ifeq ($(filter-out file undefined,$(origin KDIR)),)
KC_MODULES := $(shell KC_MODULES= KERNEL=$(KERNEL) $(top)tests/kernel.sh module-dir)
else
KC_MODULES := $(CURDIR)
endif
export KC_MODULES

.DEFAULT_GOAL := module
.PHONY: help module failinject biosend install setup check results check-arch check-crash check-damage check-long check-model \
	check-kernels kernel-6.1 kernel-6.12 kernel-7 demo shell bench bench-smp bench-arm bench-programs clean distclean

help:
	@echo 'make [module]  build dm-keyed-crypt.ko; KDIR=<kernel headers>, default the newest installed'
	@echo 'make install   install it where modprobe finds it (as root; INSTALL_MOD_PATH=<root>)'
	@echo 'make check     install what is missing, build, run every test in a VM; TESTS="tests/cases/<name>.t ..."'
	@echo '               what passed with the same sources is taken over, here and by the targets below;'
	@echo '               FRESH=1 runs all, so does naming tests; each can be stopped and goes on where it was; JOBS=1'
	@echo 'make results   what has passed, is stale, has failed or never run, of every target, and the minutes left'
	@echo 'make check-damage  activate 10,000 damaged metadata areas (half an hour); KC_SEED=<n> for others'
	@echo 'make check-model  check the model of the journal with spin, with larger bounds than make check (ten minutes)'
	@echo 'make check-crash  20,000 crash states and 50 power cuts; KC_STATES, KC_CUTS, KC_SEED'
	@echo 'make check-long  random I/O for ten minutes while everything changes; KC_SECONDS, KC_SEED'
	@echo 'make lint      static checks only: gcc, sparse, coccinelle, checkpatch and others'
	@echo 'make check-arch  tests on arm64, armhf and s390x, and disks carried between them (hours); ARCHES'
	@echo 'make check-kernels  make check on 6.1, 6.12 and the newest 7.x, one after another'
	@echo 'make kernel-6.1 kernel-6.12 kernel-7  fetch one of these kernels, with headers and compiler, into build/'
	@echo '               (not installed); KERNEL=6.12 makes module, check, demo, shell and others use it'
	@echo 'make debug-kernel  build a kernel that looks for errors: KASAN, lockdep and others (twenty minutes);'
	@echo '               KERNEL=debug uses it; kernel-kcsan: one that looks for data races'
	@echo 'make check-debug  make check and more on these kernels (hours)'
	@echo 'make coverage  make check on a third one: which branches of the module no test takes (an hour)'
	@echo 'make deb       the Debian package keyed-crypt-dkms, in build/deb'
	@echo 'make check-deb  install that in a VM, for two kernels, and purge it'
	@echo 'make demo      the same for a short show of what the target does'
	@echo 'make bench     compare with dm-crypt, in a VM, by instruction count (half an hour);'
	@echo '               CASE="<pattern> ..." for some cases, CIPHER=aes|adiantum|free;'
	@echo '               DEV=<disk> in real time on a disk of this machine, which is overwritten'
	@echo 'make bench-smp the same in real time, with two processors'
	@echo 'make bench-arm  AES and Adiantum on emulated processors of small boards; CASE, KC_BOARDS (ten minutes)'
	@echo 'make shell     a shell in a VM with the module loaded and a disk to play with'
	@echo 'make setup     only install what the other targets need (apt-get, as root or with sudo)'
	@echo 'make clean     remove what kbuild made'
	@echo 'make distclean remove build/ as well: kernels, VM images, logs'

# What the debug kernels watch a module do if it is asked for: undefined behaviour; which branches are taken, of the
# functions as they are written; with the same stamp in each build, so that counters of several add up
instrument-debug := UBSAN_SANITIZE=y
instrument-gcov := GCOV_PROFILE=y KCFLAGS='-frandom-seed=keyed-crypt -fno-inline-functions -fno-inline-small-functions \
	-fno-inline-functions-called-once -fno-ipa-cp -fno-ipa-sra -fno-partial-inlining'
instrument := $(instrument-$(lastword $(subst -, ,$(KERNEL))))

# One kbuild at a time in this folder
kbuild = mkdir -p build && PATH="$(CURDIR)/build/kernel/$(KERNEL)/usr/bin:$$PATH" \
	flock build/.lock $(MAKE) $(instrument) -C $(KDIR) M=$(KC_MODULES)
have_headers = @test -f Kbuild || { echo 'no Kbuild here' >&2; exit 1; }; \
	test -n "$(KDIR)" || { echo 'no headers of kernel $(KERNEL): make setup, or KDIR=<headers>' >&2; exit 1; }

# links to the sources in $(1), if modules are built in another folder
link = @test $(KC_MODULES) = $(CURDIR) || { mkdir -p $(KC_MODULES)/$(1) && \
	find $(KC_MODULES)/$(1) -maxdepth 1 -xtype l -delete && \
	ln -sf $(filter-out %.mod.c,$(wildcard $(addprefix $(CURDIR)/$(1),Kbuild *.[ch]))) $(KC_MODULES)/$(1); }

module:
	$(have_headers)
	$(call link,)
	+@$(kbuild) modules

# What makes allocations fail, and what sends odd bios, for tests; and what has bugs, for debug kernels to find
failinject biosend planted:
	$(have_headers)
	$(call link,tests/modules/$@/)
	+@$(kbuild)/tests/modules/$@ modules

install: module
	+@$(kbuild) modules_install
	depmod $(if $(INSTALL_MOD_PATH),-b $(INSTALL_MOD_PATH)) $(KERNEL)

setup:
	@tests/setup $(if $(filter check lint setup,$(MAKECMDGOALS)),lint)

# A second make, since the first one read the default of KDIR before setup could install headers
again = $(MAKE) --no-print-directory KERNEL=$(asked)

check: setup
	+@$(again) module failinject biosend $(if $(filter %/planted.t,$(named)),planted)
	@tests/check --built $(if $(named),--fresh) check $(named)

check-crash check-damage check-long: setup
	+@$(again) module
	@tests/check --built $@

check-model: setup
	@tests/check --built check-model

results:
	@tests/check results

.PHONY: failinject biosend planted lint deb check-deb
lint: setup
	@tests/check --built --fresh check tests/cases/03-lint.t

# Tests on emulated machines of other architectures
ARCHES ?= arm64 armhf s390x
check-arch: setup
	+@$(again) module
	@tests/arch/setup $(ARCHES)
	@ARCHES="$(ARCHES)" tests/check --built check-arch $(named)

kernel-6.1 kernel-6.12 kernel-7: kernel-%:
	@tests/fetch-kernel $*

check-kernels:
	@for k in 6.1 6.12 7; do KERNEL=$$k tests/setup lint; done
	@tests/check check-kernels $(named)

# Kernels that look for errors. A build of the module for them asks for more of it.
.PHONY: debug-kernel kernel-debug kernel-kcsan kernel-gcov check-debug coverage
debug-kernel: kernel-debug
kernel-debug kernel-kcsan kernel-gcov: kernel-%:
	@KERNEL=$* tests/setup
	@tests/debug/build $*

check-debug: kernel-debug kernel-kcsan
	@tests/check check-debug $(named)

coverage: kernel-gcov
	@tests/check coverage $(named)

deb:
	@tests/deb/build

check-deb: setup deb
	@tests/deb/fetch
	@tests/check --built check-deb

demo: setup
	+@$(again) module
	@tests/demo

bench-smp: BENCHFLAGS += --smp
bench bench-smp:
	@tests/setup 'gnuplot-nox: to plot benchmarks'
	+@$(MAKE) --no-print-directory bench-programs
	@tests/bench/bench $(BENCHFLAGS) $(if $(DEV),--dev '$(DEV)') --cipher '$(CIPHER)' -- $(foreach c,$(CASE),'$(c)')

# The same on emulated processors of small boards; CASE, KC_BOARDS
bench-arm:
	@tests/setup 'gnuplot-nox: to plot benchmarks' 'libc6-dev-arm64-cross: to build the load generator' \
		'libc6-dev-armhf-cross: to build the load generator'
	@tests/arch/setup arm64 armhf
	@tests/arch/bench $(foreach c,$(CASE),'$(c)')

# The cipher without cost is for benchmarks alone: nothing else builds or installs it.
bench-programs: module build/bench/io
	$(call link,tests/modules/freecipher/)
	+@$(kbuild)/tests/modules/freecipher modules

build/bench/io: tests/bench/io.c
	@mkdir -p build/bench
	$(CC) -O2 -Wall -Wextra -static -o $@ $<

shell: setup
	+@$(again) module
	@mkdir -p build/vm/shell/out && cp $(KC_MODULES)/dm-keyed-crypt.ko build/vm/shell/out
	@tests/vm --name shell --shell --timeout 1000000 --disk scratch=1G --mem 1G -- tests/guest/shell

clean:
	+@test -z "$(KDIR)" || $(kbuild) clean
	+@test -z "$(KDIR)" || $(kbuild)/tests/modules/failinject clean
	+@test -z "$(KDIR)" || $(kbuild)/tests/modules/biosend clean
	+@test -z "$(KDIR)" || $(kbuild)/tests/modules/freecipher clean
	+@test -z "$(KDIR)" || $(kbuild)/tests/modules/planted clean

distclean: clean
	rm -rf build
