# SPDX-License-Identifier: GPL-2.0-only
"""Hooks and shadow variables on the stock kernel."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from ksplicd import bundle
from ksplicd.cache import Cache
from ksplicd.create.diff.hooks import CALLBACKS, CHECKS, KINDS
from ksplicd.distro.packages import KernelPackages
from ksplicd.distro.source import KernelSource
from ksplicd.errors import UnsupportedChangeError
from ksplicd.lab.guest import Guest
from tests.support.guest.hand import (
    Edit,
    Update,
    is_clean,
    make_bundle,
    wait_for_stack,
    write_patch,
)
from tests.support.guest.host import Host
from tests.support.guest.maker import Maker
from tests.support.guest.modules import ROMFS, mount, prepare_mounts
from tests.support.guest.shadows import count_shadows
from tests.support.kernels import slice as sample
from tests.support.waiting import wait_in_guest

pytestmark = pytest.mark.usefixtures("golden_log")

KID = "hooks001"
EXAMPLE = Path(__file__).parents[2] / "docs/examples/tcp-sysctls.c"
SYSCTLS = "net/ipv4/sysctl_net_ipv4.c"

APPLIED = ["pre_apply", "check_apply", "pre_patch", "apply", "post_patch", "post_apply"]
REVERSED = [
    "pre_unpatch", "pre_reverse", "check_reverse", "reverse", "post_unpatch", "post_reverse"
]  # fmt: skip
TURNED_AROUND = [
    "pre_apply", "check_apply", "pre_patch", "apply", "reverse", "post_unpatch", "fail_apply"
]  # fmt: skip
FAIL = {"fs": 4000, "romfs": 5000}
"""kernel.overflowgid of this plus the number of a kind makes that hook fail."""
POSITIVE = 100
"""More than that, and it returns a positive number, which is no error that the kernel knows."""


def hooks(name: str) -> str:
    """Return C with a hook of each kind that says so."""
    lines = ["#include <linux/highuid.h>\n#include <linux/module.h>\n#include <ksplice-patch.h>"]
    module = f"obj->mod && !strcmp(obj->mod->name, {name!r})".replace("'", '"')
    is_target = "!obj->name && !obj->mod" if name == "fs" else module
    for number, kind in enumerate(KINDS):
        says = f'printk("hook {name} {kind}\\n")'
        handed = "struct klp_object *obj" if kind in CALLBACKS else "void"
        if kind in CALLBACKS:
            says = f'printk(({is_target}) ? "hook {name} {kind}\\n" : "hook {name} misled\\n")'
        if kind in CHECKS:
            fails = FAIL[name] + number
            positive = f"overflowgid == {fails + POSITIVE}"
            body = f"{says}; return overflowgid == {fails} ? -EBUSY : {positive};"
            lines.append(f"static int {name}_{kind}({handed}) {{ {body} }}")
        else:
            body = f"{says}; klp_shadow_free_all(ksplice_shadow_id(1), NULL);"
            body = body if kind == "reverse" else f"{says};"
            lines.append(f"static void {name}_{kind}({handed}) {{ {body} }}")
        lines.append(f"ksplice_{kind}({name}_{kind});")
    return "\n".join(lines) + "\n"


# F_GETFD counts, beside the open file, how often it was asked for.
COUNT = """\
	case F_GETFD: {
		int *count = ksplice_shadow_make(int, filp, ksplice_shadow_id(1), GFP_KERNEL);

		err = count ? ++*count : -ENOMEM;
		break;
	}
"""
GETFD = "\tcase F_GETFD:\n\t\terr = get_close_on_exec(fd) ? FD_CLOEXEC : 0;\n\t\tbreak;\n"
EDITS = (
    Edit(
        "fs/fcntl.c", "#include <linux/syscalls.h>\n", f"#include <linux/syscalls.h>\n{hooks('fs')}"
    ),
    Edit("fs/fcntl.c", GETFD, COUNT),
    Edit("fs/romfs/super.c", "module_init(", f"{hooks('romfs')}module_init("),
    ROMFS,
)

# Counts may begin above 1: the kernel uses the memory of closed files again, whose counts stay.
COUNTED = """\
import fcntl
f = open("/etc/passwd")
first, second, third = [fcntl.fcntl(f, fcntl.F_GETFD) for _ in range(3)]
print([second - first, third - second])
"""
PLAIN, COUNTS = "[0, 0]", "[1, 1]"

SLEEPER = """\
import fcntl, os, time
f = open("/root/lock", "w")
fcntl.lockf(f, fcntl.LOCK_EX)
if os.fork() == 0:
    fcntl.lockf(open("/root/lock", "w"), fcntl.LOCK_EX)  # sleeps in do_fcntl
    os._exit(0)
