# SPDX-License-Identifier: GPL-2.0-only
"""What is held for another update, and what only for other words."""

import io
import json
import tarfile

from tests.same.compare import differences, has_other_words
from tests.same.states import Result

REFUSED = "fs/x.c: cannot be changed in a running kernel:\n  f (.text.f): {0}; ask\n"


def bundle(core: bytes = b"core", **manifest: object) -> bytes:
    """The files of a bundle that are looked at."""
    out = io.BytesIO()
    text = json.dumps({"kid": "abcd1234", "files": {"a.ko": str(len(core))}, **manifest})
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, data in (("a.ko", core), ("manifest.json", text.encode())):
            info = tarfile.TarInfo(f"ksplice-abcd1234/{name}")
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
