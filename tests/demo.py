# SPDX-License-Identifier: GPL-2.0-only
"""``make demo``: a real fix, live in a stock Debian kernel, from the diff to applied and undone.

Each step prints its evidence and ends the demo with status 1 when it is not seen.  Everything
happens in a throwaway guest; on this machine only the cache and a temporary folder are written.
"""

import contextlib
import io
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from ksplicd import bundle, minisign
from ksplicd.cache import Cache, to_stderr
from ksplicd.cli import main as cli
from ksplicd.errors import KspliceError
from ksplicd.lab.guest import Guest
from ksplicd.lab.image import build_image
from ksplicd.lab.qemu import Machine, probe_accelerator
from ksplicd.lab.snapshot import take_snapshot
from tests.support.bundles.spoil import break_signature, flip_old_code
from tests.support.guest.install import package_layer
from tests.support.kernels import slice as sample
from tests.support.kernels.stock import stock_kernel

KID: Final = "demo0001"
STEPS: Final = 7
DROP: Final = "/var/lib/ksplice"
BUS: Final = "org.ksplice.Ksplicd1"
MANAGER: Final = f"{BUS} /org/ksplice/Ksplicd1 {BUS}.Manager"
UPDATE: Final = f"{BUS} /org/ksplice/Ksplicd1/update/{KID} {BUS}.Update"
WAIT: Final = 60.0
"""Seconds to wait for something in the guest, which is slow without KVM."""


class EvidenceError(KspliceError):
    """A step did not show what it had to show."""


def show(label: str, text: str) -> None:
    """Print one piece of evidence; further lines stand below the first."""
    for i, line in enumerate(text.rstrip().splitlines()):
        print(f"      {'' if i else label:<10}{line}", flush=True)


def expect(what: str, *, seen: bool) -> None:
    """End the demo unless ``what`` was seen."""
    if not seen:
        raise EvidenceError(f"not seen: {what}")


@contextlib.contextmanager
def step(number: int, title: str) -> Iterator[None]:
    """Print a step's heading, and the time that it took."""
    print(f"[{number}/{STEPS}] {title}", flush=True)
    started = time.monotonic()
    yield
    show("", f"({time.monotonic() - started:.1f} s)\n")
    print()


