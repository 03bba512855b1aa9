# SPDX-License-Identifier: GPL-2.0-only
"""What the kernel's own build makes of a unit, where the compared objects are compiled otherwise.

The objects of a module that are cut read its static keys (kmodsrc/static_keys.h), so that gcc may
inline, clone and number otherwise than in the module that runs.  The plain objects, before and
after the change, say what differs for the running kernel and by which names it knows its functions
and variables; the split ones only have the bytes.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from ksplicd.create.debug import phase
from ksplicd.create.diff.compare import Comparison
from ksplicd.create.diff.correlate import correlate
from ksplicd.create.diff.difference import Difference
from ksplicd.create.diff.twins import can_be_twins, is_numbered, is_state, place_of
from ksplicd.create.diff.unit import diff, exit_function
from ksplicd.create.objects.index import ObjectIndex, code_section_of
from ksplicd.create.objects.names import (
    base_name,
    is_boot_section,
    is_cold_part,
    is_content_alone,
    is_exit_section,
    is_prefix,
    main_name,
)
from ksplicd.create.refusal import Refusal, refuse
from ksplicd.elf.model import Symbol

LOG: Final = phase("twins")

_NUMBER: Final = re.compile(r"\.(\d+)(?=\.|$)")
_FIRST_OF_NONE: Final = 1_000_000
"""Numbers from here on are of what the kernel does not have; gcc counts the symbols of a unit."""


def name_as_built(plain: ObjectIndex, pre: ObjectIndex) -> None:
    """Give the numbered symbols of ``pre`` the names that the same things have in ``plain``.

    ``plain``: taken apart, too.  A clone (``foo.constprop.0``) is the same only when its code is:
    another one of the name may take other arguments.  What ``plain`` does not have gets a name that
    no kernel has, so that new code brings it along, or is refused.
    """
    comparison = Comparison(correlate(plain, pre))
    twins = comparison.twins
    alike = _Alike(comparison)
    names: dict[Symbol, str] = {}
    for s in pre.obj.symbols:
        if s.section is None or not is_numbered(s) or is_content_alone(s) or is_cold_part(s.name):
            continue
        twin = twins.pre_of.get(s)
        if twin is None and not s.is_function and not is_state(s):
            twin = alike.take(s)
        if twin is None or (s.is_function and comparison.why_differs(twin, s)):
            names[s] = _NUMBER.sub(f".{_FIRST_OF_NONE + len(names)}", s.name, count=1)
        else:
            names[s] = twin.name
    for part in filter(lambda s: is_cold_part(s.name), pre.obj.symbols):
        main = pre.main_of(part)
        if main in names:
            names[part] = names[main] + part.name.removeprefix(main_name(part.name))
    for s, name in names.items():
        if s.name != name:
            LOG.debug("%s: %s is %s in the kernel", pre.obj.name, s.name, name)
            s.name = name


class _Alike:
    """Data of the plain object that are nobody's twin, for those that nothing tells apart.

    Of constants with one content, and of rate limits, it does not matter which is meant.
    """

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        self.left: dict[str, list[Symbol]] = defaultdict(list)
        for s in comparison.pre.obj.symbols:
            if s.section is not None and is_numbered(s) and s not in comparison.twins.post_of:
                self.left[base_name(s.name)].append(s)

    def take(self, s: Symbol) -> Symbol | None:
        """Return one that is like ``s``, each once; None when there is none."""
        left = self.left[base_name(s.name)]
        for other in left:
            if can_be_twins(other, s) and self.comparison.compare_content(other, s) is None:
                left.remove(other)
                return other
        return None


def changed_as_built(
    difference: Difference, plain: ObjectIndex, plain_post: ObjectIndex
) -> Difference:
    """Return the difference with all functions that change for the running kernel.

    ``plain``, ``plain_post``: taken apart.  A function of ``plain`` of which the split object has
    no counterpart (``foo.part.0``) is reached by replacing those that call it.
    """
    reasons = {
        name: f"as the kernel's build makes it: {why}"
        for name, why in _changes(diff(plain, plain_post))
    }
    twins = difference.twins
    there = {twins.pre_of[s].name: s for s in twins.post.obj.functions() if s in twins.pre_of}
    functions = {s.name: s for s in plain.obj.functions()}
    found: dict[Symbol, str] = {}
    todo, seen = list(reasons), set(reasons)
    while todo:
        name = todo.pop()
        if name in there:
            found[there[name]] = reasons[name]
            continue
        callers = _callers(plain, functions[name]) if name in functions else ()
        for caller in callers:
            if caller not in seen:
                seen.add(caller)
                todo.append(caller)
                reasons[caller] = f"calls {name} in the kernel, which changes"
    order = [s for s in twins.post.obj.symbols if s in found]
    running = {s: found[s] for s in order if not is_boot_section(code_section_of(s))}
    at_unload = {s: found[s] for s in order if is_exit_section(code_section_of(s))}
    unload = exit_function(twins.post)
    if at_unload and unload in twins.pre_of:  # a module's own exit function is exchanged
        boot = {**at_unload, **difference.boot}
        difference = replace(difference, boot=boot, unload=unload)
    difference = difference.with_changed(running)
    refusals = (*difference.refusals, *refuse_folded(difference, plain))
    return replace(difference, refusals=refusals)


def refuse_folded(difference: Difference, plain: ObjectIndex) -> list[Refusal]:
    """Refuse to change a function that is one with another in the kernel, but not here."""
    places = {s.name: place_of(s) for s in plain.obj.functions()}
    of_pre = {s.name: place_of(s) for s in difference.pre.obj.functions()}
    refusals = []
    for s in difference.changed:
        name = difference.twins.pre_of[s].name
        for other, place in places.items():
            is_one = place is not None and place == places.get(name)
            if is_one and of_pre.get(other) not in (None, of_pre[name]):
                why = f"in the kernel {other} is the same function, in what is compared another one"
                refusals.append(refuse(s, why, f"change the callers of {name} instead"))
    return refusals


def _changes(plain: Difference) -> Iterable[tuple[str, str]]:
    """Yield the names in the kernel of what changes, with the reasons; boot code, too."""
    for s, why in {**plain.changed, **plain.boot}.items():
        if s in plain.twins.pre_of:
            yield plain.twins.pre_of[s].name, why


def _callers(index: ObjectIndex, function: Symbol) -> Mapping[str, None]:
    """Return the names of the functions whose code refers to another one."""
    found: dict[str, None] = {}
    for owner in index.obj.sections:
        if not owner.is_text or is_boot_section(owner):
            continue
        for r in owner.relocations:
            user = index.symbol_at(owner, r.offset)
            if user is None or not user.is_function or is_prefix(user):
                continue
            if index.locate(owner, r).symbol is function and index.main_of(user) is not function:
                found[index.main_of(user).name] = None
    return found
