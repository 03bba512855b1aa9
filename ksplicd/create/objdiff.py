# SPDX-License-Identifier: GPL-2.0-only
"""Two objects of any x86-64 kernel, compared with no kernel tree at hand.

The entry sizes of the special sections come from a prepared kernel tree or headers when one is
given, from the objects otherwise.  Nothing is known of the running kernel, so the new code's
undefined symbols keep their plain names, also those of the pre object's static functions and data.
"""

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from ksplicd.create.diff.across_units import refuse_layouts, share
from ksplicd.create.diff.difference import Difference, UnitChange
from ksplicd.create.diff.layout import unseen_layouts
from ksplicd.create.diff.pointers import FieldChanges
from ksplicd.create.diff.unit import diff
from ksplicd.create.messages import names_of
from ksplicd.create.new_code.aliases import Aliases, aliases_by_name
from ksplicd.create.new_code.extract import extract
from ksplicd.create.new_code.model import NewCode
from ksplicd.create.objects.entry_sizes import infer_sizes, probe_source, read_probe
from ksplicd.create.objects.index import ObjectIndex
from ksplicd.create.objects.names import is_literal
from ksplicd.create.objects.patchable import traceable_functions
from ksplicd.create.objects.separate import index_separated
from ksplicd.create.objects.special import EntrySizes
from ksplicd.create.refusal import Refusal, refuse
from ksplicd.elf.model import SHF_ALLOC, STB_LOCAL, STT_FUNC, STT_OBJECT, Object, Section, Symbol
from ksplicd.elf.read import read_object
from ksplicd.errors import BuildError, ElfError, UnsupportedChangeError
from ksplicd.model import VMLINUX
from ksplicd.run import run_any

_PROBE: Final = "ksplice_sizes"
_LTO: Final = ".gnu.lto_"
_IMPORT: Final = "__UNIQUE_ID_import_ns"


@dataclass(frozen=True, slots=True, kw_only=True)
class PairResult:
    """The outcome of comparing two objects, by symbol names."""

    functions: tuple[str, ...] = ()
    """Every function of the new code's object, cold parts included."""
    changed: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    """Data of the new code's object: new variables, and constants that changed."""
    refused: tuple[Refusal, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)
    """By changed function, why."""
    notes: tuple[str, ...] = ()
    obj: Object | None = None
    """The new code, None when nothing changed or something is refused."""


@dataclass(frozen=True, slots=True)
class _UnitInAnyKernel:
    """A unit of a kernel that has every symbol, once, under its plain name."""

    source: str
    traceable: frozenset[str]
    target: str = VMLINUX
    probeable: frozenset[str] = frozenset()

    def is_exported(self, name: str) -> bool:
        return True

    def livepatch_symbol(self, name: str, *, is_local: bool) -> str | None:
        return name

    def sympos(self, name: str) -> int:
        return 0

    def is_sealed(self, symbol: str) -> bool:
        return False

    def is_function(self, name: str) -> bool:
        return False


def compare_objects(
    pre: Path, post: Path, source: Path | None = None, allowed_layouts: Sequence[str] = ()
) -> PairResult:
    """Compare two object files.  Raises ``ElfError``, ``BuildError`` and ``OSError``."""
    before, after = (read_code(p) for p in (pre, post))
    sizes = read_sizes(source) if source else infer_sizes([before, after])
    difference = diff(index_separated(before, sizes), index_separated(after, sizes))
    shared = share(UnitChange.of(after.name, difference), new_for_others(difference))
    change = leave_to_livepatch(shared)
    result = describe(change.difference)
    if change.is_empty:
        return result
    if change.is_boot_only:
        return replace(result, refused=tuple(difference.refuse_boot_code()))
    change = refuse_layouts(change, allowed_layouts)
    if change.has_unseen_layouts:
        result = replace(result, notes=(*result.notes, unseen_layouts([after.name])))
    return with_new_code(result, change)


def read_code(path: Path) -> Object:
    """Read an object that has its code.  Raises ``ElfError`` and ``OSError``."""
    obj = read_object(path.read_bytes(), str(path))
    if not obj.functions() and any(s.name.startswith(_LTO) for s in obj.sections):
        raise ElfError(f"{path}: has no code yet, only what gcc links later; compile with -fno-lto")
    return obj


def new_for_others(difference: Difference) -> list[Symbol]:
    """Return the new symbols that other objects may refer to, as far as they can be cut out."""
    index = difference.post
    return [
        s for s in difference.new_globals()
        if s.is_function or (s.section is not None and index.symbols_in(s.section) == [s])
    ]  # fmt: skip


def leave_to_livepatch(change: UnitChange) -> UnitChange:
    """Refuse what is no part of an object: fields and exit functions that are exchanged."""
    refusals = []
    for c in change.difference.pointers:
        old = c.old.name if c.old else "nothing"
        why = f"initialised data changes: +{c.offset:#x} refers to {c.new.name} instead of {old}"
        hint = "the kernel keeps its address; change the functions instead, or set it from a hook"
        refusals.append(refuse(c.datum, why, hint))
    for v in change.difference.values:
        why = f"initialised data changes: +{v.offset:#x} is {v.new.hex()} instead of {v.old.hex()}"
        hint = "the running kernel's copy has its own content by now; set it from a hook"
        refusals.append(refuse(v.datum, why, hint))
    difference = replace(change.difference, unload=None, fields=FieldChanges())
    return replace(change, difference=difference).refuse(refusals)


