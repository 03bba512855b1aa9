# SPDX-License-Identifier: GPL-2.0-only
"""minisign's files: public keys, secret keys, detached signatures.

The formats are those of https://jedisct1.github.io/minisign/ (minisign 0.11, src/minisign.h) and
the ``minisign`` program reads what is written here, and the other way round.  Nothing here reads or
writes a file.
"""

import base64
import binascii
import hashlib
import hmac
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from ksplicd import ed25519
from ksplicd.errors import BadSignatureError, KeyFileError, PasswordNeededError

_ED25519: Final = b"Ed"  # a key; in a signature: a legacy one, which covers the data
_PREHASHED: Final = b"ED"  # a signature that covers the data's BLAKE2b-512
_KDF_NONE: Final = b"\0\0"
_KDF_SCRYPT: Final = b"Sc"
_CHECKSUM_BLAKE2B: Final = b"B2"

_UNTRUSTED: Final = "untrusted comment: "
_TRUSTED: Final = "trusted comment: "
_MAX_COMMENT: Final = 8192  # TRUSTEDCOMMENTMAXBYTES

_KEY_ID_SIZE: Final = 8
_PUBLIC_SIZE: Final = 2 + _KEY_ID_SIZE + 32
_SIGNATURE_SIZE: Final = 2 + _KEY_ID_SIZE + 64
_SECRET: Final = struct.Struct("<2s2s2s32sQQ104s")

# crypto_pwhash_scryptsalsa208sha256_{OPS,MEM}LIMIT_SENSITIVE of libsodium: what minisign uses
_OPS_LIMIT: Final = 33554432
_MEM_LIMIT: Final = 1073741824


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """A key that may verify signatures."""

    key_id: bytes
    key: bytes = field(repr=False)
    comment: str = ""

    @property
    def name(self) -> str:
        """The key id as minisign prints it: a little-endian number in upper-case hex."""
        return _name(self.key_id)

    @property
    def fingerprint(self) -> str:
        """``SHA256:`` and the SHA-256 of the 32 bytes of the key, in upper-case hex.

        The key id is whatever the key's owner has chosen; this is not.
        """
        return f"SHA256:{hashlib.sha256(self.key).hexdigest().upper()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretKey:
    """A key that makes signatures."""

    key_id: bytes
    seed: bytes = field(repr=False)

    @property
    def public(self) -> PublicKey:
        """The public half."""
        return PublicKey(key_id=self.key_id, key=ed25519.public_key(self.seed))


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """The signer and the comment of a signature that holds."""

    key: PublicKey
    trusted_comment: str


# --- public keys --------------------------------------------------------------------------------


def read_public_key(text: str, name: str = "public key") -> PublicKey:
    """Return the key in a ``.pub`` file's ``text``, or raise ``KeyFileError`` naming ``name``."""
    comment, data = _read_key_file(text, name, _PUBLIC_SIZE)
    if data[:2] != _ED25519:
        raise KeyFileError(f"{name}: algorithm {data[:2]!r} is not minisign's Ed25519")
    return PublicKey(key_id=data[2:10], key=data[10:], comment=comment)


def write_public_key(key: PublicKey) -> str:
    """Return the text of a ``.pub`` file."""
    comment = key.comment or f"minisign public key {key.name}"
    return f"{_UNTRUSTED}{comment}\n{_encode(_ED25519 + key.key_id + key.key)}\n"


# --- secret keys --------------------------------------------------------------------------------


def new_secret_key() -> SecretKey:
    """Return a fresh key."""
    return SecretKey(key_id=os.urandom(_KEY_ID_SIZE), seed=os.urandom(32))


