# SPDX-License-Identifier: GPL-2.0-only
"""The manual and the tests' README say what is there: verbs, settings, causes, files."""

import argparse
import re
import tomllib
from pathlib import Path

import pytest

import ksplicd
from ksplicd import config, errors
from ksplicd.cli import main, show
from ksplicd.model import Stage
from ksplicd.run import run_any
from tests.support.needs import needs

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs/man").iterdir())


def text_of(page: str) -> str:
    """The words of a page, without the markup that is in the way."""
    text = (ROOT / "docs/man" / page).read_text().replace(r"\-", "-")
    return re.sub(r"\\f[A-Z]", "", text)


def verbs() -> dict[str, argparse.ArgumentParser]:
    parser = main.build_parser([], "ksplice")
    action = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return dict(action.choices)


@pytest.mark.parametrize("verb", sorted(verbs()))
def test_ksplice_page_has_verb_and_its_options(verb: str) -> None:
    page = text_of("ksplice.1")
    assert f"ksplice {verb}" in page
    for action in verbs()[verb]._actions:
        for option in action.option_strings:
            if option.startswith("--") and option != "--help":
                assert option in page


def test_ksplice_page_has_every_key_of_the_status() -> None:
    page = re.sub(r"[^\w]", " ", text_of("ksplice.1").partition(".SS ksplice status")[2]).split()
    text = Path(show.__file__).read_text().split('"""')[1]
    documents = re.findall(r"^    (?:status|UPDATE|JOB) .*?\}$", text, re.MULTILINE | re.DOTALL)
    assert len(documents) == 3
    for key in re.findall(r'"(\w+)"', " ".join(documents)):
        assert key in page


def test_ksplice_page_has_every_exit_status() -> None:
    page = text_of("ksplice.1")
    for cls in errors.walk():
        assert f".TP\n{cls.exit_status}\n" in page.replace(".TP 5\n", ".TP\n")


def test_conf_page_and_example_have_exactly_the_settings_and_their_defaults() -> None:
    page = text_of("ksplicd.conf.5").partition(".SS [signers]")[0]
    paragraphs = dict(
        re.findall(r"^\.TP\n\.B (\S+)\n(.*?)(?=^\.TP|\Z)", page, re.MULTILINE | re.DOTALL)
    )
    example = (ROOT / "etc/ksplicd.conf").read_text().partition("[signers]")[0]
    defaults = dict(re.findall(r"^#(\S+) = (.*)$", example, re.MULTILINE))
    assert paragraphs.keys() == defaults.keys() == config._READERS.keys()
    for key, value in defaults.items():
        number = rf"default {value}\b"
        word = rf"^(?:\.B )?{value}[ :,]*\n?\(the default\)"
        assert re.search(number if value.isdigit() else word, paragraphs[key], re.MULTILINE), key


def test_daemon_page_has_stages_and_causes() -> None:
    page = text_of("ksplicd.8")
    for stage in set(Stage) - {Stage.REMOVED}:
        assert stage.value in page
    for cls in errors.walk(errors.ApplyError):
        assert cls.abort_cause in page


@needs("man")
@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_page_is_formatted_without_warnings(page: Path) -> None:
    status, _, warnings = run_any(["man", "--warnings", "-l", page], env={"MANWIDTH": "80"})
    assert (status, warnings.decode()) == (0, "")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_is_of_this_version(page: Path) -> None:
    heading = next(line for line in page.read_text().splitlines() if line.startswith(".TH "))
    assert f'"ksplicd {ksplicd.__version__}"' in heading


def test_version_is_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == ksplicd.__version__


def test_every_decision_is_listed() -> None:
    folder = ROOT / "docs/decisions"
    listed = re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", (folder / "README.md").read_text())
    assert listed == sorted(path.name for path in folder.glob("[0-9]*.md"))


# --- tests/README.md ----------------------------------------------------------------------------


def test_every_file_with_guests_or_a_bus_is_explained() -> None:
    text = (ROOT / "tests/README.md").read_text()
    files = [*ROOT.glob("tests/vm/test_*.py"), *ROOT.glob("tests/bus/test_*.py")]
    assert {path.stem for path in files} == set(re.findall(r"`(test_\w+)`", guests_in(text)))


def guests_in(text: str) -> str:
    """Return the tables of tests/vm and tests/bus."""
    return text.partition("### With guests")[2].partition("## What tests share")[0]


def test_every_variable_of_the_tests_is_explained() -> None:
    """But for those by which ``support/bus`` speaks to its own process."""
    explained = set(re.findall(r"`(KSPLICE_\w+)=", (ROOT / "tests/README.md").read_text()))
    read = {
        name
        for path in ROOT.glob("tests/**/*.py")
        if path.name != "serve.py"
        for name in re.findall(r'environ(?:\.get\(|\[)"(KSPLICE_\w+)"', path.read_text())
    }
    assert explained - read <= {"KSPLICE_ALL_STEPS"}
    assert read - explained == set()
