# SPDX-License-Identifier: GPL-2.0-only
"""One attempt to make an update of a patch, stage by stage, and how far it got.

The stages are those of ``ksplicd.create.pipeline``.  What all attempts share is read once, and the
caller holds the trees' locks.
"""

import contextlib
import copy
import hashlib
import re
import signal
import tempfile
import time
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

from ksplicd import bundle
from ksplicd.create.affected.to_compile import check_any, find_changed, find_half, find_reachable
from ksplicd.create.build.pre_state import PreState
from ksplicd.create.build.units import ANY_TARGET, Unit
from ksplicd.create.ledger.patch_evidence import Accounts
from ksplicd.create.modules.build import Modules, build_modules
from ksplicd.create.new_code.model import NewCode, RedirectKind
from ksplicd.create.new_code.units import cut_new_code
from ksplicd.create.old_code.tables import old_code_of
from ksplicd.create.patch.change import Before, ChangedFile, from_patches
from ksplicd.create.patch.line_numbers import with_line_numbers
from ksplicd.create.patch.source_tree import SourceTree
from ksplicd.create.patch.states import read_states
from ksplicd.create.referee.judge import judge
from ksplicd.create.stock.config_dir import ConfigDir
from ksplicd.create.stock.kernel import StockKernel
from ksplicd.create.unit_objects import (
    compare_units,
    compile_units,
    match_units,
    plain_units,
)
from ksplicd.create.work_folder import WorkFolder
from ksplicd.errors import (
    BuildError,
    ContradictionError,
    ImageMismatchError,
    KspliceError,
    NoChangesError,
    UnaccountedError,
    UnsupportedChangeError,
)
from ksplicd.model import Manifest, Target
from tests.coverage.changes import diff_file, independent_changes
from tests.coverage.new_module import link_new_module
from tests.coverage.objects import RememberingKbuild
from tests.coverage.outcome import FileResults, Outcome, Result

if TYPE_CHECKING:
    from collections.abc import Iterator


LIMIT: Final = 600.0
"""Seconds after which an attempt is a failure."""

# "  symbol (section): reason; hint", as Refusal writes it
_REFUSAL: Final = re.compile(
    r"^  .+? \((?P<section>.*?)\): (?P<reason>.*?)(?:; .*)?$", re.MULTILINE
)
_PLACE: Final = re.compile(
    r"\S*\+0x[0-9a-f]+ |\b0x[0-9a-f]+\b|\b[0-9a-f]{8,}\b| \([^)]*\)"
    r"| in [._]\S+$|^\w+ (?=sets it up)"
)
"""What a reason has of its own: addresses, lists of names, sections, the function that boots."""


def beside_livepatch(new_code: Sequence[NewCode]) -> list[str]:
    """Return what an update does that livepatch does not, in words for the table."""
    kinds = {r.kind for unit in new_code for r in unit.redirects}
    said = {
        "a kprobe redirects a function": RedirectKind.PROBE in kinds,
        "a pointer in a table is exchanged": RedirectKind.POINTER in kinds,
        "a module's exit function is exchanged": RedirectKind.EXIT in kinds,
        "new code stays loaded after undo": any(unit.keeps_code for unit in new_code),
    }
    return [words for words, is_so in said.items() if is_so]


