# SPDX-License-Identifier: GPL-2.0-only
"""What ``ksplice create`` was asked to do, and what came out.

How the one becomes the other is in ``pipeline.py``.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ksplicd.create.build.units import ANY_TARGET, TargetFilter
from ksplicd.create.ledger.accepted import Accepted, whole_files
from ksplicd.create.modules.signature import ModuleKey
from ksplicd.create.patch.change import Before, Change, from_copies, from_git, from_patches
from ksplicd.create.patch.series import Series, read_series
from ksplicd.create.patch.source_tree import PatchedFile, Progress, SourceTree
from ksplicd.create.patch.states import TreeStates, read_states
from ksplicd.model import Ledger, Manifest, new_kid
from ksplicd.toolchain import HOST, Toolchain

MAX_FUNCTIONS: Final = 200
"""Functions of an update, and anchors, unless another number is asked for; decision 0082."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A change, and what is to be made of it: one of ``patches``, ``extension``, ``revision``."""

    source: Path
    config: Path
    cache: Path
    patches: tuple[Path, ...] = ()
    patch_options: tuple[str, ...] = ()
    extension: str | None = None
    """Of edited copies beside the originals."""
    revision: str | None = None
    """A commit, or a range, of the work tree that the source is."""
    series: tuple[Path, ...] = ()
    """Bundles of earlier updates that this one goes on top of."""
    targets: TargetFilter = ANY_TARGET
    whole_modules: bool = False
    """Whether the .ko of each module target, for the next boot, goes into the bundle."""
    module_key: ModuleKey | None = None
    """For the kernel's own signature on every module."""
    allowed_layouts: tuple[str, ...] = ()
    """Structures whose layout may change."""
    accepted: tuple[Accepted, ...] = ()
    """Parts of the patch that may be missing from the running kernel, on the author's word."""
    max_functions: int = MAX_FUNCTIONS
    """How many functions livepatch may have to look for on stacks."""
    kid: str = field(default_factory=new_kid)
    description: str = ""
    cves: tuple[str, ...] = ()
    depends: tuple[str, ...] = ()
    """Updates that must be applied before, besides those of the series."""
    replaces: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    jobs: int = 1
    toolchain: Toolchain = HOST
    """Where the kernel's compiler is run."""
    keep: Path | None = None
    """Where the temporary objects are left."""

    @property
    def accepted_files(self) -> tuple[frozenset[str], frozenset[str]]:
        """The files that are accepted as a whole, and those of which at least a hunk is."""
        return whole_files(self.accepted), frozenset(a.file for a in self.accepted)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedTree:
    """The source tree with earlier updates, and the change of it."""

    series: Series
    before: Before
    change: Change
    states: TreeStates

    @property
    def files_after(self) -> list[PatchedFile]:
        """The files of the tree as the earlier updates and the change leave them."""
        contents = dict(self.series.contents) | {f.path: f.after for f in self.change.files}
        return [PatchedFile(path, text) for path, text in contents.items()]

    def first_kid(self, request: Request) -> str:
        """Return whose ids shadow variables have: the series' first update's, or ours."""
        return self.series.kids[0] if self.series.kids else request.kid


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """The update that came out."""

    manifest: Manifest
    data: bytes
    """The bundle file."""
    reasons: dict[str, str]
    """By replaced function, why it is in."""
    notes: tuple[str, ...] = ()
    """What is left out, because a running kernel does not need it."""
    files: dict[str, str] = field(default_factory=dict)
    """By file that the change touches or reaches, what happened to it."""
    ledger: Ledger = field(default_factory=Ledger)
    """The account of each hunk, with all redirects; that of the manifest is bounded."""


def read_changed_tree(request: Request, source: SourceTree, progress: Progress) -> ChangedTree:
    """Give the tree back what an interrupted run left patched, and read what is to change.

    Raises ``CreateError``, ``PatchError``, ``NoChangesError``.
    """
    for path in source.revert():
        progress(f"gave {path} its original back, which an earlier run had left patched")
    series = read_series(source.root, request.series)
    series.check_kid(request.kid)
    before = Before(root=source.root, contents=series.contents)
    change = read_change(request, before)
    states = read_states(change, series.contents)
    return ChangedTree(series=series, before=before, change=change, states=states)


def read_change(request: Request, before: Before) -> Change:
    """Return what is to change.  Raises ``PatchError``, ``NoChangesError``."""
    if request.extension is not None:
        return from_copies(before, request.extension)
    if request.revision is not None:
        return from_git(before, request.revision)
    return from_patches(before, request.patches, request.patch_options)
