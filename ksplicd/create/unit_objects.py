# SPDX-License-Identifier: GPL-2.0-only
"""The objects of each unit of an update: what is matched, what is compared.

Every unit is compiled four times: before and after the change, plain and split.  The plain objects
are what the running kernel was built from, and what a kernel with the change would be built from;
the split ones have one section a symbol.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from ksplicd.create.affected.by_headers import Candidates
from ksplicd.create.build.compiler import Kbuild
from ksplicd.create.build.pre_state import PreState
from ksplicd.create.build.units import ANY_TARGET, TargetFilter, Unit
from ksplicd.create.diff.across_units import compare_across
from ksplicd.create.diff.as_built import changed_as_built, name_as_built
from ksplicd.create.diff.difference import Difference, UnitChange
from ksplicd.create.diff.earlier import with_stale
from ksplicd.create.diff.layout import compare_layouts
from ksplicd.create.diff.unit import diff
from ksplicd.create.new_code.model import NewCode
from ksplicd.create.objects.index import ObjectIndex
from ksplicd.create.objects.separate import index_separated
from ksplicd.create.patch.source_tree import PatchedFile
from ksplicd.create.referee.judge import judge
from ksplicd.create.referee.unit import InStock, PlainUnit
from ksplicd.create.refusal import refusals_text
from ksplicd.create.stock.kernel import StockKernel, UnitKey
from ksplicd.create.work_folder import WorkFolder
from ksplicd.elf.model import Object
from ksplicd.elf.read import read_object
from ksplicd.elf.write import write_object
from ksplicd.errors import NoChangesError, UnsupportedChangeError
from ksplicd.model import VMLINUX


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class UnitObjects:
    """The four objects of one unit."""

    unit: Unit
    module: str | None
    """The module that the unit is part of, None: it is built in.  Of several, one of them."""
    plain: ObjectIndex
    """Of the tree as it is."""
    pre: ObjectIndex
    post: ObjectIndex
    plain_post: Object
    """As the kernel's build would make it of the patched tree."""
    unsplit_post: Object | None = None
    """The post object with the sections of plain ones, where split ones read what the kernel
    patches into its own code."""
    plain_before: Object | None = None
    """Likewise of the tree with the earlier updates; None when there are none."""
    apart: tuple[ObjectIndex, ObjectIndex] | None = None
    """The plain objects, before and after, taken apart; of modules only (``as_built.py``)."""
    stock: ObjectIndex | None = None
    """The split object of the tree without the earlier updates; None when there are none."""
    redirected: frozenset[str] = frozenset()
    """The functions that earlier updates redirect."""

    def compare(self) -> Difference:
        """Return what differs in the unit.  Raises ``ElfError``."""
        difference = diff(self.pre, self.post)
        if self.apart is not None:
            difference = changed_as_built(difference, *self.apart)
        if self.stock is not None:
            difference = with_stale(difference, self.stock, self.redirected)
        return difference.without_ignored()

    @property
    def target(self) -> str:
        """What the unit is part of: ``vmlinux`` or a module."""
        return self.module or VMLINUX

    @property
    def key(self) -> UnitKey:
        """What the unit is known by in the kernel."""
        return self.unit.source, self.target


