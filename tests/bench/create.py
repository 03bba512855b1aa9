# SPDX-License-Identifier: GPL-2.0-only
"""Time of ``ksplice-create``, against make alone.

The floor is the work that cannot be left out: the kernel's own make compiles the unit without and
with the patch, in a prepared tree, and builds the three modules from sources that lie there.
"""

import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from ksplicd import errors
from ksplicd.cache import Cache, to_stderr
from ksplicd.create.affected.to_compile import find_changed, find_half, find_reachable
from ksplicd.create.build.compiler import Kbuild
from ksplicd.create.build.pre_state import PreState
from ksplicd.create.build.tree import BuildTree
from ksplicd.create.build.units import Unit
from ksplicd.create.ledger.patch_evidence import Accounts
from ksplicd.create.modules.build import build_modules, make_command, write_sources
from ksplicd.create.new_code.model import NewCode
from ksplicd.create.new_code.units import cut_new_code
from ksplicd.create.objects.index import ObjectIndex
from ksplicd.create.old_code.tables import old_code_of
from ksplicd.create.patch.change import Before, from_patches
from ksplicd.create.patch.source_tree import SourceTree
from ksplicd.create.patch.states import TreeStates, read_states
from ksplicd.create.referee.judge import judge
from ksplicd.create.request import Request
from ksplicd.create.stock.config_dir import ConfigDir, read_config_dir
from ksplicd.create.stock.kernel import StockKernel
from ksplicd.create.unit_objects import (
    compare_units,
    compile_units,
    match_units,
    plain_units,
)
from ksplicd.create.work_folder import work_folder
from ksplicd.distro.packages import KernelPackages
from ksplicd.elf.read import read_object
from ksplicd.model import new_kid
from ksplicd.run import run
from tests.bench.figures import Cost, Figure, cost, median
from tests.support.kernels.slice import FCNTL, cut_patch, request_for

_ROUNDS: Final = 5
_COMMAND: Final = "import sys; from ksplicd.cli.main import main_create; sys.exit(main_create())"


class Floor:
    """The same update by make alone."""

    def __init__(self, request: Request, cache: Cache) -> None:
        self.source = SourceTree(request.source)
        self.config = read_config_dir(request.config)
        # a tree of its own: what is compiled here would pass for the other's pre objects
        self.tree = BuildTree(
            self.source, self.config, cache.root / "bench", jobs=2, progress=cache.progress
        )
        self.request, self.unit = request, Unit(FCNTL.file)
        with self.tree.prepared(), self.source.lock():
            self.make(self.unit)  # the first run in a fresh tree makes more than the unit

    def make(self, unit: Unit) -> None:
        """Compile a unit as `make X.o` does, from nothing."""
        (self.tree.output / unit.object).unlink(missing_ok=True)
        words = ("ARCH=x86", f"CC={self.config.compiler}", f"KERNELRELEASE={self.config.release}")
        output = f"O={self.tree.output}"
        run(["make", "-C", self.source.root, output, *words, "LOCALVERSION=", unit.object])

    def pre(self) -> Cost:
        """Return the cost of the unit as it is."""
        return cost(lambda: self.make(self.unit))

    def post(self) -> Cost:
        """Return the cost of the unit with the patch."""
        files = states_of(self.request, self.source).after
        with self.source.lock(), self.source.patched(files):
            return cost(lambda: self.make(self.unit))

    def modules(self, old_code: Mapping[str, bytes], new_code: list[NewCode]) -> Cost:
        """Return the cost of the modules' build."""
        with tempfile.TemporaryDirectory(prefix="ksplice-bench-") as folder:
            build = Path(folder)
            write_sources(build, old_code, new_code)
            kid = self.request.kid
            return cost(lambda: run(make_command(build, kid, self.config, old_code, new_code)))


def codes_of(
    request: Request, more: Sequence[str] = ()
) -> tuple[Mapping[str, bytes], list[NewCode]]:
    """Return old code and new code of an update, as the pipeline makes them.

    The old code also holds all functions of the source files ``more``.
    """
    with opened(request) as (config, source, kbuild):
        with work_folder() as work:
            states = states_of(request, source)
            pre_state = PreState(kbuild=kbuild, folder=work.root / "pre")
            objects = compile_units(work, pre_state, states.after, [Unit(FCNTL.file)])
        kernel = StockKernel(config)
        changes = compare_units(objects)
        match_units(kernel, objects, changes)
        for other, path in kbuild.compile_plain([Unit(source) for source in more]).items():
            obj = read_object(path.read_bytes(), other.object)
            kernel.add_unit(other.source, ObjectIndex(obj, objects[0].plain.sizes), None)
        new_code = cut_new_code(request.kid, changes, pre_state, kernel)
    return old_code_of(kernel.units.values()), new_code