class EndlessError(Exception):
    """An attempt took too long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """What all attempts share."""

    source: SourceTree
    newer: Path
    """The tree that the changes come from."""
    config: ConfigDir
    kbuild: RememberingKbuild
    kernel: StockKernel
    with_modules: bool
    with_changes: bool
    """Whether the independent changes of a file are tried one by one, too."""
    tool: str

    def find_fault(self, path: str) -> str:
        """Say why a file's whole change does not compile alone: plainly, and before all else.

        Empty where it does, and where its changes are tried one by one all the same.
        """
        if self.with_changes:
            return ""
        old, new = ((root / path).read_bytes() for root in (self.source.root, self.newer))
        file = with_line_numbers(ChangedFile(path=Path(path), before=old, after=new))
        with self.source.patched([file]):
            fault = self.kbuild.find_fault(Unit(path))
        if "No such file" not in fault:
            return fault
        with contextlib.suppress(BuildError):
            self.kbuild.compile_plain([Unit(path)])  # make makes the headers that it needs
        with self.source.patched([file]):
            return self.kbuild.find_fault(Unit(path))

    def try_file(self, path: str) -> FileResults:
        """Try the whole change of a file, which has been compiled plain."""
        patch = diff_file(self.source.root, self.newer, path)
        results = FileResults(whole=self.attempt(path, patch), tool=self.tool)
        if self.with_changes:
            old, new = ((root / path).read_bytes() for root in (self.source.root, self.newer))
            parts = independent_changes(patch, old, new)
            results.changes = [results.whole]
            if len(parts) > 1:
                results.changes = [self.attempt(path, part) for part in parts]
        return results

    def attempt(self, path: str, patch: bytes) -> Result:
        """Try one patch, whatever comes of it."""
        begin = time.monotonic()
        try:
            with time_limit(LIMIT):
                result, _ = self.make(path, patch, with_modules=self.with_modules)
        except NoChangesError:
            result = Result(outcome=Outcome.UNCHANGED)
        except UnsupportedChangeError as e:
            result = Result(outcome=Outcome.REFUSED, reason=reason_of(str(e)), message=str(e))
        except UnaccountedError as e:
            reason = "a hunk would be missing from the running kernel"
            result = Result(outcome=Outcome.REFUSED, reason=reason, message=str(e))
        except ContradictionError as e:
            reason = "the referee sees another change"
            result = Result(outcome=Outcome.CONTRADICTED, reason=reason, message=str(e))
        except ImageMismatchError as e:
            result = Result(outcome=Outcome.MISMATCH, reason=reason_of(str(e)), message=str(e))
        except Exception as e:  # a finding, not the end
            result = Result(
                outcome=Outcome.FAILED, reason=place_of(e), message=traceback.format_exc()
            )
        return replace(result, seconds=round(time.monotonic() - begin, 2))

    def make(self, path: str, patch: bytes, *, with_modules: bool) -> tuple[Result, bytes]:
        """Return the result and, where the modules are made, the bundle.

        Raises what the pipeline raises.
        """
        with tempfile.TemporaryDirectory(prefix="ksplice-coverage-") as folder:
            patch_file = Path(folder) / "change.patch"
            patch_file.write_bytes(patch)
            before = Before(root=self.source.root)
            change = from_patches(before, [patch_file])
            states = read_states(change, {})
            pre_state = PreState(kbuild=self.kbuild, folder=Path(folder) / "pre")
            reachable = find_reachable(self.kbuild.tree, change, states)
            work = find_changed(
                self.kbuild, reachable, ANY_TARGET, find_half(self.kbuild, reachable)
            )
            accounts = Accounts.of(self.kbuild, before, change, reachable, work)
            with accounts.of_nothing():
                check_any(reachable.files, work)
            try:
                objects = compile_units(
                    WorkFolder(root=Path(folder), is_kept=False), pre_state, states.after,
                    work.units,
                )  # fmt: skip
            except BuildError as e:
                result = Result(outcome=Outcome.NOT_ALONE, message=str(e))
                return result, b""
        kernel = self.fresh_kernel()
        try:
            with accounts.of_nothing(objects):
                changes = compare_units(objects, kernel.has_global)
        except UnsupportedChangeError as e:
            if is_gone(str(e), in_module=any(o.module for o in objects)):
                return Result(outcome=Outcome.BOOT_ONLY, message=str(e)), b""
            raise
        match_units(kernel, objects, changes)
        new_code = cut_new_code(kid_of(path), changes, pre_state, kernel)
        accounts.take(objects, changes, new_code)
        old_code = old_code_of(kernel.units.values())
        data = b""
        if with_modules:
            modules = self.build(kid_of(path), old_code, new_code)
            new = modules.files[modules.new]
            data = self.pack(kid_of(path), kernel, modules, new_code, patch)
        else:
            new = self.link(kid_of(path), old_code, new_code)
        judge(plain_units(pre_state, kernel, objects), new)
        return Result(
            outcome=Outcome.BUILT,
            reason=" + ".join(beside_livepatch(new_code)),
            target=", ".join(old_code),
            functions=tuple(f.name for unit in new_code for f in unit.functions),
            has_modules=with_modules,
        ), data

    def fresh_kernel(self) -> StockKernel:
        """Return the stock kernel with no unit added; image, symbols and modules are shared."""
        fresh = copy.copy(self.kernel)
        fresh.units = {}
        return fresh

    def build(self, kid: str, old_code: dict[str, bytes], new_code: list[NewCode]) -> Modules:
        """Build the update's modules."""
        with tempfile.TemporaryDirectory(prefix="ksplice-coverage-") as folder:
            return build_modules(Path(folder), kid, self.config, old_code, new_code)

    def link(self, kid: str, old_code: dict[str, bytes], new_code: list[NewCode]) -> bytes:
        """Return the module of new code, as far as the referee reads it."""
        with tempfile.TemporaryDirectory(prefix="ksplice-coverage-") as folder:
            return link_new_module(Path(folder), kid, self.config, old_code, new_code)

    def pack(
        self,
        kid: str,
        kernel: StockKernel,
        modules: Modules,
        new_code: list[NewCode],
        patch: bytes,
    ) -> bytes:
        """Return the bundle."""
        targets = tuple(
            Target(
                name=target,
                new_file=modules.new,
                old_file=old_file,
                functions=tuple(
                    f for unit in new_code if unit.target == target for f in unit.functions
                ),
                pointers=tuple(
                    p for unit in new_code if unit.target == target for p in unit.pointers
                ),
            )
            for target, old_file in modules.old.items()
        )
        manifest = Manifest(
            kid=kid,
            kernel=kernel.identity,
            core_file=modules.core,
            targets=targets,
            description="",
            cves=(),
            tool="ksplice coverage",
            compiler=self.config.compiler_text,
        )
        return bundle.pack(manifest, {**modules.files, "patch": patch, "timestamp": b"0\n"})


