# SPDX-License-Identifier: GPL-2.0-only
"""Time to apply many updates again at boot, against their modules loaded by hand.

One update is made; the others are the same with another id in all its files, each on top of those
before.  The store is as a clean shutdown leaves it, with all of them applied in another boot.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Final

from ksplicd import bundle, minisign
from ksplicd.host.stages import Event
from ksplicd.host.store.crash_guard import Known, write_known
from ksplicd.host.store.history import write_event
from ksplicd.lab.guest import Guest
from ksplicd.model import Stage, new_kid
from tests.bench.figures import UPSTREAM, Figure

_UPDATES: Final = 50
_BOOT_ID: Final = "b" * 32
_STORE: Final = "/var/lib/ksplice"
_SECONDS: Final = 550.0


def measure_boot(guest: Guest, bundle_file: Path, key: Path) -> list[Figure]:
    """Return the figure; the service is stopped for it, and nothing may be applied."""
    secret = minisign.read_secret_key(key.read_text())
    made = bundle.unpack(bundle_file.read_bytes())
    kids: list[str] = []
    history = b""
    guest.run(f"systemctl stop ksplicd; rm -rf {_STORE}/*; mkdir -p /root/boot")
    for _ in range(_UPDATES):
        kid, depends = new_kid(), tuple(kids)
        data = another(made, kid, depends)
        folder = f"{_STORE}/updates/{kid}"
        guest.put(f"{folder}/{bundle.file_name(kid)}", data)
        signature = minisign.sign(data, secret, trusted_comment=bundle.file_name(kid)).encode()
        guest.put(f"{folder}/{bundle.file_name(kid)}.minisig", signature)
        for name, module in bundle.unpack(data).files.items():
            if name.endswith(".ko"):
                guest.put(f"/root/boot/{name}", module)
        event = Event(time=1.7e9, boot_id=_BOOT_ID, kid=kid, stage=Stage.APPLIED)
        history += write_event(event)
        kids.append(kid)
    guest.put(f"{_STORE}/history.jsonl", history)
    guest.put(f"{_STORE}/guard.json", write_known(Known(clean=frozenset({_BOOT_ID}))))
    argv = ["/usr/bin/python3", "-I", "-S", "/root/in_guest.py"]
    plain = json.loads(guest.run([*argv, "plain-many", UPSTREAM, *kids], timeout=_SECONDS).out)
    ours = json.loads(guest.run([*argv, "boot", *kids], timeout=_SECONDS).out)
    return [
        Figure(
            name=f"{_UPDATES} updates applied again at boot",
            value=round(ours["done"] - ours["begin"], 2), unit="s",
            floor=round(0.5 * (plain["done"] - plain["begin"]), 2),
            about="goal: half of insmod of the same and upstream's transitions",
        )
    ]  # fmt: skip


def another(made: bundle.Bundle, kid: str, depends: tuple[str, ...]) -> bytes:
    """Return the same bundle with another id; ids are of one length, so nothing moves."""
    old, new = made.manifest.kid.encode(), kid.encode()
    text = made.manifest
    manifest = replace(
        text,
        kid=kid,
        core_file=text.core_file.replace(text.kid, kid),
        targets=tuple(
            replace(
                target,
                new_file=target.new_file.replace(text.kid, kid),
                old_file=target.old_file.replace(text.kid, kid),
            )
            for target in text.targets
        ),
        depends=depends,
    )
    kept = {
        name.replace(text.kid, kid): data.replace(old, new)
        for name, data in made.files.items()
        if name.endswith(".ko") or name in {"patch", "timestamp", "utsname"}
    }
    return bundle.pack(manifest, kept)
