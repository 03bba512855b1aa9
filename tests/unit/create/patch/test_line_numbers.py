# SPDX-License-Identifier: GPL-2.0-only
from pathlib import Path

import pytest

from ksplicd.create.patch.line_numbers import keep_line_numbers
from ksplicd.run import run

FIRST = "".join(f"int line{i};\n" for i in range(1, 30))


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.replace("int line3;\n", "int line3;\nint x;\nint y;\n"),
        lambda t: t.replace("int line3;\nint line4;\n", ""),
        lambda t: "int first;\n" + t,
        lambda t: t.replace("int line3;", "int three;").replace("int line20;\n", "\n\n\n"),
    ],
)
def test_lines_behind_hunks_keep_their_numbers(tmp_path: Path, change: object) -> None:
    """The compiler sees every unchanged line under its old number."""
    assert callable(change)
    before, after = tmp_path / "before.c", tmp_path / "after.c"
    before.write_text(FIRST.replace(";\n", " = __LINE__;\n"))
    text = change(FIRST).replace(";\n", " = __LINE__;\n")
    after.write_bytes(keep_line_numbers(before.read_bytes(), text.encode()))
    numbers = []
    for path in (before, after):
        out = run(["gcc", "-E", "-P", path]).decode()
        numbers.append({x for x in out.splitlines() if x.startswith("int line")})
    assert numbers[1] <= numbers[0]
    assert len(numbers[1]) >= 27


def test_line_directive_waits_for_a_safe_place(tmp_path: Path) -> None:
    after = tmp_path / "after.c"
    macro = (
        "#define M(a, b) a \\\n  b\nint z = M(\n  1 +,\n  2);\n"
        "/* a\n comment */\nint last = __LINE__;\n"
    )
    before, text = f"int a;\n{macro}", f"int a;\nint added;\n{macro}"
    after.write_bytes(keep_line_numbers(before.encode(), text.encode()))
    out = run(["gcc", "-E", "-P", after]).decode()
    assert "int last = 9;" in out


@pytest.mark.parametrize("wanted", [["A"], ["B"], ["A", "B"], []])
def test_a_hunk_in_a_group_that_is_skipped(tmp_path: Path, wanted: list[str]) -> None:
    """A directive is not read there, and is one line more."""
    before = """\
#ifdef A
#if defined(B) && \\
    1
int one = __LINE__;
#elif defined(C)
int two = __LINE__;
#endif
int three = __LINE__;
#else
/*
#endif
*/
int four = __LINE__;
#endif
int last = __LINE__;
"""
    after = before
    for line in "int one", "int two", "int four":
        after = after.replace(line, f"int new;\nint too;\n{line}")
    seen = []
    for text in (before.encode(), keep_line_numbers(before.encode(), after.encode())):
        (tmp_path / "a.c").write_bytes(text)
        out = run(["gcc", "-E", "-P", *(f"-D{name}" for name in wanted), "a.c"], cwd=tmp_path)
        seen.append([x for x in out.decode().splitlines() if "=" in x])
    assert seen[0] == seen[1]


def test_headers_keep_their_names(tmp_path: Path) -> None:
    """``__FILE__`` and ``__LINE__`` of what follows a hunk, in the header and in its user."""
    guard = "#ifndef H\n#define H\n"
    tail = "const char *file = __FILE__;\nint line = __LINE__;\n#endif\n"
    before, after = f"{guard}{tail}", f"{guard}int added;\nint too;\n{tail}"
    user = '#include "a.h"\nconst char *own = __FILE__;\nint own_line = __LINE__;\n'
    (tmp_path / "user.c").write_text(user)
    seen = []
    for text in (before.encode(), keep_line_numbers(before.encode(), after.encode())):
        (tmp_path / "a.h").write_bytes(text)
        out = run(["gcc", "-E", "-P", "user.c"], cwd=tmp_path).decode()
        seen.append([x for x in out.splitlines() if "line" in x or "file" in x or "own" in x])
    assert seen[0] == seen[1]
    assert seen[0][:2] == ['const char *file = "a.h";', "int line = 4;"]
