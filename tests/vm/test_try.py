# SPDX-License-Identifier: GPL-2.0-only
"""``ksplice try``, run as a command."""

import base64
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from ksplicd import bundle
from ksplicd.cache import Cache
from ksplicd.cli.main import main
from ksplicd.distro.packages import KernelPackages
from tests.support.guest.foreign import COPIER, build_module
from tests.support.guest.hand import Edit, make_bundle, write_patch
from tests.support.guest.installed import KID
from tests.support.guest.redirected import POINTER
from tests.support.kernels import slice as sample

WARNS = Edit(
    "fs/fcntl.c", "\tlong err = -EINVAL;\n",
    "\tlong err = -EINVAL;\n\n\tWARN_ON_ONCE(cmd == F_GETFD);\n",
)  # fmt: skip

COPYING_CHECK = """\
#!/usr/bin/python3
import base64, os, re, subprocess
modules = ["copier1", "copier2"]
contents = ["{copier1}", "{copier2}"]
loaded = sum(os.path.exists(f"/sys/module/{{m}}") for m in modules)
if loaded < 2:
    with open("/root/copier.ko", "wb") as f:
        f.write(base64.b64decode(contents[loaded]))
    symbols = open("/proc/kallsyms").read()
    table = re.search("^(.*) [DdRr] pipefifo_fops$", symbols, re.MULTILINE)[1]
    subprocess.run(["insmod", "/root/copier.ko", f"table=0x{{table}}"], check=True)
"""
"""Loads the first before the update, and the second with it."""


@pytest.fixture(scope="module")
def tarball(
    lab_cache: Cache, kernel: KernelPackages, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    fix = sample.FCNTL
    patch = sample.cut_patch(lab_cache, fix.old, fix.new, [fix.file])
    made = make_bundle(lab_cache, kernel, KID, [patch])
    file = tmp_path_factory.mktemp("try") / bundle.file_name(KID)
    file.write_bytes(bundle.pack(made.manifest, made.files))
    return file


@pytest.fixture(scope="module")
def exchanging(
    lab_cache: Cache, kernel: KernelPackages, tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An update that exchanges a pointer of a table."""
    folder = tmp_path_factory.mktemp("exchanging")
    patch = write_patch(tree, folder / "redir002.patch", POINTER)
    made = make_bundle(lab_cache, kernel, "redir002", [patch])
    file = folder / bundle.file_name("redir002")
    file.write_bytes(bundle.pack(made.manifest, made.files))
    return file


@pytest.fixture
def check(tmp_path: Path) -> Path:
    """A program that fails while the bug is there."""
    fix, program = sample.FCNTL, tmp_path / "check"
    program.write_text(
        f"#!/bin/sh\nsaid=$(python3 - <<'EOF'\n{fix.reproducer}\nEOF\n)\n"
        f'echo "$said"\ncase "$said" in {fix.after}*) ;; *) exit 1;; esac\n'
    )
    return program


def test_good_update(tarball: Path, check: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["try", "-q", "--json", "--check", str(check), str(tarball)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [c["status"] for c in said["checks"]] == [1, 0, 1]
    assert [c["output"].split()[0].rstrip(":") for c in said["checks"]] == [
        sample.FCNTL.before, sample.FCNTL.after, sample.FCNTL.before,
    ]  # fmt: skip
    assert said["functions"] > 0
    assert said["faults"] == []
    assert not said["code_stays"]


def test_check_that_fails(
    exchanging: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing else does: the table of which a pointer is exchanged is copied by nobody."""
    check = tmp_path / "check"
    check.write_text("#!/bin/sh\necho no; exit 3\n")
    assert main(["try", "-q", "--check", str(check), str(exchanging)]) == 1
    said = capsys.readouterr()
    assert "  check with the update: exit status 3: no\n" in said.out
    assert "note: " not in said.out
    assert said.err == "ksplice: with the update the check ends with exit status 3, not 0\n"


def test_update_that_the_kernel_complains_of(
    lab_cache: Cache,
    kernel: KernelPackages,
    tree: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = make_bundle(
        lab_cache, kernel, "tried002", [write_patch(tree, tmp_path / "p.patch", WARNS)]
    )
    file = tmp_path / bundle.file_name("tried002")
    file.write_bytes(bundle.pack(made.manifest, made.files))
    check = tmp_path / "check"
    check.write_text("#!/usr/bin/python3\nimport fcntl\nfcntl.fcntl(0, fcntl.F_GETFD)\n")
    assert main(["try", "-q", "--check", str(check), str(file)]) == 1
    said = capsys.readouterr()
    assert "ksplice: the kernel complains:\n" in said.err
    assert "do_fcntl" in said.err


def test_table_that_is_copied(
    exchanging: Path, kernel: KernelPackages, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By modules that no search of the kernel's source sees, before the update and with it."""
    check = tmp_path / "check"
    modules = {
        name: base64.b64encode(build_module(kernel, tmp_path, name, COPIER).read_bytes()).decode()
        for name in ("copier1", "copier2")
    }
    check.write_text(COPYING_CHECK.format(**modules))
    assert main(["try", "-q", "--json", "--check", str(check), str(exchanging)]) == 1
    said = json.loads(capsys.readouterr().out)
    assert [c["status"] for c in said["checks"]] == [0, 0, 0]
    found = [re.sub(r" \(physical address 0x[0-9a-f]+\)", "", fault) for fault in said["faults"]]
    (target,) = bundle.unpack(exchanging.read_bytes()).manifest.targets
    at = f"+{target.pointers[0].offset:#x}"
    copy, new = f"a copy of pipefifo_fops{at} is in", "with the new content, which undo does not"
    places = [f"copied{at} [{{}}]", "slab cache kmalloc-256", "vmalloc memory of get_area"]
    assert sorted(found) == sorted([
        *(f"with the update {copy} {place.format('copier1')}, with the old content: the update has"
          " no effect there" for place in places),
        *(f"with the update {copy} {place.format('copier2')}, {new} take back" for place in places),
        *(f"after undo {copy} {place.format('copier2')}, with what the update has brought: its code"
          " may still run" for place in places),
    ])  # fmt: skip


def test_update_of_another_build(
    tarball: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the match refuses is told as the kernel part tells it."""
    made = bundle.unpack(tarball.read_bytes())
    name = made.changes[0].old_file
    data = bytearray(made.files[name])
    at = data.index(b"do_fcntl\0")
    data[at : at + 8] = b"do_fcntm"
    altered = dict(made.files) | {name: bytes(data)}
    file = tmp_path / tarball.name
    file.write_bytes(bundle.pack(made.manifest, altered))
    assert main(["try", "-q", str(file)]) == 1
    said = capsys.readouterr().err
    assert f"{KID} cannot be applied: failed_to_find: target=vmlinux symbol=do_fcntm" in said


def test_what_it_goes_on_top_of_is_missing(
    tarball: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = bundle.unpack(tarball.read_bytes())
    file = tmp_path / tarball.name
    file.write_bytes(bundle.pack(replace(made.manifest, depends=("below001",)), made.files))
    assert main(["try", "-q", str(file)]) == 1
    assert "goes on top of below001: name that bundle first" in capsys.readouterr().err
