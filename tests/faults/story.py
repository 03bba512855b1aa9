# SPDX-License-Identifier: GPL-2.0-only
"""The verbs that faults are injected into, each on a host that was prepared for it."""

import contextlib
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ksplicd import minisign
from ksplicd.bundle import file_name
from ksplicd.config import Settings
from ksplicd.errors import BadSignatureError, CodeBusyError, HostError, KspliceError
from ksplicd.host import boot
from ksplicd.host.engine import Engine
from ksplicd.host.kernel.kmsg import Complaint
from ksplicd.host.stages import Event, Transition
from ksplicd.host.store.drop_dir import DropDir
from ksplicd.host.store.history import History, write_event
from ksplicd.host.store.store import Store
from ksplicd.host.trust.keyring import Keyring
from ksplicd.host.updates.doors import Doors
from tests.faults.inject import KILL, Fault
from tests.faults.kernel import KERNEL, RemoteKernel
from tests.support.bundles import samples
from tests.support.bundles.samples import KID, OTHER_KID
from tests.support.host.host import ALICE, ROOT
from tests.support.host.simulator import NO_MATCH, Simulator, StoppedClock

BUNDLE: Final = samples.bundle(kernel=KERNEL)
OTHER: Final = samples.bundle(OTHER_KID, kernel=KERNEL)
DROP: Final = f"ksplice-{KID}.tar.gz"
FULL: Final = 2000
"""Bytes after which a history file is full."""


class LittleRoom(Settings):
    """One bundle fits."""

    def limits(self) -> dict[str, int]:
        return super().limits() | {"updates": len(OTHER) + 1000}


class Machine:
    """The host as one process sees it."""

    def __init__(self, folder: Path, end: socket.socket) -> None:
        """Start the daemon's engine, without faults as yet."""
        self.folder = folder
        self.kernel = RemoteKernel(folder, end)
        self.events: list[Event] = []
        self.is_lost = False
        """Whether a transition may go on that nobody watches."""
        self.engine = self.new_engine()

    def new_engine(self) -> Engine:
        """Return what a daemon that has just been started has."""
        engine = Engine(
            Doors(
                store=Store(self.folder / "store"),
                kernel=self.kernel,
                keyring=Keyring(self.folder / "keys", os.getuid()),
                clock=StoppedClock(),
                settings=Settings(metrics_file=self.folder / "store" / "ksplice.prom"),
                on_event=self.events.append,
                find_crash=lambda boot_id, since: "/var/crash/dmesg is from after it was applied",
                owner=os.getuid(),
            )
        )
        # few events fill a file here
        engine.records._history = History(engine.doors.store.history_file, FULL)
        return engine

    def follow(self, begin: Callable[[], Transition], cancel: str = "") -> None:
        """Start a transition and see it to its end, as ``bus.running_job`` does."""
        transition = begin()
        try:
            if cancel:
                transition = self.engine.cancel(transition, cancel)
            self.end(transition)
        except Exception:
            self.is_lost = True
            with contextlib.suppress(KspliceError):
                self.look_again()
            raise

    def look_again(self) -> None:
        """Find out what is so after a transition of which we do not know, until we do."""
        if self.is_lost:
            self.reconcile()
        self.is_lost = False

    def wait(self) -> None:
        """Let a second pass, in which a transition ends."""
        self.engine.doors.clock.now += 1  # type: ignore[attr-defined]
        self.kernel.complete()

    def reconcile(self) -> None:
        """Look at the kernel as at a start, and see to their end what still moves."""
        for transition in self.engine.reconcile().transitions:
            self.end(transition)

    def end(self, transition: Transition) -> None:
        """See a transition to its end."""
        self.engine.tidy(transition)
        while not self.engine.is_finished(transition):
            self.kernel.complete()
        self.engine.finish(transition)

    # --- verbs ----------------------------------------------------------------------------------

    def start(self) -> None:
        self.engine = self.new_engine()
        self.reconcile()

    def stage(self) -> None:
        self.engine.stage(BUNDLE, samples.signature(BUNDLE), ALICE)

    def stage_other(self) -> None:
        self.engine.stage(OTHER, samples.signature(OTHER), ALICE)

    def sign_anew(self) -> None:
        signature = minisign.sign(
            BUNDLE, samples.KEY, trusted_comment=f"anew file:{file_name(samples.KID)}"
        ).encode()
        self.engine.stage(BUNDLE, signature, ALICE)

    def drop(self) -> None:
        root = self.engine.doors.store.root
        for drop in DropDir(root, require_signature=True).scan():
            self.engine.stage_file(drop.bundle, drop.signature, ROOT)

    def apply(self, kid: str = KID) -> None:
        self.follow(lambda: self.engine.start_apply(kid, ALICE))

    def apply_other(self) -> None:
        self.apply(OTHER_KID)

    def undo(self) -> None:
        self.follow(lambda: self.engine.start_undo(KID, ALICE))

    def cancel(self) -> None:
        cause = CodeBusyError.abort_cause
        self.follow(lambda: self.engine.start_apply(KID, ALICE), cause)

    def remove(self) -> None:
        self.engine.remove(KID, ALICE)

    def release(self) -> None:
        self.engine.release(KID, ALICE)

    def soak(self) -> None:
        self.engine.soak.watch()
        self.engine.doors.clock.now += 10000  # type: ignore[attr-defined]
        self.engine.soak.watch()

    def shutdown(self) -> None:
        self.engine.soak.mark_clean()

    def boot(self) -> None:
        self.engine = self.new_engine()
        waiting: list[str] = []
        boot.apply_again(
            self.engine,
            lambda kid, why: waiting.append(why),
            sleep=lambda seconds: self.wait(),
        )
        if waiting:
            raise HostError("; ".join(waiting))  # that is how it is told

    def complain(self) -> None:
        complaint = Complaint(
            time=self.engine.doors.clock.monotonic(),
            headline="WARNING: x",
            function="f",
            module="m",
        )
        self.engine.soak.record_complaint(KID, complaint)

    def replay(self) -> None:
        self.engine.staging.check_not_undone(KID)

    def make_room(self) -> None:
        self.engine.doors.settings = LittleRoom()
        self.stage_other()

    def prune(self) -> None:
        DropDir(self.engine.doors.store.root, require_signature=True).prune(0)

    def condense(self) -> None:
        History(self.engine.doors.store.history_file, FULL, keep=lambda: 1)._turn_over(FULL)

    def write_metrics(self) -> None:
        self.engine.write_metrics()

    def list_history(self) -> list[str]:
        return [write_event(event).decode() for event in list(self.engine.records.events())]


