# SPDX-License-Identifier: GPL-2.0-only
"""From a changed header to the units that it can change, on a small tree."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from ksplicd.create.affected.by_mention import Affected, find_affected
from ksplicd.create.affected.c_text import split
from ksplicd.create.affected.changed import changed_pieces
from ksplicd.create.affected.include_graph import IncludeGraph
from ksplicd.create.affected.include_lines import read_includes
from ksplicd.create.affected.pasting import Pasting, read_definitions
from ksplicd.create.build.units import EnabledUnit
from ksplicd.create.patch.change import ChangedFile

SOCK = """\
#ifndef SOCK_H
#define SOCK_H
#include <linux/base.h>
struct sock { int len; };
enum state { S_ONE, S_TWO, S_THREE };
#define SOCK_MAX 5
static inline int sock_len(struct sock *sk)
{
	return sk->len;
}
static inline int sock_full(struct sock *sk) { return sock_len(sk) > SOCK_MAX; }
static inline int sock_other(int a) { return a; }
int sock_far(struct sock *sk);
#endif
"""

TREE = {
    "include/linux/base.h": "#define CALL(op) sock_##op\n#define GLUE(a, b) a##_##b\n",
    "include/net/sock.h": SOCK,
    "include/net/tcp.h": "#include <net/sock.h>\n#define TCP_FULL(sk) sock_full(sk)\n",
    "net/plain.c": "#include <net/sock.h>\nint f(void) { return sock_other(1); }\n",
    "net/len.c": "#include <net/sock.h>\nint g(struct sock *s) { return sock_len(s); }\n",
    "net/tcp.c": "#include <net/tcp.h>\nint h(void *s) { return TCP_FULL(s); }\n",
    "net/paste.c": "#include <net/sock.h>\nint i(void *s) { return CALL(len)(s); }\n",
    "net/glue.c": "#include <net/sock.h>\nint j(void *s) { return GLUE(sock, len)(s); }\n",
    "net/far.c": "#include <net/sock.h>\nint k(void *s) { return sock_far(s); }\n",
    "net/alone.c": "#include <linux/base.h>\nint sock_len;\n",
    "net/local.h": """\
