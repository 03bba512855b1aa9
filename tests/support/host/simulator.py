# SPDX-License-Identifier: GPL-2.0-only
"""A kernel for tests: what stock Linux does with an update's modules, as data.

It keeps the rules that the host half depends on (FACTS are of 6.1, kernel/livepatch/core.c and
kernel/module/main.c; the core is kmodsrc/core.c):

- a module whose name is loaded already is refused with EEXIST; old and new code need their core;
- loading old code is the match: ``mismatches`` names the targets that do not match; a module that
  is not loaded is refused, or waited for with ``late=1``;
- loading new code is refused with EPERM before a match and with EBUSY while a transition runs;
  else it starts a transition, which ``complete()`` ends;
- writing ``enabled`` turns a transition around or starts the way back; a livepatch that is disabled
  vanishes; its module can be unloaded only then, and the core only after its users.

``fault`` is raised by the n-th call that would change something, before the change.  ``Killed`` is
raised by the n-th such call, before or after the change, and stands for SIGKILL: nobody catches it.
``reboot()`` loses everything but the machine.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from ksplicd.errors import (
    InUseError,
    KspliceError,
    ModulePresentError,
    ModuleRefusedError,
    UnexpectedError,
)
from ksplicd.host.kernel.door import CoreState, LivepatchState, MatchedTarget
from ksplicd.host.kernel.probes import Probe
from ksplicd.host.kernel.tripwire import Listener
from ksplicd.host.stages import Conflict
from ksplicd.model import Kernel, core_module, new_module
from ksplicd.modinfo import read_module_names
from tests.support.bundles import samples

NO_MATCH = (
    "target=vmlinux function=do_fcntl offset=0x1c kind=bytes expected=0f1f4400 found=90909090"
)


class Killed(BaseException):
    """SIGKILL."""


@dataclass
class _Core:
    stage: str = "preparing"
    cause: str = "ok"
    mismatch: str = ""
    matched: list[MatchedTarget] = field(default_factory=list)
    targets: dict[str, str] = field(default_factory=dict)


@dataclass
class _Livepatch:
    enabled: bool
    transition: bool


class Simulator:
    """A ``KernelDoor``; the attributes below are what a test sets and looks at."""

    def __init__(self, kernel: Kernel = samples.KERNEL) -> None:
        """Boot."""
        self.kernel = kernel
        self.calls: list[str] = []
        """Every call that changed something, such as ``load ksplice_8c4o6ucj``."""
        self.mismatches: dict[str, tuple[str, str]] = {}
        """Target → (abort cause, the line in ``mismatch``)."""
        self.holders: list[Conflict] = []
        """Tasks that hold any transition up."""
        self.kprobes: list[Probe] = []
        self.fault: tuple[int, KspliceError] | None = None
        self.core_error: KspliceError | None = None
        """Raised when the core's sysfs is read."""
        self.kill: tuple[int, str] | None = None
        """(n, ``before`` or ``after``)"""
        self.functions: dict[str, frozenset[tuple[str, str, int]]] = {}
        """Livepatch → what it replaces: (object, function, position)."""
        self.tripwires: set[str] = set()
        """Updates that have some."""
        self.installed: set[str] = set()
        """Releases of kernels beside the running one."""
        self.keeps_code = False
        """Whether modules that were enabled stay loaded."""
        self.letting_go: set[str] = set()
        """Undone modules whose functions ftrace still has."""
        self.are_modules_disabled = False
        """Whether ``kernel.modules_disabled`` is 1, which only a reboot sets back."""
        self.build_ids: dict[str, str] = {}
        self.gone_after_check = ""
        """A module that somebody unloads while the update is being loaded."""
        self._boots = 0
        self.reboot()

    # --- what a test does -----------------------------------------------------------------------

    def reboot(self) -> None:
        """Lose every module."""
        self._boots += 1
        self._modules: set[str] = {"ext4"}
        self._cores: dict[str, _Core] = {}
        self._livepatches: dict[str, _Livepatch] = {}
        self._steps = 0

    def complete(self) -> None:
        """End every transition."""
        for name, livepatch in list(self._livepatches.items()):
            livepatch.transition = False
            core = self._cores.get(name.removesuffix("_new"))
            if core is not None:
                core.stage = "applied" if livepatch.enabled else "reversed"
            if not livepatch.enabled:
                del self._livepatches[name]

    def insert(self, name: str) -> None:
        """Load a module behind the engine's back."""
        self._modules.add(name)

    def start_foreign_transition(self, name: str) -> None:
        """Enable a livepatch of somebody else."""
        self.insert(name)
        self._livepatches[name] = _Livepatch(enabled=True, transition=True)

    def leftovers(self) -> list[str]:
        """Return our modules that are loaded."""
        return sorted(name for name in self._modules if name.startswith("ksplice_"))

    # --- what the engine asks -------------------------------------------------------------------

    def release(self) -> str:
        return self.kernel.release

    def version(self) -> str:
        return self.kernel.version

    def build_id(self) -> str:
        return self.kernel.build_id

    def boot_id(self) -> str:
        return f"{self._boots:032x}"

    def is_installed(self, release: str) -> bool:
        return release in {self.kernel.release, *self.installed}

    def modules(self) -> frozenset[str]:
        return frozenset(self._modules)

    def module_build_id(self, name: str) -> str:
        return self.build_ids.get(name, "") if name in self._modules else ""

    def livepatches(self) -> frozenset[str]:
        return frozenset(self._livepatches)

    def core(self, kid: str) -> CoreState | None:
        if self.core_error is not None:
            raise self.core_error
        core = self._cores.get(core_module(kid))
        if core is None:
            return None
        return CoreState(
            stage=core.stage,
            abort_cause=core.cause,
            matched=tuple(core.matched),
            mismatch=core.mismatch,
            targets=dict(core.targets),
            tripwire_family=f"kspl_{kid}" if kid in self.tripwires else "",
        )

    def livepatch(self, name: str) -> LivepatchState | None:
        found = self._livepatches.get(name)
        if found is None:
            return None
        return LivepatchState(enabled=found.enabled, transition=found.transition)

    def replaced(self) -> dict[str, frozenset[tuple[str, str, int]]]:
        return {name: self.functions.get(name, frozenset()) for name in self._livepatches}

    def blockers(self, core: str, *, patched: bool) -> tuple[Conflict, ...]:
        running = [p for p in self._livepatches.values() if p.transition]
        return tuple(self.holders) if any(p.enabled is not patched for p in running) else ()

    # --- what the engine does -------------------------------------------------------------------

    def probes(self) -> tuple[Probe, ...]:
        return tuple(self.kprobes)

    def listen(self, family: str) -> Listener:
        raise UnexpectedError(f"{family}: nothing is heard here")

    def modules_disabled(self) -> bool:
        return self.are_modules_disabled

    def is_kept(self, name: str) -> bool:
        new = f"{name.removesuffix('_new')}_new"
        return self.keeps_code and new in self._modules

    def lets_go(self, name: str) -> bool:
        return name in self.letting_go

    def load_module(self, data: bytes, name: str, parameters: str = "") -> None:
        assert set(read_module_names(data, name).values()) == {name}
        self._step(f"load {name} {parameters}".rstrip(), lambda: self._load(name, parameters))

    def unload_module(self, name: str) -> None:
        self._step(f"unload {name}", lambda: self._unload(name))

    def set_enabled(self, name: str, *, enabled: bool) -> None:
        self._step(f"enable {name}={enabled:d}", lambda: self._set_enabled(name, enabled))

    def _step(self, call: str, act: Callable[[], None]) -> None:
        self._steps += 1
        if self.fault and self.fault[0] == self._steps:
            raise self.fault[1]
        if self.kill == (self._steps, "before"):
            raise Killed("SIGKILL")
        act()
        self.calls.append(call)
        if self.kill == (self._steps, "after"):
            raise Killed("SIGKILL")

    def _load(self, name: str, parameters: str) -> None:
        if name in self._modules:
            raise ModulePresentError(f"{name}: cannot be loaded: File exists")
        kid = name.split("_")[1]
        core = self._cores.get(core_module(kid))
        if name == core_module(kid):
            self._cores[name] = _Core()
        elif core is None:
            raise ModuleRefusedError(f"{name}: cannot be loaded: No such file or directory")
        elif name == new_module(kid):
            self._enable_new(name, core)
        else:
            target = name.removeprefix(f"{core_module(kid)}_").removesuffix("_old")
            self._match(name, core, target, parameters)
        self._modules.add(name)

    def _match(self, name: str, core: _Core, target: str, parameters: str) -> None:
        self._modules.discard(self.gone_after_check)
        if target not in self._modules | {"vmlinux"}:
            if parameters == "late=1":
                core.targets[target] = "waiting"
                return
            core.cause = "target_not_loaded"
            raise ModuleRefusedError(f"{name}: cannot be loaded: No such file or directory")
        if target in self.mismatches:
            core.cause, core.mismatch = self.mismatches[target]
            raise ModuleRefusedError(f"{name}: cannot be loaded: Exec format error")
        core.matched.append(MatchedTarget(target=target, functions=2, bytes=812, microseconds=5100))
        core.targets[target] = "matched"

    def _enable_new(self, name: str, core: _Core) -> None:
        if not core.targets or core.cause != "ok":
            raise ModuleRefusedError(f"{name}: cannot be loaded: Operation not permitted")
        if any(livepatch.transition for livepatch in self._livepatches.values()):
            raise InUseError(f"{name}: cannot be loaded: another transition runs")
        self._livepatches[name] = _Livepatch(enabled=True, transition=True)

    def _unload(self, name: str) -> None:
        if name not in self._modules:
            return
        if self.are_modules_disabled:
            raise InUseError(f"{name}: stays loaded until the next boot")
        if self.is_kept(name):
            raise InUseError(f"{name}: stays loaded until the next boot")
        users = {m for m in self._modules if m.startswith(f"{name}_")}
        is_used = name in self._livepatches or name in self.letting_go
        if is_used or (name in self._cores and users):
            raise InUseError(f"{name}: cannot be unloaded: it is in use")
        self._modules.discard(name)
        self._cores.pop(name, None)

    def _set_enabled(self, name: str, enabled: bool) -> None:  # noqa: FBT001
        livepatch = self._livepatches.get(name)
        if livepatch is None or livepatch.enabled is enabled:
            raise UnexpectedError(f"{name}: writing {enabled:d}: Invalid argument")
        others = (p for p in self._livepatches.values() if p is not livepatch)
        if any(other.transition for other in others):
            raise InUseError(f"{name}: another transition runs")
        livepatch.enabled = enabled
        livepatch.transition = True


class StoppedClock:
    """A clock that tests turn."""

    def __init__(self) -> None:
        """Begin at some time."""
        self.now = 1700000000.0
        self.wrong = 0.0
        """By how much the time is wrong; the monotonic clock is right."""
        self.built = 0.0

    def time(self) -> float:
        return self.now + self.wrong

    def earliest(self) -> float:
        return self.built

    def monotonic(self) -> float:
        return self.now - 1600000000.0
