# SPDX-License-Identifier: GPL-2.0-only
"""Documents name what is there: verbs, settings, causes, files, rooms."""

import argparse
import os
import re
import tomllib
from collections.abc import Mapping
from itertools import chain, pairwise, product
from pathlib import Path

import pytest

import ksplicd
from ksplicd import config, errors
from ksplicd.cli import main, show
from ksplicd.model import Stage
from ksplicd.run import run_any
from tests.support.imports import read_graph
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


# --- paths in documents -------------------------------------------------------------------------

DOCUMENTS = [*sorted(ROOT.glob("docs/**/*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
PARENTS = ROOT, ROOT / "ksplicd", ROOT / "kmodsrc", ROOT / "tests"
OF_THE_KERNEL = re.compile(
    r"(include|kernel|arch|fs|net|lib|mm|scripts|init|security|drivers|virt|tools|Documentation)/"
)
"""The kernel's own files, by their first folder."""
ELSEWHERE = {
    "openssl/evp.h": "a header of libssl-dev",
    "update.h": "generated by create/modules/c_tables.py",
}
"""Paths that are not of this tree, and what they are."""


def paths_in(text: str) -> set[str]:
    """Return the words in backticks that look like files: a folder and an extension, or C, Python.

    Absolute paths are of a host; ``X`` in capitals stands for a name.
    """
    quoted = [word for words in re.findall(r"`([^`\n]+)`", text) for word in words.split()]
    words = {word.strip("<>,;()").partition("::")[0] for word in quoted}
    path = re.compile(r"[\w.-]+(?:/[\w.-]+)*/[\w-]+\.\w+|\w[\w-]*\.(?:c|h|py)")
    return {word for word in words if path.fullmatch(word) and not re.search(r"\b[A-Z]+\b", word)}


def is_there(path: str) -> bool:
    if "/" in path:
        return any((parent / path).exists() for parent in PARENTS)
    return any(path in names for _, _, names in chain.from_iterable(map(os.walk, PARENTS[1:])))


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_in_documents_are_there(page: Path) -> None:
    paths = paths_in(page.read_text())
    ours = {path for path in paths if not OF_THE_KERNEL.match(path)}
    assert {path for path in ours - ELSEWHERE.keys() if not is_there(path)} == set()


# --- docs/architecture.md -----------------------------------------------------------------------

ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()


def arrows() -> set[tuple[str, str]]:
    """Return the arrows of the picture that are drawn through, by the names of its nodes."""
    picture = ARCHITECTURE.partition("```mermaid\n")[2].partition("```")[0]
    found = set()
    for line in re.sub(r'\["[^"]*"\]', "", picture).splitlines():
        chain_of_nodes = [part.split(" & ") for part in line.strip().split(" --> ")]
        for users, used in pairwise(chain_of_nodes):
            found |= set(product(users, used))
    return found


def modules_of(node: str, graph: Mapping[str, set[str]]) -> set[str]:
    room = node.removesuffix("_create").removesuffix("_host")
    rooms = [f"ksplicd.{group}{room}" for group in ("create.", "host.", "")]
    return {m for m in graph if any(m == room or m.startswith(f"{room}.") for room in rooms)}


def test_arrows_of_the_picture_are_imports() -> None:
    graph = read_graph(ROOT / "ksplicd")
    assert len(arrows()) > 25
    for user, used in arrows():
        imported = set().union(*(graph[module] for module in modules_of(user, graph)))
        assert imported & modules_of(used, graph), f"{user} --> {used}"


def test_every_room_is_in_the_table() -> None:
    packages = {path.parent for path in ROOT.glob("ksplicd/*/**/__init__.py")} | {ROOT / "kmodsrc"}
    rooms = {f"{path.relative_to(ROOT)}/".removeprefix("ksplicd/") for path in packages}
    assert set(re.findall(r"^\| `([\w/]+/)` \|", ARCHITECTURE, re.MULTILINE)) == rooms
