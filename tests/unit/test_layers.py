# SPDX-License-Identifier: GPL-2.0-only
"""The picture of the product: the room of each module, and the rooms that it may import.

A room is a folder or, at the top of ``create/``, ``host/`` and ``ksplicd/``, a single file.
Imports for type checking count too, because a reader follows them as well.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

import ksplicd
from tests.support.imports import reachable, read_graph

ROOT: Final = Path(ksplicd.__file__).parent
TESTS: Final = ROOT.parent / "tests"

GROUPS: Final = {
    "NOUNS": "ksplicd errors model text notes memory_file",
    "FILES": "bundle manifest ledger fields modinfo minisign",
    "HOST": "host/stages host/clock host/kernel host/store host/trust host/report host/updates"
    " host/engine host/boot",
}
"""Words that stand for several rooms."""

ROOMS: Final = {
    # nouns that everybody uses; they import nothing but each other
    "ksplicd": "",
    "errors": "",
    "model": "",
    "text": "",
    "memory_file": "",
    "notes": "",
    # files, and what is in them
    "fields": "errors",
    "ed25519": "errors",
    "modinfo": "errors",
    "minisign": "ed25519 errors",
    "ledger": "fields NOUNS",
    "manifest": "fields ledger NOUNS",
    "bundle": "FILES NOUNS",
    "config": "errors",
    "run": "errors",
    "toolchain": "run errors",
    "cache": "",
    "pruning": "cache",
    "elf": "errors notes",
    # create: from a patch to a bundle
    "create": "",
    "create/debug": "",
    "create/messages": "",
    "create/work_folder": "errors",
    "create/refusal": "elf errors",
    "create/patch": "bundle elf run NOUNS",
    "create/objects": "elf NOUNS",
    "create/diff": "create/objects create/messages create/refusal create/debug elf NOUNS",
    "create/stock": "create/objects elf run toolchain NOUNS",
    "create/old_code": "create/stock create/objects elf NOUNS",
    "create/build": "create/patch create/stock create/objects create/messages elf run NOUNS",
    "create/affected": "create/build create/patch create/stock create/objects create/messages"
    " create/debug run NOUNS",
    "create/new_code": "create/diff create/build create/stock create/objects create/messages"
    " create/refusal create/debug elf NOUNS",
    "create/modules": "create/new_code create/old_code create/diff create/build create/patch"
    " create/stock create/objects create/messages elf run NOUNS",
    "create/ledger": "create/unit_objects create/affected create/new_code create/diff create/build"
    " create/patch create/objects create/messages elf NOUNS",
    "create/referee": "create/stock elf NOUNS",
    "create/prebuild": "create/affected create/build create/patch create/stock NOUNS",
    "create/objdiff": "create/new_code create/diff create/stock create/objects create/messages"
    " create/refusal elf run NOUNS",
    "create/request": "create/ledger create/patch create/build create/modules toolchain NOUNS",
    "create/unit_objects": "create/objects create/patch create/diff create/stock create/build"
    " create/affected create/new_code create/referee create/refusal create/work_folder elf NOUNS",
    "create/bundle_parts": "create/request create/patch create/diff create/stock create/build"
    " create/affected create/new_code create/modules create/ledger bundle ledger NOUNS",
    "create/pipeline": "create/request create/unit_objects create/bundle_parts create/patch"
    " create/objects create/diff create/stock create/old_code create/build create/affected"
    " create/new_code create/modules create/ledger create/referee create/prebuild"
    " create/work_folder NOUNS",
    # host: the life of an update on one machine
    "host": "",
    "host/stages": "NOUNS",
    "host/clock": "",
    "host/kernel": "host/stages NOUNS",
    "host/store": "host/stages FILES NOUNS",
    "host/trust": "host/store config FILES NOUNS",
    "host/report": "host/trust host/store host/kernel host/stages NOUNS",
    "host/updates": "host/report host/trust host/store host/kernel host/stages host/clock config"
    " bundle NOUNS",
    "host/engine": "host/updates host/report host/stages host/clock config bundle NOUNS",
    "host/boot": "host/engine host/stages NOUNS",
    # those who use it; the daemon puts host and bus together
    "bus": "HOST config bundle NOUNS",
    # where a kernel's parts come from
    "distro": "cache run toolchain NOUNS",
    "lab": "create/stock distro cache elf run bundle NOUNS",
    "cli": "create/build create/modules create/objdiff create/pipeline create/request"
    " create/prebuild create/stock create/patch create/debug create/work_folder create/ledger"
    " HOST bus lab distro cache pruning elf run toolchain config FILES NOUNS",
    "daemon": "bus HOST config FILES NOUNS",
    "__main__": "cli",
}
"""Room → the rooms that it may import, besides itself."""


def circles(graph: Mapping[str, set[str]]) -> list[str]:
    """Return the circles of modules, each with its modules in order of their names."""
    beyond = {module: reachable(graph, module) for module in graph}
    circle_of = {m: {o for o in beyond[m] if m in beyond[o]} for m in graph}
    return sorted({" ".join(sorted(circle)) for circle in circle_of.values() if circle})


def room_of(module: str, rooms: Mapping[str, str]) -> str | None:
    """Return the room of a module, named from the package; ``None``: it has no place."""
    package, _, rest = module.partition(".")
    path = rest.replace(".", "/") or package
    folder = path.rpartition("/")[0]
    if path in rooms:
        return path
    # a folder that has rooms in it takes no other files
    is_divided = any(room.startswith(f"{folder}/") for room in rooms)
    return folder if folder in rooms and not is_divided else None


def allowed(words: str, groups: Mapping[str, str]) -> set[str]:
    """Return the rooms that a row of the picture names."""
    return {room for word in words.split() for room in groups.get(word, word).split()}


def trespasses(
    graph: Mapping[str, set[str]], rooms: Mapping[str, str], groups: Mapping[str, str]
) -> list[str]:
    """Return each file without a room, and each import that the picture does not allow."""
    found = []
    for module, imported in graph.items():
        short = module.partition(".")[2] or module
        room = room_of(module, rooms)
        if room is None:
            found.append(f"{short} has no room")
            continue
        others = {room_of(other, rooms) for other in imported} - {room, None}
        extra = others - allowed(rooms[room], groups)
        found += [f"{short} imports {other}" for other in sorted(map(str, extra))]
    return found


def violations(root: Path) -> set[str]:
    """Return all that is not as the picture has it."""
    graph = read_graph(root)
    prefix = f"{root.name}."
    around = {f"circle: {circle.replace(prefix, '')}" for circle in circles(graph)}
    return {*trespasses(graph, ROOMS, GROUPS), *around}


def imported_tests(root: Path) -> set[str]:
    """Return where a module of the tests imports a test or a conftest."""
    graph = read_graph(root)
    return {
        f"{module} imports {other}"
        for module, imported in graph.items()
        for other in imported
        if other.rpartition(".")[2].startswith(("test_", "conftest"))
    }


def test_the_product_is_as_the_picture_has_it() -> None:
    assert violations(ROOT) == set()


def test_picture_has_no_circle_and_no_empty_room() -> None:
    picture = {room: allowed(row, GROUPS) - {room} for room, row in ROOMS.items()}
    assert circles(picture) == []
    graph = read_graph(ROOT)
    assert {room_of(module, ROOMS) for module in graph} - {None} == ROOMS.keys()
    assert set().union(*picture.values()) <= ROOMS.keys()


def test_no_test_imports_a_test() -> None:
    assert imported_tests(TESTS) == set()


def test_what_tests_share_knows_no_test() -> None:
    """``tests/support`` imports nothing of ``tests`` but itself."""
    graph = read_graph(TESTS)
    shared = {m: others for m, others in graph.items() if m.startswith("tests.support")}
    assert {o for others in shared.values() for o in others} - shared.keys() == set()


# --- the test of the tests ----------------------------------------------------------------------

SMALL: Final = {"app": "", "low": "", "mid": "low", "top": "", "top/room": "BOTH"}
BOTH: Final = {"BOTH": "low mid"}


def make_tree(folder: Path, **files: str) -> dict[str, set[str]]:
    """Write a package of files, named with ``__`` for each slash; return what they import."""
    for name, text in files.items():
        path = folder / "app" / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return read_graph(folder / "app")


def test_all_is_well(tmp_path: Path) -> None:
    graph = make_tree(
        tmp_path,
        low="import os",
        mid="from app.low import X",
        top__room__a="from app import mid\nfrom app.top.room import b",
        top__room__b="import app.low",
    )
    assert graph["app.top.room.a"] == {"app.mid", "app.top.room.b"}
    assert graph["app.top.room.b"] == {"app.low"}
    assert trespasses(graph, SMALL, BOTH) == []
    assert circles(graph) == []


@pytest.mark.parametrize(
    "line",
    ["from app.mid import X", "import app.mid", "from app import mid", "if True: import app.mid"],
)
def test_forbidden_import_is_found(tmp_path: Path, line: str) -> None:
    graph = make_tree(tmp_path, low=line, mid="")
    assert trespasses(graph, SMALL, BOTH) == ["low imports mid"]


def test_file_without_a_room_is_found(tmp_path: Path) -> None:
    graph = make_tree(tmp_path, other="", top__file="", top__new__file="", top__room__sub__f="")
    found = ["other", "top.file", "top.new.file", "top.room.sub.f"]
    assert trespasses(graph, SMALL, BOTH) == [f"{name} has no room" for name in found]


def test_circles_are_found(tmp_path: Path) -> None:
    """Inside one room, and for type checking alone."""
    checked = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    "
    graph = make_tree(
        tmp_path,
        low="",
        top__room__a="from app.top.room.b import B",
        top__room__b=f"{checked}from app.top.room.c import C",
        top__room__c="from app.top.room import a\nfrom app.top.room.d import D",
        top__room__d="from app.top.room.c import C",
        mid="import app.mid2",
        mid2="import app.mid",
    )
    assert sorted(circles(graph)) == [
        "app.mid app.mid2",
        "app.top.room.a app.top.room.b app.top.room.c app.top.room.d",
    ]


def test_test_that_imports_a_test_is_found(tmp_path: Path) -> None:
    make_tree(
        tmp_path, test_a="", conftest="", help="",
        test_b="import app.help\nfrom app.test_a import x\nfrom app import conftest",
    )  # fmt: skip
    assert imported_tests(tmp_path / "app") == {
        "app.test_b imports app.test_a",
        "app.test_b imports app.conftest",
    }
