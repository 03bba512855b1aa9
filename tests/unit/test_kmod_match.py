# SPDX-License-Identifier: GPL-2.0-only
"""The kernel part's matching, as a program under sanitizers, with tables that are wrong on purpose.

A byte read too far has no visible effect in a guest; here it ends the program.
"""

import os
import struct
from pathlib import Path
from typing import Final

import pytest

from ksplicd.create.old_code.sites import SiteKind
from ksplicd.create.old_code.tables import REF_SLOT, SYM
from tests.support.kmod.made_up import (
    ABS64,
    ADDRESSES,
    FIRST,
    NOP5,
    ORDER,
    SECOND,
    Part,
    call,
    end_of,
    ex_entry,
    jump_entry,
    memory,
    place_of,
    tables,
)
from tests.support.kmod.program import build, match
from tests.support.old_code.blob import Blob
from tests.support.old_code.mutate import mutate_tables
from tests.support.old_code.oracle import IN_TARGET, Memory, Verdict, judge

MUTATIONS: Final = int(os.environ.get("KSPLICE_MUTATIONS", "2000"))
SEED: Final = os.environ.get("KSPLICE_SEED", "kmod")
KERNEL: Final = Memory(
    symbols={name: [address] for name, address in ADDRESSES.items()},
    target_symbols={},
    pieces=memory(),
)
CAUSES: Final = {
    Verdict.DAMAGED: {"unexpected"},
    Verdict.NO_SYMBOL: {"failed_to_find", "bad_system_map"},
    Verdict.DIFFERENT: {"no_match"},
    Verdict.SAME: {"ok"},
    Verdict.EITHER: {"ok", "no_match"},
}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("kmod"))


def test_made_up_kernel_matches(program: Path) -> None:
    assert match(program, KERNEL, [tables()]) == [("ok", "-", "-+0x0")]
    assert judge(tables(), tables(), KERNEL, is_module=False) == Verdict.SAME


def test_module_is_found_anew_each_time(program: Path) -> None:
    """The program matches twice, the second time with where the kernel's symbols were found."""
    blob = Blob(tables(of_module=True))
    name = blob.data.index(b"vmlinux\0")
    blob.data[name : name + 6] = b"romfs\0"
    places = {blob.sym(i)[0]: blob.syms_at + i * SYM.size for i in range(blob.nr_syms)}
    struct.pack_into("<I", blob.data, places["second"] + 4, IN_TARGET)
    symbols = {name: found for name, found in KERNEL.symbols.items() if name != "second"}
    module = {"second": KERNEL.symbols["second"]}
    kernel = Memory(symbols=symbols, target_symbols=module, pieces=memory())
    assert match(program, kernel, [bytes(blob.data)], is_module=True) == [("ok", "-", "-+0x0")]


@pytest.mark.parametrize(
    ("size", "jump", "cause"),
    [
        (20, b"\xeb\x12", "ok"),
        (140, b"\xe9\x87\x00\x00\x00", "ok"),
        (140, b"\xeb\x8a", "no_match"),  # goes back by 118 bytes
        (140, b"\xe9\x75\xff\xff\xff", "no_match"),
        (20, b"\xeb\x13", "no_match"),
    ],
)
def test_jump_over_many_nops_leads_to_their_end(
    program: Path, size: int, jump: bytes, cause: str
) -> None:
    """``add_nop()`` of arch/x86/kernel/alternative.c."""
    many = Part(b"\x90" * size, run=jump.ljust(size, b"\xcc"), site=SiteKind.ALT)
    kernel = Memory(symbols=KERNEL.symbols, target_symbols={}, pieces=memory(many))
    assert [answer.cause for answer in match(program, kernel, [tables(many)])] == [cause]


@pytest.mark.parametrize(("sleeps", "cause"), [(4, "ok"), (200, "ok"), (300, "no_match")])
def test_int3_of_a_change_that_is_not_over_is_waited_for(
    program: Path, sleeps: int, cause: str
) -> None:
    """text_poke_bp() waits for every processor between its int3 and the instruction."""
    first = ADDRESSES["first"]
    (answer,) = match(program, KERNEL, [tables()], pokes={first: sleeps})
    assert answer == (cause, *(("-", "-+0x0") if cause == "ok" else (answer.kind, "first+0x0")))


SITE: Final = ADDRESSES["second"] + end_of(SECOND)
"""Where a part behind the second function runs."""
TRAMP: Final = ADDRESSES["tramp"]
MODULE_TEXT: Final = 0xFFFFFFFFC0000000
OTHER_TEXT: Final = ADDRESSES["first"] + 0x4000
RETURN: Final = b"\xc3\xcc\xcc\xcc\xcc"
XOR5RAX: Final = b"\x2e\x2e\x2e\x31\xc0"


def branch(opcode: int, at: int, to: int) -> bytes:
    return bytes([opcode]) + (to - at - 5).to_bytes(4, "little", signed=True)