def compile_units(
    work: WorkFolder,
    pre_state: PreState,
    after: Sequence[PatchedFile],
    units: Sequence[Unit],
    targets: TargetFilter = ANY_TARGET,
) -> list[UnitObjects]:
    """Compile units of both states of the source tree; ``after``: what makes it the second.

    A unit whose object several modules have is there for each of them that ``targets`` takes.
    """
    kbuild = pre_state.kbuild
    plain = kbuild.compile_plain(units)
    work.show("plain", _by_name(plain))
    pre = pre_state.compile_split(units)
    work.show("pre", _by_name(pre))
    before = pre_state.compile_plain(units) if pre_state.before else {}
    stock = kbuild.compile_split_cached(units) if pre_state.before else {}
    kbuild.tree.progress("compiling with the patch")
    with kbuild.tree.source.patched(after):
        post = kbuild.compile_post(units, find_rewritten(kbuild, plain), work.folder)
    sizes = kbuild.entry_sizes(units[0])
    found = []
    for u, module in _with_modules(kbuild, units, targets):
        apart = None
        split = index_separated(_read(u, pre[u]), sizes)
        unchanged = index_separated(_read(u, stock[u]), sizes) if stock else None
        if module is not None:
            built = index_separated(_read(u, plain[u]), sizes)
            for index in filter(None, (split, unchanged)):
                name_as_built(built, index)
            if before:  # what earlier updates change is replaced by them
                built = index_separated(_read(u, before[u]), sizes)
            apart = built, index_separated(_read(u, post.plain[u]), sizes)
        elif unchanged is not None:
            name_as_built(unchanged, split)
        found.append(
            UnitObjects(
                unit=u,
                module=module,
                plain=ObjectIndex(_read(u, plain[u]), sizes),
                pre=split,
                post=index_separated(_read(u, post.split[u]), sizes),
                plain_post=_read(u, post.plain[u]),
                unsplit_post=_read(u, post.unsplit[u]) if u in post.unsplit else None,
                plain_before=_read(u, before[u]) if before else None,
                apart=apart,
                stock=unchanged,
                redirected=pre_state.series.redirected(u.source, module or VMLINUX),
            )
        )
    return found


def _with_modules(
    kbuild: Kbuild, units: Sequence[Unit], targets: TargetFilter
) -> Iterator[tuple[Unit, str | None]]:
    """Yield each unit with each module that it is part of; None: it is built in."""
    for u in units:
        modules = kbuild.recorded.modules_of(u)
        yield from ((u, m) for m in modules if targets.takes(m))
        if not modules:
            yield u, None


def find_rewritten(kbuild: Kbuild, plain: Mapping[Unit, Path]) -> list[Unit]:
    """Return the units of which new code reads what the kernel patches into its own code."""
    return [unit for unit, path in plain.items() if kbuild.is_rewritten(unit, path)]


def _by_name(paths: Mapping[Unit, Path]) -> dict[str, Path]:
    return {f"{unit.flat_name}.o": path for unit, path in paths.items()}


def _read(unit: Unit, path: Path) -> Object:
    return read_object(path.read_bytes(), unit.object)


def write_new_code(work: WorkFolder, pre_state: PreState, new_code: Sequence[NewCode]) -> None:
    """Leave the new code of each unit in the folder, where it is kept.

    For callers that were taken in from other units, the objects of these too: the cache has them.
    """
    if not work.is_kept:
        return
    several = {unit for unit, n in Counter(code.unit for code in new_code).items() if n > 1}
    for code in new_code:
        of_target = f"-{code.target}" if code.unit in several else ""
        path = work.folder("new") / f"{Unit(code.unit).flat_name}{of_target}.o"
        path.write_bytes(write_object(code.obj))
    units = list(dict.fromkeys(Unit(code.unit) for code in new_code))
    taken_in = [u for u in units if not (work.folder("plain") / f"{u.flat_name}.o").exists()]
    work.show("plain", _by_name(pre_state.kbuild.compile_plain(taken_in)))
    work.show("pre", _by_name(pre_state.compile_split(taken_in)))


def compare_units(
    objects: Sequence[UnitObjects],
    has_global: Callable[[str, str], bool] = lambda _target, _name: False,
    allowed_layouts: Collection[str] = (),
) -> list[UnitChange]:
    """Return what changes in the units that differ.

    ``has_global(target, name)``: whether the kernel's target has such a global symbol;
    ``allowed_layouts``: structures that may change.

    Raises ``NoChangesError``, in which the referee agrees, and ``UnsupportedChangeError`` when only
    boot code differs.
    """
    changes = [UnitChange.of(o.unit.source, o.compare(), o.target) for o in objects]
    try:
        return compare_across(changes, has_global, allowed_layouts)
    except NoChangesError:
        judge([_plain_unit(o, None) for o in objects], None)
        raise


