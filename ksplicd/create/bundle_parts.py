# SPDX-License-Identifier: GPL-2.0-only
"""From the finished modules to the bundle, with the notes for the user.

Nothing is decided here: what the modules hold is settled when this is asked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ksplicd import __version__, bundle
from ksplicd.create.affected.to_compile import ToCompile
from ksplicd.create.diff.difference import UnitChange
from ksplicd.create.diff.layout import unseen_layouts
from ksplicd.create.ledger.patch_ledger import Entry, ledger_of
from ksplicd.create.modules.build import Modules
from ksplicd.create.modules.signature import sign_modules
from ksplicd.create.modules.whole import file_names
from ksplicd.create.new_code.listed import number_note
from ksplicd.create.new_code.model import NewCode
from ksplicd.create.new_code.tripwires import count_calls
from ksplicd.create.patch.change import Change
from ksplicd.create.patch.series import Series
from ksplicd.create.request import ChangedTree, Created, Request
from ksplicd.create.stock.config_dir import ConfigDir
from ksplicd.ledger import bounded
from ksplicd.model import VMLINUX, Kernel, Manifest, Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a bundle is made of."""

    changed: ChangedTree
    compiled: ToCompile
    changes: Sequence[UnitChange]
    new_code: Sequence[NewCode]
    entries: Sequence[Entry]
    modules: Modules
    whole: Mapping[str, bytes]
    """By target, the .ko for the next boot."""


def pack(request: Request, config: ConfigDir, kernel: Kernel, made: Made) -> Created:
    """Return the update.  Raises ``CreateError`` when the kernel's signature cannot be made."""
    names = file_names(made.whole, config)
    files = {**made.modules.files, **{names[t]: ko for t, ko in made.whole.items()}}
    files = sign_modules(files, request.module_key, config)
    manifest = manifest_of(
        request, made.changed.series, kernel, config.compiler_text, made.modules,
        targets_of(made.modules, made.new_code, names),
    )  # fmt: skip
    ledger = ledger_of(made.entries, manifest.redirects)
    manifest = replace(manifest, ledger=bounded(ledger))
    change = made.changed.change
    return Created(
        manifest=manifest,
        data=bundle.pack(manifest, {**files, **source_files(change)}),
        reasons={name: why for code in made.new_code for name, why in code.reasons.items()},
        notes=(*change.notes, *notes_of(made.changes, made.new_code)),
        files=outcomes(made.compiled, made.new_code),
        ledger=ledger,
    )


def manifest_of(
    request: Request,
    series: Series,
    kernel: Kernel,
    compiler: str,
    modules: Modules,
    targets: Sequence[Target],
) -> Manifest:
    """Return the manifest; ``compiler``: the kernel's own, in one line."""
    return Manifest(
        kid=request.kid,
        kernel=kernel,
        core_file=modules.core,
        targets=tuple(targets),
        description=request.description,
        cves=request.cves,
        depends=tuple(dict.fromkeys((*series.kids, *request.depends))),
        built_on=series.built_on,
        replaces=request.replaces,
        excludes=request.excludes,
        tool=f"ksplice {__version__}",
        compiler=compiler,
    )


def targets_of(
    modules: Modules, new_code: Sequence[NewCode], whole_files: Mapping[str, str]
) -> list[Target]:
    """Return what the update changes, by target; ``whole_files``: the .ko for the next boot."""
    return [
        Target(
            name=target,
            new_file=modules.new,
            old_file=old_file,
            functions=tuple(
                f for unit in new_code if unit.target == target for f in unit.functions
            ),
            pointers=tuple(p for unit in new_code if unit.target == target for p in unit.pointers),
            module_file=whole_files.get(target, ""),
            late=target != VMLINUX,
        )
        for target, old_file in modules.old.items()
    ]


def whole_modules_of(request: Request, new_code: Sequence[NewCode]) -> list[str]:
    """Return the modules that are built whole: none, or all that the new code is for."""
    targets = dict.fromkeys(c.target for c in new_code) if request.whole_modules else ()
    return [t for t in targets if t != VMLINUX]


def source_files(change: Change) -> dict[str, bytes]:
    """Return the files of a bundle that hold the change it was made from."""
    return {"patch": change.patch, "timestamp": f"{change.timestamp}\n".encode()}


def notes_of(changes: Sequence[UnitChange], new_code: Sequence[NewCode]) -> list[str]:
    """Return what the user should know of the units that differ, and of their new code."""
    unseen = list(dict.fromkeys(c.unit for c in changes if c.has_unseen_layouts))
    notes = [note for c in changes for note in c.difference.notes]
    notes += [note for code in new_code for note in code.notes]
    notes += number_note(new_code)
    # of an object that several modules have, once
    return [*([unseen_layouts(unseen)] if unseen else []), *dict.fromkeys(notes)]


def outcomes(compiled: ToCompile, new_code: Sequence[NewCode]) -> dict[str, str]:
    """Return what happened to each unit that was compiled, and to each file that led to none."""
    done = {}
    for c in new_code:
        functions = ", ".join(f.name for f in c.functions)
        fields = ", ".join(f"{p.table}+{p.offset:#x}" for p in c.pointers)
        calls = ", ".join(dict.fromkeys(h.kind for h in c.hooks))
        tripwires = count_calls(c.obj)
        words = (
            f"replaces {functions}" if functions else "",
            f"exchanges {fields}" if fields else "",
            f"adds {', '.join(c.shared)} for others" if c.shared else "",
            f"hooks: {calls}" if calls else "",
            f"tripwires: {tripwires}" if tripwires else "",
        )
        done[c.unit] = "; ".join(w for w in words if w)
    notes = dict(compiled.notes)
    for u in compiled.units:
        said = [done.get(u.source, "its code is the same"), notes.get(u.source, "")]
        notes[u.source] = "; ".join(w for w in said if w)
    return notes
