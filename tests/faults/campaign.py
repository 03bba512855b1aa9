# SPDX-License-Identifier: GPL-2.0-only
"""Try every fault of a verb, and check the rules that must hold afterwards.

After each fault:

- the history begins with what was in it before, and has every reported event as soon as it can be
  written again;
- the answer to the caller is true: success means that the verb is done and recorded, and an error
  is one of ours;
- an update is shown as applied exactly when the kernel runs it, and no module of an update that is
  neither applied nor on its way is loaded, once the verb is repeated or the daemon restarted;
- repeating the verb, in the same process or the next, leads to the same end as without faults;
- a dropped bundle is stored, rejected for a fault of its own, or still there.
"""

import contextlib
import copy
import dataclasses
import errno
import json
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from ksplicd import minisign
from ksplicd.errors import KspliceError
from ksplicd.host.store.history import History, last_words, read_events, write_event
from tests.faults import inject
from tests.faults.inject import Fault
from tests.faults.kernel import KERNEL, SysfsKernel
from tests.faults.story import Machine, Stopped, Verb
from tests.support.bundles import samples
from tests.support.host.host import all_events
from tests.support.host.simulator import Simulator

_EVENT: Final = re.compile(r"{'time':[^{]*?'kid':'(\w*)','stage':'(\w+)'.*?'mismatch':{.*?}}")

_TRIES: Final = 3
"""On a busy machine strace may begin to count a few calls late."""

_T = TypeVar("_T")

LASTING: Final = {"EIO": os.strerror(errno.EIO), "ENOSPC": os.strerror(errno.ENOSPC)}
"""Errors that are there for good."""


class BrokenRuleError(AssertionError):
    """What may never be so is so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A host before the verb."""

    folder: Path
    simulator: Simulator
    history: list[str]


def prepare(verb: Verb, folder: Path) -> Prepared:
    """Make a host and do to it what comes before the verb."""
    (folder / "keys").mkdir(parents=True)
    (folder / "store").mkdir(mode=0o700)
    key = folder / "keys/test.pub"
    key.write_text(minisign.write_public_key(samples.KEY.public))
    key.chmod(0o644)
    kernel = SysfsKernel(folder, Simulator(KERNEL))
    kernel.show()
    _run(kernel, Machine.start)
    for step in verb.before:
        match step:
            case "reboot":
                kernel.simulator.reboot()
                kernel.show()
            case Stopped():
                assert _run(kernel, step.step, step.fault) is None, "not killed"
            case _:
                assert not isinstance(step, str)
                report = _run(kernel, step)
                assert report["told"] == "ok", report
    verb.set_up(kernel.simulator)
    return Prepared(
        folder=folder, simulator=kernel.simulator, history=read_history(folder / "store")
    )


def faults_of(verb: Verb, prepared: Prepared, scratch: Path) -> list[Fault]:
    """Return every fault that can happen to the verb, and hold the verb itself to its rules."""
    trace = scratch / "trace"
    with _copy(prepared, scratch) as kernel:
        report = _run(kernel, verb.do, trace=trace)
        check(verb, prepared, kernel, report, is_faulted=False)
    return inject.faults_for(inject.calls_of(trace))


def try_fault(verb: Verb, prepared: Prepared, fault: Fault, scratch: Path) -> None:
    """Do the verb with a fault.  Raises ``BrokenRuleError``."""
    for _ in range(_TRIES):
        if _is_tried(verb, prepared, fault, scratch) or fault.may_be_missed:
            return
    raise BrokenRuleError("the fault did not come to pass")


def _is_tried(verb: Verb, prepared: Prepared, fault: Fault, scratch: Path) -> bool:
    """Do the verb; tell whether the fault came to pass."""
    trace = scratch / "trace"
    with _copy(prepared, scratch) as kernel:
        report = _run(kernel, verb.do, fault, trace)
        if not inject.is_reached(trace):
            return False
        if fault.is_lasting and report is not None and verb.do is Machine.boot:
            report["reported"] = []  # what it could not write is lost with it
        is_less = verb.is_careful and fault.what in LASTING
        if is_less:
            verb = dataclasses.replace(verb, told=(), ends=verb.less())
        check(verb, prepared, kernel, report, is_faulted=True, is_less=is_less)
        return True