while not os.path.exists("/root/wake"):
    time.sleep(0.05)
fcntl.lockf(f, fcntl.LOCK_UN)
os.wait()
"""


@pytest.fixture(scope="module")
def made(
    lab_cache: Cache, kernel: KernelPackages, tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> bundle.Bundle:
    patch = write_patch(tree, tmp_path_factory.mktemp("hooks") / "hooks.patch", *EDITS)
    return make_bundle(lab_cache, kernel, KID, [patch])


@pytest.fixture
def guest(shared_guest: Guest) -> Guest:
    return shared_guest


@pytest.fixture
def update(guest: Guest, made: bundle.Bundle) -> Update:
    prepare_mounts(guest)
    guest.put("/root/counted.py", COUNTED.encode())
    guest.put("/root/sleeper.py", SLEEPER.encode())
    return Update(guest, made)


def called(guest: Guest, name: str) -> list[str]:
    """Return the hooks of ``name`` that were called since the last time."""
    found = re.findall(rf"hook {name} (\w+)", guest.kernel_log())
    guest.run("dmesg --clear")
    return found


def counted(guest: Guest) -> str:
    return guest.run(["python3", "/root/counted.py"]).out.strip()


def sleep_in_do_fcntl(guest: Guest) -> None:
    guest.run("rm -f /root/wake; systemd-run -u sleeper -q /usr/bin/python3 /root/sleeper.py")
    wait_for_stack(guest, "do_fcntl")


def enable(update: Update, value: int) -> None:
    update.guest.run(f"echo {value} >/sys/kernel/livepatch/{update.new}/enabled")


def is_moving(update: Update) -> bool:
    return update.guest.read(f"/sys/kernel/livepatch/{update.new}/transition") == "1"


def test_forwards_and_back(guest: Guest, update: Update) -> None:
    mount(guest, "romfs")
    assert counted(guest) == PLAIN
    update.apply()
    for name in ("fs", "romfs"):
        assert re.findall(rf"hook {name} (\w+)", guest.kernel_log()) == APPLIED
    assert counted(guest) == COUNTS
    guest.run("dmesg --clear")
    update.undo()
    for name in ("fs", "romfs"):
        assert re.findall(rf"hook {name} (\w+)", guest.kernel_log()) == REVERSED
    assert counted(guest) == PLAIN
    assert is_clean(guest)


def test_shadow_variables_do_not_outlive_the_update(guest: Guest, update: Update) -> None:
    mount(guest, "romfs")
    guest.put(
        "/root/holder.py",
        b"import fcntl, sys\n"
        b"f = open('/etc/passwd')\n"
        b"for _ in sys.stdin: print(fcntl.fcntl(f, fcntl.F_GETFD), flush=True)\n",
    )
    guest.run(
        "mkfifo /root/ask; systemd-run -u holder -q -p StandardOutput=file:/root/told"
        " sh -c 'python3 /root/holder.py <>/root/ask'"
    )

    def ask() -> str:
        before = guest.read("/root/told")
        guest.run("echo >/root/ask")
        after: str = wait_in_guest(lambda: (now := guest.read("/root/told")) != before and now)
        return after.removeprefix(before).strip()

    assert ask() == "1", "FD_CLOEXEC"
    update.apply()
    assert [ask(), ask(), ask()] == ["1", "2", "3"]
    update.undo()
    assert ask() == "1"
    update.apply()
    assert [ask(), ask()] == ["1", "2"], "the count of the first time is gone"


def test_hooks_of_a_module_that_comes_and_goes(guest: Guest, update: Update) -> None:
    update.apply(late=True)
    assert called(guest, "romfs") == []
    for _ in range(2):
        mount(guest, "romfs")
        assert called(guest, "romfs") == APPLIED
        guest.run(["rmmod", "romfs"])
        assert called(guest, "romfs") == REVERSED
    number = FAIL["romfs"] + KINDS.index("check_apply")
    guest.run(f"sysctl -qw kernel.overflowgid={number}")
    assert guest.run("insmod $(modinfo -n romfs)", check=False).status != 0
    assert called(guest, "romfs") == ["pre_apply", "check_apply", "fail_apply"]
    assert update.state("abort_cause") == "call_failed"
    assert update.state("stage") == "applied"
    assert update.targets()["romfs"] == "refused"
    guest.run("sysctl -qw kernel.overflowgid=65534")
    mount(guest, "romfs")
    assert update.targets()["romfs"] == "matched"
    assert called(guest, "romfs") == APPLIED


@pytest.mark.parametrize("kind", ["pre_apply", "check_apply", "pre_patch"])
@pytest.mark.parametrize("name", ["fs", "romfs"])
def test_hook_that_fails(guest: Guest, update: Update, name: str, kind: str) -> None:
    mount(guest, "romfs")
    guest.run(f"sysctl -qw kernel.overflowgid={FAIL[name] + KINDS.index(kind)}")
    update.match()
    assert update.insmod(update.new, check=False) != 0
    assert update.state("abort_cause") == "call_failed"
    assert update.targets()["romfs"] == "matched", "it is still there"
    assert f"{name}_{kind}+0x0" in guest.kernel_log(), "the hook is named"
    row = APPLIED[:3]
    failed = [*row[: row.index(kind) + 1], "fail_apply"]
    log = guest.kernel_log()
    seen = {who: re.findall(rf"hook {who} (\w+)", log) for who in ("fs", "romfs")}
    assert seen[name] == failed
    if name == "romfs":
        assert seen["fs"] == TURNED_AROUND
    else:
        assert seen["romfs"] == []
    assert counted(guest) == PLAIN
    update.rmmod(update.core)
    assert is_clean(guest)
    guest.run("sysctl -qw kernel.overflowgid=65534")
    update.apply()
    assert counted(guest) == COUNTS


def test_hook_that_returns_a_positive_number_fails(guest: Guest, update: Update) -> None:
    """Livepatch would hand it on, and the kernel take it for success."""
    number = KINDS.index("check_apply") + POSITIVE
    guest.run(f"sysctl -qw kernel.overflowgid={FAIL['fs'] + number}")
    update.match(late=True)
    assert update.insmod(update.new, check=False) != 0
    assert update.state("abort_cause") == "call_failed"
    assert not guest.run("ls /sys/kernel/livepatch").out
    update.rmmod(update.core)
    assert is_clean(guest)
    guest.run(f"sysctl -qw kernel.overflowgid={FAIL['romfs'] + number}")
    update.apply(late=True)
    assert guest.run("insmod $(modinfo -n romfs)", check=False).status != 0
    assert update.targets()["romfs"] == "refused"
    assert "romfs" not in guest.run("lsmod").out
    update.undo()
    assert is_clean(guest)


def test_hook_that_fails_in_the_daemon(
    installed_guest: Guest, made: bundle.Bundle, maker: Maker
) -> None:
    guest = installed_guest
    file = maker.sign(KID, bundle.pack(made.manifest, made.files))
    host = Host(guest, maker.key.public, file)
    guest.run(f"sysctl -qw kernel.overflowgid={FAIL['fs']}")
    done = host.ksplice(f"apply --raw-errors /root/{file.name}", check=False)
    assert (done.status, done.err.splitlines()[0]) == (5, "call_failed")
    assert is_clean(guest)
    guest.run("sysctl -qw kernel.overflowgid=65534")
    assert host.ksplice(f"apply {KID}").status == 0
    assert host.ksplice(f"undo {KID}").status == 0
    assert is_clean(guest)


def test_apply_that_is_turned_around(guest: Guest, update: Update) -> None:
    mount(guest, "romfs")
    sleep_in_do_fcntl(guest)
    update.match()
    update.insmod(update.new)
    assert is_moving(update)
    assert counted(guest) == COUNTS, "whoever can runs new code already"
    assert count_shadows(guest) > 0
    enable(update, 0)
    update.wait()
    assert count_shadows(guest) == 0
    for name in ("fs", "romfs"):
        assert re.findall(rf"hook {name} (\w+)", guest.kernel_log()) == TURNED_AROUND
    update.unload(update.new)
    update.rmmod(update.core)
    assert is_clean(guest)
    guest.run("touch /root/wake")


def test_undo_that_is_turned_around(guest: Guest, update: Update) -> None:
    mount(guest, "romfs")
    update.apply()
    sleep_in_do_fcntl(guest)
    guest.run("dmesg --clear")
    enable(update, 0)
    assert is_moving(update)
    enable(update, 1)
    update.wait()
    assert called(guest, "fs") == [*REVERSED[:3], "post_patch", "fail_reverse"]
    assert update.state("stage") == "applied"
    assert counted(guest) == COUNTS
    guest.run("touch /root/wake")
    number = FAIL["fs"] + KINDS.index("pre_reverse")
    guest.run(f"sysctl -qw kernel.overflowgid={number}")
    update.undo()
    rest = [kind for kind in REVERSED if kind != "check_reverse"]
    assert called(guest, "fs") == rest, "it is only told"
    assert counted(guest) == PLAIN


def test_nothing_but_hooks(
    guest: Guest, lab_cache: Cache, kernel: KernelPackages, tree: Path, tmp_path: Path
) -> None:
    code = """\