def proofs_of(request: Request) -> tuple[float, float]:
    """Return the seconds that the ledger and the referee of an update take, without its modules."""
    with opened(request) as (config, source, kbuild), work_folder() as work:
        before = Before(root=source.root)
        change = from_patches(before, request.patches)
        reachable = find_reachable(kbuild.tree, change, read_states(change, {}))
        compiled = find_changed(kbuild, reachable, request.targets, find_half(kbuild, reachable))
        pre_state = PreState(kbuild=kbuild, folder=work.root / "pre")
        objects = compile_units(work, pre_state, reachable.states.after, compiled.units)
        kernel = StockKernel(config)
        changes = compare_units(objects, kernel.has_global)
        match_units(kernel, objects, changes)
        new_code = cut_new_code(request.kid, changes, pre_state, kernel)
        begin = time.monotonic()
        accounts = Accounts.of(kbuild, before, change, reachable, compiled)
        accounts.take(objects, changes, new_code)
        ledger = time.monotonic() - begin
        old_code = old_code_of(kernel.units.values())
        modules = build_modules(work.folder("modules"), request.kid, config, old_code, new_code)
        begin = time.monotonic()
        judge(plain_units(pre_state, kernel, objects), modules.files[modules.new])
        return ledger, time.monotonic() - begin


def states_of(request: Request, source: SourceTree) -> TreeStates:
    """Return the states of the tree before and after the patches of ``request``."""
    return read_states(from_patches(Before(root=source.root), request.patches), {})


@contextlib.contextmanager
def opened(request: Request) -> Iterator[tuple[ConfigDir, SourceTree, Kbuild]]:
    """Have the trees of ``request`` to ourselves."""
    config, source = read_config_dir(request.config), SourceTree(request.source)
    tree = BuildTree(source, config, request.cache, jobs=request.jobs)
    with source.lock(), tree.prepared():
        yield config, source, Kbuild(tree)


def forget_objects(request: Request) -> None:
    """Make the next run a cold one: the tree prepared, no object of the unit in it."""
    unit = Unit(FCNTL.file)
    with opened(request) as (_, _, kbuild):
        record = Path(unit.object).with_name(f".{Path(unit.object).name}.cmd")
        split = kbuild.split_folder / f"{unit.flat_name}.o"
        for path in (kbuild.tree.output / unit.object, kbuild.tree.output / record, split):
            path.unlink(missing_ok=True)


def run_command(request: Request) -> Cost:
    """Return the cost of one ``ksplice-create``, the start of Python included."""
    with tempfile.TemporaryDirectory(prefix="ksplice-bench-") as out:
        argv: list[str | Path] = [sys.executable, "-c", _COMMAND, "-q", "-o", out]
        argv += ["--patch", *request.patches, "--config", request.config, request.source]
        return cost(lambda: run(argv, env={"XDG_CACHE_HOME": str(request.cache.parent)}))


def measure(cache: Cache, kernel: KernelPackages) -> list[Figure]:
    """Return the figures about create."""
    if cache.root.name != "ksplice":
        raise errors.LabError(f"{cache.root}: the command's own cache is named ksplice")
    patch = cut_patch(cache, FCNTL.old, FCNTL.new, [FCNTL.file])
    request = request_for(cache, kernel, patch, kid=new_kid())
    codes = codes_of(request)
    floor = Floor(request, cache)
    to_stderr(f"create: {FCNTL.file}, {_ROUNDS} rounds of floor, cold, warm")
    pres, posts, modules, colds, warms = ([] for _ in range(5))
    for _ in range(_ROUNDS):
        pres.append(floor.pre())
        posts.append(floor.post())
        modules.append(floor.modules(*codes))
        forget_objects(request)
        colds.append(run_command(request))
        warms.append(run_command(request))
    floors = list(zip(pres, posts, modules, strict=True))
    parts = [f"{median([c.wall for c in part]):.2f}" for part in (pres, posts, modules)]
    wall = median([sum(c.wall for c in part) for part in floors])
    processor = median([sum(c.processor for c in part) for part in floors])
    about = f"make X.o pre {parts[0]}, post {parts[1]}, modules {parts[2]}"
    figures = []
    for name, costs in (("create, cold", colds), ("create, warm", warms)):
        value = median([c.wall for c in costs])
        used = median([c.processor for c in costs])
        figures += [
            Figure(name=name, value=value, unit="s", floor=wall, about=about),
            Figure(
                name=f"{name}, processor", value=used, unit="s", floor=processor, about="the same"
            ),
            Figure(
                name=f"{name}, over floor",
                value=round(value / wall, 2), unit="x", floor=1.5, about="goal",
            ),
        ]  # fmt: skip
    ledger, referee = zip(*(proofs_of(request) for _ in range(_ROUNDS)), strict=True)
    figures += [
        Figure(name="create, ledger", value=median(ledger), unit="s", about="of create, warm"),
        Figure(name="create, referee", value=median(referee), unit="s", about="of create, warm"),
    ]
    return figures
