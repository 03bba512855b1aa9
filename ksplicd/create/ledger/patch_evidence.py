# SPDX-License-Identifier: GPL-2.0-only
"""What is known of a patch once its new code has been cut, gathered for its ledger."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ksplicd.create.affected.to_compile import Reachable, ToCompile
from ksplicd.create.build.compiler import Kbuild
from ksplicd.create.build.units import Unit
from ksplicd.create.diff.difference import UnitChange
from ksplicd.create.ledger.accepted import Accepted
from ksplicd.create.ledger.conditions import Preprocess, find_built, preprocessor
from ksplicd.create.ledger.evidence import find_redirects, read_evidence
from ksplicd.create.ledger.patch_ledger import (
    Entry,
    PatchEvidence,
    account_for_patch,
    check_accounts,
    entries_text,
    text_of,
)
from ksplicd.create.new_code.model import NewCode
from ksplicd.create.patch.change import Before, Change
from ksplicd.create.unit_objects import UnitObjects
from ksplicd.errors import NoChangesError


@dataclass(frozen=True, slots=True)
class Accounts:
    """Takes account of a patch: of all its hunks, or of one that comes to nothing."""

    kbuild: Kbuild
    reachable: Reachable
    known: PatchEvidence
    """What is known before any object is compared."""
    accepted: Sequence[Accepted]

    @classmethod
    def of(
        cls,
        kbuild: Kbuild,
        before: Before,
        change: Change,
        reachable: Reachable,
        compiled: ToCompile,
        accepted: Sequence[Accepted] = (),
    ) -> "Accounts":
        """Gather what is known; ``accepted``: what may be missing on its author's word."""
        known = PatchEvidence(
            files=change.files,
            patched={f.path: f.content for f in reachable.states.after},
            notes=compiled.notes,
            dependants=reachable.by_headers.dependants,
            read_source=lambda path: before.read(Path(path)),
        )
        return cls(kbuild, reachable, known, accepted)

    @contextmanager
    def of_nothing(self, objects: Sequence[UnitObjects] = ()) -> Iterator[None]:
        """Have each hunk's account said where a patch changes nothing that a kernel uses.

        Raises ``UnaccountedError`` instead of ``NoChangesError`` where that is not the whole truth.
        """
        try:
            yield
        except NoChangesError as e:
            entries = self.take(objects, (), ())
            raise NoChangesError(f"{e}\n{entries_text(entries)}") from e

    def take(
        self,
        objects: Sequence[UnitObjects],
        changes: Sequence[UnitChange],
        new_code: Sequence[NewCode],
    ) -> list[Entry]:
        """Return an entry for each hunk; the source tree must be as it was found.

        Raises ``UnaccountedError`` for what would be missing from the running kernel, ``ElfError``,
        and ``CreateError`` for what is accepted and not in the patch.
        """
        known = with_units(self.known, objects, changes, new_code)
        known = with_conditions(known, preprocessor(self.kbuild), self.reachable)
        entries = account_for_patch(known, self.accepted)
        check_accounts(entries)
        return entries


def with_units(
    known: PatchEvidence,
    objects: Sequence[UnitObjects],
    changes: Sequence[UnitChange],
    new_code: Sequence[NewCode],
) -> PatchEvidence:
    """Add what the objects of each unit tell of the changed files.  Raises ``ElfError``."""
    redirects = find_redirects(new_code)
    called_only = {code.key: code.called_only for code in new_code}
    of_unit = {c.key: c for c in changes}
    files = {str(f.path) for f in known.files}
    none: Mapping[str, tuple[str, ...]] = {}
    units = [
        read_evidence(
            o.unit.source, o.target, o.pre, o.post, of_unit.get(o.key),
            redirects.get(o.key, none), files | {o.unit.source}, called_only.get(o.key, ()),
        )
        for o in objects
    ]  # fmt: skip
    return replace(known, units=units)


def with_conditions(
    known: PatchEvidence, preprocess: Preprocess, reachable: Reachable
) -> PatchEvidence:
    """Add which hunks a condition leaves out of every unit."""
    compiled = list(dict.fromkeys(Unit(u.unit) for u in known.units))
    more = [u for u in reachable.by_headers.units if u.source.endswith(".c")]
    units_of = {
        str(f.path): [u for u in compiled if u.source == str(f.path)] or [*compiled, *more]
        for f in known.files
    }
    texts = [text_of(f, known) for f in known.files if f.path.suffix in (".c", ".h")]
    built = find_built(preprocess, reachable.states, texts, units_of, known.dependants)
    return replace(known, built=built)
