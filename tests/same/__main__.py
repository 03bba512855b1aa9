# SPDX-License-Identifier: GPL-2.0-only
"""Compare the updates that two states of this project make.

python -m tests.same OLD_REV [--fixes 60] [--from 6.1.176-1] [--to 6.1.187-1] [--folder net/ipv4]…

The working tree against OLD_REV: the same bytes in every module, the same refusals, the same exit
status, for changes of real kernel files and for the object pairs of tests/.  Exit status 1 when
anything but the words of messages differs.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from ksplicd.cache import Cache, digest_of_tree, to_stderr
from ksplicd.distro.source import KernelSource
from ksplicd.errors import KspliceError
from tests.coverage.__main__ import find_kernel
from tests.same.compare import differences, has_other_words
from tests.same.inputs import find_fixes, make_pairs
from tests.same.states import Result, Workplace
from tests.support.kernels.slice import config_folder

FOLDERS = (
    "net/ipv4", "fs", "kernel", "net/core", "mm", "fs/ext4", "kernel/bpf", "net/sched",
    "fs/nfs", "kernel/trace", "net/ipv6", "drivers/net",
)  # fmt: skip


def parse() -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(prog="python -m tests.same", description=__doc__)
    parser.add_argument("old", metavar="OLD_REV", help="the state to compare with")
    parser.add_argument("--fixes", type=int, default=60, metavar="N", help="changes to try")
    parser.add_argument("--from", dest="old_version", default="6.1.176-1", metavar="VERSION")
    parser.add_argument("--to", dest="new_version", default="6.1.187-1", metavar="VERSION")
    parser.add_argument(
        "--folder", action="append", default=[], help="where changes are taken from"
    )
    parser.add_argument("--no-pairs", action="store_true", help="leave out the pairs of tests/")
    return parser.parse_args()


def main() -> int:
    """Compare; return the exit status."""
    args = parse()
    cache = Cache(progress=to_stderr)
    try:
        kernel = find_kernel(cache, args.old_version, "cloud")
        config = config_folder(cache, kernel)
        source, newer = (
            KernelSource(cache=cache, version=v).tree()
            for v in (args.old_version, args.new_version)
        )
        fixes = find_fixes(source, newer, args.folder or FOLDERS, args.fixes)
        workplace = Workplace(cache, source, config)
        with cache.lock("same"), tempfile.TemporaryDirectory(prefix="ksplice-same-") as folder:
            pairs = [] if args.no_pairs else make_pairs(Path(folder) / "pairs")
            states, kmodsrc = [], set[str]()
            for revision in (args.old, None):
                to_stderr(f"state {revision or 'of the working tree'}")
                digest = workplace.enter(revision)
                kmodsrc.add(digest_of_tree(workplace.product / "kmodsrc"))
                found = workplace.try_fixes(digest, fixes, to_stderr)
                states.append(found | workplace.try_pairs(pairs))
    except KspliceError as e:
        to_stderr(f"same: {e}")
        return 1
    return report(*states, is_same_kmodsrc=len(kmodsrc) == 1)


def report(old: dict[str, Result], new: dict[str, Result], *, is_same_kmodsrc: bool) -> int:
    """Print what differs and a summary; return the exit status."""
    if not is_same_kmodsrc:
        sys.stdout.write(
            "kmodsrc/ is not the same: of the modules only what is the kernel's is compared\n"
        )
    others = words = 0
    for name, before in old.items():
        found = list(differences(before, new[name], is_same_kmodsrc=is_same_kmodsrc))
        others += bool(found)
        for line in found:
            sys.stdout.write(f"{name}: {line}\n")
        if not found and has_other_words(before, new[name]):
            words += 1
            sys.stdout.write(f"{name}: only its words differ\n")
    statuses = [r.status for r in new.values()]
    counts = ", ".join(f"{statuses.count(s)} with exit status {s}" for s in sorted(set(statuses)))
    sys.stdout.write(
        f"{len(old)} inputs: {len(old) - others} the same ({words} in other words), {others} not;"
        f" {counts}\n"
    )
    return int(others > 0)


if __name__ == "__main__":
    sys.exit(main())
