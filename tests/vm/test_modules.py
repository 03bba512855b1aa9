# SPDX-License-Identifier: GPL-2.0-only
"""Modules as targets on the stock kernel: loaded before the update, after it, and again.

The update changes what mounting rubbish as romfs (a module), vfat (a module that uses another one)
returns, and a real fix in vmlinux, all at once.
"""

import json
from pathlib import Path

import pytest

from ksplicd.cache import Cache
from ksplicd.distro.packages import KernelPackages
from ksplicd.lab.guest import Guest
from tests.support.guest.commands import run_ksplice
from tests.support.guest.foreign import build_module
from tests.support.guest.hand import (
    Edit,
    Update,
    is_clean,
    make_bundle,
    wait_for_stack,
    write_patch,
)
from tests.support.guest.journal import read_journal
from tests.support.guest.modules import (
    MOUNT,
    NEW,
    OLD,
    ROMFS,
    ROMFS_KID,
    insmod,
    mount,
    prepare_mounts,
)
from tests.support.kernels import slice as sample
from tests.support.waiting import wait_in_guest

pytestmark = pytest.mark.usefixtures("golden_log")


BOTH = pytest.mark.kernels("6.1", "6.12")

HOOK = """\
#include <ksplice-patch.h>
static void tell(void) { printk("the hook of romfs\\n"); }
ksplice_apply(tell);
"""
SLOW = (
    Edit(
        "fs/romfs/super.c",
        "#include <linux/module.h>\n",
        "#include <linux/module.h>\n#include <linux/delay.h>\n#include <linux/highuid.h>\n",
    ),
    # rubbish has the size 0, so that there is nothing to read
    Edit(
        "fs/romfs/super.c",
        "inval:\n\tret = -EINVAL;",
        "inval:\n\twhile (overflowgid == 7777)\n\t\tmsleep(50);\n"
        "\tret = romfs_dev_read(sb, 0, rsb, 4) == -EIO ? -EUCLEAN : -EINVAL;",
    ),
)
"""A mount waits as long as kernel.overflowgid is 7777."""
READS = tuple(
    Edit("fs/romfs/super.c", call, f'{call}\tasm volatile("nop");\n')
    for call in (
        "\t\tret = romfs_dev_read(inode->i_sb, pos, buf, fillsize);\n",
        "\t\tret = romfs_dev_read(i->i_sb, offset, &ri, ROMFH_SIZE);\n",
        "\tret = romfs_dev_read(dir->i_sb, offset, &ri, ROMFH_SIZE);\n",
        "\t\tret = romfs_dev_read(sb, pos, &ri, sizeof(ri));\n",
    )
)
"""In four functions more, each of which calls another one of the module."""
COUNT = """\
cd /sys/kernel/tracing
echo 'p:stop text_poke_sync' >kprobe_events
echo 'hist:keys=stacktrace' >events/kprobes/stop/trigger
modprobe romfs
awk '/apply_relocate_add/ { found = 1 } /hitcount/ { if (found) n += $NF; found = 0 }
    END { print n }' events/kprobes/stop/hist
cat events/kprobes/stop/hist >&2
echo '!hist:keys=stacktrace' >events/kprobes/stop/trigger
echo >kprobe_events
"""
"""Loads romfs; how often all processors had to stop for references."""


@pytest.fixture
def guest(shared_guest: Guest) -> Guest:
    return shared_guest


@pytest.fixture
def update(modules_update: Update) -> Update:
    return modules_update


def is_fixed(guest: Guest, fix: sample.Fix) -> bool:
    """Tell whether vmlinux has the fix."""
    said = guest.run(["python3", "/root/reproducer.py"]).out
    assert said.startswith((fix.before, fix.after))
    return said.startswith(fix.after)


