# SPDX-License-Identifier: GPL-2.0-only
"""Updates beside and on top of each other, and refusals of an update, through the daemon."""

import errno
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ksplicd import bundle
from ksplicd.bus import names
from ksplicd.create.old_code.tables import SYM
from ksplicd.elf.model import Object
from ksplicd.elf.read import read_object
from ksplicd.elf.write import write_object
from ksplicd.errors import ERROR_PREFIX
from ksplicd.lab.guest import Guest
from ksplicd.model import core_module, new_module
from tests.support.guest.foreign import ADD_FOREIGN, FOREIGN, REMOVE_FOREIGN, build_module
from tests.support.guest.hand import Edit, Update, is_clean
from tests.support.guest.host import ASK, Host
from tests.support.guest.maker import AUXV, FIRST, GETFD, Maker
from tests.support.guest.modules import ROMFS, ROMFS_KID
from tests.support.old_code.blob import Blob

pytestmark = pytest.mark.usefixtures("golden_log")

SECOND = Edit("fs/fcntl.c", "\t\terr |= 16;\n", "\t\terr |= 16 | 32;\n")
BESIDE = Edit("fs/fcntl.c", GETFD, f"{GETFD}\t\terr |= 64;\n")

UNDO_FIRST = (
    f"dbus-send --system --print-reply --dest={names.BUS_NAME} {names.ROOT_PATH}"
    f" {names.MANAGER}.Undo string:first001 uint64:0"
)


@pytest.fixture(scope="module")
def first(maker: Maker) -> Path:
    return maker.make("first001", FIRST)


@pytest.fixture
def host(shared_installed_guest: Guest, maker: Maker) -> Host:
    return Host(shared_installed_guest, maker.key.public)


def test_update_on_top_of_another(host: Host, maker: Maker, first: Path, tmp_path: Path) -> None:
    second = maker.make("second01", SECOND, on=(FIRST,), series=(first,))
    assert bundle.unpack(second.read_bytes()).manifest.depends == ("first001",)
    missing, _ = host.apply(second)
    assert missing == "OTHER"
    assert host.bits() == 0
    for _ in range(2):  # ... and again in the same boot
        assert host.apply(first) == ("", "")
        assert host.bits() == 16
        assert host.apply(second) == ("", "")
        assert host.bits() == 48
        _, message = host.undo("first001")
        assert f"{ERROR_PREFIX}InUse:" in host.guest.run(UNDO_FIRST, check=False).err
        assert "update second01 depends on it; undo that one first" in message
        assert host.bits() == 48
        assert host.undo("second01") == ("", "")
        assert host.bits() == 16
        assert host.undo("first001") == ("", "")
        assert host.bits() == 0
        assert is_clean(host.guest)
    # another one of the same id is not what it was built on
    assert host.ksplice("remove first001").status == 0
    assert host.apply(maker.make("first001", BESIDE, folder=tmp_path)) == ("", "")
    cause, message = host.apply(second)
    assert cause == "no_match"
    assert "second01: was built on top of update first001 with build id " in message
    assert host.bits() == 64


def test_update_that_another_one_would_undo(host: Host, maker: Maker, first: Path) -> None:
    beside = maker.make("beside01", BESIDE)
    assert host.apply(first) == ("", "")
    name, message = host.apply(beside)
    assert name == "no_match"
    assert "vmlinux: do_fcntl is replaced by the live patch ksplice_first001_new" in message
    assert host.bits() == 16
    assert host.undo("first001") == ("", "")
    assert host.apply(beside) == ("", "")
    assert host.bits() == 64


def test_update_goes_below_one_that_uses_nothing_of_it(
    host: Host, maker: Maker, first: Path
) -> None:
    """What was applied last need not be undone first: only who depends on an update keeps it."""
    other = maker.make("auxv0001", AUXV)
    assert host.apply(first) == ("", "")
    assert host.apply(other) == ("", "")
    assert (host.bits(), oversized_auxv(host)) == (16, errno.E2BIG)
    assert host.undo("first001") == ("", "")
    assert (host.bits(), oversized_auxv(host)) == (0, errno.E2BIG)
    assert host.ksplice("view -q").out == "auxv0001\n"
    assert host.undo("auxv0001") == ("", "")
    assert oversized_auxv(host) == errno.EINVAL
    assert is_clean(host.guest)


def oversized_auxv(host: Host) -> int:
    """Return how prctl(PR_SET_MM, PR_SET_MM_AUXV, …) refuses a vector that is too long."""
    call = "libc.prctl(35, 12, bytes(4096), ctypes.c_ulong(4096), ctypes.c_ulong(0))"
    libc = "import ctypes; libc = ctypes.CDLL(None, use_errno=True)"
    return int(host.guest.run(f"python3 -c '{libc}; {call}; print(ctypes.get_errno())'").out)


