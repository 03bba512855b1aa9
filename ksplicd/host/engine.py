# SPDX-License-Identifier: GPL-2.0-only
"""The host story, one method per arrow.

::

    dropped ─verify▸ staged ─load▸ loading ─match▸ matched ─enable▸ transitioning ─▸ applied
       └▸ rejected          └────────────┴─▸ failed (all unloaded) ◂┘     reversing ◂─undo─┘
                                                                             └▸ reversed

The engine performs; it decides no policy, knows no bus and logs nothing: every stage that an update
reaches is written to the history and reported through ``on_event``.  It is used from one thread at
a time; every method may block for as long as the kernel takes to load or unload a module.  What is
applied is asked of the kernel each time, never remembered.
"""

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace

from ksplicd.bundle import Bundle
from ksplicd.config import LateMismatch
from ksplicd.errors import (
    AlreadyAppliedError,
    AlreadyReversedError,
    InUseError,
    KernelWarningError,
    KspliceError,
    QuarantinedError,
    StoreError,
    UnexpectedError,
    cause_of,
)
from ksplicd.host.report.metrics import format_metrics, move_metrics, write_metrics
from ksplicd.host.report.sentences import (
    Value,
    describe_conflicts,
    describe_match,
    describe_update,
    find_function,
)
from ksplicd.host.stages import (
    DAEMON,
    Actor,
    Arrow,
    Conflict,
    Direction,
    Event,
    Reconciliation,
    Transition,
    UpdateInfo,
    is_moving,
    outcome,
    step,
)
from ksplicd.host.store.crash_guard import why_quarantined
from ksplicd.host.store.store import is_passing
from ksplicd.host.trust import verify
from ksplicd.host.updates import load
from ksplicd.host.updates.reconcile import reconcile
from ksplicd.host.updates.soak import Aftercare
from ksplicd.model import Kernel, Stage, anchored, new_module


