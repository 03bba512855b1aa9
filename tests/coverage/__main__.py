# SPDX-License-Identifier: GPL-2.0-only
"""Try every change between two source packages; print the table, write ``coverage.json``.

python -m tests.coverage OLD NEW [--flavour cloud] [--sample N] [--guest N] [--hunks] [--no-modules]
"""

import argparse
import contextlib
import gc
import multiprocessing
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Final, NoReturn

from ksplicd.cache import Cache, digest_of_tree, to_stderr
from ksplicd.create.build.tree import BuildTree
from ksplicd.create.build.units import Unit
from ksplicd.create.stock.config_dir import ConfigDir, read_config_dir
from ksplicd.create.stock.kernel import StockKernel
from ksplicd.distro.packages import KernelPackages
from ksplicd.distro.source import KernelSource, series, stock_kernels
from ksplicd.errors import BuildError, KspliceError, LabError
from ksplicd.run import run
from tests.coverage import table
from tests.coverage.attempt import Workshop, included_sources
from tests.coverage.changes import changed_files, diff_file
from tests.coverage.guest import Trial, choose, modules_of
from tests.coverage.objects import RememberingKbuild, SharedTree
from tests.coverage.outcome import Book, FileResults, Outcome, Result
from tests.support.kernels.slice import config_folder

_CHUNK: Final = 40
"""Files whose unpatched objects one make compiles together."""
_SEED: Final = 6
_SAY_EVERY: Final = 10.0
"""Seconds between two lines of progress."""

