# SPDX-License-Identifier: GPL-2.0-only
"""Accounts of made-up changes: both versions compiled as create does, compared and cut."""

from collections.abc import Collection, Mapping
from pathlib import Path

from ksplicd.create.diff.difference import UnitChange
from ksplicd.create.diff.unit import diff
from ksplicd.create.ledger.accepted import Accepted
from ksplicd.create.ledger.evidence import UnitEvidence, find_redirects, read_evidence
from ksplicd.create.ledger.patch_ledger import Entry, PatchEvidence, account_for_patch
from ksplicd.create.new_code.aliases import Aliases
from ksplicd.create.new_code.extract import extract
from ksplicd.create.objects.separate import index_separated
from ksplicd.create.patch.change import ChangedFile
from ksplicd.create.patch.line_numbers import with_line_numbers
from ksplicd.elf.read import read_object
from ksplicd.run import run
from tests.support.objects.compile import KERNEL_LIKE, SPLIT
from tests.support.objects.pair import SIZES, FakeUnit

FLAGS = (*KERNEL_LIKE, *SPLIT, "-g", "-pg", "-mfentry", "-mrecord-mcount", "-w")

_Files = Mapping[str, str]


def compiled(folder: Path, files: Mapping[str, bytes], unit: str) -> bytes:
    """Return the object that gcc makes of ``unit`` in a tree of ``files``."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text)
    out = folder / "unit.o"
    run(["gcc", *FLAGS, "-c", "-o", out, folder / unit])
    return out.read_bytes()


def changed_files(before: _Files, after: _Files) -> tuple[ChangedFile, ...]:
    """Return the files that differ."""
    return tuple(
        ChangedFile(
            path=Path(n),
            before=before[n].encode() if n in before else None,
            after=after[n].encode() if n in after else None,
        )
        for n in dict.fromkeys([*before, *after])
        if before.get(n) != after.get(n)
    )  # fmt: skip


def read_unit(
    folder: Path, before: _Files, after: _Files, unit: str, probed: Collection[str] = ()
) -> UnitEvidence:
    """Return the evidence of one unit of a change, compiled for vmlinux.

    ``probed``: functions that only a kprobe may redirect.  None may redirect ``callee``.
    """
    change = changed_files(before, after)
    old = {n: t.encode() for n, t in before.items()}
    patched = {str(f.path): with_line_numbers(f).content for f in change}
    new = old | {n: t for n, t in patched.items() if t is not None}
    pre, post = (
        index_separated(read_object(compiled(folder / side, tree, unit), unit), SIZES)
        for side, tree in (("pre", old), ("post", new))
    )
    unit_change = UnitChange.of(unit, diff(pre, post))
    functions = frozenset(s.name for s in pre.obj.functions())
    fake = FakeUnit(
        source=unit,
        functions=functions,
        untraceable=frozenset([*probed, "callee"]),
        probeable=frozenset(probed),
    )
    code = [extract(fake, unit_change, Aliases())] if unit_change.is_needed else []
    found = find_redirects(code).get((unit, "vmlinux"), {})
    names = {str(f.path) for f in change} | {unit}
    called_only = code[0].called_only if code else ()
    return read_evidence(unit, "vmlinux", pre, post, unit_change, found, names, called_only)


def accounts(
    folder: Path,
    before: _Files,
    after: _Files,
    *units: str,
    accepted: tuple[Accepted, ...] = (),
    notes: Mapping[str, str] | None = None,
    dependants: int = 0,
    probed: Collection[str] = (),
) -> list[Entry]:
    """Return the entries of a change of a tree, of which ``units`` are compiled."""
    change = changed_files(before, after)
    evidence = PatchEvidence(
        files=change,
        patched={f.path: with_line_numbers(f).content for f in change},
        units=[read_unit(folder / str(i), before, after, u, probed) for i, u in enumerate(units)],
        notes=notes or {},
        dependants=dependants,
        read_source=lambda path: before[path].encode() if path in before else None,
    )
    return account_for_patch(evidence, accepted)
