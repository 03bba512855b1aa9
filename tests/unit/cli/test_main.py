# SPDX-License-Identifier: GPL-2.0-only
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ksplicd import __version__, daemon
from ksplicd.cli.main import main, read_arguments
from ksplicd.cli.verbs import VERBS, Verb


def test_without_a_verb_the_verbs_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    out = capsys.readouterr().out
    for verb in ("apply", "undo", "remove", "view", "status", "history", "keygen", "sign"):
        assert f"\n    {verb} " in out


@pytest.mark.parametrize(("program", "name"), [(main, "ksplice"), (daemon.main, "ksplicd")])
def test_version(
    program: Callable[[list[str]], int], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        program(["--version"])
    assert capsys.readouterr().out == f"{name} {__version__}\n"


@pytest.mark.parametrize("words", [["aply", "x"], ["help", "aply"]])
def test_an_unknown_verb_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 64
    said = "ksplice: no verb 'aply'; is `ksplice apply` meant?\n`ksplice help` lists the verbs\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("verb", VERBS)
def test_wrong_usage_has_the_right_form(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--frobnicate"]) == 64
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"ksplice: {verb}: ")
    assert lines[1].startswith(f"usage: ksplice {verb} [-h]")
    assert lines[2:] == [f"such as: {VERBS[verb].example}", f"`ksplice help {verb}` says more"]


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_examples_are_right(verb: Verb) -> None:
    words = verb.example.split()[1:]
    assert words[0] == verb.name
    assert callable(read_arguments(words).run)


@pytest.mark.parametrize("verb", ["apply", "undo", "release", "remove", "sign", "create", "config"])
def test_a_verb_alone(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb]) == 64
    assert f"\nusage: ksplice {verb} " in capsys.readouterr().err


def test_wrong_usage_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["undo", "--json"]) == 64
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["name"] == "org.ksplice.Ksplicd1.Error.Usage"


@pytest.mark.parametrize(
    "words", [["--check", "--frob"], ["--require", "CVE-1"], ["--max-age=soon"], ["--max-age=0"]]
)
def test_wrong_usage_as_a_plugin(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """monitoring-plugins.org: UNKNOWN."""
    assert main(["status", *words]) == 3
    assert capsys.readouterr().out.startswith("UNKNOWN - status: ")


def test_help_of_a_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["help", "undo"])
    assert capsys.readouterr().out.startswith("usage: ksplice undo [-h]")
    with pytest.raises(SystemExit, match="0"):
        main(["help"])
    assert "\nChange this host:\n    apply " in capsys.readouterr().out


@pytest.mark.parametrize("text", ["8c4o6uc", "8C4O6UCJ", "ksplice_8c4o6ucj_new", "../../etc"])
def test_undo_refuses_what_is_no_id(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["undo", text]) == 64
    assert "eight of a-z and 0-9" in capsys.readouterr().err


def test_view_takes_an_id_or_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["view", "--id=8c4o6ucj", "--file=x"]) == 64
    assert "not allowed with" in capsys.readouterr().err


def test_a_missing_tarball_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ksplice-8c4o6ucj.tar.gz"
    assert main(["apply", str(path)]) == 2
    assert capsys.readouterr().err == f"ksplice: {path}: No such file or directory\n"


def test_raw_errors_come_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ksplice-8c4o6ucj.tar.gz"
    assert main(["apply", "--raw-errors", str(path)]) == 2
    assert capsys.readouterr().err == f"OTHER\n{path}: No such file or directory\n"


def test_an_error_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ksplice-8c4o6ucj.tar.gz"
    assert main(["apply", "--json", str(path)]) == 2
    assert json.loads(capsys.readouterr().out) == {
        "schema": 1,
        "error": {
            "name": "org.ksplice.Ksplicd1.Error.BadBundle",
            "abort_cause": None,
            "message": f"{path}: No such file or directory",
        },
    }


def test_a_folder_that_is_no_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["apply", str(tmp_path)]) == 2
    assert f"{tmp_path}: has no manifest.json" in capsys.readouterr().err


def test_a_host_verb_needs_no_part_of_create() -> None:
    program = (
        "import sys; from ksplicd.cli.main import main\n"
        "try: main(['undo', '--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in sys.modules if m.startswith(('ksplicd.create', 'elftools', 'gi'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("bus", ["unix:path=/nonexistent/bus", "nonsense"])
def test_a_bus_that_is_not_there(bus: str) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from ksplicd.cli.main import main_undo; exit(main_undo())",
            "8c4o6ucj",
        ],
        capture_output=True,
        text=True,
        check=False,
        env={"DBUS_SYSTEM_BUS_ADDRESS": bus, "PYTHONPATH": ":".join(sys.path)},
    )
    assert done.returncode == 1
    assert done.stderr.startswith("ksplice: the system bus cannot be reached: ")
    assert len(done.stderr.splitlines()) == 1