_workshop: Workshop
"""In a worker: what all attempts share, inherited from the parent."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(prog="make coverage", description=__doc__)
    parser.add_argument("old", metavar="OLD", help="the stock kernel's version, such as 6.1.176-1")
    parser.add_argument("new", metavar="NEW", help="the version whose changes are tried")
    parser.add_argument("--flavour", default="cloud", help="cloud (default), generic or rt")
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="try N files only")
    parser.add_argument("--guest", type=int, default=0, metavar="N", help="apply N of the built")
    parser.add_argument("--hunks", action="store_true", help="also try independent changes alone")
    parser.add_argument(
        "--no-modules", action="store_true", help="build only the new code, for the referee"
    )
    parser.add_argument(
        "--only", default="", metavar="TEXTS", help="only paths that have one of TEXTS"
    )
    parser.add_argument(
        "--again", default="", metavar="OUTCOMES",
        help="try again what ended so before: refused,failed,… or all",
    )  # fmt: skip
    parser.add_argument("-j", "--jobs", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, default=Path("coverage.json"))
    return parser.parse_args(argv)


def find_kernel(cache: Cache, version: str, flavour: str) -> KernelPackages:
    """Return the stock kernel of a version.  Raises ``LabError``."""
    suffix = "amd64" if flavour == "generic" else f"{flavour}-amd64"
    kernels = stock_kernels(cache, series(version), suffix)
    for kernel in kernels:
        if kernel.version == version:
            return kernel
    there = ", ".join(k.version for k in kernels) or "none"
    raise LabError(f"no image, headers and source of {version} for {suffix}; there are: {there}")


def copy_of_tree(cache: Cache, version: str) -> Path:
    """Return a source tree of our own: others may use theirs while we work for hours."""
    tree = KernelSource(cache=cache, version=version).tree()

    def make(folder: Path) -> None:
        cache.progress(f"copying the kernel source {version} (half a minute)")
        run(["cp", "-a", "--reflink=auto", f"{tree}/.", folder])

    return cache.entry("coverage-source", version, make)


def tool_digest() -> str:
    """Return what names the code that is tried."""
    root = Path(__file__).parents[2]
    return ".".join(digest_of_tree(root / p)[:6] for p in ("ksplicd/create", "ksplicd/elf"))


class Progress:
    """A line now and then: how far, how fast, how long still."""

    def __init__(self, total: int) -> None:
        self._total, self._done = total, 0
        self._begin = self._said = time.monotonic()
        self._outcomes: dict[str, int] = {}

    def add(self, result: Result) -> None:
        """Count a finished file."""
        self._done += 1
        self._outcomes[result.outcome] = self._outcomes.get(result.outcome, 0) + 1
        now = time.monotonic()
        if now - self._said >= _SAY_EVERY or self._done == self._total:
            self._said = now
            rate = self._done / (now - self._begin)
            left = (self._total - self._done) / rate / 60
            said = ", ".join(f"{n} {outcome}" for outcome, n in self._outcomes.items())
            to_stderr(
                f"{self._done}/{self._total}, {60 * rate:.0f} a minute, {left:.0f} min left: {said}"
            )


def attempt_all(
    workshop: Workshop, paths: Sequence[str], jobs: int, done: Callable[[str, FileResults], None]
) -> None:
    """Try all files, ``jobs`` at a time, and report each to ``done``."""
    global _workshop
    _workshop = workshop
    gc.freeze()  # the workers share what is read already
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker) as pool:
        for at in range(0, len(paths), _CHUNK):
            tried = paths[at : at + _CHUNK]
            chunk = list(tried)
            for path, fault in zip(tried, pool.map(find_fault, tried), strict=True):
                # once more with no other file patched, which it may include
                if fault and (jobs == 1 or pool.submit(find_fault, path).result()):
                    whole = Result(outcome=Outcome.NOT_ALONE, message=fault)
                    done(path, FileResults(whole=whole, tool=workshop.tool))
                    chunk.remove(path)
            chunk = list(compile_chunk(workshop, chunk, done))
            # Nobody may compile a file while a file that it includes is patched.
            alone = included_sources(workshop.kbuild, chunk)
            futures = {pool.submit(try_file, p): p for p in chunk if p not in alone}
            try:
                for future in as_completed(futures):
                    done(futures[future], future.result())
                for path in sorted(alone):
                    done(path, pool.submit(try_file, path).result())
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def find_fault(path: str) -> str:
    """Say why a file does not compile alone, in a worker."""
    return _workshop.find_fault(path)


def try_file(path: str) -> FileResults:
    """Try a file, in a worker."""
    return _workshop.try_file(path)


def compile_chunk(
    workshop: Workshop, paths: Sequence[str], done: Callable[[str, FileResults], None]
) -> Iterator[str]:
    """Compile the files as they are, and yield those that did."""
    kbuild = workshop.kbuild
    try:
        kbuild.compile_plain([Unit(p) for p in paths])
    except BuildError:
        for path in paths:
            try:
                kbuild.compile_plain([Unit(path)])
            except BuildError as e:
                reason = "the unpatched file does not compile"
                whole = Result(outcome=Outcome.FAILED, reason=reason, message=str(e))
                done(path, FileResults(whole=whole, tool=workshop.tool))
            else:
                yield path
    else:
        yield from paths


def make_bundle(path: str) -> bytes:
    """Make the update for a file, in a worker."""
    patch = diff_file(_workshop.source.root, _workshop.newer, path)
    return _workshop.make(path, patch, with_modules=True)[1]


def try_in_guest(
    cache: Cache, kernel: KernelPackages, workshop: Workshop, book: Book, wanted: int
) -> None:
    """Apply and undo built updates until ``wanted`` were tried, those of earlier runs included."""
    targets = {
        name: f.whole.target for name, f in book.files.items() if f.whole.outcome == Outcome.BUILT
    }
    tried = 0
    context = multiprocessing.get_context("fork")
    with (
        tempfile.TemporaryDirectory(prefix="ksplice-coverage-") as folder,
        ProcessPoolExecutor(1, mp_context=context, initializer=_start_worker) as pool,
        Trial(cache, kernel, Path(folder)) as trial,
    ):
        order = list(choose(targets, _SEED))
        ahead = {p: pool.submit(make_bundle, p) for p in order[:2] if not book.files[p].guest}
        for i, path in enumerate(order):
            if tried >= wanted:
                break
            results = book.files[path]
            following = order[i + 2 : i + 3]
            ahead.update({p: pool.submit(make_bundle, p) for p in following
                          if not book.files[p].guest})  # fmt: skip
            if path in ahead:
                data = ahead.pop(path).result()
                results.guest = trial.load(modules_of(data)) or trial.run(data)
                to_stderr(f"guest: {path} ({results.whole.target}): {results.guest}")
            tried += not results.guest.startswith("skipped")
        for future in ahead.values():
            future.cancel()


def main() -> int:
    """Run the trial; return the exit status."""
    args = parse(sys.argv[1:])
    for number in (signal.SIGTERM, signal.SIGINT):  # also when started with SIGINT ignored
        signal.signal(number, _stop)
    begin = time.monotonic()
    try:
        cover(args)
    except KspliceError as e:
        to_stderr(f"coverage: {e}")
        return 1
    finally:
        to_stderr(f"after {(time.monotonic() - begin) / 60:.1f} min")
    return 0


def _stop(number: int, _frame: object) -> NoReturn:
    """Leave by an exception, so that the workers end and the source tree is given back."""
    raise SystemExit(128 + number)


def _start_worker() -> None:
    """Let a worker die by SIGTERM; what it leaves patched, the next run gives back."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def cover(args: argparse.Namespace) -> None:
    """Do it all.  Raises ``KspliceError``."""
    cache = Cache(progress=to_stderr)
    kernel = find_kernel(cache, args.old, args.flavour)
    book = Book.read(
        args.output, old=args.old, new=args.new, flavour=args.flavour, release=kernel.release
    )
    config = read_config_dir(config_folder(cache, kernel))
    source = SharedTree(copy_of_tree(cache, args.old))
    newer = KernelSource(cache=cache, version=args.new).tree()
    with source.lock(), opened(cache, config, source, newer, args) as workshop:
        paths = changed_files(source.root, newer, workshop.kbuild.tree.listing)
        paths = [
            p for p in paths
            if p.endswith(".c") and any(text in p for text in args.only.split(","))
        ]  # fmt: skip
        random.Random(_SEED).shuffle(paths)
        paths = paths[: args.sample or None]
        forget(book, args.again, paths)
        known = [p for p in paths if p in book.files]
        stale = sum(book.files[p].tool != workshop.tool for p in known)
        if stale:
            to_stderr(
                f"{stale} of {len(known)} results in {args.output} are of other code;"
                " --again all tries them again"
            )
        todo = [p for p in paths if p not in book.files or needs_changes(book.files[p], args)]
        progress = Progress(len(todo))

        def done(path: str, results: FileResults) -> None:
            book.files[path] = results
            book.write(args.output)
            progress.add(results.whole)

        attempt_all(workshop, todo, args.jobs, done)
        if args.guest:
            try:
                try_in_guest(cache, kernel, workshop, book, args.guest)
            finally:
                book.write(args.output)
    sys.stdout.write("\n".join(table.lines({p: book.files[p] for p in paths})) + "\n")


