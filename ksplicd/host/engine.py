# SPDX-License-Identifier: GPL-2.0-only
"""The host story, one method per arrow.

::

    dropped ─verify▸ staged ─load▸ loading ─match▸ matched ─enable▸ transitioning ─▸ applied
       └▸ rejected          └────────────┴─▸ failed (all unloaded) ◂┘     reversing ◂─undo─┘
                                                                             └▸ reversed

The engine carries out the arrows with the parts that it holds: ``records`` of the updates,
``staging`` into the store and out of it, ``order`` among updates, and ``soak`` after an apply.  It
decides no policy, knows no bus and logs nothing: every stage that an update reaches is written to
the history and reported through ``Doors.on_event``.  One thread at a time may use it, and every
method may block for as long as the kernel takes to load or unload a module.  The kernel is asked
each time what is applied.
"""

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

from ksplicd.bundle import Bundle
from ksplicd.config import LateMismatch
from ksplicd.errors import (
    AlreadyAppliedError,
    AlreadyReversedError,
    CodeBusyError,
    InUseError,
    KernelWarningError,
    KspliceError,
    NotQuarantinedError,
    QuarantinedError,
    ReplayedError,
    StoreError,
    UnexpectedError,
    WrongKernelError,
    cause_of,
)
from ksplicd.host.clock import Moment
from ksplicd.host.report.metrics import Figures, format_metrics, move_metrics, write_metrics
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
    Reconciliation,
    Transition,
    UpdateInfo,
    Via,
    is_moving,
    outcome,
    step,
)
from ksplicd.host.updates import fit, load
from ksplicd.host.updates.doors import Doors
from ksplicd.host.updates.missing import due, missing
from ksplicd.host.updates.order import Order
from ksplicd.host.updates.reconcile import reconcile
from ksplicd.host.updates.records import Records
from ksplicd.host.updates.soak import Soak
from ksplicd.host.updates.staging import Staging
from ksplicd.model import Kernel, Stage, anchored, core_module, new_module


