# SPDX-License-Identifier: GPL-2.0-only
"""The drop directory, from a file that appears to the stage of its update."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bundles import samples
from tests.bus.conftest import Host, wait_for
from tests.unit.host.simulator import NO_MATCH

BUNDLE = samples.bundle()
SIGNATURE = samples.signature(BUNDLE)
NAME = f"ksplice-{samples.KID}.tar.gz"


def write(host: Host, name: str, data: bytes) -> None:
    (host.store / name).write_bytes(data)


def write_slowly(host: Host, name: str, data: bytes) -> None:
    with (host.store / name).open("wb", buffering=0) as f:
        for i in range(0, len(data), 1 + len(data) // 5):
            f.write(data[i : i + 1 + len(data) // 5])


def move(host: Host, name: str, data: bytes) -> None:
    outside = host.folder / name
    outside.write_bytes(data)
    outside.rename(host.store / name)


def rename(host: Host, name: str, data: bytes) -> None:
    hidden = host.store / f".{name}.tmp"
    hidden.write_bytes(data)
    hidden.rename(host.store / name)


def copy(host: Host, name: str, data: bytes) -> None:
    outside = host.folder / name
    outside.write_bytes(data)
    shutil.copy(outside, host.store / name)


@pytest.mark.parametrize("put", [write, write_slowly, move, rename, copy])
@pytest.mark.parametrize("signature_first", [False, True])
def test_drop_is_staged(
    host: Host,
    put: Callable[[Host, str, bytes], None],
    signature_first: bool,  # noqa: FBT001
) -> None:
    parts = [(NAME, BUNDLE), (f"{NAME}.minisig", SIGNATURE)]
    for name, data in reversed(parts) if signature_first else parts:
        put(host, name, data)
    wait_for(lambda: host.outcomes() == ["STAGED"])
    wait_for(lambda: [u["Stage"] for u in host.client().look().updates] == ["staged"])
    assert left(host.store) == []


def left(folder: Path) -> list[str]:
    """Return the bundles and signatures in ``folder`` itself."""
    return sorted(p.name for p in folder.iterdir() if ".tar.gz" in p.name)


def test_drop_while_the_daemon_is_away(bare_host: Host) -> None:
    bare_host.store.mkdir()
    write(bare_host, NAME, BUNDLE)
    write(bare_host, f"{NAME}.minisig", SIGNATURE)
    bare_host.start()
    wait_for(lambda: bare_host.outcomes() == ["STAGED"])


def test_drop_is_applied_where_that_is_the_policy(bare_host: Host) -> None:
    bare_host.configure(on_drop="apply")
    bare_host.start()
    write(bare_host, NAME, BUNDLE)
    write(bare_host, f"{NAME}.minisig", SIGNATURE)
    wait_for(lambda: bare_host.outcomes()[-1:] == ["APPLIED"])
    assert {e["Via"] for e in bare_host.client().history()} == {"drop"}


def test_broken_signature_never_reaches_the_kernel(bare_host: Host) -> None:
    bare_host.configure(on_drop="apply")
    bare_host.start()
    write(bare_host, NAME, BUNDLE)
    write(bare_host, f"{NAME}.minisig", samples.signature(BUNDLE, samples.STRANGER))
    wait_for(lambda: bare_host.outcomes() == ["REJECTED"])
    wait_for(lambda: left(bare_host.store) == [])
    assert "BadSignature" in (bare_host.store / "rejected" / f"{NAME}.reason").read_text()
    with bare_host.kernel.open() as kernel:
        assert kernel.calls == []
    assert bare_host.client().look().updates == ()


def test_mismatch_of_a_drop(bare_host: Host) -> None:
    bare_host.configure(on_drop="apply")
    bare_host.start()
    with bare_host.kernel.open() as kernel:
        kernel.mismatches["vmlinux"] = ("no_match", NO_MATCH)
    write(bare_host, NAME, BUNDLE)
    write(bare_host, f"{NAME}.minisig", SIGNATURE)
    wait_for(lambda: bare_host.outcomes()[-1:] == ["NO_MATCH"])
    with bare_host.kernel.open() as kernel:
        assert kernel.leftovers() == []


def test_unsigned_drop_where_that_is_the_policy(bare_host: Host) -> None:
    bare_host.configure(require_signature="no")
    bare_host.start()
    write(bare_host, NAME, BUNDLE)
    wait_for(lambda: bare_host.outcomes() == ["STAGED"])


def test_old_bundle_does_not_bring_back_what_was_undone(bare_host: Host) -> None:
    bare_host.configure(on_drop="apply")
    bare_host.start_polkit()
    bare_host.start()
    write(bare_host, NAME + ".minisig", SIGNATURE)
    write(bare_host, NAME, BUNDLE)
    wait_for(lambda: "APPLIED" in bare_host.outcomes())
    bare_host.client().undo(samples.KID)
    bare_host.client().remove(samples.KID)
    write(bare_host, NAME + ".minisig", SIGNATURE)
    write(bare_host, NAME, BUNDLE)
    wait_for(lambda: "is staged only" in bare_host.log())
    assert bare_host.stage_of() == "staged"
    assert bare_host.outcomes().count("LOADING") == 1
    bare_host.client().apply(samples.KID)
    assert bare_host.stage_of() == "applied"
