# SPDX-License-Identifier: GPL-2.0-only
"""Kinds of changes of a header, each against brute force: the compiler's answer for every unit.

Whatever the compiler makes other code of has to be reached; that it makes other code of the unit
that a case is about is checked, too.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from ksplicd.create.affected.by_mention import find_affected
from ksplicd.create.affected.include_graph import IncludeGraph
from ksplicd.create.build.fingerprint import number_names
from ksplicd.create.build.units import EnabledUnit
from ksplicd.create.patch.change import ChangedFile
from ksplicd.run import run

OTHER: Final = "#include <h.h>\nint other(void) { return 3; }\n"
"""A unit that includes the header and uses nothing of it."""


def guarded(text: str) -> str:
    return f"#ifndef H_H\n#define H_H\n{text}\n#endif\n"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A header before and after, and what includes it."""

    before: str
    after: str
    unit: str
    """The text of u.c, whose code changes."""
    files: dict[str, str] = field(default_factory=dict)
    new: dict[str, str] = field(default_factory=dict)
    """Headers that come with the change."""
    unreached: bool = True
    """Whether the unit that uses nothing is left out."""


USE: Final = "#include <h.h>\n"
CASES: Final = {
    "last enumerator": Case(
        before=guarded("enum e { A, B = 2 };"), after=guarded("enum e { A, B = 3 };"),
        unit=USE + "int f(void) { return B; }\n",
    ),
    "anonymous enumerator by an expression": Case(
        before=guarded("#define F(x) (1 << (x))\nenum { A = F(1), B = F(2) };"),
        after=guarded("#define F(x) (1 << (x))\nenum { A = F(1), B = F(3) };"),
        unit=USE + "int f(void) { return B; }\n",
    ),
    "enumerators that a list makes": Case(
        before=guarded("#define LIST(X) X(A) X(B)\n#define ROW(n) n,\nenum e { LIST(ROW) LAST };"),
        after=guarded("#define LIST(X) X(B) X(A)\n#define ROW(n) n,\nenum e { LIST(ROW) LAST };"),
        unit=USE + "int f(void) { return A; }\n", unreached=False,
    ),
    "enumerators that a macro numbers": Case(
        before=guarded("#define F(n) n##_BIT, n = 1 << n##_BIT, n##_END = n##_BIT\n"
                       "enum { F(a), F(b) };"),
        after=guarded("#define F(n) n##_BIT, n = 1 << n##_BIT, n##_END = n##_BIT\n"
                      "enum { F(c), F(a), F(b) };"),
        unit=USE + "int f(void) { return b; }\n",
    ),
    "include in whose place another comes": Case(
        before=guarded("#include <n.h>"), after=guarded("#include <m.h>"),
        unit=USE + "int f(struct s *p) { return p->a + g(2); }\n",
        files={
            "n.h": guarded("struct s { int a, b; };\n"
                           "static inline int g(int a) { return a; }").replace("H_H", "N_H"),
            "m.h": guarded("struct s { int b, a; };\n"
                           "static inline int g(int a) { return a + 1; }").replace("H_H", "M_H"),
        },
    ),
    "include that moves over an #undef": Case(
        before=guarded("#undef K\n#include <n.h>"), after=guarded("#include <n.h>\n#undef K"),
        unit="#define K 3\n" + USE + "int f(void) { return g(); }\n",
        files={"n.h": guarded("#ifdef K\n#define R 1\n#else\n#define R 2\n#endif\n"
                              "static inline int g(void) { return R; }").replace("H_H", "N_H")},
    ),
    "data that a macro keeps": Case(
        before=guarded("#define KEEP_ __attribute__((used))\n#define KEEP KEEP_\n"
                       "static int x KEEP = 1;"),
        after=guarded("#define KEEP_ __attribute__((used))\n#define KEEP KEEP_\n"
                      "static int x KEEP = 2;"),
        unit=USE, unreached=False,
    ),
    "macro that comes to keep data": Case(
        before=guarded("#define keep\nstatic keep int x = 1;"),
        after=guarded("#define keep __attribute__((used))\nstatic keep int x = 1;"),
        unit=USE, unreached=False,
    ),
    "list whose rows a unit puts together": Case(
        before=guarded("#define LIST ROW(rd) ROW(wr)\n"
                       "static inline int rdl(int a) { return a + 1; }\n"
                       "static inline int wrl(int a) { return a; }"),
        after=guarded("#define LIST ROW(rd) ROW(wr)\n"
                      "static inline int rdl(int a) { return a + 2; }\n"
                      "static inline int wrl(int a) { return a; }"),
        unit=USE + "#define ROW(p) p##l(a) +\nint f(int a) { return LIST 0; }\n",
    ),
    "packed enumeration that gets longer": Case(
        before=guarded("enum e { A, B } __attribute__((packed));"),
        after=guarded("enum e { A, B, C = 300 } __attribute__((packed));"),
        unit=USE + "int f(void) { return sizeof(enum e); }\n",
    ),
    "enumeration that gets a sign": Case(
        before=guarded("enum e { A, B };"), after=guarded("enum e { A, B, C = -1 };"),
        unit=USE + "int f(enum e x) { return x < 1; }\n",
    ),
    "enumeration under a condition": Case(
        before=guarded("enum e { A,\n#ifdef X\nB,\n#endif\nC };"),
        after=guarded("enum e { A,\n#ifndef X\nB,\n#endif\nC };"),
        unit=USE + "int f(void) { return C; }\n",
    ),
    "condition within a function": Case(
        before=guarded("static inline int g(void)\n{\n#ifdef X\nreturn 1;\n#endif\nreturn 2;\n}"),
        after=guarded("static inline int g(void)\n{\n#ifndef X\nreturn 1;\n#endif\nreturn 2;\n}"),
        unit=USE + "int f(void) { return g(); }\n",
    ),
    "template with names that a macro makes": Case(
        before="static int FN(g)(int a) { return a + 1; }\n",
        after="static int FN(g)(int a) { return a + 2; }\n",
        unit="#define FN(x) small_##x\n#include <h.h>\nint f(int a) { return small_g(a); }\n",
        files={"other.c": "int other;\n"},
    ),
    "template with macros for its names": Case(
        before=guarded("#define CAT(a, b) a##b\n#define TOK(a, b) CAT(a, b)\n"
                       "#define do_it TOK(TYPE, _do_it)\n"
                       "static int do_it(int a) { return a + 1; }"),
        after=guarded("#define CAT(a, b) a##b\n#define TOK(a, b) CAT(a, b)\n"
                      "#define do_it TOK(TYPE, _do_it)\n"
                      "static int do_it(int a) { return a + 2; }"),
        unit="#define TYPE small\n#include <h.h>\nint f(int a) { return small_do_it(a); }\n",
        files={"other.c": "#define TYPE o\n#include <h.h>\n"}, unreached=False,
    ),
    "rows that units give a meaning": Case(
        before="ROW(one, 1)\nROW(two, 2)\n", after="ROW(one, 1)\nROW(two, 3)\n",
        unit="#define ROW(n, v) v,\nint rows[] = {\n#include <h.h>\n};\n#undef ROW\n",
        files={"other.c": "#define ROW(n, v) extern int n;\n#include <h.h>\n"}, unreached=False,
    ),
    "macro at top level that a unit defines anew": Case(
        before=guarded("#ifndef MAKE\n#define MAKE(n, v) extern int n;\n#endif\nMAKE(g, 1)"),
        after=guarded("#ifndef MAKE\n#define MAKE(n, v) extern int n;\n#endif\nMAKE(g, 2)"),
        unit="#define MAKE(n, v) int make_##n = v;\n#include <h.h>\n", unreached=False,
    ),
    "structure moved across pack": Case(
        before=guarded("struct s { char a; int b; };\n#pragma pack(1)\nstruct t { int a; };\n"
                       "#pragma pack()"),
        after=guarded("#pragma pack(1)\nstruct s { char a; int b; };\nstruct t { int a; };\n"
                      "#pragma pack()"),
        unit=USE + "int f(void) { return sizeof(struct s); }\n", unreached=False,
    ),
    "function moved across a macro": Case(
        before=guarded("#define N 1\nstatic inline int g(void) { return N; }\n#undef N\n"
                       "#define N 2"),
        after=guarded("#define N 1\n#undef N\n#define N 2\n"
                      "static inline int g(void) { return N; }"),
        unit=USE + "int f(void) { return g(); }\n",
    ),
    "include moved over a default": Case(
        before=guarded("#ifndef N\n#define N 1\n#endif\n#include <n.h>\n"
                       "static inline int g(void) { return N; }"),
        after=guarded("#include <n.h>\n#ifndef N\n#define N 1\n#endif\n"
                      "static inline int g(void) { return N; }"),
        unit=USE + "int f(void) { return g(); }\n",
        files={"n.h": "#ifndef N_H\n#define N_H\n#ifndef N\n#define N 2\n#endif\n#endif\n"},
    ),
    "two parts that one ## puts together": Case(
        before=guarded("#define CAT(a, b) a##b\n#define N_X 1"),
        after=guarded("#define CAT(a, b) a##b\n#define N_X 2"),
        unit=USE + "int f(void) { return CAT(N, _X); }\n",
    ),
    "parts that go through another macro": Case(
        before=guarded("#define CAT(a, b) a##b\n#define VIA(x) CAT(x, _X)\n#define N_X 1"),
        after=guarded("#define CAT(a, b) a##b\n#define VIA(x) CAT(x, _X)\n#define N_X 2"),
        unit=USE + "int f(void) { return VIA(N); }\n",
    ),
    "part that is a macro itself": Case(
        before=guarded("#define CAT_(a, b) a##b\n#define CAT(a, b) CAT_(a, b)\n#define W N\n"
                       "#define N_X 1"),
        after=guarded("#define CAT_(a, b) a##b\n#define CAT(a, b) CAT_(a, b)\n#define W N\n"
                      "#define N_X 2"),
        unit=USE + "int f(void) { return CAT(W, _X); }\n",
    ),
    "include under a condition that changes": Case(
        before=guarded("#define HAVE 0\n#if HAVE\n#include <n.h>\n#endif"),
        after=guarded("#define HAVE 1\n#if HAVE\n#include <n.h>\n#endif"),
        unit=USE + "#ifdef N\nint f(void) { return N; }\n#endif\n",
        files={"n.h": "#ifndef N_H\n#define N_H\n#define N 2\n#endif\n"},
    ),
    "include whose condition is another one": Case(
        before=guarded("#ifdef X\n#include <n.h>\n#endif"),
        after=guarded("#ifndef X\n#include <n.h>\n#endif"),
        unit=USE + "#ifdef N\nint f(void) { return N; }\n#endif\n",
        files={"n.h": "#ifndef N_H\n#define N_H\n#define N 2\n#endif\n"},
    ),
    "include that comes earlier": Case(
        before=guarded("#include <m.h>\n#include <n.h>"),
        after=guarded("#include <n.h>\n#include <m.h>"),
        unit=USE + "int f(void) { return g(); }\n",
        files={
            "m.h": "#ifndef M_H\n#define M_H\n#ifdef N\n#define R 1\n#else\n#define R 2\n#endif\n"
                   "static inline int g(void) { return R; }\n#endif\n",
            "n.h": "#ifndef N_H\n#define N_H\n#define N 2\n#endif\n",
        },
    ),
    "new header with data": Case(
        before=guarded("#define ONE 1"), after=guarded("#define ONE 1\n#include <new.h>"),
        unit=USE + "int f(void) { return ONE; }\n",
        new={"new.h": "#ifndef NEW_H\n#define NEW_H\n__attribute__((weak)) int n = 4;\n#endif\n"},
        unreached=False,
    ),
    "new header in the place of another": Case(
        before=guarded("#define ONE 1"), after=guarded("#define ONE 1 /* one */"),
        unit=USE + '#include "sub/local.h"\nint f(void) { return G; }\n',
        files={"sub/local.h": '#include "g.h"\n', "g.h": "#define G 1\n",
               "sub/.keep": ""},
        new={"sub/g.h": "#define G 2\n"},
    ),
    "data that are kept": Case(
        before=guarded("static int x __attribute__((used)) = 1;"),
        after=guarded("static int x __attribute__((used)) = 2;"),
        unit=USE, unreached=False,
    ),
    "fields that a structure includes": Case(
        before="int (*g)(int);\n", after="int (*g)(int);\nint (*h)(int);\n",
        unit="struct s {\n#include <h.h>\n};\nint f(void) { return sizeof(struct s); }\n",
        files={"other.c": "int other;\n"},
    ),
    "include by a macro": Case(
        before=guarded("static inline int g(void) { return 1; }"),
        after=guarded("static inline int g(void) { return 2; }"),
        unit="#define THE_HEADER <h.h>\n#include THE_HEADER\nint f(void) { return g(); }\n",
    ),
    "string over two lines": Case(
        before=guarded('#define S "a\\\nb"'), after=guarded('#define S "a b"'),
        unit=USE + "const char *f(void) { return S; }\n",
    ),
    "version in a string": Case(
        before=guarded('#define V "v1.2"'), after=guarded('#define V "v1.3"'),
        unit=USE + "const char *f(void) { return V; }\n",
    ),
    "number in inline assembly": Case(
        before=guarded('#define V() asm volatile("# step.1\\n\\t.byte 1")'),
        after=guarded('#define V() asm volatile("# step.1\\n\\t.byte 2")'),
        unit=USE + "void f(void) { V(); }\n",
    ),
    "operators that only blanks part": Case(
        before=guarded("static inline int g(int a, int b) { return a+++b; }"),
        after=guarded("static inline int g(int a, int b) { return a+ ++b; }"),
        unit=USE + "int f(int a, int b) { return g(a, b); }\n",
    ),
    "macro that gets parameters": Case(
        before=guarded("static inline int x(int a) { return a; }\n#define G (x)"),
        after=guarded("static inline int x(int a) { return a; }\n#define G(x) 5"),
        unit=USE + "int f(int a) { return G(a); }\n",
    ),
    "blanks that a macro makes a string of": Case(
        before=guarded("#define S_(x) #x\n#define S(x) S_(x)\n#define N a+b"),
        after=guarded("#define S_(x) #x\n#define S(x) S_(x)\n#define N a + b"),
        unit=USE + "const char *f(void) { return S(N); }\n",
    ),
    "variable behind a structure": Case(
        before=guarded("struct s { int a; } v __attribute__((weak));"),
        after=guarded("struct s { int a, b; } v __attribute__((weak));"),
        unit=USE, unreached=False,
    ),
    "static data by a macro": Case(
        before=guarded("#define DEFINE(n, v) int n = v\nstatic DEFINE(x, 1);"),
        after=guarded("#define DEFINE(n, v) int n = v\nstatic DEFINE(x, 2);"),
        unit=USE + "int f(void) { return x; }\n",
    ),
}  # fmt: skip


