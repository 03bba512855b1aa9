# SPDX-License-Identifier: GPL-2.0-only
from pathlib import Path

import pytest

from ksplicd.create.objects.patchable import probeable_functions
from tests.support.objects.compile import SPLIT, compile_object

# noinstr, __kprobes, __init, NOKPROBE_SYMBOL(), jump labels, static calls, BUG() of 6.1's headers
SOURCE = """
#define IN(name) __attribute__((noinline, section(name)))
#define NOKPROBE_SYMBOL(fn) static unsigned long \\
    __attribute__((used, section("_kprobe_blacklist"))) _kbl_addr_##fn = (unsigned long)fn
int plain(int x) { return x; }
int IN(".noinstr.text") not_instrumented(int x) { return x + 1; }
int IN(".kprobes.text") of_kprobes(int x) { return x + 2; }
int IN(".entry.text") of_entry(int x) { return x + 3; }
int IN(".cpuidle.text") idle(int x) { return x + 4; }
int IN(".init.text") boot(int x) { return x + 5; }
static int __attribute__((noinline)) first(int x) { return x + 6; }
static int __attribute__((noinline)) named(int x) { return x + 7; }
NOKPROBE_SYMBOL(named);
int named_too(int x) { return first(x) * named(x); }
NOKPROBE_SYMBOL(named_too);
int other(int x) { return x + 8; }
#define BEGINS_WITH(table, insn) \
    asm volatile("1: " insn "; .pushsection " table ",\\"aw\\"; .long 1b - .; .popsection")
int branches(int x) { BEGINS_WITH("__jump_table", "nopl 0(%rax,%rax)"); return x + 9; }
int calls(int x) { BEGINS_WITH(".static_call_sites", "call other"); return x + 10; }
int traps(int x) { BEGINS_WITH("__bug_table", "ud2"); return x + 11; }
int branches_later(int x)
{
    asm volatile("nop");
    BEGINS_WITH("__jump_table", "nopl 0(%rax,%rax)");
    return x + 12;
}
"""
PROBEABLE = {"plain", "first", "other", "branches_later"}


def test_no_kprobe_where_the_kernel_allows_none(tmp_path: Path) -> None:
    assert probeable_functions(compile_object(tmp_path, SOURCE)) == PROBEABLE
    split = compile_object(tmp_path, SOURCE, *SPLIT)
    assert probeable_functions(split) == PROBEABLE


LOOP = """
asm(".text\\n.type head,@function\\nhead: {pad} xor %eax,%eax\\n test %rdi,%rdi\\n {jump}\\n ret\\n"
    ".size head,.-head\\n"
    ".type again,@function\\nagain: {pad} dec %rdi\\n call again\\n ret\\n.size again,.-again\\n"
    ".type later,@function\\nlater: {pad} nop\\n1: dec %rdi\\n jne 1b\\n ret\\n"
    ".size later,.-later\\n"
    ".section .text.unlikely\\n.type head.cold,@function\\nhead.cold: {cold}\\n"
    ".size head.cold,.-head.cold\\n.text");
"""

FAULTS = (
    '1: mov (%rdi),%rax\\n .pushsection __ex_table,\\"a\\"\\n .long 1b-.,{fixup}-.,3\\n .popsection'
)


@pytest.mark.parametrize(
    ("pad", "jump", "cold"),
    [
        ("", "jne head", "ud2"),
        ("", "jmp head", "ud2"),
        ("", ".byte 0x0f,0x85\\n.long head-.-4", "ud2"),
        ("endbr64;", "jne head", "ud2"),
        ("endbr64;", "jne head+4", "ud2"),
        ("", "nop", "jmp head"),
        ("endbr64;", "nop", "jmp head+4"),
        ("", FAULTS.format(fixup="head"), "ud2"),
        ("endbr64;", FAULTS.format(fixup="head+4"), "ud2"),
    ],
)
def test_no_kprobe_where_a_loop_begins(tmp_path: Path, pad: str, jump: str, cold: str) -> None:
    """A call of the function itself is a call as any other."""
    obj = compile_object(tmp_path, LOOP.format(pad=pad, jump=jump, cold=cold))
    assert probeable_functions(obj) & {"head", "again", "later"} == {"again", "later"}


def test_a_function_without_a_loop_at_its_head_takes_a_kprobe(tmp_path: Path) -> None:
    obj = compile_object(
        tmp_path, LOOP.format(pad="endbr64;", jump="jne head+6", cold="jmp head+6")
    )
    assert "head" in probeable_functions(obj)
    obj = compile_object(
        tmp_path, LOOP.format(pad="", jump=FAULTS.format(fixup="head+2"), cold="ud2")
    )
    assert "head" in probeable_functions(obj)