@BOTH
def test_loaded_targets_and_vmlinux_at_once(guest: Guest, update: Update, fix: sample.Fix) -> None:
    assert mount(guest, "romfs", "vfat") == [OLD, OLD]
    assert not is_fixed(guest, fix)
    update.apply()
    assert update.targets() == {"romfs": "matched", "vfat": "matched", "vmlinux": "matched"}
    assert mount(guest, "romfs", "vfat") == [NEW, NEW]
    assert is_fixed(guest, fix)
    update.undo()
    assert mount(guest, "romfs", "vfat") == [OLD, OLD]
    assert not is_fixed(guest, fix)
    assert is_clean(guest)


def test_all_or_nothing(guest: Guest, update: Update, altered: bytes, fix: sample.Fix) -> None:
    mount(guest, "vfat")
    assert insmod(guest, altered)
    update.insmod(update.core)
    for target in ("vmlinux", "vfat"):
        update.insmod(f"{update.core}_{target}_old")
    assert update.insmod(f"{update.core}_romfs_old", check=False) != 0
    assert update.state("abort_cause") == "no_match"
    assert (update.mismatch()["target"], update.mismatch()["function"]) == ("romfs", "romfs_statfs")
    for target in ("vmlinux", "vfat"):
        update.rmmod(f"{update.core}_{target}_old")
    assert update.insmod(update.new, check=False) != 0, "one target of three does not match"
    assert "romfs: not matched, nothing is replaced" in guest.kernel_log()
    assert mount(guest, "romfs", "vfat") == [OLD, OLD]
    assert not is_fixed(guest, fix)


@BOTH
def test_changed_between_match_and_patch(
    guest: Guest, update: Update, altered: bytes, fix: sample.Fix
) -> None:
    mount(guest, "romfs", "vfat")
    update.match()
    guest.run(["rmmod", "romfs"])
    assert insmod(guest, altered)
    assert update.insmod(update.new, check=False) != 0
    assert update.state("abort_cause") == "no_match"
    assert update.targets()["romfs"] == "refused"
    assert mount(guest, "romfs", "vfat") == [OLD, OLD]
    assert not is_fixed(guest, fix)
    guest.run(["rmmod", "romfs"])
    assert update.state("stage") != "applied"
    update.rmmod(update.core)
    update.apply(late=True)
    assert mount(guest, "romfs", "vfat") == [NEW, NEW]


def test_unloaded_between_match_and_patch(guest: Guest, update: Update) -> None:
    """All or nothing; unless the module may come later."""
    mount(guest, "romfs", "vfat")
    update.match()
    guest.run("rmmod romfs")
    assert update.insmod(update.new, check=False) != 0
    assert update.state("abort_cause") == "target_not_loaded"
    assert update.targets()["romfs"] == "waiting"
    assert mount(guest, "vfat") == [OLD]
    update.rmmod(update.core)
    assert is_clean(guest)

    mount(guest, "romfs")
    update.match(late=True)
    guest.run("rmmod romfs")
    update.insmod(update.new)
    update.wait()
    assert update.state("stage") == "applied"
    assert update.targets()["romfs"] == "waiting"
    assert mount(guest, "vfat", "romfs") == [NEW, NEW]
    assert update.targets()["romfs"] == "matched"


def test_target_that_is_not_loaded(guest: Guest, update: Update) -> None:
    update.insmod(update.core)
    assert update.insmod(f"{update.core}_romfs_old", check=False) != 0
    assert update.state("abort_cause") == "target_not_loaded"
    assert update.state("targets") == ""
    assert update.insmod(f"{update.core}_romfs_old", "late=1") == 0
    assert update.state("abort_cause") == "ok"
    assert update.targets() == {"romfs": "waiting"}


@BOTH
def test_loaded_later_unloaded_and_loaded_again(
    guest: Guest, update: Update, fix: sample.Fix
) -> None:
    update.apply(late=True)
    assert update.targets() == {"romfs": "waiting", "vfat": "waiting", "vmlinux": "matched"}
    assert is_fixed(guest, fix)
    for _ in range(3):
        assert mount(guest, "romfs", "vfat") == [NEW, NEW]
        assert update.targets() == {"romfs": "matched", "vfat": "matched", "vmlinux": "matched"}
        guest.run(["rmmod", "romfs", "vfat"])
        assert update.targets()["romfs"] == "waiting"
        assert update.state("stage") == "applied"
    mount(guest, "vfat")
    update.undo()
    assert mount(guest, "romfs", "vfat") == [OLD, OLD]
    assert is_clean(guest)
    update.apply()
    assert mount(guest, "romfs", "vfat") == [NEW, NEW]


