# SPDX-License-Identifier: GPL-2.0-only
"""Measure everything, print the table, write ``bench.json`` into the current folder.

python -m tests.bench [create] [reach] [daemon] [host] [match] [plain]
"""

import sys
import time
from pathlib import Path

from ksplicd.errors import KspliceError
from ksplicd.lab.cache import Cache, to_stderr
from tests.bench import create, daemon, host, match, plain, reach
from tests.bench.figures import write_json, write_table
from tests.stock import stock_kernel

_PARTS = {
    "create": create.measure,
    "reach": reach.measure,
    "daemon": daemon.measure,
    "host": host.measure,
    "match": match.measure,
    "plain": plain.measure,
}


def main() -> int:
    begin = time.monotonic()
    cache = Cache(progress=to_stderr)
    kernel = stock_kernel(cache)
    try:
        figures = [
            figure for name in sys.argv[1:] or _PARTS for figure in _PARTS[name](cache, kernel)
        ]
    except KspliceError as e:
        to_stderr(f"bench: {e}")
        return 1
    write_table(figures)
    write_json(Path("bench.json"), figures)
    to_stderr(f"bench.json written, after {time.monotonic() - begin:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
