# SPDX-License-Identifier: GPL-2.0-only
import io
import tarfile
from dataclasses import replace
from pathlib import Path

from ksplicd.lab.image import BARE_INIT, Image
from ksplicd.lab.qemu import Machine, qemu_argv
from ksplicd.lab.running_guest import pack_tree, panic_report
from ksplicd.lab.snapshot import Layer


def test_packed_tree_has_files_of_root_and_no_folders(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/file").write_text("x")
    (tmp_path / "a/file").chmod(0o755)
    (tmp_path / "a/link").symlink_to("/etc")
    with tarfile.open(fileobj=io.BytesIO(pack_tree(tmp_path))) as archive:
        members = archive.getmembers()
    assert [(m.name, m.uid, m.issym()) for m in members] == [
        ("a/file", 0, False),
        ("a/link", 0, True),
    ]
    assert members[0].mode & 0o777 == 0o755


def test_panic_report_starts_at_the_first_complaint() -> None:
    console = (
        "[    1.0] ordinary line\n"
        "[    2.0] BUG: kernel NULL pointer dereference, address: 0000000000000000\n"
        "[    2.1]  panic+0x118/0x2f4\n"
        "[    2.1]  ? _printk+0x68/0x83\n"
        "[    2.2] Kernel panic - not syncing: Fatal exception\n"
    )
    report = panic_report(console).splitlines()
    assert [line.split("] ")[1].split()[0] for line in report] == [
        "BUG:",
        "panic+0x118/0x2f4",
        "Kernel",
    ]
    assert panic_report("[    1.0] ordinary line\n") == ""


def test_guest_has_kaslr_and_no_network(tmp_path: Path) -> None:
    machine = Machine(image=Image(folder=tmp_path, release="x"), arguments=("retbleed=off",))
    argv = qemu_argv(machine, folder=tmp_path, disk=tmp_path, ram=tmp_path, share=False)
    kernel_arguments = argv[argv.index("-append") + 1].split()
    assert kernel_arguments[-1] == "retbleed=off"
    assert "nokaslr" not in kernel_arguments
    assert "-nodefaults" in argv
    assert not any("net" in arg for arg in argv if "ifnames" not in arg)


def test_bare_machine_has_another_init_and_memory_needs_no_file(tmp_path: Path) -> None:
    machine = Machine(image=Image(folder=tmp_path, release="x"))
    plain = qemu_argv(machine, folder=tmp_path, disk=tmp_path, ram=None, share=False)
    bare = replace(machine, is_bare=True)
    argv = qemu_argv(bare, folder=tmp_path, disk=tmp_path, ram=None, share=False)
    (kernel_arguments,) = set(argv) - set(plain)
    assert kernel_arguments.split()[-1] == f"init={BARE_INIT}"
    assert "memory-backend-ram,id=ram,size=768M,share=off" in argv


def test_layer_is_named_by_its_files_and_commands(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("1")
    digests = [Layer(tree=tmp_path).digest(), Layer(tree=tmp_path, commands=("a",)).digest()]
    (tmp_path / "x").write_text("2")
    digests += [Layer(tree=tmp_path).digest(), Layer().digest()]
    assert len(set(digests)) == 4
