# SPDX-License-Identifier: GPL-2.0-only
"""From a diff to a bundle: one call per arrow.

::

    change ─▸ touched units, dependants of headers ─▸ pre objects (plain and split)
                          └─▸ post objects (split) ─▸ diff ─▸ check against the stock image
             ─▸ old code · new code ─▸ modules (core, old, new) ─▸ bundle, signed
"""

import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from ksplicd import __version__, bundle
from ksplicd.create.affected.to_compile import Reachable, find_changed, find_reachable
from ksplicd.create.build.compiler import Kbuild
from ksplicd.create.build.tree import BuildTree
from ksplicd.create.build.units import ANY_TARGET, TargetFilter, Unit
from ksplicd.create.diff.across_units import compare_across
from ksplicd.create.diff.difference import UnitChange
from ksplicd.create.diff.layout import check_layout, unseen_layouts
from ksplicd.create.diff.unit import diff
from ksplicd.create.modules.build import build_modules
from ksplicd.create.modules.signature import ModuleKey, sign_module
from ksplicd.create.modules.whole import build_whole_modules, file_names
from ksplicd.create.new_code.model import NewCode
from ksplicd.create.new_code.tripwires import count_calls
from ksplicd.create.new_code.units import cut_new_code
from ksplicd.create.objects.separate import index_separated
from ksplicd.create.objects.special import EntrySizes
from ksplicd.create.old_code.tables import old_code_of
from ksplicd.create.patch.change import Before, Change, from_copies, from_git, from_patches
from ksplicd.create.patch.series import read_series
from ksplicd.create.patch.source_tree import PatchedFile, Progress, SourceTree
from ksplicd.create.patch.states import TreeStates, read_states
from ksplicd.create.prebuild import PrebuiltObjects, prebuild
from ksplicd.create.refusal import refusals_text
from ksplicd.create.stock.config_dir import read_config_dir
from ksplicd.create.stock.kernel import StockKernel
from ksplicd.elf import Object, read_object
from ksplicd.errors import UnsupportedChangeError
from ksplicd.model import VMLINUX, Manifest, Target, new_kid


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What ``ksplice create`` was asked to do: one of ``patches``, ``extension``, ``revision``."""

    source: Path
    config: Path
    cache: Path
    patches: tuple[Path, ...] = ()
    patch_options: tuple[str, ...] = ()
    extension: str | None = None
    """Of edited copies beside the originals."""
    revision: str | None = None
    """A commit, or a range, of the work tree that the source is."""
    series: tuple[Path, ...] = ()
    """Bundles of earlier updates that this one goes on top of."""
    targets: TargetFilter = ANY_TARGET
    whole_modules: bool = False
    """Whether the .ko of each module target, for the next boot, goes into the bundle."""
    module_key: ModuleKey | None = None
    """For the kernel's own signature on every module."""
    allowed_layouts: tuple[str, ...] = ()
    """Structures whose layout may change."""
    kid: str = field(default_factory=new_kid)
    description: str = ""
    cves: tuple[str, ...] = ()
    depends: tuple[str, ...] = ()
    """Updates that must be applied before, besides those of the series."""
    replaces: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    jobs: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """The update that came out."""

    manifest: Manifest
    data: bytes
    """The bundle file."""
    reasons: dict[str, str]
    """By replaced function, why it is in."""
    notes: tuple[str, ...] = ()
    """What is left out, because a running kernel does not need it."""
    files: dict[str, str] = field(default_factory=dict)
    """By file that the change touches or reaches, what happened to it."""