def read_secret_key(text: str, password: str = "", name: str = "secret key") -> SecretKey:
    """Return the key in a secret key file's ``text``; ``password`` is for an encrypted one.

    Raises ``KeyFileError`` naming ``name``.  An encrypted key takes minisign's own 1 GiB of memory
    and some seconds.
    """
    _, data = _read_key_file(text, name, _SECRET.size)
    algorithm, kdf, checksum, salt, ops, mem, body = _SECRET.unpack(data)
    if (
        algorithm != _ED25519
        or checksum != _CHECKSUM_BLAKE2B
        or kdf not in {_KDF_NONE, _KDF_SCRYPT}
    ):
        raise KeyFileError(f"{name}: not a secret key file that minisign 0.11 writes")
    if kdf == _KDF_SCRYPT:
        if not password:
            raise PasswordNeededError(f"{name}: is encrypted and needs its password")
        body = _xor(body, _derive(password, salt, ops, mem, name))
    key_id, seed, public, found = body[:8], body[8:40], body[40:72], body[72:]
    unchecked = kdf == _KDF_NONE and not any(found)  # `minisign -G -W` leaves it empty
    if not unchecked and not hmac.compare_digest(found, _checksum(key_id, seed + public)):
        why = "wrong password" if kdf == _KDF_SCRYPT else "its checksum is wrong"
        raise KeyFileError(f"{name}: {why}, or a damaged file")
    if ed25519.public_key(seed) != public:
        raise KeyFileError(f"{name}: its two halves do not belong together")
    return SecretKey(key_id=key_id, seed=seed)


def write_secret_key(
    key: SecretKey, password: str = "", *, ops: int = _OPS_LIMIT, mem: int = _MEM_LIMIT
) -> str:
    """Return the text of a secret key file, encrypted when there is a password.

    ``ops`` and ``mem`` (bytes) are libsodium's scrypt limits.
    """
    pair = key.seed + key.public.key
    body = key.key_id + pair + _checksum(key.key_id, pair)
    kdf, salt, comment = _KDF_NONE, bytes(32), "minisign secret key"
    if password:
        kdf, salt, comment = _KDF_SCRYPT, os.urandom(32), "minisign encrypted secret key"
        body = _xor(body, _derive(password, salt, ops, mem, "secret key"))
    else:
        ops = mem = 0
    data = _SECRET.pack(_ED25519, kdf, _CHECKSUM_BLAKE2B, salt, ops, mem, body)
    return f"{_UNTRUSTED}{comment}\n{_encode(data)}\n"


# --- signatures ---------------------------------------------------------------------------------


def sign(data: bytes, key: SecretKey, *, trusted_comment: str = "") -> str:
    """Return the text of the ``.minisig`` file for ``data``."""
    assert "\n" not in trusted_comment
    signature = ed25519.sign(key.seed, _hash(data))
    whole = ed25519.sign(key.seed, signature + trusted_comment.encode())
    return (
        f"{_UNTRUSTED}signature from ksplice\n{_encode(_PREHASHED + key.key_id + signature)}\n"
        f"{_TRUSTED}{trusted_comment}\n{_encode(whole)}\n"
    )


def verify(data: bytes, text: str, keys: Iterable[PublicKey]) -> Verified:
    """Check the ``.minisig`` file ``text`` against ``data`` and the trusted ``keys``.

    Raises ``BadSignatureError``: no trusted key has its id, the data, the signature or the trusted
    comment was altered, or the signature is a legacy one.  The algorithm itself is not signed, so a
    signature of a file's hash could be passed off as a legacy one of a file that is this hash.
    """
    algorithm, key_id, signature, comment, whole = _read_signature(text)
    if algorithm != _PREHASHED:
        raise BadSignatureError(
            "signature: a legacy one (minisign -l, or older than 0.10), which could be another "
            "file's; sign anew with `ksplice sign` or a newer minisign"
        )
    candidates = [key for key in keys if key.key_id == key_id]
    if not candidates:
        raise BadSignatureError(
            f"signature: made by key {_name(key_id)}, which is not trusted here; "
            "put its .pub file into /etc/ksplicd/keys.d"
        )
    message = _hash(data)
    for key in candidates:
        if ed25519.is_signature(key.key, signature, message):
            if not ed25519.is_signature(key.key, whole, signature + comment.encode()):
                raise BadSignatureError(
                    f"signature: the trusted comment that key {key.name} signed was altered"
                )
            return Verified(key=key, trusted_comment=comment)
    raise BadSignatureError(
        f"signature: key {_name(key_id)} did not sign these bytes: the file was altered, "
        "or the signature is of another file"
    )


def read_key_id(text: str) -> bytes:
    """Return the id of the key that a ``.minisig`` file names.  Raises ``BadSignatureError``."""
    return _read_signature(text)[1]