class Demo:
    """What one step leaves for the next."""

    guest: Guest

    def __init__(self, cache: Cache, folder: Path) -> None:
        self.cache, self.folder = cache, folder
        self.fix = sample.FCNTL
        self.kernel = stock_kernel(cache)

    def run(self) -> None:
        """Run all steps.  Raises ``KspliceError``."""
        with step(1, "A stock kernel, and a fix that a newer one has"):
            self.cut_patch()
        with step(2, "ksplice-create: from the patch to a signed bundle"):
            self.create()
        with contextlib.ExitStack() as stack:
            with step(3, "A guest: the stock kernel, systemd, ksplicd"):
                self.boot(stack)
            with step(4, f"The bundle is dropped into {DROP}, and applied"):
                self.apply()
            with step(5, "The running kernel is fixed"):
                self.check_applied()
            with step(6, "busctl … Undo: the kernel is as it was"):
                self.undo()
            with step(7, "What does not fit is refused"):
                self.refuse()

    # --- the steps ------------------------------------------------------------------------------

    def cut_patch(self) -> None:
        """1."""
        fix = self.fix
        self.patch = sample.cut_patch(self.cache, fix.old, fix.new, [fix.file])
        show("kernel", f"linux-image-{self.kernel.release} {self.kernel.version}")
        line = sample.changelog_line(self.cache, fix)
        show("fix", f"{line.changes[0]}\n(changelog of linux {line.version})")
        text = self.patch.read_text()
        changed = [x for x in text.splitlines() if re.match(r"[-+](?![-+]{2} )", x)]
        show("patch", f"{fix.file}, {fix.old} to {fix.new}\n" + "\n".join(changed))
        expect(f"a change of {fix.file}", seen=bool(changed))

    def create(self) -> None:
        """2."""
        self.key = sample.throwaway_key(self.folder)
        arguments = [
            "--patch", self.patch, "--config", sample.config_folder(self.cache, self.kernel),
            "-o", self.folder, "--sign-key", self.key.secret, "--id", KID,
            sample.source_tree(self.cache, self.kernel),
        ]  # fmt: skip
        show("$", f"ksplice-create {' '.join(map(short, arguments))}")
        show("", ksplice("create", *arguments).replace(f"{self.folder}/", ""))
        self.bundle = self.folder / bundle.file_name(KID)
        data = self.bundle.read_bytes()
        content = bundle.unpack(data)
        target = content.manifest.targets[0]
        show("replaces", f"{', '.join(f.name for f in target.functions)} of {target.name}")
        expect("a function to replace", seen=bool(target.functions))
        kernel = content.manifest.kernel
        show("for", f"{kernel.release}\nbuild id {kernel.build_id}")
        modules = [f"{n}, {len(d)} bytes" for n, d in content.files.items() if n.endswith(".ko")]
        show("modules", "\n".join(sorted(modules)))
        key = minisign.read_public_key(self.key.public.read_text(), str(self.key.public))
        minisign.verify(data, sample.signature_of(self.bundle).read_text(), [key])
        show("bundle", f"{self.bundle.name}, {len(data)} bytes, signed by key {key.name}")

    def boot(self, stack: contextlib.ExitStack) -> None:
        """3."""
        image = build_image(self.kernel)
        machine = Machine(image=image, accelerator=probe_accelerator(self.cache, image.kernel))
        layer = package_layer(self.folder / "install")
        self.guest = stack.enter_context(Guest(take_snapshot(self.cache, machine, layer)))
        self.trust_key()
        show("kernel", self.out("uname -srv"))
        show("PID 1", self.out("cat /proc/1/comm"))
        text = self.out("grep ' _text$' /proc/kallsyms").split()[0]
        show("KASLR", f"_text is at {text}, in the image it is at ffffffff81000000")
        expect("another address of _text than the image's", seen=text != "ffffffff81000000")
        state = self.out("systemctl is-active ksplicd")
        status = self.out("systemctl show --value -p StatusText ksplicd")
        show("ksplicd", f"{state}: {status}")
        expect("an active ksplicd.service", seen=state == "active")
        self.reproduce(self.fix.before)

    def apply(self) -> None:
        """4."""
        self.out("sed -i 's/^#\\?on-drop *=.*/on-drop = apply/' /etc/ksplicd/ksplicd.conf")
        self.out("systemctl reload ksplicd")
        show("policy", self.out("grep ^on-drop /etc/ksplicd/ksplicd.conf"))
        cursor = self.journal_cursor()
        self.drop(self.bundle.read_bytes(), sample.signature_of(self.bundle).read_text())
        show("drop", f"{self.bundle.name}.minisig, {self.bundle.name}")
        self.wait_for("the update is applied", lambda: self.stage() == "applied")
        show("journal", self.journal(cursor))
        for stage in ("staged", "loading", "matched", "transitioning", "applied"):
            fields = self.out(
                f"journalctl -u ksplicd -o verbose KSPLICE_KID={KID} KSPLICE_STAGE={stage}"
            )
            expect(f"a journal entry with MESSAGE_ID for {stage}", seen="MESSAGE_ID=" in fields)
        expect("old code unloaded", seen="_old" not in self.modules())

    def check_applied(self) -> None:
        """5."""
        self.reproduce(self.fix.after)
        show("$", f"busctl get-property {UPDATE} Stage")
        stage = self.out(f"busctl get-property {UPDATE} Stage")
        show("", stage)
        expect("the stage applied", seen='"applied"' in stage)
        view = self.out("ksplice-view")
        show("view", view)
        expect("the update in ksplice-view", seen=KID in view)
        enabled = self.out(f"cat /sys/kernel/livepatch/ksplice_{KID}_new/enabled")
        core = self.out(f"cat /sys/module/ksplice_{KID}/ksplice/stage")
        show("sysfs", f"livepatch/ksplice_{KID}_new/enabled {enabled}, core's stage {core}")
        expect("the same in sysfs", seen=(enabled, core) == ("1", "applied"))
        show("modules", self.modules())

    def undo(self) -> None:
        """6."""
        show("$", f"busctl call {MANAGER} Undo st {KID} 0")
        show("", self.out(f"busctl call {MANAGER} Undo st {KID} 0"))
        self.wait_for("the update is reversed", lambda: self.stage() == "reversed")
        self.reproduce(self.fix.before)
        modules = self.modules()
        show("modules", modules or "none of ksplice")
        expect("no module left", seen=not modules)
        history = self.out("ksplice history")
        show("history", history)
        for stage in ("staged", "applied", "reversed"):
            expect(f"{stage} in the history", seen=stage in history)

    def refuse(self) -> None:
        """7."""
        function = bundle.unpack(self.bundle.read_bytes()).manifest.targets[0].functions[0].name
        self.guest.reset()
        self.trust_key()
        cursor = self.journal_cursor()
        altered = flip_old_code(self.bundle.read_bytes(), function, 16)
        key = minisign.read_secret_key(self.key.secret.read_text(), name=str(self.key.secret))
        self.drop(altered, minisign.sign(altered, key, trusted_comment=self.bundle.name))
        self.wait_for("the update is staged", lambda: self.stage() == "staged")
        show("altered", f"one bit of the old {function}, properly signed")
        refused = self.guest.run(f"busctl call {MANAGER} Apply st {KID} 0", check=False)
        show("$", f"busctl call {MANAGER} Apply st {KID} 0")
        show("", refused.err)
        expect("the call refused", seen=refused.status != 0)
        expect("function and offset", seen=f"{function}+0x10" in refused.err)
        entry = self.out(
            f"journalctl -u ksplicd -o verbose KSPLICE_KID={KID} KSPLICE_CAUSE=no_match"
        )
        fields = re.findall(r"KSPLICE_(?:CAUSE|FUNCTION|OFFSET|EXPECTED|FOUND)=.*", entry)
        show("journal", "\n".join(sorted(set(fields))))
        expect("all fields of the mismatch", seen=len(set(fields)) == 5)
        expect("nothing left loaded", seen=not self.modules())
        self.guest.reset()
        self.trust_key()
        cursor = self.journal_cursor()
        self.drop(
            self.bundle.read_bytes(), break_signature(sample.signature_of(self.bundle).read_text())
        )
        self.wait_for("the bundle is rejected", lambda: "tar.gz" in self.out(f"ls {DROP}/rejected"))
        show("broken", "the signature, by one character")
        show("journal", self.journal(cursor))
        expect("nothing loaded", seen=not self.modules())
        expect("an untouched kernel", seen="ksplice" not in self.guest.kernel_log())

    # --- the guest ------------------------------------------------------------------------------

    def out(self, command: str) -> str:
        """Return what a command in the guest printed."""
        return self.guest.run(command).out.strip()

    def trust_key(self) -> None:
        """Make the throwaway key one that this host trusts."""
        self.guest.put("/etc/ksplicd/keys.d/demo.pub", self.key.public)

    def reproduce(self, wanted: str) -> None:
        """Run the fix's reproducer."""
        self.guest.put("/root/reproducer.py", self.fix.reproducer.encode())
        said = self.out("python3 /root/reproducer.py")
        show("program", f"F_SET_RW_HINT on an immutable file: {said}")
        expect(f"“{wanted}” from the reproducer", seen=said.startswith(wanted))

    def drop(self, data: bytes, signature: str) -> None:
        """Put a bundle into the drop directory as a careful copier does: whole, then renamed."""
        name = f"{DROP}/{bundle.file_name(KID)}"
        for path, content in ((f"{name}.minisig", signature.encode()), (name, data)):
            self.guest.put(f"{path}.part", content, mode=0o600)
            self.guest.run(["mv", f"{path}.part", path])

    def stage(self) -> str:
        """Return the update's stage as the bus tells it, empty when it is not known there."""
        said = self.guest.run(f"busctl get-property {UPDATE} Stage", check=False).out
        return said.removeprefix("s ").strip().strip('"')

    def modules(self) -> str:
        """Return ksplice's modules in /proc/modules."""
        return self.out("cut -d' ' -f1 /proc/modules | grep ^ksplice || true")

    def journal_cursor(self) -> str:
        """Return the journal's end."""
        shown = self.out("journalctl -n 1 -o cat --show-cursor")
        return shown.rsplit("-- cursor: ", 1)[1]

    def journal(self, cursor: str) -> str:
        """Return what ksplicd has written since ``cursor``."""
        return self.out(
            f"journalctl -u ksplicd -o short-precise --no-hostname --after-cursor '{cursor}'"
        )

    def wait_for(self, what: str, is_so: Callable[[], bool]) -> None:
        """Wait until ``is_so``; what is not so in time was not seen."""
        deadline = time.monotonic() + WAIT
        while not is_so():
            if time.monotonic() > deadline:
                show("journal", self.out("journalctl -u ksplicd -n 30 --no-pager"))
                expect(what, seen=False)
            time.sleep(0.1)


def short(argument: object) -> str:
    """Return an argument as the transcript shows it: of a path only the end."""
    return f"…/{argument.name}" if isinstance(argument, Path) else str(argument)


def ksplice(*arguments: object) -> str:
    """Run the ``ksplice`` command and return what it printed; its progress goes to stderr."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = cli.main(list(map(str, arguments)))
    expect(f"exit status 0 of ksplice {arguments[0]}", seen=status == 0)
    return printed.getvalue()


def main() -> int:
    """Run the demo; return the exit status."""
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="ksplice-demo-") as folder:
            Demo(Cache(progress=to_stderr), Path(folder)).run()
    except KspliceError as e:
        print(f"demo: {e}", file=sys.stderr)
        return 1
    print(f"All evidence seen, {time.monotonic() - started:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
