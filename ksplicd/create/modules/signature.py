# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's own signature behind a module, for hosts that ask for one (Secure Boot).

Made by the kernel's scripts/sign-file, which the headers package has (linux-kbuild).  The same
module and RSA key give the same bytes.
"""

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ksplicd.create.stock.config_dir import ConfigDir
from ksplicd.errors import CreateError, ToolError


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleKey:
    """Key and certificate, both in PEM; one file may hold both."""

    key: Path
    certificate: Path

    def check(self) -> None:
        """Raise ``CreateError`` when a file is missing or has no such part."""
        for path, what in ((self.key, "PRIVATE KEY"), (self.certificate, "CERTIFICATE")):
            try:
                text = path.read_bytes()
            except OSError as e:
                raise CreateError(f"--module-sign-key: {path}: {e.strerror}") from e
            if what.encode() not in text and not (what == "CERTIFICATE" and text[:1] == b"0"):
                raise CreateError(f"--module-sign-key: {path}: no {what} in it (PEM)")


def sign_modules(
    files: Mapping[str, bytes], key: ModuleKey | None, config: ConfigDir
) -> dict[str, bytes]:
    """Return the modules with their signatures, or as they are when there is no key."""
    if key is None:
        return dict(files)
    return {name: sign_module(ko, key, config) for name, ko in files.items()}


def sign_module(ko: bytes, key: ModuleKey, config: ConfigDir) -> bytes:
    """Return a module with its signature.  Raises ``CreateError``."""
    m = re.search(r'^CONFIG_MODULE_SIG_HASH="(\w+)"$', config.text, re.MULTILINE)
    program = sign_file(config)
    with tempfile.TemporaryDirectory(prefix="ksplice-sign-") as folder:
        path = Path(folder) / "module.ko"
        path.write_bytes(ko)
        try:
            config.toolchain.run([program, m[1] if m else "sha256", key.key, key.certificate, path])
        except ToolError as e:
            raise CreateError(f"--module-sign-key {key.key}: {e}") from e
        return path.read_bytes()


def sign_file(config: ConfigDir) -> Path:
    """Return the program.  Raises ``CreateError`` when it is not installed."""
    places = [config.build / "scripts/sign-file"]
    places += sorted(Path("/usr/lib").glob("linux-kbuild-*/scripts/sign-file"))
    for place in places:
        if place.exists():
            return place
    raise CreateError(
        "--module-sign-key: the kernel's sign-file is not there; install linux-kbuild of the"
        " kernel's version"
    )
