# SPDX-License-Identifier: GPL-2.0-only
"""One state of this project at work, seen from outside: its commands, what they print and write.

Everything whose path gets into an object or a message has the same path for each state: the
product, the kernel source, the caches.  So the states take turns; one state works on two source
trees.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ksplicd.cache import Cache, digest_of, digest_of_tree
from ksplicd.run import run, run_any
from tests.same.inputs import ROOT, Fix

_LANES: Final = 2
_PRODUCT: Final = ("ksplicd", "kmodsrc")
_CREATE: Final = "import sys; from ksplicd.cli.main import main_create; sys.exit(main_create())"
_TIME: Final = 1_000_000_000
"""When every patch was written: the newest input's time goes into the bundle."""

_OBJDIFF: Final = """
import contextlib, io, json, pathlib, sys
from ksplicd.cli.main import main
for pre in sys.stdin.read().splitlines():
    pair = pathlib.Path(pre).parent
    out, err, new = io.StringIO(), io.StringIO(), pair / "new.o"
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(["objdiff", pre, str(pair / "post.o"), "--json", "-o", str(new)])
    code = new.read_bytes().hex() if new.exists() else ""
    new.unlink(missing_ok=True)
    print(json.dumps([status, out.getvalue(), err.getvalue(), code]))
"""


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one input."""

    status: int
    printed: str
    """JSON, as the command prints it."""
    complaint: str
    """What went to standard error."""
    data: bytes = b""
    """The bundle, or the new code of a pair; empty when there is none."""

    def write(self, path: Path) -> None:
        """Keep the result; ``read`` gives it back."""
        words = [self.status, self.printed, self.complaint, self.data.hex()]
        path.write_text(json.dumps(words))

    @classmethod
    def read(cls, path: Path) -> "Result":
        """Return a result that ``write`` has kept."""
        status, printed, complaint, data = json.loads(path.read_text())
        return cls(status, printed, complaint, bytes.fromhex(data))


class Workplace:
    """The folders that the states use in turn."""

    def __init__(self, cache: Cache, source: Path, config: Path) -> None:
        self.root, self.config = cache.root / "same", config
        self.product, self.caches = self.root / "product", self.root / "caches"
        self.sources = [self.root / f"source-{i}-{source.name}" for i in range(_LANES)]
        for copy in self.sources:
            if not copy.exists():
                cache.progress(f"copying the kernel source to {copy} (half a minute)")
                copy.parent.mkdir(parents=True, exist_ok=True)
                new = copy.with_name(f".{copy.name}")
                shutil.rmtree(new, ignore_errors=True)
                run(["cp", "-a", "--reflink=auto", source, new])
                new.rename(copy)

    def enter(self, revision: str | None) -> str:
        """Make the product that of a revision, None: of the working tree; return its digest."""
        shutil.rmtree(self.product, ignore_errors=True)
        shutil.rmtree(self.caches, ignore_errors=True)
        self.product.mkdir(parents=True)
        if revision is None:
            for name in _PRODUCT:
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / name, self.product / name, ignore=ignored)
        else:
            archive = run(["git", "archive", revision, "--", *_PRODUCT], cwd=ROOT)
            run(["tar", "-x", "-C", self.product], stdin=archive)
        digest = digest_of_tree(self.product)
        (self.root / "results" / digest).mkdir(parents=True, exist_ok=True)
        return digest

    def try_fixes(
        self, digest: str, fixes: Sequence[Fix], progress: Callable[[str], None]
    ) -> dict[str, Result]:
        """Have the product that is entered make an update of each fix; kept results are taken."""

        def work(lane: int) -> dict[str, Result]:
            found = {}
            for fix in fixes[lane::_LANES]:
                kept = self.root / "results" / digest / f"{fix.kid}-{digest_of_patch(fix)}.json"
                if not kept.exists():
                    self._create(lane, fix).write(kept)
                found[fix.name] = Result.read(kept)
                progress(f"{fix.name}: exit status {found[fix.name].status}")
            return found

        with ThreadPoolExecutor(_LANES) as pool:
            return {name: r for found in pool.map(work, range(_LANES)) for name, r in found.items()}

    def _create(self, lane: int, fix: Fix) -> Result:
        folder = self.root / f"lane-{lane}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        patch = folder / "fix.patch"
        patch.write_bytes(fix.patch)
        os.utime(patch, (_TIME, _TIME))
        argv: list[str | Path] = [
            sys.executable, "-c", _CREATE, "--patch", patch, "--config", self.config, "-o", folder,
            "--id", fix.kid, "-j", "1", "--json", "-q", self.sources[lane],
        ]  # fmt: skip
        env = {"PYTHONPATH": str(self.product), "XDG_CACHE_HOME": str(self.caches / str(lane))}
        status, out, err = run_any(argv, env=env)
        made = folder / f"ksplice-{fix.kid}.tar.gz"
        data = made.read_bytes() if made.exists() else b""
        return Result(status, out.decode(), err.decode(), data)

    def try_pairs(self, pairs: Sequence[tuple[Path, Path]]) -> dict[str, Result]:
        """Have the product that is entered compare each pair of objects and cut out new code."""
        stdin = "".join(f"{pre}\n" for pre, _ in pairs).encode()
        env = {"PYTHONPATH": str(self.product)}
        lines = run([sys.executable, "-c", _OBJDIFF], env=env, stdin=stdin).splitlines()
        found = {}
        for (pre, _), line in zip(pairs, lines, strict=True):
            status, printed, complaint, code = json.loads(line)
            found[pre.parent.name] = Result(status, printed, complaint, bytes.fromhex(code))
        return found


def digest_of_patch(fix: Fix) -> str:
    """Return a digest of what the fix changes."""
    return digest_of(fix.patch.hex())
