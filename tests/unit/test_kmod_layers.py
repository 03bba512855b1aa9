# SPDX-License-Identifier: GPL-2.0-only
"""The files of kmodsrc/ call each other as the picture at the top of its Kbuild says.

The C is scanned, not compiled: functions and arrays at the left margin, and uses of their names.
"""

import re
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2] / "kmodsrc"
ANYWHERE: Final = 99
"""The depth of a header that is not for certain files."""
EXPORTED: Final = "ksplice.h", "ksplice-patch.h"
LONGEST: Final = 60

_NOISE: Final = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', re.DOTALL)
_DIRECTIVE: Final = re.compile(r"^#(?:[^\n\\]|\\.)*", re.MULTILINE | re.DOTALL)
_INCLUDE: Final = re.compile(r'^#include ["<](\w[\w-]*\.h)[">]', re.MULTILINE)
_FUNCTION: Final = re.compile(r"^(\w[^;{}()]*?)\b(\w+)\([^;{}]*\)\n\{\n(.*?)^\}", re.M | re.DOTALL)
_ARRAY: Final = re.compile(r"^(const [^;{}()]*?)\b(ksplice_\w+)\[\] = \{", re.MULTILINE)
_DECLARED: Final = re.compile(r"^(\w[^;{}()]*?)\b(ksplice_\w+)(?:\(.*?\)|\[\]);", re.M | re.DOTALL)
_NAME: Final = re.compile(r"\bksplice_\w+")
_EXPORT: Final = re.compile(r"^EXPORT_SYMBOL_GPL\((\w+)\);", re.MULTILINE)
_PLACE: Final = re.compile(r"^# ((?:  )+)([\w/-]+\.[ch]) +(.*)$", re.MULTILINE)

FILES: Final = {
    str(path.relative_to(ROOT)): path.read_text() for path in sorted(ROOT.rglob("*.[ch]"))
}
CODE: Final = {name: _DIRECTIVE.sub("", _NOISE.sub("", text)) for name, text in FILES.items()}
SOURCES: Final = [name for name in FILES if name.endswith(".c")]


def read_picture() -> tuple[dict[str, tuple[str, int]], dict[str, set[str]]]:
    """Return the module and depth of each source, and the sources that each header is for."""
    places: dict[str, tuple[str, int]] = {}
    headers: dict[str, set[str]] = {}
    for block in re.split(r"^#$", (ROOT / "Kbuild").read_text(), flags=re.MULTILINE):
        title = block.strip().partition("\n")[0]
        for indent, name, text in _PLACE.findall(block):
            assert name not in {**places, **headers}, f"{name} has two places"
            if name.endswith(".c"):
                places[name] = title, len(indent) // 2
            else:
                headers[name] = set(re.findall(r"\w+\.c\b", text))
    return places, headers


PLACES, HEADERS = read_picture()
DEFINED: Final = {
    match[2]: name
    for name in SOURCES
    for pattern in (_FUNCTION, _ARRAY)
    for match in pattern.finditer(CODE[name])
    if "static" not in match[1].split()
}
CALLS: Final = {
    name: {DEFINED[used] for used in _NAME.findall(CODE[name]) if used in DEFINED} - {name}
    for name in SOURCES
}
INCLUDES: Final = {
    name: {header for header in _INCLUDE.findall(text) if header in FILES}
    for name, text in FILES.items()
}


def may_call(caller: str, callee: str) -> bool:
    """Tell whether the picture has the other file deeper in the same module."""
    return PLACES[caller][0] == PLACES[callee][0] and PLACES[caller][1] < PLACES[callee][1]


def depth_of(header: str) -> int:
    """Return the depth of the deepest file that a header is for."""
    return max((PLACES[name][1] for name in HEADERS[header]), default=ANYWHERE)


def test_every_file_has_a_place() -> None:
    assert set(PLACES) | set(HEADERS) == set(FILES)


def test_scan_finds_what_there_is() -> None:
    assert CALLS["targets.c"] == {"match.c", "comings.c"}
    assert CALLS["compare.c"] == {"sites.c", "alternatives.c", "rows.c", "insn.c", "field.c"}
    assert "core.c" in CALLS["conflicts.c"]
    assert DEFINED["ksplice_target_attrs"] == "targets.c"
    assert DEFINED["ksplice_tripwires_init"] == "tripwire.c"


@pytest.mark.parametrize("caller", SOURCES)
def test_calls_go_down(caller: str) -> None:
    exports = {name for text in CODE.values() for name in _EXPORT.findall(text)}
    for used in _NAME.findall(CODE[caller]):
        callee = DEFINED.get(used, caller)
        if callee == caller or may_call(caller, callee):
            continue
        assert PLACES[caller][0] != PLACES[callee][0], f"{caller} uses {used} of {callee}"
        assert used in exports, f"{caller} uses {used} of another module"


@pytest.mark.parametrize("header", HEADERS)
def test_headers_declare_functions_of_their_files(header: str) -> None:
    declared = {
        DEFINED[match[2]]
        for match in _DECLARED.finditer(CODE[header])
        if match[2] in DEFINED and "inline" not in match[1].split()
    }
    assert declared == HEADERS[header]


@pytest.mark.parametrize("name", FILES)
def test_headers_of_what_is_above_are_not_included(name: str) -> None:
    module, depth = PLACES[name] if name in PLACES else (None, depth_of(name))
    for header in INCLUDES[name]:
        modules = {PLACES[owner][0] for owner in HEADERS[header]}
        if header in EXPORTED and modules and module not in modules:
            continue
        if module and modules and module not in modules:
            raise AssertionError(f"{name} includes {header} of another module")
        assert depth <= depth_of(header), f"{name} includes {header}"


def test_files_below_the_match_are_compiled_with_it() -> None:
    compiled, found = ["match.c"], set[str]()
    while compiled:
        name = compiled.pop()
        if name not in found:
            found.add(name)
            compiled += CALLS[name]
    included = re.findall(r'^#include "(\w+\.c)"$', FILES["build_match.c"], re.MULTILINE)
    assert len(included) == len(found)
    assert set(included) == found


def test_no_circles() -> None:
    list(TopologicalSorter(CALLS).static_order())
    list(TopologicalSorter(INCLUDES).static_order())


@pytest.mark.parametrize("name", FILES)
def test_functions_are_short(name: str) -> None:
    for match in _FUNCTION.finditer(CODE[name]):
        lines = match[0].count("\n") + 1
        assert lines <= LONGEST, f"{name}: {match[2]} has {lines} lines"


@pytest.mark.parametrize("name", SOURCES)
def test_messages_name_their_module(name: str) -> None:
    if re.search(r"\bpr_\w+\(", CODE[name]):
        assert '#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt\n' in FILES[name]