@contextlib.contextmanager
def _copy(prepared: Prepared, scratch: Path) -> Iterator[SysfsKernel]:
    folder = scratch / "host"
    shutil.copytree(prepared.folder, folder)
    try:
        yield SysfsKernel(folder, copy.deepcopy(prepared.simulator))
    finally:
        shutil.rmtree(folder)


# --- the child ----------------------------------------------------------------------------------


def _run(
    kernel: SysfsKernel,
    do: Callable[[Machine], object],
    fault: Fault | None = None,
    trace: Path | None = None,
) -> Any:
    """Have ``do`` done by a process of its own; returns what it tells, or None."""
    is_lasting = fault is not None and fault.is_lasting
    prepare = partial(_prepare, kernel.root, do, is_lasting)
    return inject.run(prepare, kernel.serve, fault, trace)


def _prepare(
    folder: Path,
    do: Callable[[Machine], object],
    is_lasting: bool,  # noqa: FBT001
    end: socket.socket,
) -> Callable[[], None]:
    machine = Machine(folder, end)
    if do not in (Machine.start, Machine.boot):
        machine.reconcile()
    machine.events.clear()
    machine.kernel.report("ready")
    lift = machine.kernel.lift if is_lasting else lambda: None
    return lambda: machine.kernel.report(_do(machine, do, lift))


def _do(
    machine: Machine, do: Callable[[Machine], object], lift: Callable[[], None]
) -> dict[str, Any]:
    """Do it, and once more if it failed; return what was told.

    ``lift`` ends the fault after the first time.
    """
    report: dict[str, Any] = {"told": "ok"}
    try:
        report["answer"] = do(machine)
        lift()
    except Exception as e:
        report |= {"told": type(e).__name__, "text": str(e), "named": is_named(e)}
        lift()
        machine.look_again()
        report["stages"] = stages(machine)
        report["running"] = sure(machine.kernel.livepatches, list)
        try:
            do(machine)
        except Exception as again:
            report |= {"again": type(again).__name__, "again-text": str(again)}
    report["last"] = stages(machine)
    with contextlib.suppress(KspliceError):
        list(machine.engine.records.events())  # writes what could not be written before
    report["reported"] = [write_event(event).decode().strip() for event in machine.events]
    return report


def is_named(error: Exception) -> bool:
    """Tell whether this is an error on purpose, or out of memory."""
    return isinstance(error, KspliceError | MemoryError)


def stages(machine: Machine) -> dict[str, list[str]]:
    """Return (stage, detail) of each update."""
    infos = sure(machine.engine.list_updates, list)
    return {info.kid: [info.stage.value, info.detail] for info in infos}


def sure(ask: Callable[[], Iterable[Any]], kind: Callable[[Iterable[Any]], _T]) -> _T:
    """Return what ``ask`` answers; the fault may come now, but only once."""
    try:
        return kind(ask())
    except (KspliceError, MemoryError):
        return kind(ask())


# --- the rules ----------------------------------------------------------------------------------


def check(
    verb: Verb,
    prepared: Prepared,
    kernel: SysfsKernel,
    report: Any,
    *,
    is_faulted: bool,
    is_less: bool = False,
) -> None:
    """Raise ``BrokenRuleError`` when something is so that may not be."""
    store = kernel.root / "store"
    before, now = prepared.history, read_history(store)
    if verb.condenses:  # what has to stay is what counts, once or twice
        before, now = condense(before), condense(now)
    require(now[: len(before)] == before, "history: what was there is not there", now)
    right = {"ok"} if not verb.error else {verb.error}
    if report is not None:
        told = report["told"]
        require(is_faulted or told in right, "told", report)
        require(told in right or report["named"], "a stray error", report)
        if told in right:
            require(is_part(verb.told, stages_of(now[len(before) :])), "history: incomplete", now)
            check_ends(verb, report["last"], report)
        else:
            again = report.get("again", "ok")
            require(again in right | {verb.again}, "done again in the same life", report)
            check_ends(verb, report["last"], report)
            check_truth(report["running"], report["stages"], report)
        is_whole = is_part(report["reported"], now[len(before) :])
        if verb.do in {Machine.start, Machine.boot}:  # to do these again is another life
            is_whole = {*stages_of(report["reported"])} <= {*stages_of(now)}
        require(is_whole, "history: lost line", (now, report))
        check_truth(kernel.simulator.livepatches(), report["last"], report)
        check_leftovers(kernel.simulator, report)
        if "answer" in report and verb.do is Machine.list_history:
            answer, whole = report["answer"][::-1], [f"{line}\n" for line in now]
            is_right = answer == whole or (is_less and is_part(answer, whole))
            require(is_right, "answer", report)
    check_next_life(verb, kernel, report)


