# SPDX-License-Identifier: GPL-2.0-only
"""What differs between the pre and the post object of one unit, and why.

Both are compiled with one section a function and one a datum, and taken apart.  ``diff(x, x)`` is
empty.
"""

from dataclasses import replace

from ksplicd.create.diff.compare import Comparison
from ksplicd.create.diff.correlate import correlate
from ksplicd.create.diff.data import compare_data, has_state, is_compared, refuse_set_up_at_boot
from ksplicd.create.diff.difference import Difference
from ksplicd.create.diff.exports import compare_exports
from ksplicd.create.diff.functions import (
    compare_functions,
    refuse_nameless_code,
    refuse_parted_names,
)
from ksplicd.create.diff.hooks import note_pauses, read_hooks
from ksplicd.create.diff.lists import compare_lists, refuse_btf_ids
from ksplicd.create.diff.one_place import refuse_other_storage
from ksplicd.create.diff.peers import note_sections, read_ignored, refuse_forced
from ksplicd.create.diff.placement import Placement, refuse_moved_code
from ksplicd.create.objects.index import ObjectIndex, relocations_in
from ksplicd.create.objects.names import is_exit_section, is_per_cpu
from ksplicd.create.refusal import Refusal, refuse
from ksplicd.elf.model import Symbol


def diff(pre: ObjectIndex, post: ObjectIndex) -> Difference:
    """Compare the two objects of a unit.  Raises ``ElfError``."""
    twins = correlate(pre, post)
    comparison = Comparison(twins)
    functions = compare_functions(comparison)
    placement = Placement(comparison, (*functions.changed, *functions.new))
    data = compare_data(comparison, placement.why_misplaced)
    hooks, wrong_hooks = read_hooks(twins)
    unload = exit_function(post)
    if unload not in twins.pre_of or not any(map(_is_exit_code, functions.boot)):
        unload = None
    left_out = [
        f"{s.name} runs only at boot or at unload: its change is left out"
        for s in functions.boot
        if not (unload and _is_exit_code(s))
    ]
    difference = Difference(
        twins=twins,
        changed=functions.changed,
        new=functions.new,
        removed=functions.removed,
        boot=functions.boot,
        unload=unload,
        copied_constants=data.copied_constants,
        fields=data.fields,
        hooks=hooks,
        notes=(
            *left_out,
            *data.notes,
            *compare_exports(pre.obj, post.obj),
            *compare_lists(comparison),
            *placement.notes(),
            *note_pauses(twins, hooks),
            *note_sections(twins),
        ),
        refusals=(
            *data.refusals,
            *functions.refusals,
            *wrong_hooks,
            *read_ignored(twins)[1],
            *refuse_forced(twins),
            *refuse_parted_names(twins, functions.changed),
            *refuse_nameless_code(comparison),
            *refuse_other_storage(twins),
            *refuse_moved_code(comparison),
            *refuse_btf_ids(comparison),
        ),
    )
    users = {s: why for s, why in data.users.items() if s in twins.pre_of}
    difference = difference.with_changed(users).without_ignored()
    if not difference.is_needed:
        return difference
    return replace(difference, refusals=(*difference.refusals, *refuse_new_data(difference)))


def refuse_new_data(d: Difference, shared: tuple[Symbol, ...] = ()) -> list[Refusal]:
    """Refuse new data that cannot begin as the patch means it; ``shared``: what others use."""
    new = d.new_data()
    running = [*d.changed, *d.new]
    refusals = refuse_set_up_at_boot(d.post, new, running, shared)
    used = {
        d.post.locate(s.section, r).symbol
        for s in (*running, *new) if s.section is not None
        for r in relocations_in(s)
    }  # fmt: skip
    before = {s.name: s for s in d.pre.obj.symbols if is_compared(s)}
    for s in new:
        old = before.get(s.name)
        if old and old.section and s.section and is_per_cpu(old.section) != is_per_cpu(s.section):
            why = "it becomes per-CPU data or ceases to be, and the kernel goes on using the old"
            refusals.append(refuse(s, why, "give what is new a name of its own"))
    why = "it may be the {} that the kernel has, or a new variable, and nothing tells which"
    hint = "give those of the changed functions names of their own"
    refusals += [
        refuse(s, why.format(d.twins.ambiguous[s]), hint)
        for s in new
        if s in d.twins.ambiguous and s in used and has_state(s)
    ]
    return refusals


def exit_function(index: ObjectIndex) -> Symbol | None:
    """Return what ``module_exit()`` names, by its alias (include/linux/module.h)."""
    return next((s for s in index.obj.functions() if s.name == "cleanup_module"), None)


def _is_exit_code(s: Symbol) -> bool:
    return s.section is not None and is_exit_section(s.section)