Step = Callable[[Machine], object]


def _put_drop(key: minisign.SecretKey = samples.KEY) -> Step:
    def put(machine: Machine) -> None:
        (machine.engine.doors.store.root / DROP).write_bytes(BUNDLE)
        signature = samples.signature(BUNDLE, key)
        (machine.engine.doors.store.root / f"{DROP}.minisig").write_bytes(signature)

    return put


def _reject(machine: Machine) -> None:
    """Drop what is rejected."""
    _put_drop(samples.STRANGER)(machine)
    with contextlib.suppress(BadSignatureError):
        machine.drop()


def _kill_at(number: int) -> "Stopped":
    """Kill an apply before its n-th change of the kernel."""
    return Stopped(step=Machine.apply, fault=Fault(call="sendmsg", number=number, what=KILL))


def _mismatch(simulator: Simulator) -> None:
    simulator.mismatches["vmlinux"] = ("no_match", NO_MATCH)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """A step in which the daemon is killed."""

    step: Step
    fault: Fault


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """What is done with faults, what was before it, and how it ends without them."""

    do: Step
    before: Sequence["Step | Stopped | str"] = ()
    """Steps; ``reboot`` is the machine's."""
    set_up: Callable[[Simulator], None] = lambda simulator: None
    """What the kernel is told after that."""
    told: Sequence[str] = ()
    """The stages that it adds to the history."""
    ends: dict[str, str] = field(default_factory=dict)
    """Stage of each update at the end; ``|`` between those that faults may lead to."""
    error: str = ""
    """The error that is the right answer."""
    is_careful: bool = False
    """Whether what cannot be read for good makes it do less."""
    condenses: bool = False
    """Whether less of the history is there afterwards, and all that must not be forgotten."""
    again: str = ""
    """The error that is the right answer when it was done before."""

    def less(self) -> dict[str, str]:
        """Return how a careful one ends, with what it takes no chances with."""
        return {kid: f"{stage}|quarantined|staged|rejected" for kid, stage in self.ends.items()}


