# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's answers as sentences: a match, a mismatch, the tasks that hold a transition up.

The core (kmodsrc/targets.c, ``describe()``) writes a mismatch as a line of key=value pairs, such as
``target=vmlinux function=do_fcntl offset=0x1c kind=bytes expected=0f1f found=9090``.
"""

from collections.abc import Collection, Mapping
from typing import Final

from ksplicd.host.kernel.door import CoreState
from ksplicd.host.kernel.probes import Probe
from ksplicd.host.stages import Conflict, UpdateInfo
from ksplicd.host.trust.verify import Trusted
from ksplicd.model import NEW_SUFFIX, Manifest

Value = str | int | list[str]
"""A property of an update; on the bus it is an ``s``, ``x`` or ``as``."""

_SHOWN: Final = 4
"""Places that a sentence names."""

WAITING: Final = "waiting"
"""The core's word for a target that is not loaded."""

_OTHER_CODE: Final = (
    "this is not the code that the update was built from; build it from the source package of "
    "exactly this kernel"
)
_TRACER: Final = "a tracer, a kprobe or another live patch may hold it; stop that and apply again"
_HINTS: Final[Mapping[str, str]] = {
    "fentry": _TRACER,
    "bytes": f"{_OTHER_CODE}, or stop the kprobe that is on it",
    "unreadable": "the kernel has no code there; report it with the kernel's version",
    "missing": "this kernel has no such symbol; " + _OTHER_CODE,
    "ambiguous": "this kernel has more symbols of that name; " + _OTHER_CODE,
}
_GENERIC: Final[Mapping[str, str]] = {
    "no_match": "the running code is not what the update was built from",
    "failed_to_find": "a symbol that the update needs is not in the running kernel",
    "bad_system_map": "the running kernel's symbols are not those that the update was built for",
    "target_not_loaded": "a module that the update patches is not loaded",
    "out_of_memory": "the kernel has no memory for the update",
    "call_failed": "livepatch or a hook of the update refused; see dmesg",
    "unexpected": "the kernel part failed; see dmesg",
}


def read_mismatch(line: str) -> dict[str, str]:
    """Return the pairs of the core's ``mismatch``."""
    pairs = (word.partition("=") for word in line.split())
    return {key: value for key, is_pair, value in pairs if is_pair}


def explain(cause: str, mismatch: Mapping[str, str]) -> str:
    """Return the sentence for an abort cause of the core."""
    target, kind = mismatch.get("target", "?"), mismatch.get("kind", "")
    hint = _HINTS.get(kind, _OTHER_CODE)
    match mismatch:
        case {"function": function, "offset": offset}:
            expected = mismatch.get("expected") or "other code"
            found = mismatch.get("found") or "nothing"
            place = f"{target}: {function}+{offset}"
            return f"{place}: expected {expected}, found {found} ({kind}): {hint}"
        case {"symbol": symbol}:
            return f"{target}: {symbol}: {kind}: {hint}"
        case _:
            return _GENERIC.get(cause, f"{cause}; see dmesg")


def describe_update(
    info: UpdateInfo, trusted: Trusted | None, modules: list[str]
) -> dict[str, Value]:
    """Return an update in full, keys as on the bus."""
    manifest = info.manifest
    return {
        "Kid": info.kid,
        "Stage": info.stage.value,
        "AbortCause": info.abort_cause,
        "Detail": info.detail,
        "Description": manifest.description,
        "Targets": [target.name for target in manifest.targets],
        "Functions": [
            f"{t.name}:{f.name} ({f.unit})" for t in manifest.targets for f in t.functions
        ],
        "Redirects": describe_redirects(manifest),
        "Cves": list(manifest.cves),
        "Depends": list(manifest.depends),
        "Replaces": list(manifest.replaces),
        "Excludes": list(manifest.excludes),
        "Kernel": manifest.kernel.release,
        "KernelBuildId": manifest.kernel.build_id,
        "KernelVersion": manifest.kernel.version,
        "Tool": manifest.tool,
        "Compiler": manifest.compiler,
        "SignedBy": trusted.signer if trusted else "",
        "TrustedComment": trusted.trusted_comment if trusted else "",
        "Modules": modules,
        "Ledger": describe_ledger(manifest),
    }


def describe_redirects(manifest: Manifest) -> list[str]:
    """Return the redirects other than by livepatch, such as ``vmlinux:kstrtobool by kprobe``."""
    return [redirect for redirect in manifest.redirects if not redirect.endswith(" by livepatch")]


def describe_ledger(manifest: Manifest) -> str:
    """Return ``none``, ``complete``, or ``incomplete`` with the first places that are missing."""
    if manifest.ledger is None:
        return "none"
    missing = [h for h in manifest.ledger.hunks if h.is_accepted]
    if not missing:
        return "complete"
    places = ", ".join(f"{h.file}:{h.after[0]}" for h in missing[:_SHOWN])
    more = f" and {len(missing) - _SHOWN} more" if missing[_SHOWN:] else ""
    return f"incomplete: {places}{more}: not in effect, on the author's word"


def describe_match(core: CoreState) -> str:
    """Return how much was matched, such as ``2 functions, 812 bytes, 5.1 ms; waits for romfs``."""
    functions = sum(entry.functions for entry in core.matched)
    size = sum(entry.bytes for entry in core.matched)
    milliseconds = sum(entry.microseconds for entry in core.matched) / 1000
    waiting = ", ".join(target for target, state in core.targets.items() if state == WAITING)
    text = f"{functions} functions, {size} bytes, {milliseconds:.1f} ms"
    return f"{text}; waits for {waiting}" if waiting else text


def describe_probe(probe: Probe) -> str:
    """Return the owner of a kprobe, and what to do about it."""
    place = f"{probe.function}+{probe.offset:#x}"
    return f"{probe.user} is at {place}: remove it and apply again"


def describe_conflicts(conflicts: Collection[Conflict]) -> str:
    """Return how many tasks hold an update up, such as ``held up by 2 tasks in do_fcntl``.

    Everybody may read the history, so that it does not say which: neither their names nor what else
    is in their stacks.  The functions are those that the update replaces.
    """
    if not conflicts:
        return ""
    functions = sorted({c.function for c in conflicts if c.function})
    more = f" and {len(functions) - _SHOWN} more" if functions[_SHOWN:] else ""
    place = f" in {', '.join(functions[:_SHOWN])}{more}" if functions else ""
    return f"held up by {len(conflicts)} {'task' if len(conflicts) == 1 else 'tasks'}{place}"


def describe_conflict(conflict: Conflict) -> str:
    """Return a task and its place, for administrators.

    Such as ``cat[812] in do_fcntl (fcntl_setlk < do_fcntl < …)``.
    """
    task = f"{conflict.command}[{conflict.pid}]"
    if conflict.function:
        return f"{task} in {conflict.function} ({conflict.stack})"
    return f"{task} in {conflict.stack}" if conflict.stack else task


def find_function(stack: str, functions: Collection[str]) -> str:
    """Return the innermost function of a ``Conflict``'s stack that is among ``functions``.

    Old and new code count, and parts that the compiler split off (``do_exit.cold``).  Empty when
    there is none.
    """
    for name in stack.split(" < "):
        for known in (name.removesuffix(NEW_SUFFIX), name.partition(".")[0]):
            if known in functions:
                return known
    return ""
