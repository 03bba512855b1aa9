# SPDX-License-Identifier: GPL-2.0-only
"""Fuzz for long: ``python -m tests.fuzz [--scale N] [TARGET...]``.

Atheris (libFuzzer) makes the inputs and measures which new code they reach; it ends a target that
takes too long or too much memory for one input.  Each target runs in a process of its own; an
input that breaks a rule is kept in the current folder.
"""

import argparse
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

_SECONDS: Final = 10
_MEGABYTES: Final = 600
"""What one input may take; a bundle may unpack to 128 MiB."""

_MAX_INPUT: Final = 16384


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="times the usual number of inputs")
    parser.add_argument("--one", action="store_true", help="in this process")
    parser.add_argument("targets", nargs="*")
    args = parser.parse_args()
    if args.one:
        fuzz(args.targets[0], args.scale)
        return 0
    from tests.fuzz.targets import TARGETS

    begin, total, broken = time.monotonic(), 0, []
    for name in args.targets or TARGETS:
        argv = [sys.executable, "-m", "tests.fuzz", "--one", "--scale", str(args.scale), name]
        with tempfile.TemporaryFile("w+") as log:
            status = subprocess.run(argv, check=False, stdout=log, stderr=log).returncode
            log.seek(0)
            text = log.read()
        runs = max(map(int, re.findall(r"^#(\d+)\b", text, re.MULTILINE)), default=0)
        covered = re.findall(r"cov: (\d+)", text)
        total += runs
        sys.stdout.write(f"{name}: {runs} inputs, {covered[-1] if covered else '?'} places\n")
        if status:
            broken.append(name)
            sys.stdout.write(text[-3000:])
        sys.stdout.flush()
    end = f"broken: {', '.join(broken)}" if broken else "no rule broken"
    sys.stdout.write(f"{total} inputs in {time.monotonic() - begin:.0f} s; {end}\n")
    return 1 if broken else 0


def fuzz(name: str, scale: float) -> None:
    """Have libFuzzer call the target; does not return."""
    import atheris

    with atheris.instrument_imports(include=["ksplicd"]):
        from tests.fuzz.mutate import mutate_json
        from tests.fuzz.targets import TARGETS

    target = TARGETS[name]
    with tempfile.TemporaryDirectory(prefix="ksplice-fuzz-", dir="/dev/shm") as scratch:
        corpus, folder, words = (Path(scratch) / part for part in ("corpus", "folder", "words"))
        corpus.mkdir()
        folder.mkdir()
        for number, seed in enumerate(target.seeds):
            (corpus / str(number)).write_bytes(seed)
        words.write_text("".join(f'"{_escape(token)}"\n' for token in target.tokens))

        def try_one(data: bytes) -> None:
            target.check(data, folder)

        def mutate(data: bytes, max_size: int, seed: int) -> bytes:
            changed = mutate_json(data, random.Random(seed)) if seed % 4 else None
            if changed is None or len(changed) > max_size:
                changed = atheris.Mutate(data, len(data))
            return changed

        argv = [
            "fuzz", f"-runs={round(target.runs * scale)}", f"-max_len={_MAX_INPUT}", "-seed=1",
            f"-timeout={_SECONDS}", f"-rss_limit_mb={_MEGABYTES}", str(corpus),
            *([f"-dict={words}"] if target.tokens else []),
        ]  # fmt: skip
        atheris.Setup(argv, try_one, **({"custom_mutator": mutate} if target.is_json else {}))
        atheris.Fuzz()


def _escape(token: bytes) -> str:
    """Return a token as libFuzzer's dictionaries have it."""
    return "".join(f"\\x{byte:02x}" for byte in token)


if __name__ == "__main__":
    sys.exit(main())
