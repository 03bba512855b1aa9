# SPDX-License-Identifier: GPL-2.0-only
"""What the benchmarks do inside the guest; runs there alone, on Debian's Python.

    drop FILE KID        put a bundle into the drop directory, wait until the kernel has applied it
    undo KID             ask the daemon to undo, wait until the livepatch is gone
    reply KID            ask the daemon to apply, with busctl; what the answer takes but for busctl
    plain [PARAMETER=VALUE] MODULE ...
                         load modules with insmod, the last one a live patch, with the parameter;
                         wait for the end of its transition
    take-out MODULE ...  the way back
    waits MODULE ...     plain and take-out; seconds that a real-time task had to wait meanwhile
    watched ACTION ...   another action, and by how much what /root/watch and the module bench_off
                         watch was late at most
    idle PID SECONDS     count how often a process wakes meanwhile
    start                restart the daemon; what it takes until it is ready
    plain-many [PARAMETER=VALUE] KID...
                         plain and take-out of each of /root/boot's updates
    boot KID...          ksplicd --boot, which applies them
    imports PROGRAM      start Python with PROGRAM

Prints JSON; times are CLOCK_MONOTONIC, in seconds, as the journal's are in microseconds.
"""

import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

STORE = Path("/var/lib/ksplice")
LIVEPATCH = Path("/sys/kernel/livepatch")
MANAGER = ("org.ksplice.Ksplicd1", "/org/ksplice/Ksplicd1", "org.ksplice.Ksplicd1.Manager")
PAUSE = 0.01
LIMIT = 1000


def wait_for(condition: Callable[[], bool]) -> float:
    deadline = time.monotonic() + LIMIT
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"no end after {LIMIT} s")
        time.sleep(PAUSE)
    return time.monotonic()


def is_done(name: str) -> bool:
    try:
        return (LIVEPATCH / name / "transition").read_text() == "0\n"
    except OSError:
        return False


def drop(file: str, kid: str) -> dict[str, float]:
    name = f"ksplice-{kid}.tar.gz"
    (STORE / f"{name}.minisig").write_bytes(Path(f"{file}.minisig").read_bytes())
    new = STORE / ".new"
    new.write_bytes(Path(file).read_bytes())
    begin = time.monotonic()
    new.rename(STORE / name)
    return {"begin": begin, "done": wait_for(lambda: is_done(f"ksplice_{kid}_new"))}


def undo(kid: str) -> dict[str, float]:
    begin = time.monotonic()
    subprocess.run(["busctl", "-q", "call", *MANAGER, "Undo", "st", kid, "0"], check=True)
    return {
        "begin": begin,
        "done": wait_for(lambda: not (LIVEPATCH / f"ksplice_{kid}_new").exists()),
    }


def reply(kid: str) -> dict[str, float]:
    times = []
    for call in (["ListUpdates", "t", "0"], ["Apply", "st", kid, "0"]):
        begin = time.monotonic()
        subprocess.run(["busctl", "-q", "call", *MANAGER, *call], check=True)
        times.append(time.monotonic() - begin)
    wait_for(lambda: is_done(f"ksplice_{kid}_new"))
    return {"begin": times[0], "done": times[1]}


def plain(*words: str) -> dict[str, float]:
    parameters = [word for word in words if "=" in word]
    files = words[len(parameters) :]
    begin = time.monotonic()
    for file in files:
        subprocess.run(["insmod", file, *(parameters if file == files[-1] else ())], check=True)
    loaded = time.monotonic()
    name = Path(files[-1]).stem
    return {"begin": begin, "loaded": loaded, "done": wait_for(lambda: is_done(name))}


def take_out(*files: str) -> dict[str, float]:
    begin = time.monotonic()
    new = Path(files[-1]).stem
    (LIVEPATCH / new / "enabled").write_text("0")
    reversed_ = wait_for(lambda: not (LIVEPATCH / new).exists())
    for file in reversed(files):
        wait_for(functools.partial(is_unloaded, Path(file).stem))
    return {"begin": begin, "reversed": reversed_, "done": time.monotonic()}


