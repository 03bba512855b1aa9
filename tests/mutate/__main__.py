# SPDX-License-Identifier: GPL-2.0-only
"""Mutate a kernel's sources: ``python -m tests.mutate [--sources N] [--headers N] [--seed N]``.

What was tried stays in the cache, so a run goes on where another one ended.
"""

import argparse
import sys

from ksplicd.cache import Cache, to_stderr
from ksplicd.create.build.compiler import Kbuild
from ksplicd.create.build.tree import BuildTree
from ksplicd.create.patch.source_tree import SourceTree
from ksplicd.create.stock.config_dir import read_config_dir
from tests.mutate.run import Book, run_headers, run_sources, summary
from tests.mutate.source import MOST_USERS, Mutator, Outcome
from tests.support.kernels.slice import config_folder, source_tree
from tests.support.kernels.stock import stock_kernel


def main() -> int:
    parser = argparse.ArgumentParser(prog="mutate", description=__doc__)
    parser.add_argument("--sources", type=int, default=9700, help="mutations of .c files")
    parser.add_argument("--headers", type=int, default=300, help="mutations of headers")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--users", type=int, default=MOST_USERS, help="units that include a header, at most"
    )
    parser.add_argument("-j", "--jobs", type=int, default=2)
    args = parser.parse_args()
    cache = Cache(progress=to_stderr)
    kernel = stock_kernel(cache)
    source = SourceTree(source_tree(cache, kernel))
    config = read_config_dir(config_folder(cache, kernel))
    tree = BuildTree(source, config, cache.root, jobs=args.jobs, progress=to_stderr)
    folder = cache.root / "mutate"
    folder.mkdir(exist_ok=True)
    name = f"{kernel.version}-{args.seed}"
    sources = Book(folder / f"{name}-sources.jsonl")
    headers = Book(folder / f"{name}-headers-{args.users}.jsonl")
    with source.lock(to_stderr), tree.prepared():
        source.revert()
        mutator = Mutator(Kbuild(tree), args.seed, args.users)
        run_sources(mutator, sources, args.sources, args.jobs)
        run_headers(mutator, headers, args.headers)
    missed = []
    for what, book in ("sources", sources), ("headers", headers):
        results = book.results.values()
        sys.stdout.write(f"{len(results)} mutations of {what}: {summary(results)}\n")
        missed += [result for result in results if result.outcome is Outcome.MISSED]
    for result in missed:
        sys.stdout.write(f"missed: {result}\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
