# SPDX-License-Identifier: GPL-2.0-only
"""From a change to a bundle: one call per arrow, and nothing else.

::

    change ─▸ touched units, dependants of headers ─▸ pre objects (plain and split)
             ─▸ post objects (plain and split) ─▸ diff ─▸ check against the stock image
             ─▸ old code · new code ─▸ ledger: every hunk has its account
             ─▸ modules (core, old, new) ─▸ referee ─▸ bundle, signed
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from ksplicd import bundle
from ksplicd.create import bundle_parts
from ksplicd.create.affected.to_compile import check_any, find_changed, find_reachable
from ksplicd.create.build.compiler import Kbuild
from ksplicd.create.build.pre_state import PreState
from ksplicd.create.build.tree import BuildTree
from ksplicd.create.ledger.patch_evidence import Accounts, gather
from ksplicd.create.ledger.patch_ledger import ledger_of
from ksplicd.create.modules.build import build_modules
from ksplicd.create.modules.signature import sign_modules
from ksplicd.create.modules.whole import build_whole_modules, file_names
from ksplicd.create.new_code.units import cut_new_code
from ksplicd.create.old_code.tables import old_code_of
from ksplicd.create.patch.change import Before
from ksplicd.create.patch.series import read_series
from ksplicd.create.patch.source_tree import Progress, SourceTree
from ksplicd.create.patch.states import read_states
from ksplicd.create.prebuild import PrebuiltObjects, prebuild
from ksplicd.create.referee.judge import judge
from ksplicd.create.request import Created, Request, read_change
from ksplicd.create.stock.config_dir import ConfigDir, read_config_dir
from ksplicd.create.stock.kernel import StockKernel
from ksplicd.create.unit_objects import (
    compare_units,
    compile_units,
    match_units,
    plain_units,
    try_few,
    write_new_code,
)
from ksplicd.create.work_folder import WorkFolder, work_folder
from ksplicd.ledger import bounded


def create(request: Request, progress: Progress = lambda _: None) -> Created:
    """Make an update.  Raises ``CreateError`` and its leaves, ``ToolError``."""
    with work_folder(request.keep) as work:
        return create_in(work, request, progress)


def create_in(work: WorkFolder, request: Request, progress: Progress) -> Created:
    """Make an update, and all that it is made from in a folder."""
    config = read_config_dir(request.config)
    config.stock_image()  # raises before an hour is spent on compiling
    with opened(request, config, progress) as tree:
        for path in tree.source.revert():
            progress(f"gave {path} its original back, which an earlier run had left patched")
        series = read_series(tree.source.root, request.series)
        series.check_kid(request.kid)
        kbuild = Kbuild(tree, series.kids[0] if series.kids else request.kid)
        before = Before(root=tree.source.root, contents=series.contents)
        change = read_change(request, before)
        states = read_states(change, series.contents)
        reachable = find_reachable(tree, change, states, *request.accepted_files)
        states = states.without(reachable.files.left_out)
        pre_state = PreState(kbuild=kbuild, before=states.before, folder=work.root / "pre")
        try_few(work, pre_state, states.after, reachable.by_headers, request.allowed_layouts)
        to_compile = find_changed(kbuild, reachable, states, request.targets)
        known = gather(before, change, states, to_compile, reachable.by_headers.dependants)
        accounts = Accounts(kbuild, known, request.accepted, states, reachable)
        with accounts.of_nothing():
            check_any(reachable.files, to_compile)
        objects = compile_units(work, pre_state, states.after, to_compile.units)
        progress("reading the stock kernel")
        kernel = StockKernel(config)
        progress("comparing")
        with accounts.of_nothing(objects):
            changes = compare_units(objects, kernel.has_global, request.allowed_layouts)
        progress("checking against the stock kernel")
        series.check_kernel(kernel.identity)
        match_units(kernel, objects, changes)
        new_code = cut_new_code(request.kid, changes, pre_state, kernel)
        write_new_code(work, pre_state, new_code)
        plain = plain_units(pre_state, kernel, objects)
        entries = accounts.take(objects, changes, new_code)
        files_after = bundle_parts.files_after(series, change)
        targets = bundle_parts.whole_modules_of(request, new_code)
        whole = build_whole_modules(work.root / "whole", kbuild, files_after, targets)
    progress("building the update's modules")
    old_code = old_code_of(kernel.units.values())
    modules = build_modules(work.folder("modules"), request.kid, config, old_code, new_code)
    judge(plain, modules.files[modules.new])
    names = file_names(whole, config)
    files = {**modules.files, **{names[target]: ko for target, ko in whole.items()}}
    files = sign_modules(files, request.module_key, config)
    progress("packing")
    changed = bundle_parts.targets_of(modules, new_code, names)
    manifest = bundle_parts.manifest_of(
        request, series, kernel.identity, config.compiler_text, modules, changed
    )
    ledger = ledger_of(entries, manifest.redirects)
    manifest = replace(manifest, ledger=bounded(ledger))
    return Created(
        manifest=manifest,
        data=bundle.pack(manifest, {**files, **bundle_parts.source_files(change)}),
        reasons={name: why for code in new_code for name, why in code.reasons.items()},
        notes=(*change.notes, *bundle_parts.notes_of(changes, new_code)),
        files=to_compile.notes | bundle_parts.outcomes(to_compile.units, new_code),
        ledger=ledger,
    )


def make_prebuilt(request: Request, progress: Progress = lambda _: None) -> PrebuiltObjects:
    """Make the objects before any change, of all units of ``request.targets``, in the cache."""
    with opened(request, read_config_dir(request.config), progress) as tree:
        tree.source.revert()
        return prebuild(Kbuild(tree), request.targets)


@contextmanager
def opened(request: Request, config: ConfigDir, progress: Progress) -> Iterator[BuildTree]:
    """Have the source tree and a prepared output tree to ourselves while the context lasts."""
    source = SourceTree(request.source)
    tree = BuildTree(source, config, request.cache, jobs=request.jobs, progress=progress)
    with source.lock(progress), tree.prepared():
        yield tree
