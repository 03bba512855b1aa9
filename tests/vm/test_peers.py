# SPDX-License-Identifier: GPL-2.0-only
"""Patches that were written for kpatch and klp-build, on the stock kernel."""

from pathlib import Path

import pytest

from ksplicd import bundle
from ksplicd.cache import Cache
from ksplicd.distro.packages import KernelPackages
from ksplicd.errors import UnsupportedChangeError
from ksplicd.lab.guest import Guest
from ksplicd.model import Account
from tests.support.guest.hand import Edit, Update, is_clean, make_bundle, write_patch
from tests.support.guest.modules import mount, prepare_mounts

FCNTL, SYS, ROMFS = "fs/fcntl.c", "kernel/sys.c", "fs/romfs/super.c"

# As kpatch's own test of callbacks has them (test/integration of dynup/kpatch), but shorter.
CALLBACKS = """\
#include <linux/module.h>
#include {include}

static int before({object} *obj)
{{
	{say}("peers before %s\\n", obj->mod ? obj->mod->name : "vmlinux");
	return 0;
}}
static void after(struct klp_object *obj) {{ {say}("peers after\\n"); }}
static void before_undo(struct klp_object *obj) {{ {say}("peers before undo\\n"); }}
static void after_undo(struct klp_object *obj) {{ {say}("peers after undo\\n"); }}
{prefix}_PRE_PATCH_CALLBACK(before);
{prefix}_POST_PATCH_CALLBACK(after);
{prefix}_PRE_UNPATCH_CALLBACK(before_undo);
{prefix}_POST_UNPATCH_CALLBACK(after_undo);
"""
KPATCH = CALLBACKS.format(
    include='"kpatch-macros.h"', prefix="KPATCH", object="patch_object", say="KPATCH_PRINTK"
)
KLP = CALLBACKS.format(
    include="<linux/livepatch_helpers.h>", prefix="KLP", object="struct klp_object", say="printk"
)

# F_GETFD counts, beside the open file, how often it was asked for.
COUNT = """\
	case F_GETFD: {
		int *count = kpatch_shadow_get(filp, "count");

		if (!count)
			count = kpatch_shadow_alloc(filp, "count", sizeof(*count), GFP_KERNEL);
		err = count ? ++*count : -ENOMEM;
		break;
	}
"""
GETFD = "\tcase F_GETFD:\n\t\terr = get_close_on_exec(fd) ? FD_CLOEXEC : 0;\n\t\tbreak;\n"
UNAME = (
    "SYSCALL_DEFINE1(newuname, struct new_utsname __user *, name)\n{\n\tstruct new_utsname tmp;\n"
)
SYSCALLS = "#include <linux/syscalls.h>\n"
EDOM = "\n\tif (!name)\n\t\treturn -EDOM;\n"
EDITS = (
    Edit(FCNTL, SYSCALLS, f'{SYSCALLS}{KLP}#include "kpatch.h"\n'),
    Edit(FCNTL, GETFD, COUNT),
    Edit(SYS, UNAME, f'#include "kpatch-syscall.h"\nKPATCH_{UNAME}{EDOM}'),
    Edit(ROMFS, "module_init(", f"{KPATCH}\nKPATCH_IGNORE_FUNCTION(romfs_statfs)\nmodule_init("),
    Edit(ROMFS, "inval:\n\tret = -EINVAL;", "inval:\n\tret = -EUCLEAN;"),
    Edit(ROMFS, "buf->f_namelen = ROMFS_MAXFN;", "buf->f_namelen = 77;"),
)

SEEN = """\
import ctypes, fcntl, os
f = open("/etc/passwd")
counts = [fcntl.fcntl(f, fcntl.F_GETFD) for _ in range(3)]
libc = ctypes.CDLL(None, use_errno=True)
libc.uname(None)
print(counts[2] - counts[0], os.strerror(ctypes.get_errno()))
"""
OLD, NEW = "0 Bad address", "2 Numerical argument out of domain"


@pytest.fixture(scope="module")
def made(
    lab_cache: Cache, kernel: KernelPackages, tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> bundle.Bundle:
    patch = write_patch(tree, tmp_path_factory.mktemp("peers") / "peers.patch", *EDITS)
    return make_bundle(lab_cache, kernel, "peers001", [patch])


def told(guest: Guest) -> list[str]:
    """Return what the callbacks have said since the last time."""
    log = guest.kernel_log()
    guest.run("dmesg --clear")
    return [line.partition("peers ")[2] for line in log.splitlines() if "peers " in line]


def test_callbacks_system_calls_and_shadow_variables(guest: Guest, made: bundle.Bundle) -> None:
    prepare_mounts(guest)
    guest.put("/root/seen.py", SEEN.encode())
    update = Update(guest, made)
    assert mount(guest, "romfs") == ["Invalid argument"]
    assert guest.run("python3 /root/seen.py").out.strip() == OLD
    update.apply()
    assert told(guest) == ["before vmlinux", "before romfs", "after", "after"]
    assert guest.run("python3 /root/seen.py").out.strip() == NEW
    assert mount(guest, "romfs") == ["Structure needs cleaning"]
    guest.run(["rmmod", "romfs"])
    assert told(guest) == ["before undo", "after undo"]
    assert mount(guest, "romfs") == ["Structure needs cleaning"]
    assert told(guest) == ["before romfs", "after"]
    update.undo()
    assert sorted(told(guest)) == ["after undo", "after undo", "before undo", "before undo"]
    assert guest.run("python3 /root/seen.py").out.strip() == OLD
    assert is_clean(guest)


def test_what_is_ignored_stands_in_the_ledger(made: bundle.Bundle) -> None:
    assert made.manifest.ledger is not None
    left = [h for h in made.manifest.ledger.hunks if h.account is Account.LEFT_OUT]
    assert [(h.file, h.note) for h in left] == [
        (ROMFS, "romfs_statfs stays as it is: KPATCH_IGNORE_FUNCTION()")
    ]
    assert not any("romfs_statfs" in redirect for redirect in made.manifest.redirects)


def test_force_unsafe_is_refused_by_name(
    lab_cache: Cache, kernel: KernelPackages, tree: Path, tmp_path: Path
) -> None:
    code = '#include "kpatch-macros.h"\nKPATCH_FORCE_UNSAFE(romfs_statfs)\n'
    edit = Edit(ROMFS, "module_init(", f"{code}module_init(")
    patch = write_patch(tree, tmp_path / "force.patch", *EDITS[4:], edit)
    with pytest.raises(UnsupportedChangeError, match=r"romfs_statfs .*KPATCH_FORCE_UNSAFE\(\)"):
        make_bundle(lab_cache, kernel, "peers002", [patch])