# Without the pause it keeps a processor busy, which makes livepatch slow here (decision 0014).
WATCH = """\
import fcntl, time
seen = set()
while True:
    time.sleep(0.001)
    answer = fcntl.fcntl(0, fcntl.F_GETFD) & ~1
    if answer not in seen:
        seen.add(answer)
        with open("/run/seen", "a") as f:
            print(answer, file=f)
"""


def test_one_is_taken_out_below_another(guest: Guest, maker: Maker, first: Path) -> None:
    """Whoever is instead of an update can come before that one goes: no task runs the old code."""
    lower, upper = (
        Update(guest, bundle.unpack(file.read_bytes()))
        for file in (first, maker.make("beside01", BESIDE))
    )
    lower.apply()
    guest.put("/root/watch.py", WATCH.encode())
    guest.run("systemd-run -q -u watch /usr/bin/python3 /root/watch.py; sleep 1")
    upper.apply()
    lower.undo()
    guest.run("sleep 1; systemctl stop watch")
    assert guest.run("cat /run/seen").out == "16\n64\n"
    upper.undo()
    assert int(guest.run(ASK).out) == 0
    assert is_clean(guest)


def test_successor_takes_over_without_a_gap(host: Host, maker: Maker, first: Path) -> None:
    successor = maker.make("beside03", BESIDE, replaces=("first001",))
    assert host.apply(first) == ("", "")
    host.guest.put("/root/watch.py", WATCH.encode())
    host.guest.run("systemd-run -q -u watch /usr/bin/python3 /root/watch.py; sleep 1")
    assert host.apply(successor) == ("", "")
    host.wait_for(lambda: "ksplice_first001" not in host.guest.run("ls /sys/module").out)
    host.guest.run("sleep 1; systemctl stop watch")
    assert host.guest.run("cat /run/seen").out == "16\n64\n", "the old code ran in between"
    assert "superseded by update beside03" in host.ksplice("history").out
    name, message = host.apply(first)
    assert name == "OTHER"
    assert "is replaced by update beside03" in message
    assert host.undo("beside03") == ("", "")
    assert host.bits() == 0
    assert is_clean(host.guest)


def test_live_patch_of_somebody_else(host: Host, maker: Maker, tmp_path: Path) -> None:
    host.guest.put("/root/foreign.ko", build_module(maker.kernel, tmp_path, "foreign", FOREIGN))
    file = maker.make("auxv0001", AUXV)
    functions = bundle.unpack(file.read_bytes()).manifest.targets[0].functions
    assert "prctl_set_auxv" in {f.name for f in functions}
    host.guest.run(ADD_FOREIGN)
    name, message = host.apply(file)
    assert name == "no_match"
    assert "prctl_set_auxv is replaced by the live patch foreign" in message
    host.guest.run(REMOVE_FOREIGN)
    assert host.apply(file) == ("", "")
    # on top of ours, which goes first
    host.guest.run(ADD_FOREIGN)
    assert "applied" in host.ksplice("status").out
    assert host.undo("auxv0001") == ("", "")
    host.guest.run(REMOVE_FOREIGN)
    assert is_clean(host.guest)
    # one that replaces all others takes ours out
    assert host.apply(file) == ("", "")
    host.guest.run(ADD_FOREIGN.replace(";", " replace=1;", 1))
    host.wait_for(lambda: "Fixed live: nothing" in host.ksplice("status").out)
    assert "undone by somebody else" in host.ksplice("status").out
    assert host.undo("auxv0001")[0] == "already_reversed"
    host.guest.run(REMOVE_FOREIGN)
    assert host.apply(file) == ("", "")


# --- every abort cause that a bundle can provoke ------------------------------------------------


def damage_tables(damage: Callable[[Blob], None]) -> Callable[[bytes], bytes]:
    """Return a function that damages the tables inside an old-code module."""

    def change(ko: bytes) -> bytes:
        start = ko.index(b"KOLD")
        (size,) = struct.unpack_from("<I", ko, start + 8)
        blob = Blob(ko[start : start + size])
        damage(blob)
        return ko[:start] + bytes(blob.data) + ko[start + size :]

    return change


def flip_code(blob: Blob) -> None:
    f = blob.function("do_fcntl")
    blob.data[f.at + next(i for i in range(len(f.code)) if f.is_plain(i))] ^= 0x40


def place_of_symbol(blob: Blob) -> int:
    """Return where the entry of a symbol is that do_fcntl of each kernel refers to."""
    names = [blob.sym(i)[0] for i in range(blob.nr_syms)]
    return int(blob.syms_at) + names.index("set_close_on_exec") * SYM.size


