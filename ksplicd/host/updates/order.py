# SPDX-License-Identifier: GPL-2.0-only
"""How updates stand to each other: which one depends on, replaces or excludes which.

Those three fields of a manifest decide what may be applied now, what has to be undone first, and
what is superseded afterwards.  Nothing is applied or undone here.

To replace or exclude an update is a claim on it.  It holds where the claimer's signer may sign what
is taken away (``trust.signers``), whichever of the two comes first; otherwise it has no effect, and
is reported.
"""

from collections.abc import Collection, Iterable
from dataclasses import replace
from itertools import chain

from ksplicd.errors import (
    ExcludedError,
    InUseError,
    MissingDependencyError,
    NoMatchError,
    SupersededError,
)
from ksplicd.host.trust.signers import why_no_claim
from ksplicd.host.updates.doors import Doors
from ksplicd.host.updates.records import Records
from ksplicd.model import Manifest, Target, new_module


class Order:
    """The order among the updates that ``records`` knows."""

    def __init__(self, doors: Doors, records: Records) -> None:
        self._doors = doors
        self._records = records

    # --- before an apply ------------------------------------------------------------------------

    def check_others(self, manifest: Manifest, gone: Collection[str] = ()) -> None:
        """Check an update against those that are applied; ``gone`` counts as undone.

        Raises ``MissingDependencyError``, ``InUseError``, ``SupersededError``, ``ExcludedError``.
        """
        kid = manifest.kid
        applied = [other for other in self._records.applied() if other not in gone]
        others = {other: self._records.manifest(other) for other in applied}
        for needed in manifest.depends:
            if needed not in others:
                raise MissingDependencyError(
                    f"{kid}: depends on update {needed}, which is not applied; apply it first"
                )
        for old in self.claimed(manifest, manifest.replaces):
            if old in others and not can_stay_below(others[old]):
                raise InUseError(
                    f"{kid}: replaces update {old}, which is applied and has a kprobe or a pointer"
                    " where this one looks for the old code; undo that one first"
                )
        for other in others.values():
            if kid in other.replaces and not self.why_no_claim(other, kid):
                raise SupersededError(
                    f"{kid}: is replaced by update {other.kid}, which is applied; "
                    f"`ksplice undo {other.kid}` first to go back to the older one"
                )
            is_mine = bool(self.claimed(manifest, {other.kid} & {*manifest.excludes}))
            if is_mine or self.claimed(other, {kid} & {*other.excludes}):
                who = kid if is_mine else other.kid
                raise ExcludedError(
                    f"{kid}: must not be applied together with update {other.kid}, which is applied"
                    f" (by the manifest of {who}); undo that one first"
                )

    def check_code_below(self, manifest: Manifest) -> None:
        """Check that an update was built on top of the code that is applied.  ``NoMatchError``."""
        self._check_built_on(manifest)
        self._check_replaced(manifest)

    def _check_built_on(self, manifest: Manifest) -> None:
        """Compare build ids: an id is chosen freely, the module's build id says what was built."""
        for kid, build_id in manifest.built_on.items():
            found = self._doors.kernel.module_build_id(new_module(kid))
            if found != build_id:
                raise NoMatchError(
                    f"{manifest.kid}: was built on top of update {kid} with build id {build_id}, "
                    f"but the applied one has {found or 'none'}; build it again, on top of that one"
                )

    def _check_replaced(self, manifest: Manifest) -> None:
        """Check that no unrelated live patch replaces a function of this update.

        The update was not built from that patch's code.  It goes on top of updates that it depends
        on or replaces.
        """
        ours = {
            (target.name.replace("-", "_"), f.name, f.sympos or 1)
            for target in manifest.targets
            for f in target.functions
        }
        replaced = self.claimed(manifest, manifest.replaces)
        allowed = {new_module(kid) for kid in (*manifest.depends, *replaced)}
        for patch, functions in sorted(self._doors.kernel.replaced().items()):
            if patch in allowed:
                continue
            for target, name, _ in sorted(ours & functions):
                raise NoMatchError(
                    f"{manifest.kid}: {target}: {name} is replaced by the live patch {patch}; undo"
                    " that one first, or build this one on top of it (`ksplice create --series`)"
                )

    def to_undo_before(self, kid: str) -> list[str]:
        """Return the updates that ``kid`` supersedes and cannot be applied on top of."""
        replaced = self.superseded_by(kid)
        if all(can_stay_below(self._records.manifest(old)) for old in replaced):
            return []
        return replaced

    # --- claims ---------------------------------------------------------------------------------

    def claimed(self, manifest: Manifest, kids: Iterable[str]) -> list[str]:
        """Return those of ``kids`` that an update may take away, by its signer."""
        return [kid for kid in kids if not self.why_no_claim(manifest, kid)]

    def why_no_claim(self, manifest: Manifest, kid: str) -> str:
        """Return why a verified update may not take ``kid`` away; empty when it may.

        What is in the kernel without a verified bundle is judged by the objects that it patches.
        """
        rules, claimer = self._doors.settings.signers, self._records.trusted(manifest.kid)
        trusted = self._records.trusted(kid)
        if trusted is not None:
            return why_no_claim(claimer, trusted.bundle.manifest, rules)
        patched = self._doors.kernel.replaced().get(new_module(kid), frozenset())
        names = sorted({target for target, _, _ in patched})
        targets = tuple(Target(name=name, new_file="", old_file="") for name in names)
        part = replace(self._records.manifest(kid), targets=targets)
        return why_no_claim(claimer, part, rules, is_whole=False)

    def void_claims(self, kid: str) -> list[str]:
        """Return a sentence for each claim without effect between ``kid`` and the others here."""
        known, this = set(self._records.kids()), self._records.manifest(kid)
        found = []
        for word, mine in (("replace", this.replaces), ("exclude", this.excludes)):
            for old in mine:
                if old in known and (why := self.why_no_claim(this, old)):
                    found.append(f"it cannot {word} update {old}: {why}")
        for other in map(self._records.manifest, sorted(known - {kid})):
            for word, theirs in (("replaces", other.replaces), ("excludes", other.excludes)):
                if kid in theirs and (why := self.why_no_claim(other, kid)):
                    found.append(f"that update {other.kid} {word} it has no effect: {why}")
        return found

    # --- after an apply, and before an undo -----------------------------------------------------

    def superseded_by(self, kid: str) -> list[str]:
        """Return the applied updates that ``kid`` replaces, in the order of undoing them.

        Updates that a still-wanted update depends on are left out.
        """
        applied, manifest = self._records.applied(), self._records.manifest(kid)
        old = self.claimed(manifest, manifest.replaces)
        orders = [self.undo_order(other) for other in old if other in applied]
        free = (order for order in orders if {*order} <= {*old, kid})
        return [each for each in dict.fromkeys(chain(*free)) if each != kid]

    def check_undo(self, kid: str) -> None:
        """Raise ``InUseError`` when an applied update depends on ``kid``."""
        for other in self._records.applied():
            if kid in self._depends(other):
                raise InUseError(f"{kid}: update {other} depends on it; undo that one first")

    def undo_order(self, kid: str) -> list[str]:
        """Return the applied updates that have to be undone to undo ``kid``, which comes last."""
        left = {other: self._depends(other) for other in self._records.applied()}
        order: list[str] = []

        def visit(this: str) -> None:
            left.pop(this, None)
            for other, depends in list(left.items()):
                if this in depends and other in left:
                    visit(other)
            order.append(this)

        visit(kid)
        return order

    def _depends(self, kid: str) -> tuple[str, ...]:
        return self._records.manifest(kid).depends


def can_stay_below(manifest: Manifest) -> bool:
    """Return whether an update that replaces this one would match while this one is applied.

    livepatch leaves the old code as it is.  A kprobe writes into it, and an exchanged pointer is no
    longer the one that the other update looks for.
    """
    return all(
        not target.pointers and all(f.how == "livepatch" for f in target.functions)
        for target in manifest.targets
    )