def describe(difference: Difference) -> PairResult:
    """Return the outcome of a difference, without the new code."""
    changed = reasons_of(difference)
    return PairResult(
        changed=tuple(changed),
        new=tuple(s.name for s in difference.new),
        removed=tuple(s.name for s in difference.removed),
        reasons=changed,
        notes=difference.notes,
    )


def reasons_of(difference: Difference) -> dict[str, str]:
    """Return why functions change, by each of their names; one name is enough to redirect them."""
    reasons = {s.name: why for s, why in difference.changed.items()}
    names = {(s.section, s.value): s.name for s in difference.changed}
    for s in difference.post.obj.functions():
        name = names.get((s.section, s.value))
        if name is not None and s in difference.twins.pre_of:
            reasons.setdefault(s.name, f"another name of {name}")
    return reasons


def with_new_code(result: PairResult, change: UnitChange) -> PairResult:
    """Return the result with the new code, or why there is none."""
    difference = change.difference
    unit = _UnitInAnyKernel(change.unit, redirectable_functions(difference.pre))
    aliases = Aliases()
    try:
        shared = aliases_by_name(change, aliases.for_shared([change]))
        code = extract(unit, change, aliases, shared)
    except UnsupportedChangeError as e:
        return replace(result, refused=tuple(r for r in e.refusals if isinstance(r, Refusal)))
    code.obj.symbols = [s for s in code.obj.symbols if s.name not in aliases]
    binds = {(s.name, s.type, s.size): s.bind for s in change.shared}
    for s in code.obj.symbols:
        s.bind = binds.get((s.name, s.type, s.size), s.bind)
    functions = [s.name for s in code.obj.symbols if s.is_function]
    data = data_of(code, difference)
    keep_imports(code.obj, difference.post.obj)
    several = names_that_are_several(code, difference)
    return replace(
        result,
        functions=tuple(functions),
        data=tuple(data),
        notes=(*result.notes, *code.notes, *several),
        obj=code.obj,
    )


def names_that_are_several(code: NewCode, difference: Difference) -> list[str]:
    """Return a note when names of the new code are those of several statics of the pre object.

    ``ld -r`` links files that each have one: here each is told by its file, but the new code's
    object has plain names.
    """
    count = Counter(
        s.name for s in difference.pre.obj.symbols
        if s.section is not None and s.bind == STB_LOCAL and s.type in (STT_FUNC, STT_OBJECT)
    )  # fmt: skip
    names = [s.name for s in difference.changed]
    names += [s.name for s in code.obj.symbols if s.is_undefined]
    several = [name for name in dict.fromkeys(names) if count[name] > 1]
    if not several:
        return []
    why = (
        f"{difference.pre.obj.name} has several statics of this name, and the new code does not say"
    )
    return [f"{names_of(several)}: {why} of which file: compare the objects that it is linked of"]


def keep_imports(new: Object, post: Object) -> None:
    """Keep what MODULE_IMPORT_NS() says: without it modpost refuses exports in a namespace."""
    for s in post.symbols:
        if s.name.startswith(_IMPORT) and s.section is not None:
            text = s.section.data[s.value : s.value + s.size]
            section = Section(s.section.name, flags=SHF_ALLOC, data=text)
            new.sections.append(section)
            new.symbols.insert(0, Symbol(s.name, 0, s.size, STB_LOCAL, STT_OBJECT, section=section))


def data_of(code: NewCode, difference: Difference) -> list[str]:
    """Return the variables and constants that new code defines, without what has no identity."""
    old = {s.name for s in difference.twins.pre_of if s not in code.copied_constants}
    return [
        s.name
        for s in code.obj.symbols
        if s.type == STT_OBJECT and s.section is not None and s.name not in old
        if not is_literal(s)
    ]


def redirectable_functions(index: ObjectIndex) -> frozenset[str]:
    """Return the functions that begin with a call of fentry, by its own table.

    All of them when the object was not compiled for ftrace.
    """
    traced = traceable_functions(index)
    return traced or frozenset(s.name for s in index.obj.functions())


def read_sizes(source: Path) -> EntrySizes:
    """Return the entry sizes of the headers of a prepared tree.

    ``source``: a kernel's headers package, build tree or prepared source tree.  Raises
    ``BuildError``.
    """
    with tempfile.TemporaryDirectory(prefix="ksplice-sizes-") as folder:
        (Path(folder) / f"{_PROBE}.c").write_text(probe_source())
        (Path(folder) / "Makefile").write_text(f"obj-m := {_PROBE}.o\n")
        status, out, err = run_any(["make", "-C", str(source), f"M={folder}", f"{_PROBE}.o"])
        if status:
            words = (out + err).decode(errors="replace").strip().splitlines()[-6:]
            raise BuildError(
                f"{source}: a probe does not compile there; give the headers package's folder or a"
                " prepared tree (make modules_prepare), or no --source:\n"
                + "\n".join(f"  {x}" for x in words)
            )
        path = Path(folder) / f"{_PROBE}.o"
        return read_probe(read_object(path.read_bytes(), str(path)))