#ifndef LOCAL_H
#define LOCAL_H
static int quite_local(void *s) { return sock_full(s); }
#endif
""",
    "net/local.c": '#include <net/sock.h>\n#include "local.h"\nint l(void) { return 0; }\n',
    "net/open.h": "int opened(void *s) { return sock_full(s); }\n",
    "net/open.c": '#include <net/sock.h>\n#include "open.h"\n',
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path, text in TREE.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def graph_of(root: Path) -> IncludeGraph:
    units = [
        EnabledUnit(source=path, object=path, module="", command=f"gcc -I{root}/include -c {path}")
        for path in TREE
        if path.endswith(".c")
    ]
    return IncludeGraph(root, root / "out", units, root / "kept.json")


def reach(root: Path, change: Callable[[str], str]) -> Affected:
    path = "include/net/sock.h"
    before = TREE[path]
    after = change(before)
    assert after != before
    file = ChangedFile(path=Path(path), before=before.encode(), after=after.encode())
    return find_affected(graph_of(root), [file], [p for p in TREE if p.endswith(".c")], few=0)


def test_debug_says_why_a_unit_is_in_or_out(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "ksplice.affected")
    reach(root, lambda text: text.replace("return sk->len;", "return sk->len + 1;"))
    assert "include/net/sock.h: sock_len: changes" in caplog.messages
    assert "include/net/sock.h: sock_full: reached by sock_len" in caplog.messages
    assert "include/net/tcp.h: TCP_FULL: reached by sock_full" in caplog.messages
    assert "net/tcp.c: can be reached: it mentions TCP_FULL" in caplog.messages
    assert "net/paste.c: can be reached: it mentions CALL" in caplog.messages
    assert "net/glue.c: can be reached: it puts a changed name together" in caplog.messages
    assert any(m.startswith("net/open.c: can be reached: it includes net/open.h, of which “int")
               for m in caplog.messages)  # fmt: skip
    assert ("net/plain.c: out: includes a changed header, but mentions nothing changed"
            in caplog.messages)  # fmt: skip


def test_graph(root: Path) -> None:
    for _ in range(2):  # the second time from what was kept
        graph = graph_of(root)
        assert graph.dependants("include/net/sock.h") == {
            "include/net/tcp.h", "net/plain.c", "net/len.c", "net/tcp.c", "net/paste.c",
            "net/glue.c", "net/far.c", "net/local.c", "net/open.c",
        }  # fmt: skip
        assert graph.users["net/local.h"] == {"net/local.c"}
        assert graph.closure(["net/tcp.c"]) == {
            "net/tcp.c", "include/net/tcp.h", "include/net/sock.h", "include/linux/base.h",
        }  # fmt: skip
    (root / "net/alone.c").write_text("#include <net/sock.h>\n")
    assert "net/alone.c" in graph_of(root).dependants("include/net/sock.h")


def test_includes() -> None:
    text = b'# include <a.h>\n#include "b.h"\n  #\tinclude\t"c.h"\n#define X <d.h>\n// no\n'
    assert [i.name for i in read_includes(text)] == ["<a.h", '"b.h', '"c.h', "<d.h"]


def test_inline_function(root: Path) -> None:
    """Through an inline function, a macro of another header, and names put together."""
    found = reach(root, lambda t: t.replace("return sk->len;", "return sk ? sk->len : 0;"))
    assert len(found.dependants) == 8
    assert found.units == {
        "net/len.c", "net/tcp.c", "net/paste.c", "net/glue.c", "net/open.c",
    }  # fmt: skip
    assert found.names >= {"sock_len", "sock_full", "TCP_FULL", "CALL"}


def test_macro(root: Path) -> None:
    found = reach(root, lambda t: t.replace("SOCK_MAX 5", "SOCK_MAX 6"))
    assert found.units == {"net/tcp.c", "net/open.c", "net/paste.c"}  # CALL can name sock_full


def test_prototype(root: Path) -> None:
    found = reach(root, lambda t: t.replace("int sock_far(struct sock *sk)", "long sock_far(int)"))
    assert found.units == {"net/far.c", "net/paste.c"}


def test_structure_reaches_all_that_handle_it(root: Path) -> None:
    found = reach(root, lambda t: t.replace("{ int len; }", "{ int new, len; }"))
    assert {"net/len.c", "net/tcp.c", "net/far.c", "net/open.c"} <= found.units
    assert "net/plain.c" not in found.units


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.replace("#define SOCK_MAX 5", "/* the most\n */\n#define SOCK_MAX 5 // so"),
        lambda t: t.replace("int sock_far(", "int\n\tsock_far ("),
        lambda t: t.replace("struct sock {", "struct other;\nstruct sock {"),
        lambda t: t.replace("int sock_far(", "int sock_nobody(int);\nint sock_far("),
    ],
)
def test_what_reaches_nobody(root: Path, change: Callable[[str], str]) -> None:
    assert reach(root, change).units - {"net/paste.c"} == frozenset()


def test_condition_counts_for_all_under_it(root: Path) -> None:
    line = "static inline int sock_other(int a) { return a; }\n"
    found = reach(root, lambda t: t.replace(line, f"#ifdef X\n{line}#endif\n"))
    assert "net/plain.c" in found.units


def test_text_that_is_not_understood_counts_for_everyone(root: Path) -> None:
    found = reach(root, lambda t: t.replace("struct sock {", "DEFINE_THINGS(a, b)\nstruct sock {"))
    assert found.units == found.dependants


def test_accessors_that_a_macro_makes(root: Path) -> None:
    """A use at top level that only declares counts by the names that it declares."""
    macro = "#define ACCESS(n) static inline int sock_##n(int a) { return a; }\n"
    (root / "include/linux/base.h").write_text(TREE["include/linux/base.h"] + macro)
    found = reach(root, lambda t: t.replace("struct sock {", "ACCESS(other)\nstruct sock {"))
    assert found.names >= {"sock_other"}
    assert found.units == {"net/plain.c", "net/paste.c"}
    with (root / "include/linux/base.h").open("a") as f:  # two definitions: it is not known which
        f.write(f"#ifdef X\n{macro.replace('return a', 'return 0')}#endif\n")
    found = reach(root, lambda t: t.replace("struct sock {", "ACCESS(other)\nstruct sock {"))
    assert found.units == found.dependants


EXTRA = """\
#ifndef EXTRA_H
#define EXTRA_H
#define sock_other(a) 7
int sock_far(int);
#endif
"""


def test_new_include_counts_where_it_is_news(root: Path) -> None:
    (root / "include/net/extra.h").write_text(EXTRA)
    (root / "net/far.c").write_text("#include <net/extra.h>\n" + TREE["net/far.c"])
    found = reach(root, lambda t: t.replace("base.h>\n", "base.h>\n#include <net/extra.h>\n"))
    assert found.names == {"sock_other", "CALL"}
    assert found.units == {"net/plain.c", "net/paste.c"}


def test_include_that_goes_takes_its_macros(root: Path) -> None:
    (root / "include/net/extra.h").write_text(EXTRA)
    before = SOCK.replace("base.h>\n", "base.h>\n#include <net/extra.h>\n")
    (root / "include/net/sock.h").write_text(before)
    file = ChangedFile(path=Path("include/net/sock.h"), before=before.encode(), after=SOCK.encode())
    found = find_affected(graph_of(root), [file], [p for p in TREE if p.endswith(".c")], few=0)
    assert found.names == {"sock_other", "CALL"}  # CALL puts names of that form together
    assert found.units == {"net/plain.c", "net/paste.c"}


# --- pieces -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "defines", "is_plain"),
    [
        ("#define A(x) \\\n  x\n", {"A"}, True),
        ("#undef A\n", {"A"}, True),
        ("struct a;\n", set(), True),
        ("struct a { struct b { int x; } c; };\n", {"a", "b"}, True),
        ("typedef struct { int x; } a_t;\n", {"a_t"}, True),
        ("typedef int (*fn_t)(int);\n", {"fn_t"}, True),
        ("struct ops { int (*init)(int); };\n", {"ops"}, True),
        ("enum e { ONE = F(1, 2), TWO, };\n", {"e", "ONE", "TWO"}, True),
        ("extern int a[3], b;\n", {"a", "b"}, True),
        ("int f(int a, int b) __attribute__((x));\n", {"f"}, True),
        ("static __always_inline struct s *f(int a)\n{ if (a) { g(); } return 0; }\n", {"f"}, True),
        ("static const struct ops o = { .f = g };\n", {"o"}, True),
        ("int f(void) { return 1; }\n", {"f"}, False),  # code
        ("int data;\n", {"data"}, False),
        ("static int x __used = 1;\n", {"x"}, False),
        ("static u64 x __aligned(8) __read_mostly = 1;\n", {"x"}, True),
        ("static int x __unheard_of = 1;\n", {"x", "__unheard_of"}, False),
        ("static __unheard_of(1) int f(int a) { return a; }\n", {"f", "__unheard_of"}, True),
        ("DECLARE_PER_CPU(int, x);\n", {"DECLARE_PER_CPU", "x"}, False),
        ("#pragma pack(1)\n", set(), False),
        ("static inline int f(void) {\n", {"f"}, False),  # no end
    ],
)
def test_piece(text: str, defines: set[str], *, is_plain: bool) -> None:
    (piece,) = split(text)
    assert set(piece.defines) == defines
    assert piece.is_plain == is_plain


def test_macro_use_without_semicolon_is_a_piece() -> None:
    first, second = split("BITS(a, b)\nstatic inline int f(void)\n{ return 1; }\n")
    assert not first.is_plain
    assert second.defines == {"f"}


def test_words_in_strings_are_no_mention() -> None:
    (piece,) = split('#define PATH "/sbin/init" x\n')
    assert piece.mentions == {"define", "PATH", "x"}


def test_strings_are_no_comments_and_comments_no_code() -> None:
    (piece,) = split('static const char *s = "/*"; /* int x; */\n// int y;\n')
    assert piece.defines == {"s"}


def test_enum_changes_from_the_place_on_where_it_differs() -> None:
    names = {n for c in changed_pieces("enum e { A, B, C };", "enum e { A, X, B, C };")
             for n in c.defines}  # fmt: skip
    assert names == {"B", "C", "X"}


def test_pasting() -> None:
    text = (
        "#define OP(x) sock_##x\n#define SYS(n) _##n\n#define GLUE(a, b) a##b\n"
        "#define VIA(x) GLUE(sock_, x)\n#define END(x) x##_len\n"
    )
    pasting = Pasting(read_definitions(text))
    assert pasting.macros(["sock_len"]) == {"OP", "VIA", "END"}
    assert pasting.macros(["_x"]) == set()
    assert pasting.loose_macros(["_x"]) == {"SYS", "GLUE"}
    assert pasting.puts_together("SYS(x)", ["_x"])
    assert not pasting.puts_together("SYS(y)", ["_x"])
    assert not pasting.puts_together("OTHER(x)", ["_x"])


def test_change_of_many_headers_that_leaves_few_units(tmp_path: Path) -> None:
    """To compile them takes less time than to look who mentions what is reached."""
    names = [f"h{i}" for i in range(20)]
    headers = {f"{n}.h": f"#ifndef {n}_H\n#define {n}_H\n#define {n} 1\n#endif\n" for n in names}
    includes = "".join(f"#include <{n}>\n" for n in headers)
    unit = f"{includes}int nothing;\n"
    for path, text in (*headers.items(), ("u.c", unit), ("v.c", unit)):
        (tmp_path / path).write_text(text)
    units = [EnabledUnit(source=u, object=u, module="", command=f"gcc -I{tmp_path} -c {u}")
             for u in ("u.c", "v.c")]  # fmt: skip
    graph = IncludeGraph(tmp_path, tmp_path / "out", units)
    changed = [
        ChangedFile(path=Path(n), before=t.encode(), after=t.replace(" 1", " 2").encode())
        for n, t in headers.items()
    ]
    assert find_affected(graph, changed, ["u.c", "v.c"], few=0).units == {"u.c", "v.c"}
    assert find_affected(graph, changed[:3], ["u.c", "v.c"], few=0).units == set()
