# SPDX-License-Identifier: GPL-2.0-only
"""One machine of the matrix, from its boot to the undone update.

The update is a fix of vmlinux that a program can see, and a change of a module that is loaded
while the update is applied.  Beside it all functions of a dozen units are matched.
"""

import json
import re
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from ksplicd.cache import Cache, digest_of, digest_of_file
from ksplicd.errors import LabError
from ksplicd.lab.image import build_image
from ksplicd.lab.qemu import Machine, probe_accelerator
from ksplicd.lab.running_guest import RunningGuest
from tests.matrix.machines import Place
from tests.support.guest import hand
from tests.support.guest.old_code import CORE, OLD, make_old_code
from tests.support.kernels import slice as sample
from tests.support.kernels.stock import next_kernel, of_flavour, stock_kernel

_KID: Final = "matrix01"
_MODULE: Final = "romfs"
_EDIT: Final = hand.Edit(
    "fs/romfs/super.c", "inval:\n\tret = -EINVAL;", "inval:\n\tret = -EUCLEAN;"
)
_MOUNT: Final = f"mount -r -t {_MODULE} /root/rubbish /mnt 2>&1"
_BEFORE, _AFTER = "wrong fs type", "Structure needs cleaning"
_IMAGE_TEXT: Final = "ffffffff81000000"
"""Where the image has its code, which KASLR moves."""
_MODELS: Final = {
    "max": "",
    "qemu64": "QEMU Virtual CPU",
    "Skylake-Client": "Skylake",
    "EPYC-Milan": "EPYC-Milan",
}
"""What each processor calls itself; the greatest that there is, differently with KVM."""
_EXPECTED: Final = re.compile(
    r"taint|module verification failed|a romfs filesystem|non-MTD device|^$"
)
"""What the kernel says at level "warning" about modules that are not its own, and about rubbish."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What was seen on one machine."""

    boot: float
    """Seconds to boot."""
    check: float
    """Seconds from there to the end."""
    functions: int
    """How many were matched."""
    text: str
    """Where KASLR put the kernel's code."""
    warnings: tuple[str, ...]
    """Messages of level "warning" and worse, meanwhile."""