def needs_changes(results: FileResults, args: argparse.Namespace) -> bool:
    """Tell whether a file's changes are still to be tried one by one."""
    return args.hunks and not results.changes


def forget(book: Book, outcomes: str, paths: Sequence[str]) -> None:
    """Take those results out of the book that are to be tried again."""
    words = outcomes.split(",") if outcomes else []
    for path in paths:
        results = book.files.get(path)
        if results and ("all" in words or results.whole.outcome.name.lower() in words):
            del book.files[path]


@contextlib.contextmanager
def opened(
    cache: Cache, config: ConfigDir, source: SharedTree, newer: Path, args: argparse.Namespace
) -> Iterator[Workshop]:
    """Have everything that attempts need, and the build tree to ourselves."""
    tree = BuildTree(source, config, cache.root, jobs=args.jobs, progress=cache.progress)
    kbuild = RememberingKbuild(tree)
    source.locks = kbuild.locks
    with tree.prepared():
        source.revert()
        first = next(u.unit for u in tree.listing.values() if u.source.endswith(".c"))
        kbuild.entry_sizes(first)  # the probe is compiled before there are workers
        cache.progress("reading the stock kernel")
        yield Workshop(
            source=source,
            newer=newer,
            config=config,
            kbuild=kbuild,
            kernel=StockKernel(config),
            with_modules=not args.no_modules,
            with_changes=args.hunks,
            tool=tool_digest(),
        )


if __name__ == "__main__":
    sys.exit(main())
