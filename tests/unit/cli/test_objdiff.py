# SPDX-License-Identifier: GPL-2.0-only
"""``ksplice objdiff`` on objects as they come from a compiler, with no kernel at hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from ksplicd.cli.main import main
from ksplicd.elf.model import STB_GLOBAL
from ksplicd.elf.read import read_object
from ksplicd.run import run
from tests.support.needs import needs
from tests.support.objects.compile import KERNEL_LIKE, SPLIT, compile_c

SOURCE = """
extern int printk(const char *, ...);
extern int hidden(int);
static int count = 3;
static __attribute__((noinline)) int helper(int x) {{ count += x; return hidden(count); }}
__attribute__((cold, noinline)) void report(int x) {{ printk("%d", x); }}
{0}
int f(int x) {{
    if (__builtin_expect(x > 100, 0)) {{ report(x); report(x + 1); }}
    return helper(x) + {1};
}}
{2}
"""
FRESH = """
static int memory = 1;
static __attribute__((noinline)) int fresh(int x) { memory += x; return memory; }
"""


@pytest.fixture
def objdiff(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def run_it(pre: str, post: str, *args: str, flags: tuple[str, ...] = ()) -> tuple[int, Any]:
        paths = []
        for name, source in (("pre", pre), ("post", post)):
            folder = tmp_path / name
            folder.mkdir(exist_ok=True)
            compile_c(folder, source, *SPLIT, *flags)
            paths.append(str(folder / "unit.o"))
        status = main(["objdiff", *paths, *args])
        out = capsys.readouterr()
        return status, json.loads(out.out) if "--json" in args else out.out

    return run_it


def test_changes(objdiff: Any, tmp_path: Path) -> None:
    new = tmp_path / "new.o"
    status, out = objdiff(SOURCE.format("", 1, ""), SOURCE.format(FRESH, "fresh(x)", ""),
                          "--json", "-o", str(new))  # fmt: skip
    assert status == 0
    assert out == {
        "functions": out["functions"], "changed": ["f"], "new": ["fresh"], "removed": [],
        "data": ["memory"], "refused": [],
    }  # fmt: skip
    assert sorted(out["functions"]) == ["f", "f.cold", "fresh"]
    obj = read_object(new.read_bytes())
    assert sorted(s.name for s in obj.functions()) == ["f", "f.cold", "fresh"]
    assert {"helper", "report"} <= {s.name for s in obj.symbols if s.is_undefined}
    run(["ld", "-r", "-o", tmp_path / "linked.o", new])


def test_new_symbols_for_other_objects(objdiff: Any, tmp_path: Path) -> None:
    """Another file of the same patch may use them, as their only users."""
    new = tmp_path / "new.o"
    more = "int level = 4; int fresh(int x) { return hidden(x) + level; }"
    status, out = objdiff(SOURCE.format("", 1, ""), SOURCE.format("", 1, more), "--json", "-o",
                          str(new))  # fmt: skip
    assert status == 0
    assert out == {
        "functions": ["fresh"], "changed": [], "new": ["fresh"], "removed": [],
        "data": ["level"], "refused": [],
    }  # fmt: skip
    obj = read_object(new.read_bytes())
    assert {s.name for s in obj.symbols if s.bind == STB_GLOBAL} == {"fresh", "level", "hidden"}


def test_two_names_of_a_function(objdiff: Any) -> None:
    alias = 'int second(int) __attribute__((alias("f")));'
    pair = SOURCE.format("", 1, alias), SOURCE.format("", 2, alias)
    status, out = objdiff(*pair, "--json")
    assert status == 0
    assert sorted(out["changed"]) == ["f", "second"]
    assert sorted(out["functions"]) == ["f", "f.cold", "second"]
    assert "changed second: another name of f\n" in objdiff(*pair)[1]


def test_nothing_half_written(objdiff: Any, tmp_path: Path) -> None:
    status, _ = objdiff(SOURCE.format("", 1, ""), SOURCE.format("", 2, ""), "-o", str(tmp_path))
    assert status == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["post", "pre"]


def test_nothing_changes(objdiff: Any, tmp_path: Path) -> None:
    new = tmp_path / "new.o"
    status, out = objdiff(SOURCE.format("", 1, ""), SOURCE.format("", 1, ""), "--json", "-o",
                          str(new))  # fmt: skip
    assert status == 66
    assert out == {key: [] for key in ("functions", "changed", "new", "removed", "data", "refused")}
    assert not new.exists()


def test_refused(objdiff: Any, tmp_path: Path) -> None:
    new = tmp_path / "new.o"
    status, out = objdiff(SOURCE.format("", 1, ""),
                          SOURCE.format("", 2, "").replace("count = 3", "count = 4"), "--json",
                          "-o", str(new))  # fmt: skip
    assert status == 1
    assert out["changed"] == ["f"]
    assert out["functions"] == []
    assert [set(r) for r in out["refused"]] == [{"symbol", "section", "reason", "hint"}]
    assert out["refused"][0]["symbol"] == "count"
    assert out["refused"][0]["section"] == ".data.count"
    assert not new.exists()


def test_boot_code_alone_is_refused(objdiff: Any) -> None:
    boot = '__attribute__((section(".init.text"))) int setup(int x) {{ return hidden(x) + {}; }}'
    pre, post = (SOURCE.format("", 1, boot.format(n)) for n in (1, 2))
    status, out = objdiff(pre, post, "--json")
    assert status == 1
    assert out["refused"][0]["symbol"] == "setup"
    assert "runs only at boot" in out["refused"][0]["reason"]
    status, out = objdiff(pre, SOURCE.format("", 2, boot.format(2)), "--json")
    assert status == 0
    assert out["changed"] == ["f"]


def test_what_is_exchanged_in_the_kernel_is_no_part_of_an_object(objdiff: Any) -> None:
    """Pointers in tables, and exit functions: ``ksplice create`` has them done by the new code."""
    table = "struct {{ int (*a)(int); int (*b)(int); }} ops = {{ helper, {} }};"
    pre, post = (SOURCE.format("", 1, table.format(b)) for b in ("0", "helper"))
    status, out = objdiff(pre, post, "--json")
    assert (status, [r["symbol"] for r in out["refused"]]) == (1, ["ops"])
    leave = (
        '__attribute__((section(".exit.text"))) void leave(void) {{ hidden({}); }}'
        'void cleanup_module(void) __attribute__((alias("leave")));'
    )
    pre, post = (SOURCE.format("", 1, leave.format(n)) for n in (1, 2))
    status, out = objdiff(pre, post, "--json")
    assert status == 1
    assert "leave" in [r["symbol"] for r in out["refused"]]


def test_layout(objdiff: Any) -> None:
    source = "struct s {{ int a; {0} long b; }}; long f(struct s *s) {{ return s->a + {1}; }}"
    pair = source.format("", 1), source.format("long more;", 2)
    status, out = objdiff(*pair, "--json", flags=("-g",))
    assert (status, [r["symbol"] for r in out["refused"]]) == (1, ["s"])
    status, out = objdiff(*pair, "--json", "--allow-layout", "s", flags=("-g",))
    assert (status, out["changed"]) == (0, ["f"])


def test_namespaces_that_the_unit_imports(objdiff: Any, tmp_path: Path) -> None:
    modinfo = (
        'static const char __UNIQUE_ID_{}[] __attribute__((used, section(".modinfo"))) = "{}";'
    )
    extra = modinfo.format("import_ns7", "import_ns=DMA_BUF") + modinfo.format("license8", "x=y")
    new = tmp_path / "new.o"
    status, _ = objdiff(SOURCE.format("", 1, extra), SOURCE.format("", 2, extra), "-o", str(new))
    assert status == 0
    kept = [s.data for s in read_object(new.read_bytes()).sections if s.name == ".modinfo"]
    assert kept == [b"import_ns=DMA_BUF\0"]


def test_text(objdiff: Any) -> None:
    status, out = objdiff(SOURCE.format("", 1, ""), SOURCE.format("", 300, ""))
    assert status == 0
    assert out.startswith("changed f: ")


def test_functions_without_fentry(objdiff: Any) -> None:
    """Objects that were compiled for ftrace tell which functions can be redirected."""
    untraced = "__attribute__((no_instrument_function)) int g(int x) {{ return hidden(x) + {}; }}"
    flags = ("-pg", "-mfentry")
    pre, post = (SOURCE.format("", 1, untraced.format(n)) for n in (1, 2))
    status, out = objdiff(pre, post, "--json", flags=flags)
    assert status == 1
    assert out["refused"][0]["symbol"] == "g"
    for extra in ((), ("-fcf-protection=branch",)):  # fentry is called behind endbr64
        pre, post = SOURCE.format("", 1, ""), SOURCE.format("", 2, "")
        status, out = objdiff(pre, post, "--json", flags=(*flags, *extra))
        assert (status, out["changed"]) == (0, ["f"])


def test_objects_without_code(objdiff: Any) -> None:
    pair = SOURCE.format("", 1, ""), SOURCE.format("", 2, "")
    assert objdiff(*pair, flags=("-flto",))[0] == 1
    assert objdiff(*pair, flags=("-flto", "-ffat-lto-objects"))[0] == 0


@pytest.mark.parametrize("text", [b"", b"\x7fELF\x02\x01 and no more", b"not an object"])
def test_what_is_no_object(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: bytes) -> None:
    (tmp_path / "x.o").write_bytes(text)
    assert main(["objdiff", str(tmp_path / "x.o"), str(tmp_path / "x.o")]) == 1
    assert "x.o" in capsys.readouterr().err
    assert main(["objdiff", str(tmp_path / "no.o"), str(tmp_path / "no.o")]) == 1
    assert "no.o: No such file or directory" in capsys.readouterr().err


@needs("clang-14")
def test_objects_of_clang(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """clang names static variables after their function, and numbers nothing it can avoid to."""
    source = """