@dataclass(eq=False, repr=False)
class Engine(Aftercare):
    """Updates of one host: the store on one side, the kernel on the other.

    Call ``reconcile`` before anything else.
    """

    _left: dict[str, list[str]] = field(default_factory=dict, init=False)
    """Modules that we loaded and could not unload; tried again at the next apply."""

    # --- at start -------------------------------------------------------------------------------

    def open(self) -> None:
        """Read our records, and leave them and the kernel as they are.  Raises ``StoreError``."""
        self.store.prepare()
        self._book.open()

    def reconcile(self, actor: Actor = DAEMON) -> Reconciliation:
        """Bring our records into line with the kernel, which wins.

        Modules that a killed apply left half loaded are unloaded; an update that was being applied
        or new when the machine crashed is QUARANTINED; one that was applied else is STAGED now.
        Returns the transitions that still run, the kids to apply again at boot, and those that
        cannot be; ``actor`` is who looks.  Raises ``StoreError``.
        """
        self.open()
        self._finish_removals(actor)
        for kid in self.store.kids():
            try:
                self._book.know(kid, self._check(self.store.read(kid)))
            except KspliceError as e:  # one damaged update must not keep the others from us
                if is_passing(e.__cause__):
                    raise
                self._book.distrust(kid, cause_of(e), str(e))
        self._guard.begin(self.kernel.boot_id())
        known, soak_time = self._guard.read(), self.settings.soak_time
        return reconcile(
            self._book,
            self.kernel,
            self.clock,
            lambda last: why_quarantined(last, known, soak_time),
            actor,
        )

    # --- questions ------------------------------------------------------------------------------

    def describe(self, kid: str) -> dict[str, Value]:
        """Return all that is known of an update, keys as on the bus.  ``NoSuchUpdateError``."""
        info = self.get_update(kid)
        return describe_update(info, self._book.trusted(kid), load.modules_of(self.kernel, kid))

    def history(self, limit: int = 0) -> list[Event]:
        """Return the last ``limit`` events (0: all), newest first."""
        return self._book.history(limit)

    def history_back(self) -> Iterator[Event]:
        """Yield the events, newest first, as far as somebody wants them: there may be millions."""
        return self._book.back()

    def write_metrics(self) -> None:
        """Write the file for Prometheus, where one is wanted, and delete what we wrote elsewhere.

        Raises ``StoreError``.
        """
        settings = self.settings
        path = settings.metrics_file
        move_metrics(self.store.metrics_link, path)
        if path is None:
            return
        kernel = Kernel(
            release=self.kernel.release(),
            build_id=self.kernel.build_id(),
            version=self.kernel.version(),
        )
        sizes = self.store.sizes()
        limits = settings.limits()
        text = format_metrics(kernel, self.list_updates(), self._book.meter, sizes, limits)
        write_metrics(path, text)

    # --- staged ─load▸ loading ─match▸ matched ─enable▸ transitioning -----------------------------

    def check_apply(self, kid: str, gone: Collection[str] = ()) -> tuple[Stage, Bundle]:
        """Return where an update is and what its stored bytes hold, when it may be loaded now.

        ``gone`` are updates to be thought of as undone.  Raises as ``start_apply`` does before it
        loads anything.
        """
        info = self.get_update(kid)
        if info.stage is Stage.APPLIED:
            raise AlreadyAppliedError(f"{kid}: is applied")
        self._check_nothing_moves()
        trusted = self._check(self.store.read(kid))
        manifest = trusted.bundle.manifest
        self._book.know(kid, trusted)
        info = self._book.info(kid)  # that its bundle did not verify may have hidden where it is
        if info.stage is Stage.QUARANTINED:
            raise QuarantinedError(
                f"{kid}: is quarantined: {info.detail}; find out why, then `ksplice release {kid}`"
            )
        verify.check_kernel(manifest, self.kernel)
        others = [other for other in self._book.applied() if other not in gone]
        verify.check_dependencies(manifest, [self._book.manifest(other) for other in others])
        verify.check_targets(manifest, self.kernel)
        verify.check_below(manifest, self.kernel)
        verify.check_replaced(manifest, self.kernel)
        return info.stage, trusted.bundle

    def start_apply(self, kid: str, actor: Actor) -> Transition:
        """Verify the stored bytes again, load, match, and start the transition.

        Whatever fails, every module that was loaded is unloaded again before the error is raised,
        and the update is FAILED when the kernel was touched.  Raises ``NoSuchUpdateError``,
        ``AlreadyAppliedError``, ``QuarantinedError``, ``InUseError`` (it is on its way, or another
        transition runs), the errors of ``stage``, ``MissingDependencyError``, ``SupersededError``,
        ``ExcludedError``, and the ``ApplyError`` that fits.
        """
        stage, bundle = self.check_apply(kid)
        self._complaints.pop(kid, None)
        self._unload_leftovers(kid)
        verify.check_modules(bundle.manifest, self.kernel)
        try:
            self._guard.forget(kid)
            self._book.record(kid, step(stage, Arrow.LOAD), actor)
            leave = self.settings.late_mismatch is LateMismatch.LEAVE
            detail = describe_match(load.match(self.kernel, bundle, leave_unmatched=leave))
            self._book.record(kid, step(Stage.LOADING, Arrow.MATCH), actor, detail=detail)
            started = self.clock.monotonic()
            load.enable(self.kernel, bundle, self.settings.signal_after)
        except Exception as e:
            self._fail(kid, e, actor)
            raise
        with contextlib.suppress(StoreError):  # the kernel moves; the next start finds that out
            self._book.record(kid, step(Stage.MATCHED, Arrow.ENABLE), actor)
        return Transition(kid=kid, direction=Direction.APPLY, started=started, actor=actor)

    def _fail(self, kid: str, error: Exception, actor: Actor) -> None:
        """Leave nothing loaded, and record why."""
        mismatch = load.read_core_mismatch(self.kernel, kid)
        detail = "; ".join(text for text in (str(error), self._unload_all(kid)) if text)
        with contextlib.suppress(StoreError):  # the error that brought us here tells more
            self._book.record(
                kid,
                step(Stage.LOADING, Arrow.FAIL),
                actor,
                cause=cause_of(error),
                detail=detail,
                mismatch=mismatch,
            )

    # --- applied ─undo▸ reversing ---------------------------------------------------------------

    def start_undo(self, kid: str, actor: Actor, why: str = "", below: str = "") -> Transition:
        """Start the way back to the old code; ``why`` is for the history.

        ``below`` is the update that takes its place, if one does, and has to be applied still.
        Raises ``NoSuchUpdateError``, ``AlreadyReversedError`` (it is not applied, or that one is
        not), ``InUseError`` (an applied update depends on it, it is on its way, or another
        transition runs).
        """
        if below and self.get_update(below).stage is not Stage.APPLIED:
            raise AlreadyReversedError(f"{below}: is not applied, so that {kid} is left as it is")
        info = self.get_update(kid)
        self._check_nothing_moves()
        if info.stage is not Stage.APPLIED:
            last = self._book.last(kid)
            waits = info.stage is Stage.STAGED and last is not None and last.stage is Stage.APPLIED
            hint = f"; `ksplice remove {kid}` keeps it from coming back at a boot" if waits else ""
            raise AlreadyReversedError(f"{kid}: is {info.stage}, not applied{hint}")
        for other in self._book.applied():
            if kid in self._depends(other):
                raise InUseError(f"{kid}: update {other} depends on it; undo that one first")
        started = self.clock.monotonic()
        self.kernel.set_enabled(new_module(kid), enabled=False)
        with contextlib.suppress(StoreError):  # the kernel moves; the next start finds that out
            self._book.record(kid, step(info.stage, Arrow.UNDO), actor, detail=why)
        return Transition(kid=kid, direction=Direction.UNDO, started=started, actor=actor)

    # --- while the kernel works -----------------------------------------------------------------

    def tidy(self, transition: Transition) -> None:
        """Unload what only the match needed; what stays is left to ``finish``."""
        with contextlib.suppress(KspliceError):
            load.unload(self.kernel, load.old_modules_of(self.kernel, transition.kid))

    def is_finished(self, transition: Transition) -> bool:
        """Tell whether the transition has ended, either way; then call ``finish``.

        Poll it: POLLPRI on ``/sys/module/ksplice_KID/ksplice/stage`` may come a moment early.
        """
        livepatch = self.kernel.livepatch(new_module(transition.kid))
        return livepatch is None or not livepatch.transition

    def conflicts(self, transition: Transition) -> list[Conflict]:
        """Return the tasks that hold the transition up, by pid; empty when there is none."""
        livepatch = self.kernel.livepatch(new_module(transition.kid))
        if livepatch is None or not livepatch.transition:
            return []
        replaced = self.kernel.replaced().get(new_module(transition.kid), ())
        functions = {anchored(function) for _, function, _ in replaced}
        blockers = self.kernel.blockers(patched=not livepatch.enabled)
        return [replace(b, function=find_function(b.stack, functions)) for b in blockers]

    def cancel(self, transition: Transition, cause: str) -> Transition:
        """Turn the transition around (``cause``: ``code_busy`` or ``cancelled``).

        Returns the transition to watch and finish instead of the old one.  One that has ended, or
        was turned around before, is returned as it is.
        """
        if transition.cancelled or self.is_finished(transition):
            return transition
        kid, is_undo = transition.kid, transition.direction is Direction.UNDO
        detail = describe_conflicts(self.conflicts(transition))
        try:
            self.kernel.set_enabled(new_module(kid), enabled=is_undo)
        except UnexpectedError:
            if self.is_finished(transition):
                return transition  # it ended just before
            raise
        stage = step(Stage.REVERSING if is_undo else Stage.TRANSITIONING, Arrow.CANCEL)
        with contextlib.suppress(StoreError):  # the kernel moves; the next start finds that out
            self._book.record(kid, stage, transition.actor, cause=cause, detail=detail)
        return replace(transition, cancelled=cause)

    # --- transitioning ─▸ applied, reversing ─▸ reversed ----------------------------------------

    def finish(self, transition: Transition) -> UpdateInfo:
        """Unload what is not needed any more and record where the update came to rest.

        APPLIED, or REVERSED, or (an apply that was cancelled) FAILED with the cause; an undo that
        was cancelled is APPLIED with the cause.  Raises ``StoreError``, with the work done.
        """
        kid = transition.kid
        assert self.is_finished(transition), f"{kid}: the transition still runs"
        livepatch = self.kernel.livepatch(new_module(kid))
        is_enabled = livepatch is not None and livepatch.enabled
        stage, cause, detail = outcome(transition, is_enabled=is_enabled)
        last = self._book.last(kid)
        is_undone = stage is Stage.REVERSED and last is not None and last.stage is Stage.REVERSING
        if last is not None and (cause or is_undone):
            detail = last.detail  # who held it up, or why it was undone
        if is_enabled:
            left = load.unload(self.kernel, load.old_modules_of(self.kernel, kid))
        else:
            left = self._unload_all(kid)
        seconds = self.clock.monotonic() - transition.started
        heard = self._heard_of(kid) if stage is Stage.FAILED else ""
        if heard and self.settings.undo_on_warning:
            cause = KernelWarningError.abort_cause  # whatever else, so that it is not retried
        texts = (heard, detail, f"after {seconds:.1f} s", left)
        detail = "; ".join(text for text in texts if text)
        self._book.record(kid, stage, transition.actor, cause=cause, detail=detail)
        if stage is Stage.APPLIED:
            self._record_complaint(kid)
            return self._book.info(kid)
        # that its bundle may not verify any more is another thing
        return replace(self._book.info(kid), stage=stage, abort_cause=cause, detail=detail)

    # --- detail ---------------------------------------------------------------------------------

    def _unload_leftovers(self, kid: str) -> None:
        """Unload what is still there of an apply of ours, and nothing that others loaded."""
        last = self._book.last(kid)
        left = self._left.pop(kid, [])
        if last is not None and last.stage is Stage.APPLIED:  # somebody else undid it
            is_ours = last.boot_id == self.kernel.boot_id()
            left = load.modules_of(self.kernel, kid) if is_ours else []
        load.unload(self.kernel, left)

    def _unload_all(self, kid: str) -> str:
        """Unload an update's modules; returns what stays loaded and why, or empty text."""
        try:
            names = load.modules_of(self.kernel, kid)
        except UnexpectedError:  # what is loaded cannot be told now
            names = [*reversed(verify.update_modules(self._book.manifest(kid)))]
        text = load.unload(self.kernel, names)
        self._left[kid] = names if text else []
        return text

    def _check_nothing_moves(self) -> None:
        for info in self.list_updates():
            if is_moving(info.stage):
                raise InUseError(f"{info.kid}: is {info.stage}; one update at a time")
