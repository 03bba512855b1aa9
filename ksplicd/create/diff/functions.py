# SPDX-License-Identifier: GPL-2.0-only
"""Which functions of a unit changed, are new, or are gone.

A function is changed when its bytes differ, when a relocation means another thing, or when an entry
of a special section that belongs to it does.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ksplicd.create.diff.compare import Comparison
from ksplicd.create.diff.twins import Twins
from ksplicd.create.objects.index import ObjectIndex, code_section_of
from ksplicd.create.objects.names import is_boot_section, is_cold_part, is_prefix, is_static_call
from ksplicd.create.refusal import Refusal, refuse
from ksplicd.elf.model import Symbol


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionChanges:
    """What became of the functions; each with the reason."""

    changed: Mapping[Symbol, str]
    new: tuple[Symbol, ...]
    removed: tuple[Symbol, ...]
    boot: Mapping[Symbol, str]
    """Those that run only at boot or at unload."""
    refusals: tuple[Refusal, ...]


def compare_functions(comparison: Comparison) -> FunctionChanges:
    """Compare all functions of the post object with their twins."""
    twins = comparison.twins
    changed: dict[Symbol, str] = {}
    boot: dict[Symbol, str] = {}
    new: list[Symbol] = []
    seen: set[tuple[object, ...]] = set()
    for s in _functions(twins.post):
        twin = twins.pre_of.get(s)
        why = "it is new" if twin is None else comparison.why_differs(twin, s)
        if not why:
            continue
        if is_boot_section(code_section_of(s)):
            boot[s] = why
        elif twin is None:
            new.append(s)
        elif (places := (s.section, s.value, twin.section, twin.value)) not in seen:
            changed[s] = why
            seen.add(places)  # the others are aliases
    removed = [s for s in _functions(twins.pre) if s not in twins.post_of]
    static_calls = [s for s in changed if is_static_call(s)]
    for s in static_calls:
        del changed[s]
    return FunctionChanges(
        changed=_with_whole_bodies(twins, changed),
        new=tuple(new),
        removed=tuple(removed),
        boot=boot,
        refusals=tuple(_refuse_static_calls(static_calls)),
    )


def _refuse_static_calls(found: Iterable[Symbol]) -> list[Refusal]:
    """Refuse other defaults of static calls: the calls have been rewritten to the old ones."""
    why = "the function that a static call begins with changes"
    hint = "call static_call_update() from a hook"
    return [refuse(s, why, hint) for s in found]


def _with_whole_bodies(twins: Twins, changed: Mapping[Symbol, str]) -> dict[Symbol, str]:
    """Take in the function whose cold part changed, came or went: they are one body."""
    found = dict(changed)
    for part in filter(lambda s: is_cold_part(s.name), changed):
        main = twins.post.main_of(part)
        if main is part:
            continue
        why = found.pop(part)
        if main in twins.pre_of:
            found.setdefault(main, f"its cold part: {why}")
    return found


def refuse_parted_names(twins: Twins, changed: Iterable[Symbol]) -> list[Refusal]:
    """Refuse to change one of two names for a function in the kernel, and not the other.

    Where ``long b(void) __alias(a);`` becomes a function, what leads to it is that of both.
    """
    old = defaultdict(list)
    for s in _functions(twins.pre):
        old[s.section, s.value].append(s)
    refusals = []
    for s in changed:
        twin = twins.pre_of[s]
        for other in old[twin.section, twin.value]:
            new = twins.post_of.get(other)
            if new is not None and (new.section, new.value) != (s.section, s.value):
                why = f"in the kernel {other.name} is the same function; the patch parts them"
                hint = f"give both the same code, or change the callers of {s.name} instead"
                refusals.append(refuse(s, why, hint))
    return refusals


def refuse_nameless_code(comparison: Comparison) -> list[Refusal]:
    """Refuse changed code that is in no function: assembly without ``.type`` and ``.size``."""
    before, after = (index.as_compiled.nameless_code for index in (comparison.pre, comparison.post))
    return [
        Refusal(
            symbol=name, section=name, reason="code that belongs to no function changes",
            hint="leave it out of the patch; only functions can be replaced",
        )
        for name in {**before, **after}
        if not comparison.same_code(before.get(name, []), after.get(name, []))
    ]  # fmt: skip


def _functions(index: ObjectIndex) -> list[Symbol]:
    return [s for s in index.obj.functions() if not is_prefix(s)]
