# SPDX-License-Identifier: GPL-2.0-only
"""Differences that make another update, and those that are only other words."""

import io
import json
import tarfile
from pathlib import Path

from ksplicd.run import run
from tests.same.compare import differences, has_other_words
from tests.same.states import Result
from tests.support.objects.compile import SPLIT, compile_c

REFUSED = "fs/x.c: cannot be changed in a running kernel:\n  f (.text.f): {0}; ask\n"


def bundle(core: bytes = b"core", name: str = "a.ko", **manifest: object) -> bytes:
    """The files of a bundle that are looked at."""
    out = io.BytesIO()
    text = json.dumps({"kid": "abcd1234", "files": {name: str(len(core))}, **manifest})
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for file, data in ((name, core), ("manifest.json", text.encode())):
            info = tarfile.TarInfo(f"ksplice-abcd1234/{file}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def test_results_that_are_the_same() -> None:
    result = Result(0, "{}", "", bundle())
    assert list(differences(result, result)) == []
    assert not has_other_words(result, result)


def test_another_exit_status() -> None:
    found = list(differences(Result(0, "", "", bundle()), Result(1, "", "refused")))
    assert found == ["exit status 0 became 1: refused"]


def test_another_byte_of_a_module() -> None:
    found = list(differences(Result(0, "", "", bundle()), Result(0, "", "", bundle(b"cure"))))
    assert found == ["a.ko: other content"]


def test_another_manifest() -> None:
    new = Result(0, "", "", bundle(targets=["vmlinux"]))
    (found,) = differences(Result(0, "", "", bundle()), new)
    assert found.startswith("manifest.json: ")


def test_a_refusal_of_something_else() -> None:
    old = Result(1, "", REFUSED.format("why"))
    new = Result(1, "", REFUSED.replace("f (.text.f)", "g (.text.g)").format("why"))
    assert list(differences(old, new)) == ["refused: ['f (.text.f)'] became ['g (.text.g)']"]


def test_other_words_of_a_refusal() -> None:
    old, new = (Result(1, "", REFUSED.format(why)) for why in ("why", "the reason"))
    assert list(differences(old, new)) == []
    assert has_other_words(old, new)


def test_refusals_of_a_pair_are_read_from_its_json() -> None:
    old, new = (
        Result(1, json.dumps({"refused": [{"symbol": s, "section": ".data"}]}), "") for s in "ab"
    )
    assert list(differences(old, new)) == ["refused: ['a (.data)'] became ['b (.data)']"]


# --- new code that is linked with another kmodsrc -----------------------------------------------

OURS = "int ours(int x) {{ return x + {0}; }}\n"
UNITS = """
extern int printk(const char *, ...);
extern int callee(int), other(int);
int f(int x) {{ printk("{0}"); return {1}(x); }}
"""


def new_code(tmp_path: Path, ours: str, text: str = "said", callee: str = "callee") -> Result:
    """An update whose new-code module is linked from our C and a unit's."""
    a, b = tmp_path / "a.o", tmp_path / "b.o"
    a.write_bytes(compile_c(tmp_path, OURS.format(ours)))
    b.write_bytes(compile_c(tmp_path, UNITS.format(text, callee), *SPLIT))
    linked = tmp_path / "new.ko"
    run(["ld", "-r", "-o", linked, a, b])
    return Result(0, "", "", bundle(linked.read_bytes(), name="ksplice_abcd1234_new.ko"))


def found(old: Result, new: Result) -> list[str]:
    return list(differences(old, new, is_same_kmodsrc=False))


def test_our_own_c_is_not_the_units(tmp_path: Path) -> None:
    old, new = new_code(tmp_path, "1"), new_code(tmp_path, "12345")
    assert found(old, new) == []
    assert list(differences(old, new)) != []


def test_another_callee_of_a_units_function(tmp_path: Path) -> None:
    old, new = new_code(tmp_path, "1"), new_code(tmp_path, "2", callee="other")
    assert found(old, new) == ["ksplice_abcd1234_new.ko: references"]


def test_another_string_of_a_units_function(tmp_path: Path) -> None:
    old, new = new_code(tmp_path, "1"), new_code(tmp_path, "2", text="sung")
    assert found(old, new) == ["ksplice_abcd1234_new.ko: .rodata.f.str1.1, references"]


def test_another_body_of_a_units_function(tmp_path: Path) -> None:
    old, new = new_code(tmp_path, "1"), new_code(tmp_path, "2", callee="1 + callee")
    (line,) = found(old, new)
    assert line.startswith("ksplice_abcd1234_new.ko: .text.f")
