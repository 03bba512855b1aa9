# SPDX-License-Identifier: GPL-2.0-only
"""``--debug=PHASE``."""

import argparse

import pytest

from ksplicd.cli.debug import add_debug_argument, shown
from ksplicd.cli.main import main
from ksplicd.create.debug import PHASES, phase


def parse(*words: str) -> list[str]:
    parser = argparse.ArgumentParser()
    add_debug_argument(parser)
    return list(parser.parse_args(words).debug)


def test_phases() -> None:
    assert parse() == []
    assert parse("--debug=cut") == ["cut"]
    assert parse("--debug=cut,twins,cut") == ["cut", "twins"]


@pytest.mark.parametrize(
    ("text", "name"), [("cut,why", "why"), ("cut,", "(empty)"), ("all", "all")]
)
def test_unknown_phases_are_a_usage_error(
    text: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        parse(f"--debug={text}")
    assert f"{name}: not one of affected, twins, cut" in capsys.readouterr().err


def test_a_verb_has_its_own_phases(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["objdiff", "a.o", "b.o", "--debug=affected"]) == 64
    assert "affected: not one of twins, cut" in capsys.readouterr().err


def test_only_what_is_asked_for_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with shown(("cut",)):
        phase("cut").debug("f: %s", "it changes\x1b[2J")
        phase("twins").debug("not asked for")
    phase("cut").debug("too late")
    out = capsys.readouterr()
    assert out.err == "ksplice: cut: f: it changes\\x1b[2J\n"
    assert out.out == ""


def test_nothing_is_printed_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    for name in PHASES:
        phase(name).debug("nobody asked")
    assert capsys.readouterr() == ("", "")