class Kernel:
    """One of the kernels, and what is made for it once."""

    def __init__(self, cache: Cache, name: str) -> None:
        series, flavour = name.split("-")
        is_next = series != "6.1"
        stock = next_kernel(cache) if is_next else stock_kernel(cache)
        self.cache = cache
        self.packages = of_flavour(stock, flavour)
        self.fix = sample.DCACHE if is_next else sample.FCNTL
        self._folder = tempfile.TemporaryDirectory(prefix="ksplice-matrix-")
        folder = Path(self._folder.name)
        cache.progress(f"{name}: making an update and old code")
        tree = sample.source_tree(cache, self.packages)
        patches = [
            hand.write_patch(tree, folder / "module.patch", _EDIT),
            sample.cut_patch(cache, self.fix.old, self.fix.new, [self.fix.file]),
        ]
        self.update = hand.make_bundle(cache, self.packages, _KID, patches)
        self.old_code = make_old_code(cache, self.packages)

    def close(self) -> None:
        """Remove what was made."""
        self._folder.cleanup()

    def machine(self, place: Place) -> Machine:
        """Return the machine for a place."""
        image = build_image(self.packages)
        return Machine(
            image=image,
            accelerator=probe_accelerator(self.cache, image.kernel),
            cpu=place.cpu,
            smp=place.smp,
            arguments=tuple(place.arguments.split()),
        )

    def check(self, place: Place, *, fresh: bool) -> Outcome:
        """Return how a machine did, from the cache when all is as it was when it passed.

        Raises ``LabError`` and ``AssertionError``, and remembers nothing then.
        """
        machine = self.machine(place)
        digest = digest_of(
            machine.digest(),
            digest_of_file(Path(__file__)),
            digest_of(list(map(bytes.hex, self.update.files.values()))),
            digest_of(self.old_code.core.hex(), self.old_code.old.hex()),
        )

        def run(folder: Path) -> None:
            outcome = self._run(place, machine)
            (folder / "outcome").write_text(json.dumps(asdict(outcome)))

        if fresh:
            shutil.rmtree(self.cache.root / "matrix" / digest, ignore_errors=True)
        entry = self.cache.entry("matrix", digest, run)
        found = json.loads((entry / "outcome").read_text())
        return Outcome(**{**found, "warnings": tuple(found["warnings"])})

    def _run(self, place: Place, machine: Machine) -> Outcome:
        begin = time.monotonic()
        with (
            tempfile.TemporaryDirectory(prefix="ksplice-matrix-") as folder,
            hand.booted(machine, Path(folder)) as guest,
        ):
            booted = time.monotonic()
            self._expect_place(guest, place)
            guest.run(["dmesg", "--clear"])
            text = guest.run("grep ' _text$' /proc/kallsyms").out.split()[0]
            expect(text != _IMAGE_TEXT, "KASLR did not move the kernel")
            functions = self._match(guest) + self._apply_and_undo(guest)
            log = guest.kernel_log()
            expect(not hand.has_complaint(log), log)
            expect(hand.is_clean(guest), "something is left in the kernel")
            levels = "--level=emerg,alert,crit,err,warn"
            warnings = guest.run(["dmesg", "--notime", levels]).out.splitlines()
            return Outcome(
                boot=booted - begin,
                check=time.monotonic() - booted,
                functions=functions,
                text=text,
                warnings=tuple(line for line in warnings if not _EXPECTED.search(line)),
            )

    def _expect_place(self, guest: RunningGuest, place: Place) -> None:
        """Raise ``LabError`` when the machine is not what its line says."""
        release, smp = guest.run("uname -r; nproc").out.split()
        expect((release, int(smp)) == (self.packages.release, place.smp), f"{release}, {smp} cpus")
        line = guest.run(["cat", "/proc/cmdline"]).out
        expect(set(place.arguments.split()) <= set(line.split()), f"booted with {line}")
        model = guest.run("grep -m 1 '^model name' /proc/cpuinfo").out
        expect(_MODELS[place.cpu] in model, f"{model!r} is not {place.cpu}")

    def _match(self, guest: RunningGuest) -> int:
        """Match all of the old code; return its number of functions."""
        guest.put("/root/core.ko", self.old_code.core)
        guest.put("/root/old.ko", self.old_code.old)
        state = f"/sys/module/{CORE}/ksplice"
        status = guest.run("insmod /root/core.ko && insmod /root/old.ko", check=False).status
        expect(status == 0, f"{guest.kernel_log()}is what the kernel says of old code")
        functions = guest.run(["cat", f"{state}/matched"]).out.split()[1]
        guest.run(["rmmod", OLD, CORE])
        return int(functions)

    def _apply_and_undo(self, guest: RunningGuest) -> int:
        """Apply the update, look at what it changes, and undo it; return how many were matched."""
        guest.put("/root/reproducer.py", self.fix.reproducer.encode())
        guest.run("truncate -s 64k /root/rubbish; modprobe loop")
        update = hand.Update(guest, self.update)

        def expect_fixed(*, is_fixed: bool) -> None:
            said = guest.run(["python3", "/root/reproducer.py"]).out
            wanted = self.fix.after if is_fixed else self.fix.before
            expect(said.startswith(wanted), f"the reproducer says {said!r}, not {wanted!r}")
            said = guest.run(_MOUNT, check=False).out
            wanted = _AFTER if is_fixed else _BEFORE
            expect(wanted in said, f"mount says {said!r}, not {wanted!r}")

        expect_fixed(is_fixed=False)
        guest.run(["rmmod", _MODULE])
        update.apply(late=True)
        expect(update.targets() == {"vmlinux": "matched", _MODULE: "waiting"}, "wrong targets")
        expect_fixed(is_fixed=True)
        expect(set(update.targets().values()) == {"matched"}, "the module was not matched")
        functions = sum(int(line.split()[1]) for line in update.state("matched").splitlines())
        update.undo()
        expect_fixed(is_fixed=False)
        return functions


def expect(seen: bool, otherwise: str) -> None:  # noqa: FBT001
    """Raise ``LabError`` unless ``seen``."""
    if not seen:
        raise LabError(otherwise)