def static_call(run: bytes, sym: str = "") -> Part:
    code, refs = call("tramp")
    return Part(code, run=run, refs=refs, site=SiteKind.STATIC_CALL, sym=sym)


@pytest.mark.parametrize(
    ("run", "trampoline", "cause"),
    [
        (branch(0xE8, SITE, MODULE_TEXT), branch(0xE9, TRAMP, MODULE_TEXT), "ok"),
        (branch(0xE8, SITE, OTHER_TEXT), branch(0xE9, TRAMP, OTHER_TEXT), "ok"),
        (branch(0xE8, SITE, OTHER_TEXT), branch(0xE9, TRAMP, MODULE_TEXT), "no_match"),
        (branch(0xE8, SITE, MODULE_TEXT), branch(0xE9, TRAMP, OTHER_TEXT), "no_match"),
        (branch(0xE8, SITE, OTHER_TEXT), RETURN, "no_match"),
        (branch(0xE8, SITE, OTHER_TEXT), b"", "no_match"),
        (b"\x0f\x1f\x44\x00\x00", RETURN, "ok"),
        (b"\x0f\x1f\x44\x00\x00", branch(0xE9, TRAMP, OTHER_TEXT), "no_match"),
        (XOR5RAX, branch(0xE9, TRAMP, OTHER_TEXT), "no_match"),
        (XOR5RAX, RETURN, "no_match"),
    ],
)
def test_static_call_without_a_key_leads_where_its_trampoline_does(
    program: Path, run: bytes, trampoline: bytes, cause: str
) -> None:
    """Modules know the keys of exported static calls by their trampolines only."""
    part = static_call(run)
    kernel = Memory(
        symbols=KERNEL.symbols, target_symbols={}, pieces=memory(part, trampoline=trampoline)
    )
    (answer,) = match(program, kernel, [tables(part)])
    assert answer.cause == cause
    assert cause == "ok" or answer.kind == "static_call"


@pytest.mark.parametrize(
    ("run", "cause"),
    [
        (NOP5, "ok"),
        (branch(0xE8, SITE, ADDRESSES["ftrace_caller"]), "ok"),
        (branch(0xE8, SITE, ADDRESSES["ftrace_regs_caller"]), "ok"),
        (branch(0xE8, SITE, MODULE_TEXT), "ok"),
        (branch(0xE8, SITE, MODULE_TEXT + 0x2000), "ok"),
        (branch(0xE8, SITE, MODULE_TEXT - 1), "no_match"),
        (branch(0xE8, SITE, ADDRESSES["ftrace_caller"] + 1), "no_match"),
        (branch(0xE8, SITE, ADDRESSES["callee"]), "no_match"),
        (branch(0xE9, SITE, ADDRESSES["ftrace_caller"]), "no_match"),
    ],
)
def test_fentry_leads_to_a_tracer(program: Path, run: bytes, cause: str) -> None:
    """Of the kernel's image only ftrace's own callers are tracers."""
    part = Part(NOP5, run=run, site=SiteKind.FENTRY)
    kernel = Memory(symbols=KERNEL.symbols, target_symbols={}, pieces=memory(part))
    (answer,) = match(program, kernel, [tables(part)])
    assert answer.cause == cause
    assert cause == "ok" or answer.kind == "fentry"


def test_fentry_as_compiled_calls_what_the_compiler_says(program: Path) -> None:
    code, refs = call("thunk")
    kept = Part(code, refs=refs, site=SiteKind.FENTRY)
    kernel = Memory(symbols=KERNEL.symbols, target_symbols={}, pieces=memory(kept))
    assert [answer.cause for answer in match(program, kernel, [tables(kept)])] == ["ok"]


@pytest.mark.parametrize(("sleeps", "cause"), [(4, "ok"), (200, "ok"), (300, "no_match")])
def test_static_call_is_waited_for_until_its_turn(program: Path, sleeps: int, cause: str) -> None:
    """__static_call_update() changes the key, and then one site after the other."""
    part = static_call(branch(0xE8, SITE, OTHER_TEXT), "key")
    pieces = memory(part, key=OTHER_TEXT)
    kernel = Memory(symbols=KERNEL.symbols, target_symbols={}, pieces=pieces)
    (answer,) = match(program, kernel, [tables(part)], pokes={ADDRESSES["key"]: sleeps})
    assert answer.cause == cause
    assert cause == "ok" or answer.kind == "static_call"


@pytest.mark.parametrize(("more", "cause"), [(4, "ok"), (5, "no_match")])
def test_what_differs_after_a_static_call_has_its_own_tries(
    program: Path, more: int, cause: str
) -> None:
    """Another site is read halfway rewritten when the static call has had its turn at last."""
    part = static_call(branch(0xE8, SITE, OTHER_TEXT), "key")
    other = ADDRESSES["second"] + end_of(SECOND[:3]) + 2
    pieces = memory(part, key=OTHER_TEXT)
    kernel = Memory(symbols=KERNEL.symbols, target_symbols={}, pieces=pieces)
    pokes = {ADDRESSES["key"]: 100, other: 100 + more}
    (answer,) = match(program, kernel, [tables(part)], pokes=pokes)
    assert answer.cause == cause
    assert cause == "ok" or answer.kind == "alternative"