def test_only_modules_and_none_is_loaded(
    guest: Guest,
    lab_cache: Cache,
    kernel: KernelPackages,
    update: Update,
    tmp_path: Path,
) -> None:
    tree = sample.source_tree(lab_cache, kernel)
    patch = write_patch(tree, tmp_path / "romfs.patch", ROMFS)
    only = Update(guest, make_bundle(lab_cache, kernel, ROMFS_KID, [patch]))
    only.apply(late=True)
    assert mount(guest, "romfs") == [NEW]
    guest.run(["rmmod", "romfs"])
    only.undo()
    assert mount(guest, "romfs") == [OLD]


def test_processors_stop_once_for_a_module_s_references(
    guest: Guest, lab_cache: Cache, kernel: KernelPackages, tree: Path, tmp_path: Path
) -> None:
    patch = write_patch(tree, tmp_path / "reads.patch", ROMFS, *READS)
    update = Update(guest, make_bundle(lab_cache, kernel, "stopped1", [patch]))
    update.apply(late=True)
    said = guest.run(COUNT)
    assert update.targets() == {"romfs": "matched"}
    assert said.out == "1\n", said.err


@BOTH
def test_altered_module_is_refused_later(guest: Guest, update: Update, altered: bytes) -> None:
    update.apply(late=True)
    for _ in range(2):
        assert not insmod(guest, altered)
        assert update.targets()["romfs"] == "refused"
        assert update.state("abort_cause") == "no_match"
        assert update.mismatch()["function"] == "romfs_statfs"
    assert f"{update.core}: romfs: does not match, refused" in guest.kernel_log()
    assert update.state("stage") == "applied"
    assert mount(guest, "romfs") == [NEW], "the module of the package is taken"
    assert update.targets()["romfs"] == "matched"
    assert update.state("abort_cause") == "no_match", "what was refused before stays known"
    assert update.mismatch()["function"] == "romfs_statfs"
    update.undo()
    assert is_clean(guest)


@BOTH
def test_altered_module_is_left_unpatched_by_policy(
    guest: Guest, update: Update, altered: bytes
) -> None:
    update.apply(late=True, policy="leave_unmatched=1")
    for _ in range(2):
        assert insmod(guest, altered)
        assert update.targets()["romfs"] == "unpatched"
        assert update.mismatch()["function"] == "romfs_statfs"
        assert mount(guest, "romfs") == [OLD]
        guest.run(["rmmod", "romfs"])
        assert update.targets()["romfs"] == "waiting"
        assert mount(guest, "romfs") == [NEW]
        guest.run(["rmmod", "romfs"])
    assert insmod(guest, altered)
    update.undo()
    assert mount(guest, "romfs") == [OLD]
    assert is_clean(guest)


def test_stranger_of_the_same_name_is_refused(
    guest: Guest, lab_cache: Cache, kernel: KernelPackages, tree: Path, tmp_path: Path
) -> None:
    """It has none of the symbols, and the update none that livepatch would miss: only a hook."""
    hook = Edit("fs/romfs/super.c", "module_init(", f"{HOOK}module_init(")
    patch = write_patch(tree, tmp_path / "hook.patch", hook)
    update = Update(guest, make_bundle(lab_cache, kernel, "strange1", [patch]))
    source = '#include <linux/module.h>\nMODULE_LICENSE("GPL");\n'
    stranger = build_module(kernel, tmp_path, "romfs", source)
    update.apply(late=True)
    assert not insmod(guest, stranger.read_bytes())
    assert update.targets()["romfs"] == "refused"
    assert "the hook of romfs" not in guest.kernel_log()
    guest.run("modprobe romfs")
    assert update.targets()["romfs"] == "matched"
    assert "the hook of romfs" in guest.kernel_log()
    update.undo()
    assert is_clean(guest)