def check_next_life(verb: Verb, kernel: SysfsKernel, report: Any) -> None:
    """Start the daemon anew, and do the verb again."""
    store = kernel.root / "store"
    before = read_history(store)
    started = _run(kernel, Machine.start)
    require(started is not None and started["told"] == "ok", "start", (report, started))
    now = read_history(store)
    require(now[: len(before)] == before, "history: what was there is not there", now)
    check_truth(kernel.simulator.livepatches(), started["last"], (report, started))
    check_leftovers(kernel.simulator, (report, started))
    last = {json.loads(line)["kid"]: json.loads(line) for line in now}
    for kid, (stage, _) in started["last"].items():
        here = last[kid]["boot-id"] == kernel.simulator.boot_id() if kid in last else True
        told = last[kid]["stage"] if kid in last else None
        require(told == stage or not here, f"history: {kid} is {stage}", now)
    for kid in last.keys() - started["last"].keys() - {""}:
        told = last[kid]["stage"]
        require(told in {"removed", "rejected"}, f"history: {kid} is not there", now)
    if report is not None:
        return
    again = _run(kernel, verb.do)
    right = {"ok", verb.error, verb.again}
    require(again is not None and again["told"] in right, "done again in the next life", again)
    check_ends(verb, again["last"], again)
    check_leftovers(kernel.simulator, again)
    left = [p.name for p in (store / "updates").iterdir() if p.name.startswith(".")]
    require(not left, "left in the store", left)
    drops = [p.name for p in store.iterdir() if ".tar.gz" in p.name]
    require(not drops, "left in the drop directory", drops)


def check_ends(verb: Verb, found: dict[str, list[str]], report: Any) -> None:
    """Hold the updates' stages against those at the end."""
    good = found.keys() == verb.ends.keys() and all(
        found[kid][0] in stage.split("|") or is_damage(*found[kid])
        for kid, stage in verb.ends.items()
    )
    require(good, f"ends: {found}", report)


def is_damage(stage: str, detail: str) -> bool:
    """Tell whether an update is shown as one whose bundle or key is on a bad block."""
    return stage == "rejected" and any(text in detail for text in LASTING.values())


def check_truth(livepatches: Iterable[str], found: dict[str, list[str]], report: Any) -> None:
    """Hold what is shown against what the kernel runs."""
    running = {name.split("_")[1] for name in livepatches}
    shown = {kid for kid, (stage, _) in found.items() if stage == "applied"}
    moving = {kid for kid, (stage, _) in found.items() if stage in {"transitioning", "reversing"}}
    is_so = shown <= running <= shown | moving
    require(is_so, f"applied: {shown}, the kernel runs {running}", report)


def check_leftovers(simulator: Simulator, report: Any) -> None:
    """Refuse modules that nothing needs."""
    running = {name.split("_")[1] for name in simulator.livepatches()}
    needed = {f"ksplice_{kid}{end}" for kid in running for end in ("", "_new")}
    require(set(simulator.leftovers()) == needed, f"loaded: {simulator.leftovers()}", report)


def require(condition: bool, rule: str, about: object) -> None:  # noqa: FBT001
    """Raise ``BrokenRuleError`` unless ``condition`` holds."""
    if not condition:
        raise BrokenRuleError(f"{rule}: {_short(about)}")


def _short(about: object) -> str:
    """Return ``about`` with no more of an event than kid and stage."""
    text = json.dumps(about).replace('\\"', "'")
    return _EVENT.sub(r"\1 \2", text)


def read_history(store: Path) -> list[str]:
    """Return the lines of all files."""
    events = all_events(History(store / "history.jsonl"))
    return [write_event(event).decode().strip() for event in events]


def condense(lines: list[str]) -> list[str]:
    events = last_words(read_events(line.encode() for line in lines))
    return [write_event(event).decode().strip() for event in events]


def stages_of(lines: list[str]) -> list[str]:
    return [json.loads(line)["stage"] for line in lines]


def is_part(part: Any, whole: Any) -> bool:
    """Tell whether ``part`` is in ``whole``, in order."""
    rest = iter(whole)
    return all(item in rest for item in part)
