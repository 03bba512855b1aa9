# SPDX-License-Identifier: GPL-2.0-only
"""Hooks in a post object.  tests/vm/test_hooks.py tests their macros in the guest."""

import re
from pathlib import Path

import pytest

from ksplicd.create.diff import hooks
from ksplicd.create.diff.across_units import refuse_more_callbacks
from ksplicd.create.diff.correlate import correlate
from ksplicd.create.diff.difference import UnitChange
from ksplicd.create.diff.hooks import KINDS, Hook, note_pauses, read_hooks
from ksplicd.create.diff.unit import diff
from ksplicd.create.objects.index import ObjectIndex
from ksplicd.create.objects.separate import index_separated
from ksplicd.create.refusal import Refusal
from tests.support.objects.compile import SPLIT, compile_object

ROOT = Path(__file__).parents[4]
PRE = "int limit = 1; int user(void) { return limit; }\n"
MACRO = """
#define HOOK(kind, fn) static void *const \
    __attribute__((used, no_reorder, section(".ksplice_call_" #kind))) __ksplice_##kind##_##fn = fn
"""


def read(tmp_path: Path, post: str, pre: str = PRE) -> tuple[tuple[Hook, ...], list[Refusal]]:
    before = ObjectIndex(compile_object(tmp_path, pre, *SPLIT, name="pre"), {})
    after = ObjectIndex(compile_object(tmp_path, post, *SPLIT, name="post"), {})
    return read_hooks(correlate(before, after))


def test_kinds_are_those_of_the_kernel_part_and_the_header() -> None:
    enum = re.findall(r"\tHOOK_(\w+),", (ROOT / "kmodsrc/new_code.c").read_text())
    macros = re.findall(
        r"#define ksplice_(\w+)\(fn\)", (ROOT / "kmodsrc/ksplice-patch.h").read_text()
    )
    assert tuple(enum) == KINDS == tuple(macros)


def test_hooks_in_the_order_of_the_source(tmp_path: Path) -> None:
    code = """
    static void b(void) { limit = 2; }
    static void a(void) { limit = 3; }
    HOOK(apply, b); HOOK(reverse, a); HOOK(apply, a);
    """
    found, refusals = read(tmp_path, PRE + MACRO + code)
    calls = sorted((h.kind, i, h.function.name) for i, h in enumerate(found))
    assert [(kind, name) for kind, _, name in calls] == [
        ("apply", "b"), ("apply", "a"), ("reverse", "a")
    ]  # fmt: skip
    assert refusals == []


def test_a_patch_may_be_nothing_but_hooks(tmp_path: Path) -> None:
    code = "static void a(void) { limit = 3; } HOOK(apply, a);"
    pre = compile_object(tmp_path, PRE, *SPLIT, name="pre")
    post = compile_object(tmp_path, PRE + MACRO + code, *SPLIT, name="post")
    difference = diff(index_separated(pre, {}), index_separated(post, {}))
    assert not difference.is_empty
    assert not difference.is_boot_only
    assert (difference.changed, difference.refusals) == ({}, ())


def test_callbacks_by_the_kernels_own_header(tmp_path: Path) -> None:
    """What include/linux/livepatch_helpers.h leaves (Linux 6.19)."""
    pointer = """
    int (*__attribute__((used, section(".discard.klp_callback_ptrs")))
         __klp_pre_patch_callback_vmlinux)(void *) = before;
    void (*__attribute__((used, section(".discard.klp_callback_ptrs")))
          __klp_post_unpatch_callback_vmlinux)(void *) = after;
    void *__attribute__((used, section(".discard.klp_callback_ptrs"))) other = after;
    """
    code = "static int before(void *o) { return !o; } static void after(void *o) { limit = !o; }"
    found, refusals = read(tmp_path, PRE + code + pointer)
    calls = {(h.kind, h.function.name) for h in found}
    assert calls == {("pre_patch", "before"), ("post_unpatch", "after")}
    assert refusals == []


