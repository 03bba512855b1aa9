# SPDX-License-Identifier: GPL-2.0-only
"""``ksplice try``, run as a command."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ksplicd import bundle
from ksplicd.cli.main import main
from ksplicd.lab.cache import Cache
from ksplicd.lab.debian import KernelPackages
from tests.support.guest.hand import Edit, make_bundle, write_patch
from tests.support.guest.installed import KID
from tests.support.kernels import slice as sample

WARNS = Edit(
    "fs/fcntl.c", "\tlong err = -EINVAL;\n",
    "\tlong err = -EINVAL;\n\n\tWARN_ON_ONCE(cmd == F_GETFD);\n",
)  # fmt: skip


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
    tarball: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check = tmp_path / "check"
    check.write_text("#!/bin/sh\necho no; exit 3\n")
    assert main(["try", "-q", "--check", str(check), str(tarball)]) == 1
    said = capsys.readouterr()
    assert "  check with the update: exit status 3: no\n" in said.out
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