def create(request: Request, progress: Progress = lambda _: None) -> Created:
    """Make an update.  Raises ``CreateError`` and its leaves, ``ToolError``."""
    config = read_config_dir(request.config)
    config.stock_image()  # before anything is compiled in vain
    source = SourceTree(request.source)
    tree = BuildTree(source, config, request.cache, jobs=request.jobs, progress=progress)
    with source.lock(progress), tree.prepared():
        for path in source.revert():
            progress(f"gave {path} its original back, which an earlier run had left patched")
        series = read_series(source.root, request.series)
        series.check_kid(request.kid)
        kbuild = Kbuild(tree, series.kids[0] if series.kids else request.kid)
        change = read_change(request, Before(root=source.root, contents=series.contents))
        states = read_states(change, series.contents)
        reachable = find_reachable(tree, change, states)
        check_layouts(kbuild, states, reachable, request.allowed_layouts)
        to_compile = find_changed(kbuild, reachable, states, request.targets)
        with tempfile.TemporaryDirectory(prefix="ksplice-create-") as folder:
            plain, pre, post = compile_units(kbuild, states, to_compile.units, Path(folder))
        sizes = kbuild.entry_sizes(to_compile.units[0])
        progress("reading the stock kernel")
        kernel = StockKernel(config, sizes)
        progress("comparing")
        targets = {u: kbuild.recorded.module_of(u) or VMLINUX for u in to_compile.units}
        changes = compare(pre, post, sizes, request.allowed_layouts, targets, kernel.has_global)
        progress("checking against the stock kernel")
        series.check_kernel(kernel.identity)
        for unit in (Unit(c.unit) for c in changes):
            kernel.add_unit(unit.source, plain[unit], kbuild.recorded.module_of(unit))
        new_code = cut_new_code(request.kid, changes, kbuild, kernel, sizes)
        whole = dict[str, bytes]()
        if request.whole_modules:
            progress("building the changed modules whole")
            contents = dict(series.contents) | {f.path: f.after for f in change.files}
            after = [PatchedFile(path, text) for path, text in contents.items()]
            modules_only = [t for t in dict.fromkeys(c.target for c in new_code) if t != VMLINUX]
            whole = build_whole_modules(kbuild, after, modules_only)
    progress("building the update's modules")
    modules = build_modules(
        request.kid, config, old_code_of(kernel.units.values(), sizes), new_code
    )
    whole_files = file_names(whole, config)
    files = dict(modules.files) | {whole_files[target]: ko for target, ko in whole.items()}
    if request.module_key is not None:
        files = {name: sign_module(ko, request.module_key, config) for name, ko in files.items()}
    progress("packing")
    manifest = Manifest(
        kid=request.kid,
        kernel=kernel.identity,
        core_file=modules.core,
        targets=tuple(
            Target(
                name=target,
                new_file=modules.new,
                old_file=old_file,
                functions=tuple(
                    f for unit in new_code if unit.target == target for f in unit.functions
                ),
                pointers=tuple(
                    p for unit in new_code if unit.target == target for p in unit.pointers
                ),
                module_file=whole_files.get(target, ""),
                late=target != VMLINUX,
            )
            for target, old_file in modules.old.items()
        ),
        description=request.description,
        cves=request.cves,
        depends=tuple(dict.fromkeys((*series.kids, *request.depends))),
        built_on=series.built_on,
        replaces=request.replaces,
        excludes=request.excludes,
        tool=f"ksplice {__version__}",
        compiler=config.compiler_text,
    )
    files_of_bundle = {
        **files,
        "patch": change.patch,
        "timestamp": f"{change.timestamp}\n".encode(),
    }
    return Created(
        manifest=manifest,
        data=bundle.pack(manifest, files_of_bundle),
        reasons={name: why for unit in new_code for name, why in unit.reasons.items()},
        notes=tuple(notes_of(changes) + [note for unit in new_code for note in unit.notes]),
        files=to_compile.notes | outcomes(to_compile.units, new_code),
    )


def make_prebuilt(request: Request, progress: Progress = lambda _: None) -> PrebuiltObjects:
    """Make the objects before any change, of all units of ``request.targets``, in the cache."""
    config = read_config_dir(request.config)
    source = SourceTree(request.source)
    tree = BuildTree(source, config, request.cache, jobs=request.jobs, progress=progress)
    with source.lock(progress), tree.prepared():
        source.revert()
        return prebuild(Kbuild(tree), request.targets)


def read_change(request: Request, before: Before) -> Change:
    """Return what is to change.  Raises ``PatchError``, ``NoChangesError``."""
    if request.extension is not None:
        return from_copies(before, request.extension)
    if request.revision is not None:
        return from_git(before, request.revision)
    return from_patches(before, request.patches, request.patch_options)