class Engine:
    """The updates of one host, between its store and its kernel.

    Call ``reconcile`` before anything else.
    """

    def __init__(self, doors: Doors) -> None:
        """Nothing is read yet."""
        self.doors = doors
        self.records = Records(doors)
        self.soak = Soak(doors, self.records)
        self.order = Order(doors, self.records)
        self.staging = Staging(doors, self.records, self.soak, self.order)
        self._left: dict[str, list[str]] = {}
        """Kid → modules that could not be unloaded; the next apply tries again."""
        self._may_go_unrecorded = False
        """Whether the update that is being applied may go on when the store cannot be written."""
        self.last_check = Moment()
        """When records, wants and kernel were last compared."""

    # --- at a start -----------------------------------------------------------------------------

    def open(self) -> None:
        """Read the records, and change neither them nor the kernel.  Raises ``StoreError``."""
        self.doors.store.prepare()
        self.records.open()

    def reconcile(self, actor: Actor = DAEMON) -> Reconciliation:
        """Bring the records into line with the kernel, which wins; ``actor`` is who reconciles.

        Modules that a killed apply left half loaded are unloaded.  An update that was being applied
        or soaking when the machine crashed is QUARANTINED; one that was applied otherwise is STAGED
        now.  Returns the transitions that still run, the updates to apply again at boot, and those
        that cannot be.  Raises ``StoreError``.
        """
        self.open()
        self.staging.finish_removals(actor)
        self.staging.check_all()
        found = reconcile(self.doors, self.records, self.soak, actor)
        self.last_check = Moment.now(self.doors.clock)
        return found

    def check(self) -> None:
        """Ask the kernel about every update and what is missing, and note that this was done."""
        self.list_updates()
        self.missing()
        self.last_check = Moment.now(self.doors.clock)

    # --- questions ------------------------------------------------------------------------------

    def list_updates(self) -> list[UpdateInfo]:
        """Return every update of the store and every one found in the kernel, by kid."""
        soaked = self.soak.soaked()
        return [replace(info, is_soaked=info.kid in soaked) for info in self.records.infos()]

    def get_update(self, kid: str) -> UpdateInfo:
        """Return one update, its stage as the kernel shows it.  Raises ``NoSuchUpdateError``."""
        return replace(self.records.get(kid), is_soaked=kid in self.soak.soaked())

    def describe(self, kid: str) -> dict[str, Value]:
        """Return an update in full, keys as on the bus.  Raises ``NoSuchUpdateError``."""
        info = self.get_update(kid)
        modules = load.modules_of(self.doors.kernel, kid)
        return describe_update(info, self.records.trusted(kid), modules)

    def missing(self) -> dict[str, str]:
        """Return the updates that are wanted for this kernel and not applied; kid → why."""
        return missing(self.doors, self.records)

    def due(self) -> list[tuple[str, Actor]]:
        """Return the missing updates that may be applied now, in order, and on whose word."""
        return due(self.doors, self.records)

    def write_metrics(self) -> None:
        """Write the metrics file, if one is configured, and delete the one written elsewhere.

        Raises ``StoreError``.
        """
        store, kernel, settings = self.doors.store, self.doors.kernel, self.doors.settings
        path = settings.metrics_file
        move_metrics(store.metrics_link, path)
        if path is None:
            return
        figures = Figures(
            kernel=Kernel(
                release=kernel.release(), build_id=kernel.build_id(), version=kernel.version()
            ),
            updates=tuple(self.list_updates()),
            missing=self.missing(),
            transition_seconds=dict(self.records.meter.transition_seconds),
            last_error=self.records.meter.last_error,
            sizes=store.sizes(),
            limits=settings.limits(),
            last_check=self.last_check.time,
        )
        write_metrics(path, format_metrics(figures))

    # --- dropped ─verify▸ staged, dropped ─reject▸ rejected, staged ─remove▸ removed --------------

    def stage_file(self, path: Path, sig_path: Path | None, actor: Actor) -> UpdateInfo:
        """Verify a dropped bundle, keep it under ``updates/KID/``, and remove the drop.

        On a ``BundleError`` or ``HostError`` the files are moved to ``rejected/`` with a
        ``.reason`` beside them, the event is REJECTED, and the error is raised.  A ``StoreError``
        or ``KeyFileError`` is not the drop's fault and leaves it where it is.  So does a
        ``FileNotFoundError``: the file is gone, and another one may have its name by now.
        """
        return self.staging.stage_file(path, sig_path, actor)

    def stage(self, bundle: bytes, signature: bytes | None, actor: Actor) -> UpdateInfo:
        """Verify a bundle and keep it; the same bytes again change nothing.

        Raises ``BadSignatureError``, ``BadBundleError``, ``WrongKernelError``,
        ``ModulePresentError``, ``AlreadyStagedError`` (same kid, other bytes), ``KeyFileError``,
        ``StoreError``.
        """
        return self.staging.stage(bundle, signature, actor)

    def remove(self, kid: str, actor: Actor) -> None:
        """Delete an update that is not applied.

        Raises ``InUseError``, ``NoSuchUpdateError``, ``StoreError``.
        """
        self.staging.remove(kid, actor)

    # --- staged ─load▸ loading ─match▸ matched ─enable▸ transitioning -----------------------------

    def check_apply(self, kid: str, gone: Collection[str] = ()) -> tuple[Stage, Bundle]:
        """Return the stage and the verified bundle of an update that may be loaded now.

        Updates in ``gone`` count as undone.  Raises as ``start_apply`` does before it loads
        anything.
        """
        info = self.get_update(kid)
        if info.stage is Stage.APPLIED:
            raise AlreadyAppliedError(f"{kid}: is applied")
        self._check_nothing_moves()
        bundle = self.staging.check(kid).bundle
        manifest, kernel = bundle.manifest, self.doors.kernel
        info = self.records.info(kid)  # a bundle that did not verify may have hidden its stage
        if info.stage is Stage.QUARANTINED:
            raise QuarantinedError(
                f"{kid}: is quarantined: {info.detail}; find out why, then `ksplice release {kid}`"
            )
        fit.check_kernel(manifest, kernel)
        self.order.check_others(manifest, gone)
        fit.check_targets(manifest, kernel)
        self.order.check_code_below(manifest)
        return info.stage, bundle

    def start_apply(self, kid: str, actor: Actor, *, if_wanted: bool = False) -> Transition:
        """Verify the stored bytes again, load, match, and start the transition.

        On any failure, every module that was loaded is unloaded again before the error is raised,
        and the update is FAILED when the kernel was touched.  An update for a kernel that is
        installed and does not run is wanted from now on, and the error says so.  ``if_wanted``:
        ``ReplayedError`` for one that is not wanted: a person's undo had its turn before.  Raises
        ``NoSuchUpdateError``, ``AlreadyAppliedError``, ``QuarantinedError``, ``InUseError`` (this
        update moves, or another one does), the errors of ``stage``, ``MissingDependencyError``,
        ``SupersededError``, ``ExcludedError``, and the ``ApplyError`` that fits.
        """
        try:
            stage, bundle = self.check_apply(kid)
        except WrongKernelError as e:
            if not fit.is_for_next(self.records.manifest(kid), self.doors.kernel):
                raise
            self.records.want(kid, actor)
            raise WrongKernelError(f"{e}; it is applied when that kernel boots") from e
        if if_wanted and kid not in self.records.wants:
            raise ReplayedError(f"{kid}: is not wanted any more")
        self._unload_leftovers(kid)
        fit.check_modules(bundle.manifest, self.doors.kernel)
        self._may_go_unrecorded = actor.via is not Via.DBUS and self.soak.is_proven(kid)
        try:
            self._load(bundle, stage, actor)
            self._match(bundle, actor)
            started = self._enable(bundle)
        except Exception as e:
            self._fail(kid, e, actor)
            raise
        self._record_move(kid, step(Stage.MATCHED, Arrow.ENABLE), actor)
        return Transition(kid=kid, direction=Direction.APPLY, started=started, actor=actor)

    def _load(self, bundle: Bundle, stage: Stage, actor: Actor) -> None:
        """Load the core."""
        kid = bundle.manifest.kid
        with self._recorded_if_need_be():
            self.soak.forget(kid, keep_chance=actor.via is not Via.DBUS)
        with self._recorded_if_need_be():
            self.records.record(kid, step(stage, Arrow.LOAD), actor)
        leave = self.doors.settings.late_mismatch is LateMismatch.LEAVE
        load.load_core(self.doors.kernel, bundle, leave_unmatched=leave)

    def _match(self, bundle: Bundle, actor: Actor) -> None:
        """Load the old code, and so match it with the running code."""
        kid = bundle.manifest.kid
        detail = describe_match(load.match(self.doors.kernel, bundle))
        with self._recorded_if_need_be():
            self.records.record(kid, step(Stage.LOADING, Arrow.MATCH), actor, detail=detail)

    def _enable(self, bundle: Bundle) -> float:
        """Load the new code, and so start the transition; returns the time of that."""
        started = self.doors.clock.monotonic()
        settings = self.doors.settings
        load.enable(
            self.doors.kernel, bundle,
            ask_early=settings.ask_early, signal_after=settings.signal_after,
        )  # fmt: skip
        return started

    def _fail(self, kid: str, error: Exception, actor: Actor) -> None:
        """Leave nothing loaded, and record why."""
        mismatch = load.read_core_mismatch(self.doors.kernel, kid)
        detail = "; ".join(text for text in (str(error), self._unload_all(kid)) if text)
        with contextlib.suppress(StoreError):  # ``error`` is the one to raise
            self.records.record(
                kid,
                step(Stage.LOADING, Arrow.FAIL),
                actor,
                cause=cause_of(error),
                detail=detail,
                mismatch=mismatch,
            )

    # --- applied ─undo▸ reversing ---------------------------------------------------------------

    def start_undo(self, kid: str, actor: Actor, why: str = "", below: str = "") -> Transition:
        """Start the transition back to the old code; ``why`` is for the history.

        ``below`` is the update that supersedes this one, if one does; it must still be applied.
        An update that is not applied is not wanted any more, and the error says so.
        Raises ``NoSuchUpdateError``, ``AlreadyReversedError`` (this update, or ``below``, is not
        applied), ``InUseError`` (an applied update depends on it, it moves, or another one does).
        """
        if below and self.get_update(below).stage is not Stage.APPLIED:
            raise AlreadyReversedError(f"{below}: is not applied, so {kid} is not undone")
        # a person may also end the want of an update whose bundle was deleted by hand
        info = self.records.info(kid) if kid in self.records.wants else self.get_update(kid)
        self._check_nothing_moves()
        if info.stage is not Stage.APPLIED:
            hint = ""
            if info.is_wanted:
                self._note_leftovers(kid)
                detail = f"was {info.stage}, and is not wanted any more"
                self.records.record(kid, Stage.REVERSED, actor, detail=detail)
                hint = "; it is not wanted any more, and is not applied again"
            raise AlreadyReversedError(f"{kid}: is {info.stage}, not applied{hint}")
        self.order.check_undo(kid)
        started = self.doors.clock.monotonic()
        self.doors.kernel.set_enabled(new_module(kid), enabled=False)
        self._record_move(kid, step(info.stage, Arrow.UNDO), actor, detail=why)
        return Transition(kid=kid, direction=Direction.UNDO, started=started, actor=actor)

    # --- while the kernel works -----------------------------------------------------------------

    def tidy(self, transition: Transition) -> None:
        """Unload the old code, which only the match needed; ``finish`` tries again."""
        kernel = self.doors.kernel
        with contextlib.suppress(KspliceError):
            load.unload(kernel, load.old_modules_of(kernel, transition.kid))

    def is_finished(self, transition: Transition) -> bool:
        """Return whether the transition has ended, either way; then call ``finish``.

        Poll it: POLLPRI on ``/sys/module/ksplice_KID/ksplice/stage`` may come a moment early.
        """
        livepatch = self.doors.kernel.livepatch(new_module(transition.kid))
        return livepatch is None or not livepatch.transition

    def lets_go(self, transition: Transition) -> bool:
        """Return whether ``finish`` has to wait: ftrace has functions of an undo that is over.

        Their module cannot be unloaded yet.  Poll it, once ``is_finished``.
        """
        return self.doors.kernel.lets_go(new_module(transition.kid))

    def conflicts(self, transition: Transition) -> list[Conflict]:
        """Return the tasks that hold the transition up, by pid."""
        kernel, name = self.doors.kernel, new_module(transition.kid)
        livepatch = kernel.livepatch(name)
        if livepatch is None or not livepatch.transition:
            return []
        functions = {anchored(function) for _, function, _ in kernel.replaced().get(name, ())}
        blockers = kernel.blockers(core_module(transition.kid), patched=not livepatch.enabled)
        return [replace(b, function=find_function(b.stack, functions)) for b in blockers]

    # --- transitioning ─cancel▸ reversing, reversing ─cancel▸ transitioning -----------------------

    def cancel(self, transition: Transition, cause: str) -> Transition:
        """Turn the transition around (``cause``: ``code_busy`` or ``cancelled``).

        Returns the transition to watch and finish in place of the old one.  A transition that has
        ended, or was turned around before, is returned as it is.
        """
        if transition.cancelled or self.is_finished(transition):
            return transition
        kid, is_undo = transition.kid, transition.direction is Direction.UNDO
        detail = describe_conflicts(self.conflicts(transition))
        if detail and cause == CodeBusyError.abort_cause:
            detail += ", which the journal names"
        try:
            self.doors.kernel.set_enabled(new_module(kid), enabled=is_undo)
        except UnexpectedError:
            if self.is_finished(transition):
                return transition  # it ended just before
            raise
        stage = step(Stage.REVERSING if is_undo else Stage.TRANSITIONING, Arrow.CANCEL)
        self._record_move(kid, stage, transition.actor, cause=cause, detail=detail)
        return replace(transition, cancelled=cause)

    # --- transitioning ─▸ applied, reversing ─▸ reversed ----------------------------------------

    def finish(self, transition: Transition) -> UpdateInfo:
        """Unload the modules that are no longer needed, and record where the update came to rest.

        That is APPLIED or REVERSED; FAILED with the cause for an apply that was cancelled, APPLIED
        with the cause for an undo that was.  Raises ``StoreError``, with the work done.
        """
        kernel, kid = self.doors.kernel, transition.kid
        assert self.is_finished(transition), f"{kid}: the transition still runs"
        livepatch = kernel.livepatch(new_module(kid))
        is_enabled = livepatch is not None and livepatch.enabled
        end = outcome(transition, is_enabled=is_enabled)
        cause, detail = end.cause, end.detail
        last = self.records.last(kid)
        was_undone = end.stage is Stage.REVERSED and last and last.stage is Stage.REVERSING
        if last is not None and (cause or was_undone):
            detail = last.detail  # which tasks held it up, or why it was undone
        if is_enabled:
            left = load.unload(kernel, load.old_modules_of(kernel, kid))
        else:
            left = self._unload_all(kid)
        seconds = self.doors.clock.monotonic() - transition.started
        complaint = self.soak.describe_pending(kid) if end.stage is Stage.FAILED else ""
        if complaint and self.doors.settings.undo_on_warning:
            cause = KernelWarningError.abort_cause  # in place of any other, so there is no retry
        claims = self._void_claims(kid) if end.stage is Stage.APPLIED else []
        texts = (complaint, detail, f"after {seconds:.1f} s", left, *claims)
        detail = "; ".join(text for text in texts if text)
        self.records.record(kid, end.stage, transition.actor, cause=cause, detail=detail)
        if end.stage is Stage.APPLIED:
            self.soak.record_pending(kid)
            return self.records.info(kid)
        # not the stage of the records: it is REJECTED if the bundle no longer verifies
        return replace(self.records.info(kid), stage=end.stage, abort_cause=cause, detail=detail)

    # --- quarantined ─release▸ staged -----------------------------------------------------------

    def release(self, kid: str, actor: Actor) -> UpdateInfo:
        """Let a quarantined update be applied again.

        Raises ``NoSuchUpdateError``, ``NotQuarantinedError``.
        """
        info = self.get_update(kid)
        if info.stage is not Stage.QUARANTINED:
            raise NotQuarantinedError(f"{kid}: is {info.stage}, not quarantined")
        detail = f"released; it was quarantined because {info.detail}"
        self.records.record(kid, step(info.stage, Arrow.RELEASE), actor, detail=detail)
        return self.records.info(kid)

    # --- detail ---------------------------------------------------------------------------------

    def _void_claims(self, kid: str) -> list[str]:
        """Return what an update claims without a right; what cannot be read costs no record."""
        try:
            return self.order.void_claims(kid)
        except KspliceError as e:
            return [f"not known whether it may replace what it names: {e}"]

    def _record_move(
        self, kid: str, stage: Stage, actor: Actor, *, cause: str = "", detail: str = ""
    ) -> None:
        """Record a stage that the kernel has begun; if that fails, the next start finds it out."""
        with contextlib.suppress(StoreError):
            self.records.record(kid, stage, actor, cause=cause, detail=detail)

    @contextlib.contextmanager
    def _recorded_if_need_be(self) -> Iterator[None]:
        """Go on without a record where a full or read-only disk must not cost a fix.

        That is at boot, and only with an update that has run for its soak time once: should another
        one crash the machine, the next boot has to know.
        """
        try:
            yield
        except StoreError:
            if not self._may_go_unrecorded:
                raise

    def _unload_leftovers(self, kid: str) -> None:
        """Unload what an earlier apply of ours left loaded, and nothing that others loaded."""
        self._note_leftovers(kid)
        load.unload(self.doors.kernel, self._left.pop(kid, []))

    def _note_leftovers(self, kid: str) -> None:
        """Note the modules of ours that stay loaded where somebody else has undone an update."""
        kernel, last = self.doors.kernel, self.records.last(kid)
        if last is not None and last.stage is Stage.APPLIED:
            is_ours = last.boot_id == kernel.boot_id()
            self._left[kid] = load.modules_of(kernel, kid) if is_ours else []

    def _unload_all(self, kid: str) -> str:
        """Unload an update's modules; returns which stay loaded and why, or empty text."""
        kernel = self.doors.kernel
        try:
            names = load.modules_of(kernel, kid)
        except UnexpectedError:  # the loaded modules cannot be listed now
            names = [*reversed(fit.update_modules(self.records.manifest(kid)))]
        text = load.unload(kernel, names)
        self._left[kid] = names if text else []
        return text

    def _check_nothing_moves(self) -> None:
        for info in self.list_updates():
            if is_moving(info.stage):
                raise InUseError(f"{info.kid}: is {info.stage}; one update at a time")