M = Machine
VERBS: Final[dict[str, Verb]] = {
    "drop": Verb(before=[_put_drop()], do=M.drop, told=["staged"], ends={KID: "staged"}),
    "drop bad": Verb(
        before=[_put_drop(samples.STRANGER)], do=M.drop, told=["rejected"],
        error="BadSignatureError", again="ok",
    ),
    "stage": Verb(do=M.stage, told=["staged"], ends={KID: "staged"}),
    "sign anew": Verb(before=[M.stage], do=M.sign_anew, ends={KID: "staged"}),
    "apply": Verb(
        before=[M.stage], do=M.apply, ends={KID: "applied"}, again="AlreadyAppliedError",
        told=["loading", "matched", "transitioning", "applied"],
    ),
    "mismatch": Verb(
        before=[M.stage], set_up=_mismatch, do=M.apply, ends={KID: "failed"},
        told=["loading", "failed"], error="NoMatchError",
    ),
    "cancel": Verb(
        before=[M.stage], do=M.cancel, ends={KID: "failed|applied"}, again="AlreadyAppliedError",
        told=["loading", "matched", "transitioning", "reversing", "failed"],
    ),
    "undo": Verb(
        before=[M.stage, M.apply], do=M.undo, ends={KID: "reversed"},
        told=["reversing", "reversed"], again="AlreadyReversedError",
    ),
    "remove": Verb(
        before=[M.stage, M.apply, M.undo], do=M.remove, told=["removed"],
        again="NoSuchUpdateError",
    ),
    **{
        f"start after a kill at {number}": Verb(
            before=[M.stage, _kill_at(number)],
            do=M.start, told=["failed"], ends={KID: "failed"}, is_careful=True,
        )
        for number in (2, 3)
    },
    "start while it moves": Verb(
        before=[M.stage, _kill_at(4)],
        do=M.start, told=["applied"], ends={KID: "applied"},
    ),
    "start": Verb(
        before=[M.stage, M.apply, M.stage_other, M.apply_other], do=M.start,
        ends={KID: "applied", OTHER_KID: "applied"},
    ),
    "boot": Verb(
        before=[M.stage, M.apply, M.stage_other, M.apply_other, M.shutdown, "reboot"],
        do=M.boot, ends={KID: "applied|failed", OTHER_KID: "applied|failed"},
        told=["loading", "matched", "transitioning", "applied"] * 2, is_careful=True,
    ),
    "start after a crash": Verb(
        before=[M.stage, M.apply, "reboot"], do=M.start, told=["quarantined"],
        ends={KID: "quarantined"}, is_careful=True,
    ),
    "release": Verb(
        before=[M.stage, M.apply, "reboot", M.start], do=M.release, told=["staged"],
        ends={KID: "staged"}, again="NotQuarantinedError",
    ),
    "soak": Verb(before=[M.stage, M.apply], do=M.soak, ends={KID: "applied"}),
    "shutdown": Verb(before=[M.stage, M.apply], do=M.shutdown, ends={KID: "applied"}),
    "complaint": Verb(
        before=[M.stage, M.apply], do=M.complain, told=["applied"], ends={KID: "applied"},
    ),
    "replay": Verb(
        before=[M.stage, M.apply, M.undo], do=M.replay, error="ReplayedError",
        ends={KID: "reversed"},
    ),
    "make room": Verb(
        before=[M.stage, M.apply, M.undo], do=M.make_room, told=["removed", "staged"],
        ends={OTHER_KID: "staged"},
    ),
    "prune": Verb(before=[_reject, _reject, _reject], do=M.prune),
    "condense": Verb(
        before=[M.stage, M.apply, M.undo, M.apply, M.undo, M.apply], do=M.condense,
        ends={KID: "applied"}, condenses=True,
    ),
    "metrics": Verb(before=[M.stage, M.apply], do=M.write_metrics, ends={KID: "applied"}),
    "history": Verb(
        before=[M.stage, M.apply, M.undo, M.apply], do=M.list_history, is_careful=True,
        ends={KID: "applied"},
    ),
}  # fmt: skip
