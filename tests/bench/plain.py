# SPDX-License-Identifier: GPL-2.0-only
"""Cost of an update in the kernel, against a live patch written by hand.

Both let ``cmdline_proc_show()`` say the same, as the kernel's samples/livepatch does; the two take
turns in one guest, loaded with insmod.  A function that livepatch cannot redirect goes through a
kprobe; its floor is the same call without the update.
"""

import json
import tempfile
from pathlib import Path
from typing import Final

from ksplicd.cache import Cache, to_stderr
from ksplicd.distro.packages import KernelPackages
from ksplicd.lab.guest import Guest
from ksplicd.lab.image import build_image
from ksplicd.lab.qemu import Machine, probe_accelerator
from ksplicd.lab.running_guest import RunningGuest
from ksplicd.lab.snapshot import take_snapshot
from ksplicd.model import new_kid
from ksplicd.run import run
from tests.bench import in_guest
from tests.bench.figures import Figure, median
from tests.support.guest.hand import Edit, Update, make_bundle, write_patch
from tests.support.kernels import slice as sample

_ROUNDS: Final = 9
_SAYS: Final = "this has been live patched"
_SHOW: Final = """\
	seq_puts(m, saved_command_line);
	seq_putc(m, '\\n');
"""
_EDIT: Final = Edit("fs/proc/cmdline.c", _SHOW, f'\tseq_puts(m, "{_SAYS}\\n");\n')
_NAME: Final = "by_hand"
_MODULE: Final = f"""\
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/seq_file.h>
static int by_hand_show(struct seq_file *m, void *v)
{{
	seq_puts(m, "{_SAYS}\\n");
	return 0;
}}
static struct klp_func funcs[] = {{
	{{ .old_name = "cmdline_proc_show", .new_func = by_hand_show }}, {{ }}
}};
static struct klp_object objs[] = {{ {{ .funcs = funcs }}, {{ }} }};
static struct klp_patch patch = {{ .mod = THIS_MODULE, .objs = objs }};
static int __init by_hand_init(void) {{ return klp_enable_patch(&patch); }}
static void __exit by_hand_exit(void) {{ }}
module_init(by_hand_init);
module_exit(by_hand_exit);
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
"""

_BOOL: Final = Edit("lib/kstrtox.c", "\tcase 'y':\n", "\tcase 'x':\n\tcase 'y':\n")
"""In a function of lib/, where nothing has fentry, that each write to the parameter calls."""
_PARAMETER: Final = "/sys/module/printk/parameters/time"

_CALLS: Final = 20_000
_BATCHES: Final = 10
_PROGRAM: Final = f"""\
#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>
int main(int argc, char **argv)
{{
	double ns, least = 1e9;
	struct timespec a, b;
	char text[4096];
	int writes = argc > 1;
	int fd = open(writes ? argv[1] : "/proc/cmdline", writes ? O_WRONLY : O_RDONLY);

	for (int batch = 0; batch < {_BATCHES}; batch++) {{
		clock_gettime(CLOCK_MONOTONIC, &a);
		for (int i = 0; i < {_CALLS}; i++)
			if ((writes ? pwrite(fd, "1", 1, 0) : pread(fd, text, sizeof(text), 0)) <= 0)
				return 1;
		clock_gettime(CLOCK_MONOTONIC, &b);
		ns = ((b.tv_sec - a.tv_sec) * 1e9 + (b.tv_nsec - a.tv_nsec)) / {_CALLS};
		least = ns < least ? ns : least;
	}}
	printf("%f", least);
	return 0;
}}
"""


_WAITS: Final = """\
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>
static volatile sig_atomic_t is_over;
static void end(int signal) { is_over = 1; }
int main(void)
{
	struct sched_param highest = { .sched_priority = 99 };
	double late, longest = 0;
	struct timespec at, now;

	signal(SIGTERM, end);
	if (sched_setscheduler(0, SCHED_FIFO, &highest))
		return 1;
	for (clock_gettime(CLOCK_MONOTONIC, &at); !is_over; at = now) {
		at.tv_nsec += 1000000;
		at.tv_sec += at.tv_nsec / 1000000000;
		at.tv_nsec %= 1000000000;
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
		clock_gettime(CLOCK_MONOTONIC, &now);
		late = now.tv_sec - at.tv_sec + (now.tv_nsec - at.tv_nsec) / 1e9;
		longest = late > longest ? late : longest;
	}
	printf("%f", longest);
	return 0;
}
"""
"""Sleeps for a millisecond, again and again, before all others; prints by how many seconds it was
late at most.  Whoever holds a processor, with interrupts off or on, makes it late."""