def try_few(
    work: WorkFolder,
    pre_state: PreState,
    after: Sequence[PatchedFile],
    candidates: Candidates,
    allowed_layouts: Collection[str],
) -> None:
    """Refuse a change of a structure layout by the few units of very many that are tried first.

    Compiling all would take an hour at ``struct sock``, to be refused then.  Raises
    ``UnsupportedChangeError``.
    """
    few = candidates.few
    if not few:
        return
    pre_state.kbuild.tree.progress(f"{candidates.names}: trying {len(few)} units first")
    suspect = _first_with_other_layout(work, pre_state, after, few, allowed_layouts)
    if suspect is None:
        return
    for o in compile_units(work, pre_state, after, [suspect]):
        refusals = compare_layouts(o.compare(), allowed_layouts).refusals
        if refusals:
            raise UnsupportedChangeError(refusals_text(o.unit.source, refusals), refusals)


def _first_with_other_layout(
    work: WorkFolder,
    pre_state: PreState,
    after: Sequence[PatchedFile],
    units: Sequence[Unit],
    allowed_layouts: Collection[str],
) -> Unit | None:
    """Return the first unit of which the split objects alone say that it changes a structure."""
    kbuild = pre_state.kbuild
    kbuild.compile_plain(units)  # make makes what the units include
    pre = pre_state.compile_split(units)
    sizes = kbuild.entry_sizes(units[0])
    with (
        kbuild.tree.source.patched(after),
        closing(kbuild.each_split(units, work.folder("few"))) as each,
    ):
        for unit, post in each:
            old, new = (index_separated(_read(unit, path), sizes) for path in (pre[unit], post))
            if compare_layouts(diff(old, new), allowed_layouts).refusals:
                return unit
    return None


def match_units(
    kernel: StockKernel, objects: Sequence[UnitObjects], changes: Sequence[UnitChange]
) -> None:
    """Find in the stock kernel the units that change.  Raises what ``add_unit`` raises."""
    by_key = {o.key: o for o in objects}
    for c in changes:
        kernel.add_unit(c.unit, by_key[c.key].plain, by_key[c.key].module)


def plain_units(
    pre_state: PreState, kernel: StockKernel, objects: Sequence[UnitObjects]
) -> list[PlainUnit]:
    """Return what the referee judges an update by; the source tree must be as it was found.

    Callers that were taken in are units, too, of which the change leaves the source alone.
    """
    known = {o.key for o in objects}
    others = {key: Unit(key[0]) for key in kernel.units if key not in known}
    taken = list(dict.fromkeys(others.values()))
    kbuild = pre_state.kbuild
    rewritten = find_rewritten(kbuild, kbuild.compile_plain(taken))
    unsplit = pre_state.compile_unsplit(rewritten) if rewritten else {}
    before = pre_state.compile_plain(taken) if taken and pre_state.before else {}
    units = [_plain_unit(o, kernel) for o in objects]
    for key, u in others.items():
        stock = kernel.units[key]
        obj = _read(u, before[u]) if before else stock.plain.obj
        units.append(
            PlainUnit(
                source=u.source,
                target=stock.target,
                sizes=stock.plain.sizes,
                running=stock.plain.obj,
                pre=obj,
                post=obj,
                unsplit=_read(u, unsplit[u]) if u in unsplit else None,
                split_pre=_read(u, unsplit[u]) if u in unsplit else None,
                kernel=InStock(kernel, stock),
            )
        )
    return units


def _plain_unit(o: UnitObjects, kernel: StockKernel | None) -> PlainUnit:
    stock = kernel.units.get(o.key) if kernel is not None else None
    return PlainUnit(
        source=o.unit.source,
        target=o.target,
        sizes=o.plain.sizes,
        running=o.plain.obj,
        pre=o.plain_before or o.plain.obj,
        post=o.plain_post,
        unsplit=o.unsplit_post,
        split_pre=o.pre.obj if o.unsplit_post is not None else None,
        kernel=None if kernel is None or stock is None else InStock(kernel, stock),
    )
