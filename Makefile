# SPDX-License-Identifier: GPL-2.0-only
#
#   make demo      the main job, on a throwaway machine
#   make test      every check, as CI runs it
#   make check     lint, and the unit tests of what changed: a minute
#   make unit [T=tests/unit/host/test_stages.py]
#                  the tests that need no guest and no bus; T= chooses: files, tests, -k WORDS
#   make vm [T=tests/vm/test_match.py] [KEEP=1] [JOBS=N]
#                  those that do; KEEP=1: a guest whose test failed stays, to log in to
#   make test-suite [SUITE=trixie] [T=tests/unit/host]
#                  the tests of the daemon on another suite's system, unit tests in a root of it
#   make test-matrix [ALL=1] [ONLY=WORDS]
#                  apply, check and undo on many machines, and print a table
#   make bench [AGAINST=REVISION]
#                  measure, and write bench.json; or measure this tree and another revision in turn
#   make coverage OLD=6.1.176-1 NEW=6.1.187-1 [FLAVOUR=cloud] [SAMPLE=n] [GUEST=n]
#                  try all changes between two source packages, and write coverage.json
#   make fuzz-kernel [MUTATIONS=1000] [SEED=...]
#                  damage the modules of an update, and have the kernel part find out
#   make rewriting [MATCHES=1000]
#                  match while a live patch comes and goes and tracepoints are switched
#   make fuzz      a million malformed inputs; a fault at each system call of the host half
#   make fault-steps
#                  kill the daemon, and fill its disk, at every step of apply and undo
#   make mutate-source [SOURCES=9700] [HEADERS=300] [SEED=1]
#                  small changes of real sources, each against brute force; goes on where it ended
#   make soak [CYCLES=300]
#                  apply and undo under load
#   make vm-next   the guests' tests that fit, on the newer kernel
#   make install   as a package does: DESTDIR=, prefix=
#
# All but the last install what is missing; see tests/tools/setup.sh.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-builtin-rules

cache := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/ksplice
PYTHON ?= $(cache)/venv/bin/python

prefix ?= /usr
sysconfdir ?= /etc
bindir = $(DESTDIR)$(prefix)/bin
datadir = $(DESTDIR)$(prefix)/share
libdir = $(DESTDIR)$(prefix)/lib
libexecdir = $(DESTDIR)$(prefix)/libexec/ksplicd
pythondir = $(libdir)/python3/dist-packages
etcdir = $(DESTDIR)$(sysconfdir)/ksplicd

# A fresh clone runs from its own tree.  Programs start make for kernel modules: it must not
# believe to be part of this one.
run = env -u MAKEFLAGS -u MAKELEVEL -u MFLAGS LC_ALL=C.UTF-8 PYTHONPATH=$(CURDIR) $(PYTHON)

.PHONY: all setup demo test bench coverage test-objects test-matrix test-suite check lint lint-c \
	unit vm vm-next fuzz fuzz-kernel fault-steps mutate-source rewriting soak \
	install
all:
	@sed -n '3,/^$$/s/^#//p' Makefile

setup:
	@tests/tools/setup.sh

demo: setup
	@$(run) -m tests.demo

bench: setup
	@$(run) -m tests.bench $(if $(AGAINST),--against '$(AGAINST)')

coverage: setup
	@$(if $(and $(OLD),$(NEW)),,$(error give OLD= and NEW=, versions of linux-source-*))
	@$(run) -m tests.coverage '$(OLD)' '$(NEW)' $(if $(FLAVOUR),--flavour $(FLAVOUR)) \
		$(if $(SAMPLE),--sample $(SAMPLE)) $(if $(GUEST),--guest $(GUEST)) $(ARGS)

# Half an hour, on one processor.
fuzz: setup
	@$(PYTHON) -m pip install -q -r tests/fuzz/requirements.txt
	@$(run) -m tests.fuzz
	KSPLICE_CALLS=30000 $(run) -m pytest -q tests/bus/test_noise.py
	@$(run) -m tests.faults

# A quarter of an hour for 1000, on both kernels.
fuzz-kernel: setup
	KSPLICE_MUTATIONS=$(or $(MUTATIONS),1000) $(if $(SEED),KSPLICE_SEED=$(SEED)) \
		$(run) -m pytest -q -s tests/vm/test_hostile.py tests/vm/test_memory.py

# Hours: one to several seconds a match under TCG, on both kernels.
rewriting: setup
	KSPLICE_MATCHES=$(or $(MATCHES),1000) $(run) -m pytest -q -s tests/vm/test_rewriting.py

# Half an hour.
fault-steps: setup
	KSPLICE_ALL_STEPS=1 $(run) -m pytest -q -s tests/vm/test_faults.py

# Ten hours for all; what was tried is kept.
mutate-source: setup
	@$(run) -m tests.mutate $(if $(SOURCES),--sources $(SOURCES)) \
		$(if $(HEADERS),--headers $(HEADERS)) $(if $(SEED),--seed $(SEED))

# Six to thirteen seconds a cycle under TCG; 300 for vmlinux, and 300 with a module.
soak: setup
	@$(run) -m tests.soak $(if $(CYCLES),--cycles $(CYCLES))

# Half an hour: compiles folders of the kernel.  FOLDERS="ipc /path/to/objects" chooses others.
test-objects: setup
	@$(run) -m tests.objects $(FOLDERS)

# Ten minutes: 16 machines that have each pair of kernel, processor, arguments and processors.
# ALL=1: all 128.  ONLY="6.12-generic qemu64": those with these words.  What has passed is
# remembered; FRESH=1 runs it again.
test-matrix: setup
	@$(run) -m tests.matrix $(if $(ALL),--all) $(if $(FRESH),--fresh) $(ONLY)