def test_undo_that_is_forced_leaves_the_new_code_whole(
    fresh_guest: Guest, lab_cache: Cache, kernel: KernelPackages, tree: Path, tmp_path: Path
) -> None:
    """Who is still in it goes on to call a function of the module."""
    guest = fresh_guest
    patch = write_patch(tree, tmp_path / "slow.patch", *SLOW)
    update = Update(guest, make_bundle(lab_cache, kernel, "forced01", [patch]))
    prepare_mounts(guest)
    assert mount(guest, "romfs") == [OLD]
    update.apply()
    guest.run(
        "sysctl -qw kernel.overflowgid=7777; systemd-run -u mount -q"
        f" -p StandardError=file:/root/said {MOUNT.format('romfs')}"
    )
    wait_for_stack(guest, "romfs_fill_super")
    livepatch = f"/sys/kernel/livepatch/{update.new}"
    guest.run(f"echo 0 >{livepatch}/enabled; sleep 2; echo 1 >{livepatch}/force")
    update.wait()
    assert update.state("stage") == "reversed"
    guest.run("sysctl -qw kernel.overflowgid=65534")
    said = wait_in_guest(lambda: guest.read("/root/said"), guest.kernel_log)
    assert said.endswith(f" failed: {NEW}")
    assert mount(guest, "romfs") == [OLD]


def test_daemon_waits_for_a_module_and_tells_what_became_of_it(
    installed_guest: Guest,
    lab_cache: Cache,
    kernel: KernelPackages,
    altered: bytes,
    tmp_path: Path,
) -> None:
    guest = installed_guest
    tree = sample.source_tree(lab_cache, kernel)
    patch = write_patch(tree, tmp_path / "romfs.patch", ROMFS)
    key = sample.throwaway_key(tmp_path)
    file = sample.make_update(lab_cache, kernel, patch, key.secret, out=tmp_path, kid=ROMFS_KID)
    guest.put("/etc/ksplicd/keys.d/test.pub", key.public, mode=0o644)
    guest.put("/etc/ksplicd/ksplicd.conf", b"[ksplicd]\nlate-mismatch = leave\n")
    guest.put(f"/root/{file.name}", file)
    guest.put(f"/root/{file.name}.minisig", sample.signature_of(file))
    guest.run("systemctl reload ksplicd")
    for option in ("", "--partial"):  # Ksplice's option changes nothing: it is always so
        if option:
            run_ksplice(guest, f"undo {ROMFS_KID}")
        run_ksplice(guest, f"apply {option} /root/{file.name}")
        targets = guest.read(f"/sys/module/ksplice_{ROMFS_KID}/ksplice/targets")
        assert targets == "romfs waiting"

    def tell(state: str) -> dict[str, str]:
        """Return the last journal entry about the module, once it is about ``state``."""
        query = f"journalctl -o json -n 1 KSPLICE_KID={ROMFS_KID} KSPLICE_TARGET_STATE={state}"
        log = "journalctl -u ksplicd --no-pager"
        out = wait_in_guest(lambda: guest.run(query).out.strip(), lambda: guest.run(log).out)
        entry: dict[str, str] = json.loads(out)
        assert entry["KSPLICE_TARGET"] == "romfs"
        return entry

    assert "waits for romfs" in read_journal(guest, f"KSPLICE_KID={ROMFS_KID}")
    guest.run("modprobe romfs")
    assert "was loaded and is patched" in tell("matched")["MESSAGE"]
    guest.run("rmmod romfs")
    assert "will be patched when it is loaded again" in tell("waiting")["MESSAGE"]
    assert insmod(guest, altered)
    assert tell("unpatched")["KSPLICE_FUNCTION"] == "romfs_statfs"
    guest.run("rmmod romfs")
    guest.run(f"echo N >/sys/module/ksplice_{ROMFS_KID}/parameters/leave_unmatched")
    assert not insmod(guest, altered)
    assert "its load is refused" in tell("refused")["MESSAGE"]
    run_ksplice(guest, f"undo {ROMFS_KID}")
    assert is_clean(guest)