def notes_of(changes: Sequence[UnitChange]) -> list[str]:
    """Return what the user should know of the units that differ."""
    unseen = [c.unit for c in changes if c.has_unseen_layouts]
    notes = [note for c in changes for note in c.difference.notes]
    return [*([unseen_layouts(unseen)] if unseen else []), *notes]


def outcomes(units: Sequence[Unit], new_code: Sequence[NewCode]) -> dict[str, str]:
    """Return what happened to each unit that was compiled."""
    done = {}
    for c in new_code:
        functions = ", ".join(f.name for f in c.functions)
        calls = ", ".join(dict.fromkeys(h.kind for h in c.hooks))
        tripwires = count_calls(c.obj)
        words = (
            f"replaces {functions}" if functions else "",
            f"adds {', '.join(c.shared)} for others" if c.shared else "",
            f"hooks: {calls}" if calls else "",
            f"tripwires: {tripwires}" if tripwires else "",
        )
        done[c.unit] = "; ".join(w for w in words if w)
    return {u.source: done.get(u.source, "its code is the same") for u in units}


def compile_units(
    kbuild: Kbuild, states: TreeStates, units: Sequence[Unit], folder: Path
) -> tuple[dict[Unit, Object], dict[Unit, Object], dict[Unit, Object]]:
    """Return the plain pre, the split pre and the split post objects.

    Plain objects are those of the tree as it is.
    """
    plain = kbuild.compile_plain(units)
    if states.before:
        with kbuild.tree.source.patched(states.before):
            pre = kbuild.compile_split(units, folder / "before")
    else:
        pre = kbuild.compile_split_cached(units)
    kbuild.tree.progress("compiling with the patch")
    with kbuild.tree.source.patched(states.after):
        post = kbuild.compile_split(units, folder)

    def read(paths: dict[Unit, Path]) -> dict[Unit, Object]:
        return {u: read_object(path.read_bytes(), u.object) for u, path in paths.items()}

    return read(plain), read(pre), read(post)


def check_layouts(
    kbuild: Kbuild, states: TreeStates, reachable: Reachable, allowed_layouts: Collection[str]
) -> None:
    """Refuse a change of a structure layout by the few units of very many that are tried first.

    All would be compiled in vain, for an hour at ``struct sock``.  Raises
    ``UnsupportedChangeError``.
    """
    few = reachable.by_headers.few
    if not few:
        return
    kbuild.tree.progress(f"{reachable.by_headers.names}: trying {len(few)} units first")
    sizes = kbuild.entry_sizes(few[0])
    with tempfile.TemporaryDirectory(prefix="ksplice-create-") as folder:
        _, pre, post = compile_units(kbuild, states, few, Path(folder))
    for unit in few:
        difference = diff(index_separated(pre[unit], sizes), index_separated(post[unit], sizes))
        refusals = check_layout(difference, allowed_layouts).refusals
        if refusals:
            raise UnsupportedChangeError(refusals_text(unit.source, refusals), refusals)


def compare(
    pre: dict[Unit, Object],
    post: dict[Unit, Object],
    sizes: EntrySizes,
    allowed_layouts: Collection[str] = (),
    targets: Mapping[Unit, str] = MappingProxyType({}),
    has_global: Callable[[str, str], bool] = lambda _target, _name: False,
) -> list[UnitChange]:
    """Return what changes in the units that differ.

    ``allowed_layouts``: structures that may change; ``targets``: what the units are part of, where
    that is not vmlinux; ``has_global``: tells whether the kernel's target has a global of a name.

    Raises ``NoChangesError``, and ``UnsupportedChangeError`` when only boot code differs.
    """
    changes = []
    for unit in pre:
        difference = diff(index_separated(pre[unit], sizes), index_separated(post[unit], sizes))
        changes.append(UnitChange.of(unit.source, difference, targets.get(unit, VMLINUX)))
    return compare_across(changes, has_global, allowed_layouts)
