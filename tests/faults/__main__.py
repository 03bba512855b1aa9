# SPDX-License-Identifier: GPL-2.0-only
"""Try faults: ``python -m tests.faults [--every N] [--offset K] [VERB...]``.

``--every N`` tries each N-th fault only, from the K-th on.
"""

import argparse
import logging
import os
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.campaign import BrokenRuleError, faults_of, prepare, try_fault
from tests.faults.story import VERBS

MEMORY = "/dev/shm"


def main() -> int:
    parser = argparse.ArgumentParser(prog="faults", description=__doc__)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--offset", type=int, default=0)
    parser.add_argument("--limit", type=int, default=20, help="broken rules to show")
    parser.add_argument("verbs", nargs="*", metavar="VERB", default=list(VERBS))
    args = parser.parse_args()
    logging.disable()
    begin, count, broken = time.monotonic(), 0, 0
    memory = MEMORY if os.access(MEMORY, os.W_OK) else None  # a hundred times as fast as a disk
    with tempfile.TemporaryDirectory(prefix="ksplice-faults-", dir=memory) as name:
        for number, verb_name in enumerate(args.verbs):
            verb = VERBS[verb_name]
            scratch = Path(name) / str(number)
            prepared = prepare(verb, scratch / "prepared")
            faults = faults_of(verb, prepared, scratch)
            chosen = faults[(args.offset + number) % args.every :: args.every]
            was = broken
            for fault in chosen:
                try:
                    try_fault(verb, prepared, fault, scratch)
                except BrokenRuleError as e:
                    broken += 1
                    if broken <= args.limit:
                        sys.stdout.write(f"{verb_name}: {fault}: {e}\n")
            count += len(chosen)
            sys.stdout.write(
                f"{verb_name}: {len(chosen)} of {len(faults)} faults, {broken - was} broken rules\n"
            )
            sys.stdout.flush()
    sys.stdout.write(f"{count} faults in {time.monotonic() - begin:.0f} s, {broken} broken rules\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