def assembly(root: Path, source: str) -> bytes:
    out = run(["gcc", "-O2", "-w", "-S", "-g0", "-I", root, "-o", "-", root / source])
    return number_names(out)


@pytest.mark.parametrize("name", CASES)
def test_every_unit_with_other_code_is_reached(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    files = {"other.c": OTHER, **case.files, "h.h": case.before, "u.c": case.unit}
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    units = [path for path in files if path.endswith(".c")]
    before = {unit: assembly(tmp_path, unit) for unit in units}
    listed = [
        EnabledUnit(source=u, object=u, module="", command=f"gcc -I{tmp_path} -c {u}")
        for u in units
    ]
    graph = IncludeGraph(tmp_path, tmp_path / "out", listed)
    changed = [
        ChangedFile(path=Path("h.h"), before=case.before.encode(), after=case.after.encode()),
        *(ChangedFile(path=Path(p), before=None, after=t.encode()) for p, t in case.new.items()),
    ]
    found = find_affected(graph, changed, units, few=0)
    for file in changed:
        (tmp_path / file.path).write_bytes(file.after or b"")
    differ = {unit for unit in units if assembly(tmp_path, unit) != before[unit]}
    assert "u.c" in differ
    assert differ <= found.units
    if case.unreached:
        assert "other.c" not in found.units