def test_what_a_failed_try_has_learned_is_forgotten(program: Path) -> None:
    """The first use of a slot changes while it is read, and the second shows it."""
    slot = Part(b"\x48\xb8" + bytes(8), refs=((2, ABS64, REF_SLOT, "unnamed", 24),))
    kernel = Memory(symbols=KERNEL.symbols, target_symbols={}, pieces=memory(first=(slot,)))
    field = next(i for i, part in enumerate(FIRST) if part.refs and part.refs[0][2] == REF_SLOT)
    poked = ADDRESSES["first"] + end_of(FIRST[:field]) + 2
    answers = match(program, kernel, [tables(first=(slot,))], pokes={poked: 2})
    assert [answer.cause for answer in answers] == ["ok"]


def test_every_byte_too_few(program: Path) -> None:
    """Tables that end early, with the header saying so or not."""
    good = tables()
    cut = [good[:size] for size in range(len(good))]
    assert {answer.cause for answer in match(program, KERNEL, cut)} == {"unexpected"}
    sized = [data[:8] + len(data).to_bytes(4, "little") + data[12:] for data in cut[12:]]
    answers = match(program, KERNEL, sized)
    taken = [d for d, answer in zip(sized, answers, strict=True) if answer.cause != "unexpected"]
    assert all(not any(good[len(data) :]) for data in taken), "only padding may be missing"


def test_damage_is_judged_as_the_oracle_does(program: Path) -> None:
    good, wrong = tables(), []
    mutations = [mutate_tables(good, f"{SEED}-{i}") for i in range(MUTATIONS)]
    answers = match(program, KERNEL, [mutation.data for mutation in mutations])
    verdicts = [judge(mutation.data, good, KERNEL, is_module=False) for mutation in mutations]
    for i, (mutation, verdict, answer) in enumerate(zip(mutations, verdicts, answers, strict=True)):
        if answer.cause not in CAUSES[verdict]:
            wrong.append(f"{SEED}-{i} ({mutation.kind}): should {verdict}, is {answer}")
    assert not wrong, "\n".join(wrong)
    assert set(verdicts) == set(CAUSES), "vmlinux cannot be absent"


FAULT: Final = place_of("first", FIRST, SiteKind.FIXUP)
KEYED: Final = place_of("first", FIRST, SiteKind.KEY)
IN_JUMP_TABLE: Final = ADDRESSES["__start___jump_table"] + 16
IN_EX_TABLE: Final = ADDRESSES["__start___ex_table"] + 24


@pytest.mark.parametrize(
    ("at", "row", "kind"),
    [
        (IN_JUMP_TABLE, jump_entry(IN_JUMP_TABLE, KEYED, ADDRESSES["variable"] | 1), None),
        (IN_JUMP_TABLE, jump_entry(IN_JUMP_TABLE, KEYED, ADDRESSES["variable"]), "jump_label_key"),
        (
            IN_JUMP_TABLE,
            jump_entry(IN_JUMP_TABLE, KEYED, ADDRESSES["variable"] + 16 | 1),
            "jump_label_key",
        ),
        (IN_EX_TABLE, ex_entry(IN_EX_TABLE, FAULT, ADDRESSES["first"] + 4, ORDER), "fixup"),
        (IN_EX_TABLE, ex_entry(IN_EX_TABLE, FAULT, ADDRESSES["first"] + 3, ORDER + 1), "fixup"),
        (IN_EX_TABLE, ex_entry(IN_EX_TABLE, FAULT + 1, ADDRESSES["first"] + 3, ORDER), "fixup"),
    ],
)
def test_tables_about_code_are_compared(
    program: Path, at: int, row: bytes, kind: str | None
) -> None:
    """Which key, compiled as taken or not; where a fault leads, and what is done there."""
    text, (start, data) = memory()
    data = data[: at - start] + row + data[at - start + len(row) :]
    kernel = Memory(symbols=KERNEL.symbols, target_symbols={}, pieces=[text, (start, data)])
    (answer,) = match(program, kernel, [tables()])
    assert answer.kind == (kind or "-")


def test_tables_that_kallsyms_do_not_name_are_not_compared(program: Path) -> None:
    """A kernel without symbols of data (CONFIG_KALLSYMS_ALL)."""
    absent = "__start___jump_table", "__stop___ex_table"
    symbols = {key: value for key, value in KERNEL.symbols.items() if key not in absent}
    text, (start, data) = memory()
    kernel = Memory(
        symbols=symbols,
        target_symbols={},
        pieces=[text, (start, data[:0x500].ljust(0x1000, b"\0"))],
    )
    assert [answer.cause for answer in match(program, kernel, [tables()])] == ["ok"]
