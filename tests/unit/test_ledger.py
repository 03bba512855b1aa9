# SPDX-License-Identifier: GPL-2.0-only
"""``extensions`` of a manifest, and the ledger in it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ksplicd import bundle, minisign
from ksplicd.errors import BadBundleError
from ksplicd.ledger import MAX_HUNKS, MAX_NOTE, bounded
from ksplicd.manifest import read_manifest, write_manifest
from ksplicd.model import Account, Hunk, Ledger, Manifest, PatchedFunction, PatchedPointer
from tests.support.bundles import samples

KEPT = Path(__file__).parent / "data" / "schema-1.tar.gz"


def with_ledger(ledger: Ledger | None) -> Manifest:
    return replace(samples.manifest(), ledger=ledger)


def edited(edit: Callable[[dict[str, Any]], object]) -> bytes:
    """Return a manifest with a ledger after an edit of its extensions."""
    value = json.loads(write_manifest(with_ledger(samples.INCOMPLETE)))
    edit(value["extensions"])
    return json.dumps(value).encode()


# --- the manifest -------------------------------------------------------------------------------


def test_kept_bundle_of_the_schema_before() -> None:
    """Made by the last version that wrote schema 1, signed by ``samples.KEY``."""
    data, signature = KEPT.read_bytes(), Path(f"{KEPT}.minisig").read_text()
    minisign.verify(data, signature, [samples.KEY.public])
    kept = bundle.unpack(data)
    assert kept.manifest.targets == samples.manifest(targets=("vmlinux", "nf-tables")).targets
    assert kept.manifest.depends == ("other002",)
    assert kept.manifest.ledger is None
    assert not kept.manifest.is_complete


def test_schema_1_has_no_extensions() -> None:
    value = json.loads(write_manifest(samples.manifest()))
    value["schema"] = 1
    with pytest.raises(BadBundleError, match=r"^manifest\.json: extensions: unknown field"):
        read_manifest(json.dumps(value).encode())


def test_unknown_extensions_are_skipped() -> None:
    more = {"fixes": [{"any": ["form", None]}], "x-9": 1.5}
    read = read_manifest(edited(lambda e: e.update(more)))
    assert read == with_ledger(samples.INCOMPLETE)
    read = read_manifest(edited(lambda e: (e.pop("ledger"), e.update(more))))
    assert read == with_ledger(None)


def test_names_of_extensions_are_plain() -> None:
    with pytest.raises(BadBundleError, match=r"extensions\.'\\x1b\[2J': is not the name"):
        read_manifest(edited(lambda e: e.update({"\x1b[2J": 1})))


# --- the ledger ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ledger", [None, Ledger(), samples.LEDGER, samples.INCOMPLETE])
def test_round_trip(ledger: Ledger | None) -> None:
    manifest = with_ledger(ledger)
    assert read_manifest(write_manifest(manifest)) == manifest
    data = bundle.pack(manifest, samples.files(manifest))
    assert bundle.unpack(data).manifest.ledger == ledger


def test_complete() -> None:
    assert with_ledger(samples.LEDGER).is_complete
    assert not with_ledger(samples.INCOMPLETE).is_complete
    assert not with_ledger(None).is_complete


def test_redirects_are_numbered() -> None:
    manifest = samples.manifest(targets=("vmlinux", "nf-tables"))
    target = replace(
        manifest.targets[1],
        functions=(PatchedFunction(name="nft_exit", sympos=0, unit="a.c", how="exit"),),
        pointers=(
            PatchedPointer(table="ops", offset=16, unit="a.c"),
            PatchedPointer(table="ops", offset=24, unit="a.c", how="value"),
        ),
    )
    assert replace(manifest, targets=(manifest.targets[0], target)).redirects == [
        "vmlinux:do_fcntl by livepatch",
        "nf-tables:nft_exit by exit",
        "nf-tables:ops+0x10 by pointer",
        "nf-tables:ops+0x18 by value",
    ]


def test_values_are_an_extension() -> None:
    """An older host takes them for pointers, with which it does all that is needed."""
    manifest = samples.manifest(targets=("vmlinux", "nf-tables"))
    pointers = [PatchedPointer(table="ops", offset=n, unit="a.c", how=how)
                for n, how in ((8, "pointer"), (16, "value"), (24, "value"))]  # fmt: skip
    targets = (
        replace(manifest.targets[0], pointers=tuple(pointers[:2])),
        replace(manifest.targets[1], pointers=tuple(pointers[2:])),
    )
    manifest = replace(manifest, targets=targets)
    data = write_manifest(manifest)
    assert json.loads(data)["extensions"]["values"] == [1, 2]
    assert read_manifest(data) == manifest
    for wrong in (b"[1,3]", b"[-1]", b"[1,1]", b'"x"'):
        with pytest.raises(BadBundleError, match=r"extensions\.values"):
            read_manifest(data.replace(b"[1,2]", wrong))


def test_thousands_of_hunks_stay_small() -> None:
    """A whole version step; each note stands once, and few of very many functions are named."""
    hunks = tuple(
        Hunk(
            file=f"drivers/net/ethernet/vendor/driver/file{i // 8}.c", before=(i, 3), after=(i, 7),
            account=Account.IN_EFFECT, by=tuple(range(500)), note="of the driver and its users",
        )
        for i in range(MAX_HUNKS)
    )  # fmt: skip
    manifest = samples.manifest()
    functions = tuple(PatchedFunction(name=f"f{i}", sympos=0, unit="a.c") for i in range(500))
    manifest = replace(
        manifest,
        targets=(replace(manifest.targets[0], functions=functions),),
        ledger=bounded(Ledger(hunks=hunks)),
    )
    data = write_manifest(manifest)
    assert len(data) < 4 << 20
    ledger = read_manifest(data).ledger
    assert ledger is not None
    assert ledger == manifest.ledger
    assert (len(ledger.hunks[0].by), ledger.hunks[0].more) == (4, 496)


def test_few_hunks_name_more() -> None:
    hunk = replace(samples.LEDGER.hunks[1], by=tuple(range(70)))
    (short,) = bounded(Ledger(hunks=(hunk,))).hunks
    assert (len(short.by), short.more) == (64, 6)
    assert bounded(samples.LEDGER) == samples.LEDGER


def test_notes_are_plain_whatever_they_quote() -> None:
    """As ``create`` quotes an ``asm`` whose string has a tab in it, or a form feed."""
    hunk = replace(samples.LEDGER.hunks[1], note='“asm ("\tmov\x0c\u2028\udcff\x7f”')
    manifest = with_ledger(bounded(Ledger(hunks=(hunk,))))
    ledger = read_manifest(write_manifest(manifest)).ledger
    assert ledger is not None
    assert ledger.hunks[0].note == '“asm (" mov    ”'


def test_long_notes_are_cut() -> None:
    hunk = replace(samples.LEDGER.hunks[1], note="é" * (MAX_NOTE + 1))
    manifest = with_ledger(bounded(Ledger(hunks=(hunk,))))
    ledger = read_manifest(write_manifest(manifest)).ledger
    assert ledger is not None
    assert ledger.hunks[0].note == "é" * (MAX_NOTE - 1) + "…"
    exact = replace(hunk, note="é" * MAX_NOTE)
    assert bounded(Ledger(hunks=(exact,))).hunks == (exact,)


def test_notes_of_what_is_missing_have_room() -> None:
    """However many hunks have a note of their own, a manifest holds them."""
    hunk = samples.LEDGER.hunks[1]
    hunks = [replace(hunk, note=f"“{i}” {'x' * 300}", by=(0,)) for i in range(MAX_HUNKS)]
    missing = replace(
        samples.INCOMPLETE.hunks[-1], note="it is half in effect", account=Account.REFUSED
    )
    manifest = with_ledger(bounded(Ledger(hunks=(*hunks[1:], missing))))
    data = write_manifest(manifest)
    assert len(data) < 4 << 20
    ledger = read_manifest(data).ledger
    assert ledger is not None
    assert ledger.hunks[-1].note == missing.note
    assert ledger.hunks[0].note == hunks[1].note
    assert ledger.hunks[-2].note == "the manifest has no room for the note"


def of_math64(ledger: dict[str, Any]) -> dict[str, Any]:
    (hunk,) = ledger["files"]["include/vdso/math64.h"]
    assert isinstance(hunk, dict)
    return hunk


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda v: v.update(complete=True), "complete: contradicts the hunks"),
        (lambda v: v.update(more=1), "more: unknown field"),
        (lambda v: v.update(notes=["a\nb"]), r"notes\[0\]: .* is not plain text"),
        (lambda v: v.update(files=[]), r"files: \[\] is not an object"),
        (lambda v: v["files"].update({"\n": []}), r"files\.'\\n': is not the name of a file"),
        (lambda v: of_math64(v).update(account="fine"), r"account: 'fine' is not an account"),
        (lambda v: of_math64(v).update(before=[1]), "before: is not a line and a number"),
        (lambda v: of_math64(v).update(before=[1, -1]), r"before\[1\]: -1 is not a whole"),
        (lambda v: of_math64(v).update(by=[1]), r"by\[0\]: 1 is not a whole number from 0 to 0"),
        (lambda v: of_math64(v).update(by=[0] * 65), "by: over 64 redirects"),
        (lambda v: of_math64(v).update(note=3), "note: 3 is not a whole number from 0 to 2"),
        (lambda v: of_math64(v).update(more=0), "more: 0 is not a whole number from 1"),
        (
            lambda v: (
                of_math64(v).update(account="refused"),
                of_math64(v).pop("accepted"),
                v.update(complete=True),
            ),
            "account: refused, and its author has not accepted that",
        ),
        (lambda v: v.update(notes=["x" * 1001]), r"notes\[0\]: .* is not plain text of at most"),
        (lambda v: of_math64(v).update(accepted=1), "accepted: 1 is not true or false"),
        (lambda v: of_math64(v).update(why=1), "why: unknown field"),
        (lambda v: v["files"].update(a=v["files"]["fs/fcntl.c"] * 20_000), "a: over 30000 hunks"),
    ],
)
def test_bad_ledger(edit: Callable[[dict[str, Any]], object], message: str) -> None:
    data = edited(lambda e: edit(e["ledger"]))
    with pytest.raises(BadBundleError, match=rf"^manifest\.json: extensions\.ledger\.\S*{message}"):
        read_manifest(data)