def is_gone(message: str, *, in_module: bool) -> bool:
    """Tell whether a refusal is about nothing but code that the running kernel has freed.

    ``__exit`` code of what is built in is never linked; a module has its own until it is unloaded.
    """
    gone = (".init.",) if in_module else (".init.", ".exit.")
    sections = [m["section"] for m in _REFUSAL.finditer(message)]
    return bool(sections) and all(s.startswith(gone) for s in sections)


def kid_of(path: str) -> str:
    """Return the id of the update for a file: always the same."""
    return hashlib.sha256(path.encode()).hexdigest()[:8]


def reason_of(message: str) -> str:
    """Return an error's reasons without names and numbers, sorted, joined by `` + ``."""
    found = {m["reason"] for m in _REFUSAL.finditer(message)}
    if not found:
        found = {message.splitlines()[0].split("; ")[0].split(": ")[-1]}
    return " + ".join(sorted({_PLACE.sub("", r.split(": ")[0]).strip() for r in found}))


def place_of(e: Exception) -> str:
    """Return the kind of an unexpected error and the function it came from."""
    if isinstance(e, KspliceError):
        return f"{type(e).__name__}: {reason_of(str(e))}"
    frames = traceback.extract_tb(e.__traceback__)
    last = frames[-1]
    return f"{type(e).__name__} in {Path(last.filename).name}: {last.name}"


@contextlib.contextmanager
def time_limit(seconds: float) -> "Iterator[None]":
    """Raise ``EndlessError`` in the main thread when the context lasts longer."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise EndlessError(f"no end after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def included_sources(kbuild: RememberingKbuild, paths: Iterable[str]) -> set[str]:
    """Return those of the compiled ``paths`` that another one of them includes as text."""
    known = set(paths)
    found: set[str] = set()
    for path in known:
        root = f"{kbuild.tree.source.root}/"
        used = kbuild.recorded.dependencies(Unit(path))
        named = {name.removeprefix(root) for name in used if name.endswith(".c")}
        found |= (named & known) - {path}
    return found
