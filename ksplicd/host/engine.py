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

from collections.abc import Callable
from pathlib import Path

from ksplicd.config import Settings
from ksplicd.host.clock import Clock
from ksplicd.host.kernel import KernelDoor
from ksplicd.host.keyring import Keyring
from ksplicd.host.state import Actor, Conflict, Event, Reconciliation, Transition, UpdateInfo
from ksplicd.host.store import Store

Value = str | int | list[str]
"""What ``describe`` tells; the bus makes ``s``, ``x`` and ``as`` of it."""


class Engine:
    """Updates of one host: the store on one side, the kernel on the other."""

    def __init__(
        self,
        store: Store,
        kernel: KernelDoor,
        keyring: Keyring,
        settings: Settings,
        clock: Clock,
        on_event: Callable[[Event], None] = lambda event: None,
    ) -> None:
        """Call ``reconcile`` before anything else."""
        self.store = store
        self.kernel = kernel
        self.keyring = keyring
        self.settings = settings
        self.clock = clock
        self.on_event = on_event

    # --- at start -------------------------------------------------------------------------------

    def reconcile(self) -> Reconciliation:
        """Bring our records into line with the kernel, which wins.

        Modules that a killed apply left half loaded are unloaded; an update that was being applied
        when the machine went down is FAILED; one that was applied then is STAGED now.  Returns the
        transitions that still run and the kids to apply again at boot.  Raises ``StoreError``.
        """
        raise NotImplementedError

    # --- questions ------------------------------------------------------------------------------

    def list_updates(self) -> list[UpdateInfo]:
        """Return every update of the store and every one found in the kernel, by kid."""
        raise NotImplementedError

    def get_update(self, kid: str) -> UpdateInfo:
        """Return one update, its stage as the kernel shows it.  Raises ``NoSuchUpdateError``."""
        raise NotImplementedError

    def describe(self, kid: str) -> dict[str, Value]:
        """Return all that is known of an update, keys as on the bus.  ``NoSuchUpdateError``."""
        raise NotImplementedError

    def history(self, limit: int = 0) -> list[Event]:
        """Return the last ``limit`` events (0: all), newest first."""
        raise NotImplementedError

    # --- dropped ─verify▸ staged ----------------------------------------------------------------

    def stage_file(self, path: Path, sig_path: Path | None, actor: Actor) -> UpdateInfo:
        """Take a dropped bundle in: verify it, keep it under ``updates/KID/``, remove the drop.

        On a ``BundleError`` or ``HostError`` the files are moved to ``rejected/`` with a
        ``.reason`` beside them, the event is REJECTED, and the error is raised.  A ``StoreError``
        or ``KeyFileError`` (our fault, not the file's) leaves the drop where it is.
        """
        raise NotImplementedError

    def stage(self, bundle: bytes, signature: bytes | None, actor: Actor) -> UpdateInfo:
        """Verify a bundle and keep it; the same bytes again change nothing.

        Raises ``BadSignatureError``, ``BadBundleError``, ``WrongKernelError``,
        ``ModulePresentError``, ``AlreadyStagedError`` (same kid, other bytes), ``KeyFileError``,
        ``StoreError``.
        """
        raise NotImplementedError

    def remove(self, kid: str, actor: Actor) -> None:
        """Forget an update that is not applied.  Raises ``InUseError``, ``NoSuchUpdateError``."""
        raise NotImplementedError

    # --- staged ─load▸ loading ─match▸ matched ─enable▸ transitioning -----------------------------

    def start_apply(self, kid: str, actor: Actor) -> Transition:
        """Verify the stored bytes again, load, match, and start the transition.

        Whatever fails, every module that was loaded is unloaded again before the error is raised,
        and the update is FAILED when the kernel was touched.  Raises ``NoSuchUpdateError``,
        ``AlreadyAppliedError``, ``InUseError`` (it is on its way, or another transition runs), the
        errors of ``stage``, ``MissingDependencyError``, and the ``ApplyError`` that fits.
        """
        raise NotImplementedError

    # --- applied ─undo▸ reversing ---------------------------------------------------------------

    def start_undo(self, kid: str, actor: Actor) -> Transition:
        """Start the way back to the old code.

        Raises ``NoSuchUpdateError``, ``AlreadyReversedError`` (it is not applied), ``InUseError``
        (an applied update depends on it, it is on its way, or another transition runs).
        """
        raise NotImplementedError

    # --- while the kernel works -----------------------------------------------------------------

    def is_finished(self, transition: Transition) -> bool:
        """Tell whether the transition has ended, either way; then call ``finish``.

        Poll it: POLLPRI on ``/sys/module/ksplice_KID/ksplice/stage`` may come a moment early.
        """
        raise NotImplementedError

    def conflicts(self, transition: Transition) -> list[Conflict]:
        """Return the tasks that hold the transition up, by pid; empty when there is none."""
        raise NotImplementedError

    def cancel(self, transition: Transition, cause: str) -> Transition:
        """Turn the transition around (``cause``: ``code_busy`` or ``cancelled``).

        Returns the transition to watch and finish instead of the old one.  One that has ended, or
        was turned around before, is returned as it is.
        """
        raise NotImplementedError

    # --- transitioning ─▸ applied, reversing ─▸ reversed ----------------------------------------

    def finish(self, transition: Transition) -> UpdateInfo:
        """Unload what is not needed any more and record where the update came to rest.

        APPLIED, or REVERSED, or (an apply that was cancelled) FAILED with the cause; an undo that
        was cancelled is APPLIED with the cause.
        """
        raise NotImplementedError
