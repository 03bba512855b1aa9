# SPDX-License-Identifier: GPL-2.0-only
"""Ed25519 (RFC 8032) by libcrypto: the one door to it.

Python's hashlib has loaded the same libcrypto already, so it takes neither memory nor a dependency;
python3-cryptography would take 8 MB more (docs/decisions/0032).
"""

import contextlib
import ctypes
import functools
from collections.abc import Iterator
from ctypes import (
    POINTER,
    byref,
    c_char_p,
    c_int,
    c_size_t,
    c_ulong,
    c_void_p,
    create_string_buffer,
)
from typing import Final

from ksplicd.errors import KeyFileError

KEY_SIZE: Final = 32
SIGNATURE_SIZE: Final = 64

_EVP_PKEY_ED25519: Final = 1087  # NID_ED25519, <openssl/obj_mac.h>

_PROTOTYPES: Final = {
    # <openssl/evp.h>, OpenSSL 1.1.1 and later
    "EVP_PKEY_new_raw_public_key": (c_void_p, [c_int, c_void_p, c_char_p, c_size_t]),
    "EVP_PKEY_new_raw_private_key": (c_void_p, [c_int, c_void_p, c_char_p, c_size_t]),
    "EVP_PKEY_get_raw_public_key": (c_int, [c_void_p, c_char_p, POINTER(c_size_t)]),
    "EVP_PKEY_free": (None, [c_void_p]),
    "EVP_MD_CTX_new": (c_void_p, []),
    "EVP_MD_CTX_free": (None, [c_void_p]),
    "EVP_DigestSignInit": (c_int, [c_void_p] * 5),
    "EVP_DigestSign": (c_int, [c_void_p, c_char_p, POINTER(c_size_t), c_char_p, c_size_t]),
    "EVP_DigestVerifyInit": (c_int, [c_void_p] * 5),
    "EVP_DigestVerify": (c_int, [c_void_p, c_char_p, c_size_t, c_char_p, c_size_t]),
    "ERR_clear_error": (None, []),
    "ERR_peek_last_error": (c_ulong, []),
    "ERR_error_string_n": (None, [c_ulong, c_char_p, c_size_t]),
}
_REASON: Final = 0x7FFFFF  # ERR_REASON_MASK, <openssl/err.h>
_NO_MEMORY: Final = frozenset({0, 0xC0100, 65})  # none; ERR_R_MALLOC_FAILURE of 3.0 and of 1.1.1


def public_key(seed: bytes) -> bytes:
    """Return the public key of the secret ``seed``; both are 32 bytes."""
    public, size = create_string_buffer(KEY_SIZE), c_size_t(KEY_SIZE)
    with _key("EVP_PKEY_new_raw_private_key", seed) as key:
        _check(_libcrypto().EVP_PKEY_get_raw_public_key(key, public, byref(size)))
    assert size.value == KEY_SIZE
    return public.raw


def sign(seed: bytes, message: bytes) -> bytes:
    """Return the 64 bytes of the signature of ``message``."""
    crypto = _libcrypto()
    signature, size = create_string_buffer(SIGNATURE_SIZE), c_size_t(SIGNATURE_SIZE)
    with _key("EVP_PKEY_new_raw_private_key", seed) as key, _context() as context:
        _check(crypto.EVP_DigestSignInit(context, None, None, None, key))
        _check(crypto.EVP_DigestSign(context, signature, byref(size), message, len(message)))
    assert size.value == SIGNATURE_SIZE
    return signature.raw


def is_signature(public: bytes, signature: bytes, message: bytes) -> bool:
    """Return whether the key ``public`` made ``signature`` for ``message``."""
    crypto = _libcrypto()
    assert len(signature) == SIGNATURE_SIZE
    with _key("EVP_PKEY_new_raw_public_key", public) as key, _context() as context:
        _check(crypto.EVP_DigestVerifyInit(context, None, None, None, key))
        answer = crypto.EVP_DigestVerify(context, signature, SIGNATURE_SIZE, message, len(message))
    crypto.ERR_clear_error()  # a refusal's error must not reach hashlib
    return bool(answer == 1)  # 0 is a refusal, below 0 an error


@functools.cache
def _libcrypto() -> ctypes.CDLL:
    """Return the library behind hashlib, with its functions declared.

    dlsym(3) on a library also searches the libraries that it needs.
    """
    import _hashlib

    crypto = ctypes.CDLL(_hashlib.__file__)
    for name, (result, arguments) in _PROTOTYPES.items():
        function = getattr(crypto, name)
        function.restype, function.argtypes = result, arguments
    return crypto


@contextlib.contextmanager
def _key(constructor: str, data: bytes) -> Iterator[c_void_p]:
    assert len(data) == KEY_SIZE
    crypto = _libcrypto()
    key = getattr(crypto, constructor)(_EVP_PKEY_ED25519, None, data, KEY_SIZE)
    _check(key is not None)
    try:
        yield c_void_p(key)
    finally:
        crypto.EVP_PKEY_free(key)


@contextlib.contextmanager
def _context() -> Iterator[c_void_p]:
    crypto = _libcrypto()
    context = crypto.EVP_MD_CTX_new()
    _check(context is not None)
    try:
        yield c_void_p(context)
    finally:
        crypto.EVP_MD_CTX_free(context)


def _check(answer: int) -> None:
    """Raise ``MemoryError``, or ``KeyFileError`` where libcrypto is kept from doing Ed25519.

    Any 32 bytes are a key, so nothing else can fail.
    """
    if answer == 1:
        return
    crypto = _libcrypto()
    error = crypto.ERR_peek_last_error()
    text = create_string_buffer(256)
    crypto.ERR_error_string_n(error, text, len(text))
    crypto.ERR_clear_error()  # as below
    if error & _REASON in _NO_MEMORY:
        raise MemoryError("libcrypto")
    raise KeyFileError(
        f"libcrypto has no Ed25519 here ({text.value.decode(errors='replace')}): FIPS mode, or its"
        " openssl.cnf, leaves it out; signatures can neither be made nor checked before its"
        " provider offers it"
    )