#include <ksplice-patch.h>
static int kept;
static void change(void) { kept = overflowuid; overflowuid = 4242; }
static void change_back(void) { overflowuid = kept; }
ksplice_apply(change);
ksplice_reverse(change_back);
"""
    line = "int overflowgid = DEFAULT_OVERFLOWGID;\n"
    patch = write_patch(tree, tmp_path / "only.patch", Edit("kernel/sys.c", line, line + code))
    update = Update(guest, make_bundle(lab_cache, kernel, "hookonly", [patch]))
    assert update.bundle.manifest.targets[0].functions == ()
    value = "cat /proc/sys/kernel/overflowuid"
    assert guest.run(value).out == "65534\n"
    update.apply()
    assert guest.run(value).out == "4242\n"
    update.undo()
    assert guest.run(value).out == "65534\n"


# --- docs/hooks.md: a real fix that changes data ------------------------------------------------


def fixed_source(cache: Cache, tree: Path) -> Edit:
    """Return the fixed file with its old table, and the hooks at its end."""
    before = sample.read_source(tree, SYSCTLS)
    after = KernelSource(cache=cache, version=sample.NEWER).files([SYSCTLS])[SYSCTLS].decode()
    table = re.compile(r"^static struct ctl_table ipv4_net_table\[\] = \{\n.*?^\};\n", re.M | re.S)
    old, new = table.search(before), table.search(after)
    assert old is not None
    assert new is not None
    assert old[0] != new[0], "the fix changes initialised data"
    return Edit(SYSCTLS, before, after.replace(new[0], old[0]) + EXAMPLE.read_text())


NONSENSE = {
    "tcp_rmem": "16 131072 6291456",
    "tcp_reordering": "-1",
    "tcp_max_reordering": "0",
}
SENSE = {
    "tcp_rmem": "4096 131072 6291456",
    "tcp_reordering": "3",
    "tcp_max_reordering": "300",
}


def set_sysctls(values: Mapping[str, str], within: str = "") -> str:
    """Return the command that sets sysctls in a namespace, and says of each whether it is taken."""
    each = "; ".join(
        f"echo {value} >/proc/sys/net/ipv4/{name} && echo taken || echo refused"
        for name, value in values.items()
    )
    return f"{within} sh -c '{each}'"


def test_real_fix_that_changes_data(
    guest: Guest, lab_cache: Cache, kernel: KernelPackages, tree: Path, tmp_path: Path
) -> None:
    newer = KernelSource(cache=lab_cache, version=sample.NEWER).files([SYSCTLS])[SYSCTLS].decode()
    before = sample.read_source(tree, SYSCTLS)
    whole = write_patch(tree, tmp_path / "whole.patch", Edit(SYSCTLS, before, newer))
    with pytest.raises(UnsupportedChangeError, match=r"ipv4_net_table.*set it from a hook"):
        make_bundle(lab_cache, kernel, "datafix1", [whole])
    patch = write_patch(tree, tmp_path / "fix.patch", fixed_source(lab_cache, tree))
    update = Update(guest, make_bundle(lab_cache, kernel, "datafix1", [patch]))
    assert [f.name for f in update.bundle.manifest.targets[0].functions] == ["ipv4_sysctl_init_net"]

    guest.run("systemd-run -u holder -q unshare -n sleep 1000; sleep 1")
    pid = guest.run("systemctl show --value -p MainPID holder").out.strip()
    other = f"nsenter -t {pid} -n"

    def with_nonsense() -> set[str]:
        """Return what becomes of nonsense in all namespaces, which is taken back."""
        tries = [set_sysctls(NONSENSE, within) for within in ("", other, "unshare -n")]
        cures = [set_sysctls(SENSE, within) for within in ("", other)]
        said = guest.run("; ".join([*tries, *cures])).out.split()
        assert said[9:] == ["taken"] * 6
        return set(said[:9])

    bounded = "unshare -n sh -c 'cd /proc/sys/net/ipv4; echo 10 >tcp_max_reordering;"
    assert with_nonsense() == {"taken"}
    update.apply()
    assert with_nonsense() == {"refused"}
    assert guest.run(f"{bounded} echo 10 >tcp_reordering'").status == 0
    assert guest.run(f"{bounded} echo 11 >tcp_reordering'", check=False).status != 0, "its own"
    update.undo()
    assert with_nonsense() == {"taken"}
    assert is_clean(guest)