class LivePatch:
    """Modules in the guest, the last of which is a live patch; and what was measured with it."""

    def __init__(self, guest: Guest, *files: str) -> None:
        self.guest, self.files = guest, files
        self.calls: list[float] = []
        """Nanoseconds of a call, the best batch of each round."""
        self.forth: list[float] = []
        self.back: list[float] = []
        """Seconds that the transitions took."""
        self.waits: list[float] = []
        """Milliseconds that a real-time task had to wait at most, in each round."""

    def measure(self) -> None:
        """Load, measure, and unload again."""
        answer = self._do("plain")
        self.forth.append(answer["done"] - answer["loaded"])
        assert self.guest.run(["cat", "/proc/cmdline"]).out == f"{_SAYS}\n"
        self.calls.append(call_ns(self.guest))
        answer = self._do("take-out")
        self.back.append(answer["reversed"] - answer["begin"])
        self.waits.append(self._do("waits")["done"] * 1000)

    def _do(self, action: str) -> dict[str, float]:
        argv = ["/usr/bin/python3", "-I", "-S", "/root/in_guest.py", action, *self.files]
        answer: dict[str, float] = json.loads(self.guest.run(argv).out)
        return answer


def call_ns(guest: Guest, *written: str) -> float:
    """Return the nanoseconds of a call in the best batch.

    It reads /proc/cmdline, which is open, or writes to the file ``written``.
    """
    return float(guest.run(["/root/calls", *written]).out)


def put_program(guest: RunningGuest, folder: Path, name: str, text: str) -> None:
    """Compile a program in C, and put it into the guest."""
    (folder / f"{name}.c").write_text(text)
    run(["gcc-12", "-O2", "-static", "-o", folder / name, folder / f"{name}.c"])
    guest.put(f"/root/{name}", folder / name)


def build_by_hand(folder: Path, headers: Path) -> Path:
    """Build the live patch that is written by hand."""
    (folder / f"{_NAME}.c").write_text(_MODULE)
    (folder / "Kbuild").write_text(f"obj-m := {_NAME}.o\n")
    run(["make", "-C", headers, f"M={folder}", "CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"])
    return folder / f"{_NAME}.ko"


def measure(cache: Cache, kernel: KernelPackages) -> list[Figure]:
    """Return the figures of an update, with those of the other live patch as their floor."""
    image = build_image(kernel)
    machine = Machine(image=image, accelerator=probe_accelerator(cache, image.kernel))
    snapshot = take_snapshot(cache, machine)
    with tempfile.TemporaryDirectory(prefix="ksplice-bench-") as scratch, Guest(snapshot) as guest:
        folder = Path(scratch)
        put_program(guest, folder, "calls", _PROGRAM)
        put_program(guest, folder, "waits", _WAITS)
        guest.put("/root/in_guest.py", Path(in_guest.__file__))
        guest.put(f"/root/{_NAME}.ko", build_by_hand(folder, kernel.install_headers()))
        tree = sample.source_tree(cache, kernel)
        patch = write_patch(tree, folder / "cmdline.patch", _EDIT)
        update = make_bundle(cache, kernel, new_kid(), [patch])
        change = update.changes[0]
        names = (update.core.file, change.old_file, change.new_file)
        for name in names:
            guest.put(f"/root/{name}", update.files[name])
        figures = compare(
            guest,
            LivePatch(guest, *(f"/root/{name}" for name in names)),
            LivePatch(guest, f"/root/{_NAME}.ko"),
        )
        patch = write_patch(tree, folder / "bool.patch", _BOOL)
        probed = Update(guest, make_bundle(cache, kernel, new_kid(), [patch]))
        return [*figures, measure_kprobe(guest, probed)]


def measure_kprobe(guest: Guest, update: Update) -> Figure:
    """Return what a call costs while a kprobe redirects it."""
    with_it, without = [], []
    for _ in range(_ROUNDS):
        without.append(call_ns(guest, _PARAMETER))
        update.apply()
        with_it.append(call_ns(guest, _PARAMETER))
        update.undo()
    return Figure(
        name="a call that a kprobe redirects",
        value=round(min(with_it)), unit="ns", floor=round(min(without)),
        about="unpatched; writes a parameter of printk, the best batch",
    )  # fmt: skip


def compare(guest: Guest, ours: LivePatch, theirs: LivePatch) -> list[Figure]:
    """Let both take turns."""
    to_stderr(f"plain: {_ROUNDS} rounds of a live patch by hand and an update")
    unpatched = []
    for i in range(_ROUNDS):
        unpatched.append(call_ns(guest))
        for patch in (ours, theirs) if i % 2 else (theirs, ours):
            patch.measure()
    before = round(min(unpatched))
    return [
        # what else the machine does only adds to these
        Figure(
            name="a call, beside a live patch by hand",
            value=round(min(ours.calls)), unit="ns", floor=round(min(theirs.calls)),
            about=f"by hand; {before} unpatched; reads /proc/cmdline, the best batch",
        ),
        Figure(
            name="transition, beside one by hand",
            value=median(ours.forth), unit="s", floor=median(theirs.forth), about="by hand",
        ),
        Figure(
            name="transition back, beside one by hand",
            value=median(ours.back), unit="s", floor=median(theirs.back), about="by hand",
        ),
        Figure(
            name="longest wait of a real-time task, beside one by hand",
            value=median(ours.waits, 1), unit="ms", floor=median(theirs.waits, 1),
            about="by hand; from insmod to rmmod, one processor",
        ),
    ]  # fmt: skip
