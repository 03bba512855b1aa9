# SPDX-License-Identifier: GPL-2.0-only
"""``--series``: an update on top of earlier ones.

The state before the change is what the earlier updates' patches make of the tree, in the order in
which they are given.  The running kernel is still matched against stock objects: functions that an
earlier update replaced stay in memory as they were, and livepatch puts the newest replacement on
top.  That the earlier updates are applied, and are these very ones, is the host's to see to (the
manifest's ``depends`` and ``built-on``).  New functions and data of theirs cannot be reached, which
is refused where it is needed; so is the form that they give to another file's function to which
nothing but their own new code leads.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ksplicd import bundle
from ksplicd.create.patch.change import Before, apply
from ksplicd.elf.linked import read_linked
from ksplicd.elf.model import STB_LOCAL, Section
from ksplicd.elf.read import read_object
from ksplicd.errors import BadBundleError, CreateError, PatchError
from ksplicd.model import NEW_SUFFIX, Kernel, Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The earlier updates."""

    manifests: tuple[Manifest, ...] = ()
    contents: Mapping[Path, bytes | None] = field(default_factory=dict)
    """By path, what they leave of the files that they change; None: no file."""

    built_on: Mapping[str, str] = field(default_factory=dict)
    """By id, the GNU build id of their new-code modules."""
    unreached: Mapping[str, str] = field(default_factory=dict)
    """By name of a function whose new form only the new code of an earlier update calls, whose."""

    @property
    def kids(self) -> tuple[str, ...]:
        """Their ids, for ``depends``."""
        return tuple(m.kid for m in self.manifests)

    def redirected(self, unit: str, target: str) -> frozenset[str]:
        """Return which functions of a unit lead to new code, by their names in the kernel."""
        return frozenset(
            f.name
            for m in self.manifests
            for t in m.targets if t.name == target
            for f in t.functions if f.unit == unit
        )  # fmt: skip

    def check_kid(self, kid: str) -> None:
        """Raise ``CreateError`` when ``kid`` is one of them."""
        if kid in self.kids:
            raise CreateError(f"--id {kid}: an earlier update of --series has it; give another")

    def check_kernel(self, kernel: Kernel) -> None:
        """Raise ``CreateError`` when one of them is for another kernel."""
        for m in self.manifests:
            if (m.kernel.release, m.kernel.build_id) != (kernel.release, kernel.build_id):
                raise CreateError(
                    f"--series: {m.kid} is for {m.kernel.release} ({m.kernel.build_id}), not for"
                    f" {kernel.release} ({kernel.build_id})"
                )


def read_series(root: Path, bundles: Sequence[Path]) -> Series:
    """Read earlier bundles and apply their patches beside the tree.

    Raises ``CreateError`` naming the bundle.
    """
    contents: dict[Path, bytes | None] = {}
    manifests: list[Manifest] = []
    built_on: dict[str, str] = {}
    unreached: dict[str, str] = {}
    for path in bundles:
        try:
            earlier = bundle.unpack(path.read_bytes())
        except OSError as e:
            raise CreateError(f"--series {path}: {e.strerror}") from e
        except BadBundleError as e:
            raise CreateError(f"--series {path}: {e}") from e
        manifest = earlier.manifest
        missing = set(manifest.depends) - {m.kid for m in manifests}
        if missing:
            raise CreateError(
                f"--series {path}: it depends on {', '.join(sorted(missing))}; give those bundles"
                " too, before it"
            )
        if manifest.kid in {m.kid for m in manifests}:
            raise CreateError(f"--series {path}: {manifest.kid} is given twice")
        before = Before(root=root, contents=dict(contents))
        try:
            applied = apply(before, {f"patch of {manifest.kid}": earlier.files["patch"]})
        except PatchError as e:
            raise CreateError(f"--series {path}: {e}") from e
        contents |= {f.path: f.after for f in applied.files}
        manifests.append(manifest)
        built_on[manifest.kid] = _new_build_id(earlier, path)
        unreached |= dict.fromkeys(find_unreached(earlier), manifest.kid)
    return Series(
        manifests=tuple(manifests), contents=contents, built_on=built_on, unreached=unreached
    )


def find_unreached(earlier: bundle.Bundle) -> set[str]:
    """Return the functions of the new code that no function of the kernel is redirected to.

    All of its functions keep their names for traces, those that replace others with a suffix.
    """
    redirected = {f.name for t in earlier.manifest.targets for f in t.functions}
    name = earlier.changes[0].new_file
    by_place: dict[tuple[Section, int], set[str]] = defaultdict(set)
    for s in read_object(earlier.files[name], name).functions():
        if s.section is not None and s.bind == STB_LOCAL:
            by_place[s.section, s.value].add(s.name.removesuffix(NEW_SUFFIX))
    left = [names for names in by_place.values() if names.isdisjoint(redirected)]
    return {name for names in left for name in names}


def _new_build_id(earlier: bundle.Bundle, path: Path) -> str:
    name = earlier.changes[0].new_file
    build_id = read_linked(earlier.files[name], name).build_id
    if not build_id:
        raise CreateError(f"--series {path}: {name} has no GNU build id")
    return build_id
