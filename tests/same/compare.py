# SPDX-License-Identifier: GPL-2.0-only
"""Whether two results are the same, and else in what they differ."""

import io
import json
import re
import tarfile
from collections.abc import Iterator

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from tests.same.states import Result

_REFUSAL = re.compile(r"^  (\S.*? \([^)]*\)): ", re.MULTILINE)
"""``  symbol (section): reason; hint``."""


def differences(old: Result, new: Result) -> Iterator[str]:
    """Yield in what two results differ, but for the words of messages."""
    if old.status != new.status:
        yield f"exit status {old.status} became {new.status}: {new.complaint.strip()[:200]}"
        return
    before, after = refusals(old), refusals(new)
    if before != after:
        yield f"refused: {sorted(before)} became {sorted(after)}"
    files, others = members(old.data), members(new.data)
    for name in sorted(files.keys() | others.keys()):
        if files.get(name) != others.get(name):
            yield f"{name}: {_what_differs(files.get(name), others.get(name))}"


def has_other_words(old: Result, new: Result) -> bool:
    """Tell whether only what people read differs: notes, reasons, complaints."""
    return (old.printed, old.complaint) != (new.printed, new.complaint)


def refusals(result: Result) -> set[str]:
    """Return the symbols, with their sections, that a result refuses to change."""
    found = set(_REFUSAL.findall(result.complaint))
    if result.printed.startswith("{"):
        listed = json.loads(result.printed).get("refused", [])
        found |= {f"{r['symbol']} ({r['section']})" for r in listed}
    return found


def members(data: bytes) -> dict[str, bytes]:
    """Return the files of a bundle, or the one object that ``data`` is."""
    if not data or data.startswith(b"\x7fELF"):
        return {"new code": data} if data else {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        files = {
            m.name.partition("/")[2]: file.read()
            for m in tar.getmembers()
            if (file := tar.extractfile(m)) is not None
        }
    manifest = json.loads(files.pop("manifest.json"))
    manifest.pop("files", None)  # the digests of the others
    return {**files, "manifest.json": json.dumps(manifest, sort_keys=True).encode()}


def _what_differs(old: bytes | None, new: bytes | None) -> str:
    if old is None or new is None:
        return "came" if old is None else "is gone"
    try:
        before, after = _sections(old), _sections(new)
    except ELFError:
        return "other content"
    names = [n for n in before | after if before.get(n) != after.get(n)]
    return f"sections {', '.join(names[:8])}" if names else "other layout of the file"


def _sections(data: bytes) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for s in ELFFile(io.BytesIO(data)).iter_sections():
        found[s.name] = found.get(s.name, b"") + s.data()
    return found
