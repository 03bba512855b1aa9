# SPDX-License-Identifier: GPL-2.0-only
import time
from pathlib import Path

import pytest

from ksplicd.create.refusal import Refusal, refusals_text
from ksplicd.errors import LabError
from tests.coverage import table
from tests.coverage.__main__ import needs_changes, parse
from tests.coverage.attempt import EndlessError, is_gone, kid_of, place_of, reason_of, time_limit
from tests.coverage.guest import choose, complaints
from tests.coverage.outcome import Book, FileResults, Outcome, Result


def book(**results: FileResults) -> Book:
    return Book(old="1", new="2", flavour="cloud", release="r", files=results)


def whole(outcome: Outcome, **more: object) -> FileResults:
    return FileResults(whole=Result(outcome=outcome, **more), tool="t")  # type: ignore[arg-type]


def test_a_book_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = book(
        a=FileResults(
            whole=Result(
                outcome=Outcome.BUILT, functions=("f", "g"), target="vmlinux", has_modules=True
            ),
            changes=[Result(outcome=Outcome.REFUSED, reason="x", message="y", seconds=1.5)],
            tool="t",
            guest="ok",
        ),
        b=whole(Outcome.NOT_ALONE),
    )
    written.write(tmp_path / "coverage.json")
    read = Book.read(tmp_path / "coverage.json", old="1", new="2", flavour="cloud", release="r")
    assert read == written


def test_a_book_about_other_versions_is_not_continued(tmp_path: Path) -> None:
    book().write(tmp_path / "coverage.json")
    with pytest.raises(LabError, match="results of 1 2 cloud; move it away"):
        Book.read(tmp_path / "coverage.json", old="1", new="3", flavour="cloud", release="r")


def test_a_reason_has_neither_names_nor_numbers() -> None:
    refusals = [
        Refusal(symbol="a", section=".data.a", reason="changes: size 1 → 2 bytes", hint="do b"),
        Refusal(symbol="c", section=".data.c", reason="changes: +0x8 refers to d", hint="do b"),
        Refusal(symbol="e", section=".text", reason="e+0x10 refers to data", hint="do: f"),
    ]
    assert reason_of(refusals_text("x.c", refusals)) == "changes + refers to data"
    assert reason_of("a.c: f: modules call it (b, c); change it") == "modules call it"
    assert (
        reason_of(
            refusals_text(
                "x.c",
                [
                    Refusal(
                        symbol="a",
                        section=".text",
                        reason="its address is kept in .data.b",
                        hint="c",
                    ),
                    Refusal(
                        symbol="d", section=".bss", reason="d_init sets it up, at boot", hint="c"
                    ),
                ],
            )
        )
        == "its address is kept + sets it up, at boot"
    )
    assert reason_of("a.o: f+0x1c: the image has no symbol; use b") == "the image has no symbol"


@pytest.mark.parametrize(
    ("sections", "in_module", "gone"),
    [
        ([".init.text"], True, True),
        ([".init.text", ".exit.text"], False, True),
        ([".init.text", ".exit.text"], True, False),
        ([".init.text", ".text.f"], False, False),
    ],
)
def test_what_ran_at_boot(sections: list[str], *, in_module: bool, gone: bool) -> None:
    refusals = [Refusal(symbol="f", section=s, reason="boot", hint="leave it") for s in sections]
    assert is_gone(refusals_text("a.c", refusals), in_module=in_module) is gone


def test_an_unexpected_error_is_told_by_its_place() -> None:
    try:
        {"y": 1}["x"]
    except KeyError as e:
        place = place_of(e)
    assert place == ("KeyError in test_results.py: test_an_unexpected_error_is_told_by_its_place")


def test_a_limit_ends_what_does_not_end() -> None:
    with pytest.raises(EndlessError, match=r"no end after 0\.05 s"), time_limit(0.05):
        time.sleep(5)


def test_an_id_is_the_same_each_time() -> None:
    assert kid_of("fs/fcntl.c") == kid_of("fs/fcntl.c") != kid_of("fs/open.c")
    assert len(kid_of("x")) == 8


def test_the_table_counts_the_eligible_only() -> None:
    files = book(
        a=whole(Outcome.BUILT), b=whole(Outcome.REFUSED, reason="data + clock"),
        c=whole(Outcome.REFUSED, reason="data"), d=whole(Outcome.UNCHANGED),
        e=whole(Outcome.NOT_ALONE), f=whole(Outcome.BOOT_ONLY), g=whole(Outcome.FAILED),
        h=whole(Outcome.MISMATCH), i=whole(Outcome.BUILT),
    ).files  # fmt: skip
    lines = table.lines(files)
    assert lines[-1] == "coverage: 2/6 33.3 %"
    assert "               2 data (alone in 1)" in lines
    assert "               1 clock (alone in 0)" in lines
    assert table.lines({})[-1] == "coverage: 0/0 0.0 %"


def test_a_file_that_does_not_separate_is_one_single_change() -> None:
    several = FileResults(
        whole=Result(outcome=Outcome.REFUSED, reason="data"),
        changes=[Result(outcome=Outcome.BUILT), Result(outcome=Outcome.REFUSED, reason="data")],
    )
    one = whole(Outcome.BUILT)
    one.changes = [one.whole]
    lines = table.lines({"a": several, "b": one})
    assert "    3 single changes of 2 files" in lines
    assert "      2/3 66.7 % of the single changes" in lines
    assert lines[-1] == "coverage: 1/2 50.0 %"


def test_files_of_a_run_without_single_changes_are_none() -> None:
    """They are tried again when their changes are asked for, and do not count until then."""
    old, several = whole(Outcome.BUILT), whole(Outcome.REFUSED, reason="data")
    several.changes = [Result(outcome=Outcome.BUILT), Result(outcome=Outcome.REFUSED)]
    lines = table.lines({"a": old, "b": several})
    assert "    2 single changes of 1 files" in lines
    assert "      1/2 50.0 % of the single changes" in lines
    asked, not_asked = parse(["1", "2", "--hunks"]), parse(["1", "2"])
    assert needs_changes(old, asked)
    assert not needs_changes(several, asked)
    assert not needs_changes(old, not_asked)


def test_modules_are_a_third_of_what_the_guest_gets() -> None:
    targets = {f"b{i}.c": "vmlinux" for i in range(6)} | {f"m{i}.c": "ext" for i in range(3)}
    order = list(choose(targets, seed=1))
    assert sorted(order) == sorted(targets)
    assert [name[0] for name in order] == list("bmbbmbbmb")
    assert order == list(choose(dict(reversed(targets.items())), seed=1))


@pytest.mark.parametrize(
    ("line", "is_complaint"),
    [
        ("WARNING: CPU: 0 PID: 1 at fs/x.c:12 f+0x1/0x2", True),
        ("BUG: kernel NULL pointer dereference, address: 0", True),
        ("livepatch: enabling patch 'ksplice_01234567_new'", False),
        ("livepatch: 'ksplice_01234567_new': patching complete", False),
    ],
)
def test_complaints(line: str, *, is_complaint: bool) -> None:
    assert bool(complaints(f"fine\n{line}\n")) is is_complaint