def is_unloaded(module: str) -> bool:
    quiet = subprocess.DEVNULL  # it is in use for a moment after the transition
    subprocess.run(["rmmod", module], check=False, stderr=quiet)
    return not Path("/sys/module", module).exists()


def waits(*files: str) -> dict[str, float]:
    os.sched_setaffinity(0, {0})  # and of what is started: all on one processor
    watch = subprocess.Popen(["/root/waits"], stdout=subprocess.PIPE, text=True)
    try:
        plain(*files)
        take_out(*files)
    finally:
        watch.terminate()
    return {"begin": 0.0, "done": float(watch.communicate()[0])}


def watched(action: str, *words: str) -> dict[str, float]:
    off = Path("/sys/module/bench_off/parameters/longest")
    argv = ["/root/watch", "/root/bench_tiny.ko"]
    watch = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    time.sleep(1)
    off.write_text("0")
    answer = ACTIONS[action](*words)
    answer["off"] = int(off.read_text()) / 1e9
    watch.terminate()
    seen: dict[str, float] = json.loads(watch.communicate()[0])
    return answer | seen


def switches(pid: str) -> int:
    count = 0
    for path in Path(f"/proc/{pid}/task").glob("*/status"):
        for line in path.read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                count += int(line.split()[1])
    return count


def idle(pid: str, seconds: str) -> dict[str, float]:
    before = switches(pid)
    time.sleep(float(seconds))
    return {"wakeups": switches(pid) - before}


def start() -> dict[str, float]:
    subprocess.run(["systemctl", "reset-failed", "ksplicd"], check=True)  # forgets the start limit
    subprocess.run(["systemctl", "restart", "ksplicd"], check=True)
    names = ("ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic")
    times = []
    for name in names:
        shown = subprocess.run(
            ["systemctl", "show", "-P", name, "ksplicd"], check=True, capture_output=True
        )
        times.append(int(shown.stdout) / 1e6)
    return {"begin": times[0], "done": times[1]}


def imports(program: str) -> dict[str, float]:
    begin = time.monotonic()
    subprocess.run(["/usr/bin/python3", "-I", "-c", program], check=True)
    return {"begin": begin, "done": time.monotonic()}


def plain_many(*words: str) -> dict[str, float]:
    parameters = [word for word in words if "=" in word]
    kids = words[len(parameters) :]
    spent = 0.0
    loaded = []
    for kid in kids:
        core, new = f"/root/boot/ksplice_{kid}.ko", f"/root/boot/ksplice_{kid}_new.ko"
        answer = plain(*parameters, core, f"/root/boot/ksplice_{kid}_vmlinux_old.ko", new)
        spent += answer["done"] - answer["begin"]
        loaded.append((core, f"/root/boot/ksplice_{kid}_vmlinux_old.ko", new))
    for files in reversed(loaded):
        take_out(*files)
    return {"begin": 0.0, "done": spent}


def boot(*kids: str) -> dict[str, float]:
    begin = time.monotonic()
    subprocess.run(["/usr/libexec/ksplicd/ksplicd", "--boot"], check=True)
    done = time.monotonic()
    for kid in kids:
        if not is_done(f"ksplice_{kid}_new"):
            sys.exit(f"{kid} is not applied")
    return {"begin": begin, "done": done}


ACTIONS: dict[str, Callable[..., dict[str, float]]] = {
    "start": start,
    "imports": imports,
    "drop": drop,
    "undo": undo,
    "reply": reply,
    "plain": plain,
    "take-out": take_out,
    "waits": waits,
    "watched": watched,
    "idle": idle,
    "plain-many": plain_many,
    "boot": boot,
}

if __name__ == "__main__":
    sys.stdout.write(json.dumps(ACTIONS[sys.argv[1]](*sys.argv[2:])))
