# SPDX-License-Identifier: GPL-2.0-only
"""UEFI firmware for a guest whose kernel is to trust a key of ours.

Linux takes the certificates in the firmware's variable ``db`` for keys (load_uefi.c in
security/integrity/platform_certs), and Debian's kernels accept modules that one of them signed.
The firmware is EDK II's, from Debian's package ovmf; its empty variable store gets one variable.
Secure Boot stays off: nothing checks the kernel that QEMU loads.
"""

import shutil
import struct
import uuid
from pathlib import Path
from typing import Final

from ksplicd.cache import Cache, digest_of, digest_of_file
from ksplicd.errors import LabError
from ksplicd.lab.qemu import Firmware

CODE: Final = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
_VARIABLES: Final = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")

# EDK II: MdeModulePkg/Include/Guid/VariableFormat.h; the first variable is behind the headers of
# the firmware volume (0x48 bytes) and of the store (28)
_FIRST: Final = 0x64
_ERASED: Final = b"\xff"
_START, _ADDED = 0x55AA, 0x3F
_HEADER: Final = struct.Struct("<HBBIQ16sIII16s")  # AUTHENTICATED_VARIABLE_HEADER
_ATTRIBUTES: Final = 0x27  # non-volatile, at boot and run time, authenticated by time

# UEFI specification 2.10, section 32.4.1, "Signature Database"
_IMAGE_SECURITY: Final = uuid.UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
_X509: Final = uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
_OWNER: Final = uuid.UUID("6b73706c-6963-6564-6c61-620000000001")


def firmware_with_key(cache: Cache, certificate: bytes) -> Firmware:
    """Return firmware whose ``db`` has the X.509 ``certificate`` (DER).

    Raises ``LabError`` when ovmf is not installed.
    """
    if not CODE.exists() or not _VARIABLES.exists():
        raise LabError(f"{CODE}: is not there; install the package ovmf")

    def make(folder: Path) -> None:
        shutil.copyfile(CODE, folder / "code.fd")
        store = add_db(_VARIABLES.read_bytes(), certificate)
        (folder / "variables.fd").write_bytes(store)

    digest = digest_of(digest_of_file(CODE), digest_of_file(_VARIABLES), certificate.hex())
    folder = cache.entry("firmware", digest, make)
    return Firmware(code=folder / "code.fd", variables=folder / "variables.fd")


def add_db(store: bytes, certificate: bytes) -> bytes:
    """Return the empty variable ``store`` with a ``db`` of one certificate.

    Raises ``LabError`` when it is not empty, or of a kind that we do not know.
    """
    entry = _OWNER.bytes_le + certificate
    head = struct.pack("<16sIII", _X509.bytes_le, 28 + len(entry), 0, len(entry))
    name, data = "db\0".encode("utf-16-le"), head + entry
    header = _HEADER.pack(
        _START,
        _ADDED,
        0,
        _ATTRIBUTES,
        0,
        bytes(16),
        0,
        len(name),
        len(data),
        _IMAGE_SECURITY.bytes_le,
    )
    variable = header + name + data
    variable += _ERASED * (-len(variable) % 4)
    end = _FIRST + len(variable)
    if store[40:44] != b"_FVH" or store[_FIRST:end] != _ERASED * len(variable):
        raise LabError(f"{_VARIABLES}: is no empty variable store of EDK II")
    return store[:_FIRST] + variable + store[end:]
