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

from ksplicd.create.affected.to_compile import (
    check_any,
    find_changed,
    find_half,
    find_reachable,
)
from ksplicd.create.build.compiler import Kbuild
from ksplicd.create.build.pre_state import PreState
from ksplicd.create.build.tree import BuildTree
from ksplicd.create.bundle_parts import Made, pack, whole_modules_of
from ksplicd.create.ledger.patch_evidence import Accounts
from ksplicd.create.modules.build import build_modules
from ksplicd.create.modules.whole import build_whole_modules
from ksplicd.create.new_code.listed import refuse_too_many
from ksplicd.create.new_code.units import cut_new_code
from ksplicd.create.old_code.tables import old_code_of
from ksplicd.create.patch.source_tree import Progress, SourceTree
from ksplicd.create.prebuild import PrebuiltObjects, prebuild
from ksplicd.create.referee.judge import judge
from ksplicd.create.request import Created, Request, read_changed_tree
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


def create(request: Request, progress: Progress = lambda _: None) -> Created:
    """Make an update.  Raises ``CreateError`` and its leaves, ``ToolError``."""
    with work_folder(request.keep) as work:
        return create_in(work, request, progress)


def create_in(work: WorkFolder, request: Request, progress: Progress) -> Created:
    """Make an update, and all that it is made from in a folder."""
    config = read_config_dir(request.config, request.toolchain)
    config.stock_image()  # raises before an hour is spent on compiling
    with opened(request, config, progress) as tree:
        changed = read_changed_tree(request, tree.source, progress)
        kbuild = Kbuild(tree, changed.first_kid(request))
        reachable = find_reachable(tree, changed.change, changed.states, *request.accepted_files)
        states = reachable.states
        pre_state = PreState(
            kbuild=kbuild, before=states.before, folder=work.root / "pre", series=changed.series
        )
        half = find_half(kbuild, reachable)
        try_few(work, pre_state, states.after, reachable.by_headers, request.allowed_layouts)
        compiled = find_changed(kbuild, reachable, request.targets, half)
        accounts = Accounts.of(
            kbuild, changed.before, changed.change, reachable, compiled, request.accepted
        )
        with accounts.of_nothing():
            check_any(reachable.files, compiled)
        objects = compile_units(work, pre_state, states.after, compiled.units, request.targets)
        progress("reading the stock kernel")
        kernel = StockKernel(config)
        changed.series.check_kernel(kernel.identity)
        progress("comparing")
        with accounts.of_nothing(objects):
            changes = compare_units(objects, kernel.has_global, request.allowed_layouts)
        progress("checking against the stock kernel")
        with tree.naming_compiler():
            match_units(kernel, objects, changes)
        new_code = cut_new_code(request.kid, changes, pre_state, kernel)
        refuse_too_many(new_code, request.max_functions)
        write_new_code(work, pre_state, new_code)
        entries = accounts.take(objects, changes, new_code)
        plain = plain_units(pre_state, kernel, objects)
        targets = whole_modules_of(request, new_code)
        whole = build_whole_modules(work.root / "whole", kbuild, changed.files_after, targets)
    progress("building the update's modules")
    old_code = old_code_of(kernel.units.values())
    modules = build_modules(work.folder("modules"), request.kid, config, old_code, new_code)
    judge(plain, modules.files[modules.new])
    progress("packing")
    made = Made(changed=changed, compiled=compiled, changes=changes, new_code=new_code,
                entries=entries, modules=modules, whole=whole)  # fmt: skip
    created = pack(request, config, kernel.identity, made)
    return replace(created, notes=(*tree.notes, *created.notes))


def make_prebuilt(request: Request, progress: Progress = lambda _: None) -> PrebuiltObjects:
    """Make the objects before any change, of all units of ``request.targets``, in the cache."""
    config = read_config_dir(request.config, request.toolchain)
    with opened(request, config, progress) as tree:
        tree.source.revert()
        return prebuild(Kbuild(tree), request.targets)


@contextmanager
def opened(request: Request, config: ConfigDir, progress: Progress) -> Iterator[BuildTree]:
    """Have the source tree and a prepared output tree to ourselves while the context lasts."""
    source = SourceTree(request.source)
    tree = BuildTree(source, config, request.cache, jobs=request.jobs, progress=progress)
    with source.lock(progress), tree.prepared():
        yield tree
