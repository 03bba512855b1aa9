# SPDX-License-Identifier: GPL-2.0-only
"""Static keys and static calls in new code.

The module loader reads ``__jump_table`` and ``.static_call_sites`` before livepatch fills in the
symbols of a patched module, so an entry whose key that module owns would be used before it is there
(Documentation/livepatch/module-elf-format.rst; those of vmlinux are filled in early).

- A static call without its entry stays a call of the trampoline, which the kernel keeps right.
- A tracepoint without its entry never fires in the new code; a note reports it.
- Any other key decides what the code does: refused.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ksplicd.create.objects.index import ObjectIndex
from ksplicd.create.objects.special import Entry
from ksplicd.elf.model import Symbol

JUMP_TABLE: Final = "__jump_table"
STATIC_CALLS: Final = ".static_call_sites"

_TRACEPOINT: Final = "__tracepoint_"
"""include/linux/tracepoint.h, ``__DEFINE_TRACE``; its static key is a member."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyEntries:
    """What becomes of a unit's entries."""

    kept: tuple[Entry, ...]
    silenced: tuple[str, ...]
    """Tracepoints that new code does not fire."""
    refused: tuple[Symbol, ...]
    """Keys that decide what the code does."""


def key_of(entry: Entry, index: ObjectIndex) -> Symbol | None:
    """Return the key of an entry: in both structures the last field that is relocated."""
    if not entry.relocations:
        return None
    return index.locate(entry.section, entry.relocations[-1]).symbol


def choose_entries(
    entries: Sequence[Entry], index: ObjectIndex, is_of_patched_module: Callable[[Symbol], bool]
) -> KeyEntries:
    """Decide about entries of ``__jump_table`` or ``.static_call_sites``."""
    kept, silenced, refused = list[Entry](), dict[str, None](), list[Symbol]()
    for entry in entries:
        key = key_of(entry, index)
        if key is None or not is_of_patched_module(key):
            kept.append(entry)
        elif entry.table.section == STATIC_CALLS:
            continue
        elif key.name.startswith(_TRACEPOINT):
            silenced[key.name.removeprefix(_TRACEPOINT)] = None
        else:
            refused.append(key)
    return KeyEntries(kept=tuple(kept), silenced=tuple(silenced), refused=tuple(refused))