def _read_signature(text: str) -> tuple[bytes, bytes, bytes, str, bytes]:
    """Return (algorithm, key id, signature, trusted comment, global signature)."""
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    if len(lines) != 4:
        raise BadSignatureError(f"signature: {len(lines)} lines; a .minisig file has four")
    if not lines[0].startswith(_UNTRUSTED):
        raise BadSignatureError(f"signature: line 1 does not begin with {_UNTRUSTED!r}")
    if not lines[2].startswith(_TRUSTED):
        raise BadSignatureError(f"signature: line 3 does not begin with {_TRUSTED!r}")
    comment = lines[2].removeprefix(_TRUSTED)
    if len(comment) > _MAX_COMMENT:
        raise BadSignatureError(f"signature: line 3: a comment of over {_MAX_COMMENT} characters")
    try:
        head, whole = _decode(lines[1], _SIGNATURE_SIZE), _decode(lines[3], 64)
        comment.encode()
    except ValueError as e:
        raise BadSignatureError(f"signature: not a .minisig file: {e}") from None
    algorithm = head[:2]
    if algorithm not in {_ED25519, _PREHASHED}:
        raise BadSignatureError(f"signature: unknown algorithm {algorithm!r}")
    return algorithm, head[2:10], head[10:], comment, whole


# --- detail -------------------------------------------------------------------------------------


def _name(key_id: bytes) -> str:
    return f"{int.from_bytes(key_id, 'little'):X}"


def _hash(data: bytes) -> bytes:
    return hashlib.blake2b(data).digest()


def _encode(data: bytes) -> str:
    return base64.standard_b64encode(data).decode()


def _decode(text: str, size: int) -> bytes:
    """Return ``size`` bytes of base64, or raise ``ValueError``."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise ValueError("not base64") from None
    if len(data) != size:
        raise ValueError(f"{len(data)} bytes of base64 instead of {size}")
    return data


def _read_key_file(text: str, name: str, size: int) -> tuple[str, bytes]:
    """Return the comment and the ``size`` bytes of a key file."""
    lines = text.splitlines()
    if len(lines) != 2 or not lines[0].startswith(_UNTRUSTED):
        raise KeyFileError(f"{name}: not a minisign key file: it has two lines, comment and key")
    try:
        return lines[0].removeprefix(_UNTRUSTED), _decode(lines[1], size)
    except ValueError as e:
        why = str(e)
        if size == _SECRET.size and len(lines[1]) == _base64_size(_PUBLIC_SIZE):
            why = "a public key (.pub), where the secret one (.key) is needed"
        elif size == _PUBLIC_SIZE and len(lines[1]) == _base64_size(_SECRET.size):
            why = "a secret key (.key), where the public one (.pub) is needed"
        raise KeyFileError(f"{name}:2: {why}") from None


def _base64_size(size: int) -> int:
    return (size + 2) // 3 * 4


def _checksum(key_id: bytes, pair: bytes) -> bytes:
    return hashlib.blake2b(_ED25519 + key_id + pair, digest_size=32).digest()


def _xor(a: bytes, b: bytes) -> bytes:
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


def _derive(password: str, salt: bytes, ops: int, mem: int, name: str) -> bytes:
    """Return the 104 bytes that hide a secret key.

    N, r and p are chosen as libsodium's crypto_pwhash_scryptsalsa208sha256 does (pickparams()).
    """
    r, ops = 8, max(ops, 32768)
    max_n = ops // (r * 4) if ops < mem // 32 else mem // (r * 128)
    if mem > _MEM_LIMIT or max_n < 2:
        raise KeyFileError(f"{name}: scrypt limits out of range (ops {ops}, memory {mem})")
    n = 1 << max(1, max_n.bit_length() - 1)
    p = 1 if ops < mem // 32 else max(1, min(ops // 4 // n, 0x3FFFFFFF) // r)
    if n * r * p > 1 << 26:  # SENSITIVE is 2^23; do not compute for hours on a forged file
        raise KeyFileError(f"{name}: scrypt limits out of range (ops {ops}, memory {mem})")
    room = 128 * r * (n + p + 2) + (1 << 20)
    try:
        return hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=room, dklen=104)
    except ValueError as e:
        raise KeyFileError(
            f"{name}: its password cannot be used: libcrypto has no scrypt here ({e}): FIPS mode,"
            " or its openssl.cnf, leaves it out"
        ) from None