def rename_symbol(blob: Blob) -> None:
    (name,) = struct.unpack_from("<I", blob.data, place_of_symbol(blob))
    blob.data[blob.data.index(b"\0", name) - 1] = ord("~")


def expect_more_of_a_name(blob: Blob) -> None:
    struct.pack_into("<I", blob.data, place_of_symbol(blob) + 4, 7)


def break_magic(blob: Blob) -> None:
    blob.data[0] ^= 1


def change_object(change: Callable[[Object], None]) -> Callable[[bytes], bytes]:
    def changed(ko: bytes) -> bytes:
        obj = read_object(ko, "new.ko")
        change(obj)
        return write_object(obj)

    return changed


def need_what_is_not_exported(obj: Object) -> None:
    symbol = next(s for s in obj.symbols if s.name == "klp_enable_patch")
    symbol.name = "klp_enable_patsh"


def need_more_than_all_memory(obj: Object) -> None:
    """The kernel refuses at once what is larger than the machine's memory."""
    bss = next(s for s in obj.sections if s.name == ".bss")
    bss.nobits_size = 1 << 30


@pytest.mark.parametrize(
    ("module", "change", "cause"),
    [
        ("old", damage_tables(flip_code), "no_match"),
        ("old", damage_tables(rename_symbol), "failed_to_find"),
        ("old", damage_tables(expect_more_of_a_name), "bad_system_map"),
        ("old", damage_tables(break_magic), "unexpected"),
        ("new", change_object(need_what_is_not_exported), "missing_export"),
        ("new", change_object(need_more_than_all_memory), "out_of_memory"),
    ],
)
def test_abort_cause(
    host: Host,
    maker: Maker,
    first: Path,
    tmp_path: Path,
    module: str,
    change: Callable[[bytes], bytes],
    cause: str,
) -> None:
    content = bundle.unpack(first.read_bytes())
    files = {n: d for n, d in content.files.items() if n.endswith(".ko") or n == "patch"}
    target = content.manifest.targets[0]
    name = target.old_file if module == "old" else target.new_file
    files[name] = change(files[name])
    altered = bundle.pack(content.manifest, files)
    assert host.apply(maker.sign("first001", altered, tmp_path))[0] == cause
    assert is_clean(host.guest)
    assert cause in host.ksplice("history -n 1").out
    assert host.bits() == 0
    host.ksplice("remove first001")
    assert host.apply(first) == ("", "")
    assert host.bits() == 16


@pytest.mark.kernels("6.1")
def test_new_code_that_needs_what_the_kernel_lacks(
    host: Host, maker: Maker, first: Path, tmp_path: Path
) -> None:
    """The core fills it in there, and says what it did not find."""
    content = bundle.unpack(first.read_bytes())
    files = {n: d for n, d in content.files.items() if n.endswith(".ko") or n == "patch"}
    name = content.manifest.targets[0].new_file
    for new, cause in (
        ("set_close_on_exek,0", "failed_to_find"), ("set_close_on_exec,7", "bad_system_map"),
    ):  # fmt: skip
        obj = read_object(files[name], name)
        symbol = next(s for s in obj.symbols if s.name.endswith(".set_close_on_exec,0"))
        symbol.name = f".klp.sym.vmlinux.{new}"
        altered = bundle.pack(content.manifest, {**files, name: write_object(obj)})
        assert host.apply(maker.sign("first001", altered, tmp_path))[0] == cause
        assert is_clean(host.guest)
        host.ksplice("remove first001")
    assert host.apply(first) == ("", "")
    assert host.bits() == 16


def test_target_that_must_be_loaded(host: Host, maker: Maker) -> None:
    content = bundle.unpack(maker.make(ROMFS_KID, ROMFS).read_bytes())
    files = {n: d for n, d in content.files.items() if n.endswith(".ko") or n == "patch"}
    targets = tuple(replace(t, late=False) for t in content.manifest.targets)
    manifest = replace(content.manifest, targets=targets)
    file = maker.sign(ROMFS_KID, bundle.pack(manifest, files))
    for option in ("", "--partial"):  # which is no way round what the update says
        failed, _ = host.try_(f"apply {option} --raw-errors {host.put(file)}")
        assert failed == "target_not_loaded"
        assert is_clean(host.guest)
    host.guest.run("modprobe romfs")
    assert host.apply(file) == ("", "")


def test_already_applied_and_already_reversed(host: Host, first: Path) -> None:
    assert host.apply(first) == ("", "")
    assert host.apply(first) == ("", ""), "it is what was asked for"
    assert host.undo("first001") == ("", "")
    assert host.undo("first001")[0] == "already_reversed"
    assert core_module("first001") not in host.guest.run("lsmod").out
    assert new_module("first001") not in host.guest.run("lsmod").out
