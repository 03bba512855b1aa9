# SPDX-License-Identifier: GPL-2.0-only
"""The length decoder, tested against the assembler's instruction ends."""

from pathlib import Path

import pytest

from ksplicd.elf.instructions import (
    Role,
    UndecodableError,
    read_fields,
    read_instructions,
)
from ksplicd.elf.read import read_object
from ksplicd.run import run

LINES = """
nop | endbr64 | ud2 | ud1 %eax, %eax | lock incl (%rax) | rep movsb | xchg %ax, %ax
push $1000000 | pushq $1 | enter $16, $0 | ret | ret $8 | int3 | syscall | sysretq | cpuid
mov %gs:0x28, %rax | mov $1, %ax | mov $-1, %rax | movabs $0x1122334455667788, %rax
testb $1, 8(%rax,%rcx,4) | testl $1, (%rax) | testw $1, (%rax) | notl (%rax) | negq 400(%rax)
imul $1000, %rax, %rbx | imul $3, %rax, %rbx | shld $4, %rax, %rbx | bt $5, %eax | bsf %rax, %rbx
movzbl (%rax), %eax | cmovne %eax, %ebx | setne %al | cmpxchg16b (%rdi) | xadd %eax, (%rbx)
data16 lea 8(%rdi), %rdi | popcnt %rax, %rbx | rdrand %rax | clflush (%rax) | prefetcht0 (%rax)
movaps %xmm0, (%rax) | pshufd $1, %xmm0, %xmm1 | pshufb %xmm1, %xmm0 | palignr $1, %xmm0, %xmm1
crc32b %al, %ebx | aesenc %xmm1, %xmm2 | pclmulqdq $0, %xmm1, %xmm2 | movbe (%rax), %ebx
vpaddd %ymm1, %ymm2, %ymm3 | vpshufd $1, %ymm1, %ymm2 | vzeroupper
vpternlogd $1, %zmm1, %zmm2, %zmm3 | vmovdqu64 64(%rax), %zmm1 | rorx $3, %rax, %rbx
fldt (%rax) | fxsave (%rax) | xsavec (%rax) | wrmsr | rdtscp | invlpg (%rax) | swapgs | iretq
mov %cr3, %rax | lidt (%rax) | lgdt 8(%rax) | vmcall | monitor | stac | clac | pause | jrcxz .
"""


def assemble(tmp_path: Path, text: str) -> bytes:
    (tmp_path / "x.s").write_text(f"f:\n{text}\n")
    run(["as", "-o", tmp_path / "x.o", tmp_path / "x.s"])
    section = read_object((tmp_path / "x.o").read_bytes()).find_section(".text")
    assert section is not None
    return section.data


def test_every_instruction_ends_where_the_assembler_ended_it(tmp_path: Path) -> None:
    """A decoder that loses its place would not find the branch behind each instruction."""
    lines = [x.strip() for x in LINES.replace("\n", "|").split("|") if x.strip()]
    code = assemble(tmp_path, "".join(f"{x}\ncall 0x12345678\n" for x in lines))
    branches = [at for at, f in read_fields(code, 0, len(code)).items() if f.role is Role.BRANCH]
    calls = [at for at in branches if code[at - 1] == 0xE8]
    assert len(calls) == len(lines)


@pytest.mark.parametrize(
    ("text", "role", "size", "tail"),
    [
        ("call 0x1000", Role.BRANCH, 4, 4),
        ("jne 0x1000", Role.BRANCH, 4, 4),
        ("mov 0x1000(%rip), %eax", Role.MEMORY, 4, 4),
        ("cmpl $1, 0x1000(%rip)", Role.MEMORY, 4, 5),
        ("movl $0x11223344, 0x1000(%rip)", Role.MEMORY, 4, 8),
        ("movw $0x1122, 0x1000(%rip)", Role.MEMORY, 4, 6),
        ("mov 0x1000(,%rax,8), %rax", Role.MEMORY, 4, 4),
        ("jmp *0x1000(,%rax,8)", Role.MEMORY, 4, 4),
        ("lea 0x1000(%rip), %rax", Role.ADDRESS, 4, 4),
        ("mov $0x1000, %rdi", Role.ADDRESS, 4, 4),
        ("cmp $0x1000, %rax", Role.ADDRESS, 4, 4),
    ],
)
def test_what_a_field_is_for(
    tmp_path: Path, text: str, role: Role, size: int, tail: int
) -> None:  # fmt: skip
    # The two bytes before it look like an operand-size prefix of the instruction, and are not.
    code = assemble(tmp_path, f"xchg %ax, %ax\n{text}")
    field = next(iter(read_fields(code, 0, len(code)).values()))
    assert (field.role, field.size, field.tail) == (role, size, tail)


def test_where_instructions_begin(tmp_path: Path) -> None:
    code = assemble(tmp_path, "nop\nmov $1, %eax\njmp f\nret\n")
    found = read_instructions(code, 0, len(code))
    assert [(i.start, i.end, sorted(i.fields)) for i in found] == [
        (0, 1, []), (1, 6, [2]), (6, 8, [7]), (8, 9, []),
    ]  # fmt: skip
    with pytest.raises(UndecodableError, match="behind the code"):
        read_instructions(code[:4], 0, 4)


def test_data_is_not_code() -> None:
    with pytest.raises(UndecodableError, match="no instruction at 0x1: 06"):
        read_fields(b"\x90\x06\x90", 0, 3)
    with pytest.raises(UndecodableError, match="ends behind the code"):
        read_fields(b"\x90\xe8\x00", 0, 3)


@pytest.mark.parametrize(
    ("text", "use"),
    [
        ("mov 0x1000(%rip), %eax", ""),
        ("mov 0x1000(,%r12,8), %rax", "is_indexed"),
        ("mov 0x1000(%rbx), %rax", "is_indexed"),
        ("lea 0x1000(,%rax,8), %rax", "is_indexed"),
        ("mov 0x1000, %eax", ""),
        ("mov $0x1000, %rdi", ""),
        ("cmp $0x1000, %rax", "is_compared"),
        ("cmpq $0x1000, 8(%rbx)", "is_compared"),
        ("movq $0x1000, 8(%rbx)", "is_stored"),
        ("push $0x1000", "is_stored"),
        ("add $0x1000, %rdi", "is_summand"),
        ("sub $0x1000, %rax", "is_summand"),
    ],
)
def test_how_an_address_is_used(tmp_path: Path, text: str, use: str) -> None:
    code = assemble(tmp_path, text)
    field = next(iter(read_fields(code, 0, len(code)).values()))
    uses = ("is_indexed", "is_compared", "is_stored", "is_summand")
    assert [name for name in uses if getattr(field, name)] == ([use] if use else [])


def test_instructions_in_order(tmp_path: Path) -> None:
    code = assemble(tmp_path, "mov %r12, 8(%rbx)\nvpaddd %ymm1, %ymm2, %ymm3\nret")
    store, vector, end = read_instructions(code, 0, len(code))
    assert (store.opcode, store.rex & 4, store.modrm >> 3 & 7) == (0x89, 4, 4)
    assert vector.is_wide_vector
    assert (end.opcode, end.modrm, end.end) == (0xC3, -1, len(code))