def test_one_callback_of_a_kind_for_each_target(tmp_path: Path) -> None:
    """Livepatch has one place for each."""
    code = MACRO + "static void {0}(void *o) {{ limit = !o; }} HOOK(post_patch, {0});"
    changes = [
        UnitChange.of(
            unit,
            diff(
                index_separated(compile_object(tmp_path, PRE, *SPLIT, name="pre"), {}),
                index_separated(
                    compile_object(tmp_path, PRE + code.format(name), *SPLIT, name=name), {}
                ),
            ),
            target,
        )
        for unit, target, name in (("a.c", "m", "a"), ("b.c", "vmlinux", "b"), ("c.c", "m", "c"))
    ]
    found = refuse_more_callbacks(changes)
    reasons = [[r.reason for r in c.refusals] for c in found]
    assert reasons == [[], [], ["m has a post_patch callback already, a of a.c"]]


def test_hooks_of_an_earlier_update_are_not_called_again(tmp_path: Path) -> None:
    code = MACRO + "static void a(void) { limit = 3; } HOOK(apply, a);"
    more = "static void b(void) { limit = 4; } HOOK(apply, b);"
    found, _ = read(tmp_path, PRE + code + more, PRE + code)
    assert [(h.kind, h.function.name) for h in found] == [("apply", "b")]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("HOOK(apply, user);", "apply is a function that the patch does not bring"),
        ("extern void other(void); HOOK(apply, other);", "is a function that the patch"),
        (
            '__attribute__((section(".init.text"))) static void a(void) {} HOOK(apply, a);',
            "the hook is boot code",
        ),
    ],
)
def test_what_cannot_be_a_hook(tmp_path: Path, code: str, reason: str) -> None:
    found, refusals = read(tmp_path, PRE + MACRO + code)
    assert found == ()
    assert [reason in r.reason for r in refusals] == [True]


def test_pointers_are_no_data(tmp_path: Path) -> None:
    obj = compile_object(tmp_path, PRE + MACRO + "static void a(void) {} HOOK(apply, a);", *SPLIT)
    names = [s.name for s in obj.sections if s.name.startswith(hooks.SECTION)]
    assert names == [".ksplice_call_apply"]


PAUSE = """
extern void nf_unregister_net_hook(int), nf_register_net_hook(int), other(int), gate_del(int);
static __attribute__((noinline)) void out(int x) {{ {0}(x); other(x); }}
static void a(void) {{ out(1); }}
static void b(void) {{ {1}(1); }}
HOOK({2}, a); HOOK({3}, b);
"""


@pytest.mark.parametrize(
    ("out", "back", "early", "late", "is_noted"),
    [
        ("nf_unregister_net_hook", "nf_register_net_hook", "apply", "post_apply", True),
        ("nf_unregister_net_hook", "nf_register_net_hook", "pre_reverse", "post_reverse", True),
        ("timer_del", "timer_add", "check_apply", "post_apply", True),
        ("nf_register_net_hook", "nf_unregister_net_hook", "apply", "post_apply", False),
        ("nf_unregister_net_hook", "nf_register_net_hook", "check_reverse", "reverse", True),
        ("nf_unregister_net_hook", "nf_register_net_hook", "reverse", "post_reverse", False),
        ("nf_unregister_net_hook", "nf_register_net_hook", "apply", "apply", False),
        ("nf_unregister_net_hook", "nf_register_net_hook", "apply", "reverse", False),
        ("model_get", "model_add", "apply", "post_apply", False),
    ],
)
def test_what_is_out_while_a_transition_lasts_is_noted(
    tmp_path: Path, out: str, back: str, early: str, late: str, *, is_noted: bool
) -> None:
    source = "extern void timer_del(int), timer_add(int), model_get(int), model_add(int);\n"
    source += PRE + MACRO + PAUSE.format(out, back, early, late)
    before = ObjectIndex(compile_object(tmp_path, PRE, *SPLIT, name="pre"), {})
    after = ObjectIndex(compile_object(tmp_path, source, *SPLIT, name="post"), {})
    twins = correlate(before, after)
    notes = list(note_pauses(twins, read_hooks(twins)[0]))
    assert [f"{out}() in a" in note and f"{back}() in b" in note for note in notes] == (
        [True] if is_noted else []
    )
