# SPDX-License-Identifier: GPL-2.0-only
"""Which items stand on which lines of a C file."""

import pytest

from ksplicd.create.ledger.c_items import CFile, Kind

CASES = [
    ("int f(int a,\n\tint b)\n{\n\treturn a;\n}\n", Kind.FUNCTION, {"f"}, (1, 5)),
    ("static int __init f(void)\n{\n}", Kind.FUNCTION, {"f"}, (1, 3)),
    ("void __init_rwsem(struct rw_semaphore *a)\n{\n}\n", Kind.FUNCTION, {"__init_rwsem"}, (1, 3)),
    ("bool ____is_aligned(int a)\n{\n}\n", Kind.FUNCTION, {"____is_aligned"}, (1, 3)),
    ("static int a ____cacheline_aligned_in_smp = 3;", Kind.DATA, {"a"}, (1, 1)),
    ("void f(struct s *a)\n\t__releases(a)\n{\n}\n", Kind.FUNCTION, {"f"}, (1, 4)),
    ("struct s *f(struct s *a)\n{\n}\n", Kind.FUNCTION, {"f"}, (1, 3)),
    ("SYSCALL_DEFINE1(close, unsigned int, fd)\n{\n}\n", Kind.FUNCTION, {"close", "fd"}, (1, 3)),
    ("void f(void)\n{\n#ifdef A\n\tif (a) {\n#else\n\tif (b) {\n#endif\n\t}\n}\nint x;",
     Kind.FUNCTION, {"f"}, (1, 9)),
    ("static int a __read_mostly = 3;", Kind.DATA, {"a"}, (1, 1)),
    ("static const struct o t[] = {\n\t{ f, 1 },\n\t{ g, 2 },\n};\n", Kind.DATA, {"t"}, (1, 4)),
    ("static struct list_head __list;", Kind.DATA, {"__list"}, (1, 1)),
    ("int __init_done __initdata = 2;", Kind.DATA, {"__init_done"}, (1, 1)),
    ("int a, b = 2;", Kind.DATA, {"a", "b"}, (1, 1)),
    ("static int a[3][4];", Kind.DATA, {"a"}, (1, 1)),
    ("char name[8] __aligned(8);", Kind.DATA, {"name"}, (1, 1)),
    ("static int (*hook)(int, int);", Kind.DATA, {"hook"}, (1, 1)),
    ("int f(int a) __attribute__((cold));", Kind.DECLARATION, {"f"}, (1, 1)),
    ("struct s {\n\tint a;\n\tint b[3];\n};", Kind.TYPE, {"s"}, (1, 4)),
    ("enum e { A, B = 3,\n\tC };", Kind.TYPE, {"e", "A", "B", "C"}, (1, 2)),
    ("typedef struct { int a; } name_t;", Kind.TYPE, {"name_t"}, (1, 1)),
    ("extern int a;", Kind.DECLARATION, {"a"}, (1, 1)),
    ("int f(int a,\n      int b);", Kind.DECLARATION, {"f"}, (1, 2)),
    ("struct s;", Kind.DECLARATION, set(), (1, 1)),
    ("module_param(debug, int, 0644);", Kind.USE, {"debug"}, (1, 1)),
    ("module_init(begin)\nint x;", Kind.USE, {"begin"}, (1, 1)),
    ("#define A(x) \\\n\t((x) + 1)\n", Kind.MACRO, {"A"}, (1, 2)),
    ("#undef A", Kind.MACRO, {"A"}, (1, 1)),
    ("#include <linux/a.h>", Kind.INCLUDE, set(), (1, 1)),
    ("#ifdef A", Kind.CONDITION, set(), (1, 1)),
    ("#pragma pack(1)", Kind.OTHER, set(), (1, 1)),
]  # fmt: skip


@pytest.mark.parametrize(("text", "kind", "names", "lines"), CASES)
def test_first_item(text: str, kind: Kind, names: set[str], lines: tuple[int, int]) -> None:
    item = CFile(text.encode()).items[0]
    assert (item.kind, item.first, item.last) == (kind, *lines)
    assert item.names >= names


@pytest.mark.parametrize(("text", "kind", "names", "lines"), CASES)
def test_what_stands_before_and_behind_does_not_matter(
    text: str, kind: Kind, names: set[str], lines: tuple[int, int]
) -> None:
    around = f"int first(void)\n{{\n}}\n/* a }} brace */\n{text}\nint last;\n"
    item = next(i for i in CFile(around.encode()).items if i.first == lines[0] + 4)
    assert (item.kind, item.last) == (kind, lines[1] + 4)
    assert item.names >= names
    assert CFile(around.encode()).items[-1].names == {"last"}


def test_comments_are_blank_and_lines_stay() -> None:
    file = CFile(b'int a; /* one\n two */ int b; // "three\nchar *c = "/* no */";\n/* open')
    assert [file.code_of(n) for n in (1, 2, 3, 4)] == [
        "int a;",
        "int b;",
        'char *c = "/* no */";',
        "",
    ]


def test_items_on_lines() -> None:
    file = CFile(b"int a;\n\nint f(void)\n{\n\n\treturn 1;\n}\n")
    assert [i.names for i in file.items_on([1, 2])] == [{"a"}]
    assert file.items_on([2, 5]) == []  # blank lines
    assert [i.names for i in file.items_on([6, 7])] == [{"f"}]


@pytest.mark.parametrize("content", [None, b"", b"}}}}", b"((((", b"\xff\xfe{", b"#", b'"'])
def test_anything_is_read(content: bytes | None) -> None:
    assert isinstance(CFile(content).items, tuple)