test: lint lint-c unit vm

lint: setup
	$(run) -m ruff check .
	$(run) -m ruff format --check .
	$(run) -m mypy
	shellcheck .ci/run tests/tools/*.sh

lint-c: setup
	$(run) -m tests.tools.lint_c

# In T= a path chooses itself, and words like -k choose among all unit tests.
no_guests = tests --ignore=tests/bus --ignore=tests/vm
unit: setup
	$(run) -m pytest -q --durations=10 \
		$(if $(T),$(T) $(if $(findstring tests/,$(T)),,$(no_guests)),-n 2 $(no_guests))

# What differs from BASE, by default the upstream branch; see tests/tools/check.py.
check: setup
	@$(run) -m tests.tools.check $(BASE)

# A guest is emulated by one thread, and two keep two processors busy.  The long files come first,
# so that all workers end at about the same time.  A guest that is kept waits for whoever logs in.
JOBS ?= $(shell nproc)
guests = tests/vm tests/bus
vm: setup
	$(if $(KEEP),KSPLICE_KEEP=1) $(run) -m pytest -q --durations=10 \
		$(if $(KEEP),-x -s,$(if $(T),,-n $(JOBS) --dist loadfile --no-loadscope-reorder)) \
		$(if $(T),$(T) $(if $(findstring tests/,$(T)),,$(guests)),$(guests))

# Forty minutes: unit tests and the bus with the suite's Python and tools, the daemon in guests of
# it.  T= chooses among them.  sid moves: what fails there may be sid's.
SUITE ?= trixie
suite_tests := $(patsubst %,tests/vm/test_%.py,daemon boot faults warning tripwire_daemon hooks guest)
in_root = $(if $(T),$(filter-out tests/vm%,$(T)),tests --ignore=tests/vm)
in_guests = $(if $(T),$(filter tests/vm%,$(T)),$(suite_tests))
test-suite: setup
	$(if $(in_root),$(run) -m tests.tools.in_suite $(SUITE) -q -n $(JOBS) --dist loadfile \
		--durations=10 $(in_root))
	$(if $(in_guests),KSPLICE_SUITE=$(SUITE) $(run) -m pytest -q -n $(JOBS) --dist loadfile \
		--durations=10 $(in_guests))

# The guests' tests that do not need a bug of the older kernel, on the newer one.  A busy processor
# makes livepatch slow there under TCG (docs/decisions/0014): this takes twice as long as on 6.1.
next_tests := $(patsubst %,tests/vm/test_%.py,beside hooks redirect several_files soak \
	transitions updates warning)
vm-next: setup
	KSPLICE_KERNEL=next $(run) -m pytest -q -n $(JOBS) --dist loadfile --durations=10 $(next_tests) \
		--deselect tests/vm/test_hooks.py::test_real_fix_that_changes_data

# $(call entry,MODULE,FUNCTION,FILE): a program that calls it
entry = printf '%s\n' '\#!/usr/bin/python3 -I' 'import sys' '' 'from $(1) import $(2)' '' \
	'sys.exit($(2)())' > $(3) && chmod 755 $(3)

# $(call data,FILES,FOLDER): installed as they are, if there are any
data = $(if $(1),install -D -m 644 -t $(2) $(1))

install:
	for file in $$(find ksplicd -name '*.py'); do \
		install -D -m 644 $$file $(pythondir)/$$file; \
	done
	install -d $(bindir) $(libexecdir)
	$(call entry,ksplicd.daemon,main,$(libexecdir)/ksplicd)
	$(call entry,ksplicd.cli.main,main,$(bindir)/ksplice)
	$(call entry,ksplicd.cli.main,main_create,$(bindir)/ksplice-create)
	$(call entry,ksplicd.cli.main,main_apply,$(bindir)/ksplice-apply)
	$(call entry,ksplicd.cli.main,main_undo,$(bindir)/ksplice-undo)
	$(call entry,ksplicd.cli.main,main_view,$(bindir)/ksplice-view)
	$(call data,$(wildcard kmodsrc/*.[ch] kmodsrc/Kbuild),$(datadir)/ksplice/kmodsrc)
	$(call data,$(wildcard kmodsrc/linux/*.h),$(datadir)/ksplice/kmodsrc/linux)
	$(call data,$(filter-out units/org.%,$(wildcard units/*.service)),$(libdir)/systemd/system)
	$(call data,$(wildcard units/*.catalog),$(libdir)/systemd/catalog)
	$(call data,$(wildcard units/org.*.service),$(datadir)/dbus-1/system-services)
	$(call data,$(wildcard units/org.*.conf),$(datadir)/dbus-1/system.d)
	$(call data,$(wildcard units/org.*.xml),$(datadir)/dbus-1/interfaces)
	$(call data,$(wildcard units/*.policy),$(datadir)/polkit-1/actions)
	$(call data,$(wildcard docs/man/*.1),$(datadir)/man/man1)
	$(call data,$(wildcard docs/man/*.5),$(datadir)/man/man5)
	$(call data,$(wildcard docs/man/*.8),$(datadir)/man/man8)
	install -D -m 644 units/ksplicd.tmpfiles $(libdir)/tmpfiles.d/ksplicd.conf
	install -d $(etcdir)/keys.d
	$(call data,etc/ksplicd.conf,$(etcdir))
	$(call data,$(wildcard etc/keys.d/*),$(etcdir)/keys.d)
