# SPDX-License-Identifier: GPL-2.0-only
"""Measure everything, print the table, write ``bench.json`` into the current folder.

python -m tests.bench [--against REVISION [--rounds N]] [PART]…
"""

import argparse
import sys
import time
from pathlib import Path

from ksplicd.cache import Cache, to_stderr
from ksplicd.errors import KspliceError
from tests.bench import against, create, daemon, host, load, many, match, plain, reach
from tests.bench.figures import write_json, write_table
from tests.support.kernels.stock import stock_kernel

_PARTS = {
    "create": create.measure,
    "reach": reach.measure,
    "daemon": daemon.measure,
    "host": host.measure,
    "many": many.measure,
    "match": match.measure,
    "load": load.measure,
    "plain": plain.measure,
}

_LONG = ("many",)
"""Measured when it is asked for."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(_PARTS)}")
    parser.add_argument("--against", metavar="REVISION", help="measure that revision too, in turn")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="of each state")
    args = parser.parse_args()
    args.parts = args.parts or [part for part in _PARTS if part not in _LONG]
    unknown = [part for part in args.parts if part not in _PARTS]
    if unknown:
        parser.error(f"{unknown[0]}: no such part; there are {', '.join(_PARTS)}")
    return args


def main() -> int:
    args = parse()
    begin = time.monotonic()
    cache = Cache(progress=to_stderr)
    kernel = stock_kernel(cache)
    try:
        if args.against:
            return against.compare(args.against, args.parts, args.rounds)
        figures = [figure for name in args.parts for figure in _PARTS[name](cache, kernel)]
    except KspliceError as e:
        to_stderr(f"bench: {e}")
        return 1
    write_table(figures)
    write_json(Path("bench.json"), figures)
    to_stderr(f"bench.json written, after {time.monotonic() - begin:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