extern int printk(const char *, ...);
extern int hidden(int);
{0}
int f(int x) {{ static int count; count += x; return printk("%s", __func__) + count + {1}; }}
int g(int x) {{ static int count; count -= x; return printk("%s text", __func__) + count; }}
int h(int x) {{
    switch (x) {{ case 0: return 5; case 1: return 9; case 2: return 77; case 3: return {1}; }}
    return 0;
}}
int k(int x) {{ switch (x) {{ case 0: return 15; case 1: return 9; case 2: return 7; }} return 0; }}
"""
    early = 'int early(int x) { static int count; count++; return printk("x %s", __func__); }'
    for name, text in (("pre", source.format("", 1)), ("post", source.format(early, 2))):
        (tmp_path / f"{name}.c").write_text(text)
        run(["clang-14", *KERNEL_LIKE, *SPLIT, "-w", "-c", "-o", tmp_path / f"{name}.o",
             tmp_path / f"{name}.c"])  # fmt: skip
    new = tmp_path / "new.o"
    pre, post = str(tmp_path / "pre.o"), str(tmp_path / "post.o")
    assert main(["objdiff", pre, post, "--json", "-o", str(new)]) == 0
    out = json.loads(capsys.readouterr().out)
    assert out["changed"] == ["f", "h"]
    assert out["new"] == ["early"]
    assert main(["objdiff", pre, pre]) == 66


def test_debug_goes_to_standard_error(
    objdiff: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = 'const char *g(void) {{ static int n; n += {}; return n ? __func__ : "g"; }}'
    sources = SOURCE.format("", 1, text.format(1)), SOURCE.format("", 1, text.format(2))
    _, out = objdiff(*sources, "--json")
    paths = [str(tmp_path / name / "unit.o") for name in ("pre", "post")]
    assert main(["objdiff", *paths, "--json", "--debug=twins"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == out
    shown = [line for line in printed.err.splitlines() if not line.startswith("ksplice: note: ")]
    assert shown
    assert all(line.startswith("ksplice: twins: ") for line in shown)
