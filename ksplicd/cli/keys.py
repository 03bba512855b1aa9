# SPDX-License-Identifier: GPL-2.0-only
"""``ksplice keygen``, ``sign`` and ``verify``: minisign's files, for machines without minisign.

JSON: keygen ``{"key_id", "fingerprint", "secret", "public"}``, sign ``{"key_id", "signature"}``,
verify ``{"key_id", "fingerprint", "trusted_comment"}``, each with ``"schema": 1``.
"""

import argparse
import getpass
import os
import time
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from ksplicd.cli import output
from ksplicd.cli.arguments import Verbs
from ksplicd.cli.verbs import VERBS
from ksplicd.config import KEYS_DIR
from ksplicd.errors import BadSignatureError, KeyFileError

if TYPE_CHECKING:
    from ksplicd.minisign import PublicKey, SecretKey


def add_parser(verbs: Verbs) -> None:
    """Add the verbs of this module."""
    keygen = verbs.add_parser("keygen", description=VERBS["keygen"].help)
    keygen.add_argument(
        "name", metavar="NAME", type=Path, help="writes NAME.key (secret) and NAME.pub"
    )
    keygen.add_argument(
        "--password", action="store_true", help="ask for a password that encrypts NAME.key"
    )
    keygen.add_argument(
        "--expires",
        metavar="DATE",
        type=read_day,
        help="the last day on which hosts trust the key, like 2027-01-31",
    )
    keygen.set_defaults(run=run_keygen)
    sign = verbs.add_parser("sign", description=VERBS["sign"].help)
    sign.add_argument("file", metavar="FILE", type=Path)
    sign.add_argument("--key", metavar="FILE", type=Path, required=True, help="the secret key")
    sign.add_argument("--comment", default="", help="one line that is signed too")
    sign.set_defaults(run=run_sign)
    verify = verbs.add_parser("verify", description=VERBS["verify"].help)
    verify.add_argument("file", metavar="FILE", type=Path)
    verify.add_argument(
        "--key",
        metavar="FILE",
        type=Path,
        action="append",
        help=f"a trusted public key; default: each in {KEYS_DIR}",
    )
    verify.set_defaults(run=run_verify)
    for verb in (keygen, sign, verify):
        verb.add_argument("--json", action="store_true", help="print JSON")


def read_day(text: str) -> date:
    """Return the day in ``2027-01-31``; argparse reports the error."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: not a day; write it like 2027-01-31") from None


def run_keygen(args: argparse.Namespace) -> int:
    """Write a fresh key pair; existing files stay."""
    from ksplicd.minisign import new_secret_key, write_public_key, write_secret_key

    if not args.name.name:
        raise KeyFileError(f"{args.name}: is a folder; give a name for the two files")
    password = ""
    if args.password:
        password = ask_password("Password: ")
        if not password or ask_password("Again: ") != password:
            raise KeyFileError("the two passwords differ, or are empty; nothing was written")
    key = new_secret_key()
    secret = args.name.with_name(args.name.name + ".key")
    public = args.name.with_name(args.name.name + ".pub")
    _write_new(secret, write_secret_key(key, password), 0o600)
    comment = f"minisign public key {key.public.name}"
    if args.expires:
        comment += f" expires {args.expires}"
    try:
        _write_new(public, write_public_key(replace(key.public, comment=comment)), 0o644)
    except KeyFileError:
        secret.unlink()  # one without the other is of no use
        raise
    if args.json:
        output.print_json(
            key_id=key.public.name, fingerprint=key.public.fingerprint, secret=str(secret),
            public=str(public),
        )  # fmt: skip
    else:
        output.print_text(
            f"{secret}: keep it secret.\n{public}: copy it to {KEYS_DIR}/ on the hosts.\n"
            f"key id {key.public.name}, fingerprint {key.public.fingerprint}"
        )
    return 0


def run_sign(args: argparse.Namespace) -> int:
    """Write the signature beside the file."""
    from ksplicd.minisign import sign

    key = read_secret(args.key)
    comment = f"file:{args.file.name}"  # the hosts want it named
    if args.comment:
        comment = f"{args.comment}\t{comment}"
    if "\n" in comment:
        raise KeyFileError("--comment: must be one line")
    signature = Path(f"{args.file}.minisig")
    try:
        text = sign(args.file.read_bytes(), key, trusted_comment=comment)
        output.write_whole(signature, text.encode())
    except OSError as e:
        raise KeyFileError(f"{e.filename}: {e.strerror}") from e
    if args.json:
        output.print_json(key_id=key.public.name, signature=str(signature))
    else:
        output.print_text(f"{signature}: signed with key {key.public.name}")
    return 0


def run_verify(args: argparse.Namespace) -> int:
    """Check the signature; raises ``BadSignatureError``."""
    from ksplicd.host.clock import built
    from ksplicd.host.trust.keyring import check_not_expired
    from ksplicd.minisign import verify

    signature = Path(f"{args.file}.minisig")
    keys = [_read_public(path) for path in args.key or sorted(KEYS_DIR.glob("*.pub"))]
    try:
        data, text = args.file.read_bytes(), signature.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise BadSignatureError(f"{args.file}: cannot be verified: {e}") from e
    verified = verify(data, text, keys)
    check_not_expired(verified.key, max(time.time(), built()))
    if args.json:
        output.print_json(
            key_id=verified.key.name, fingerprint=verified.key.fingerprint,
            trusted_comment=verified.trusted_comment,
        )  # fmt: skip
    else:
        output.print_text(
            f"{args.file}: signed by key {verified.key.name}: {verified.trusted_comment}"
        )
    return 0


def read_secret(path: Path) -> "SecretKey":
    """Read a secret key file, asking for its password when it has one.  ``KeyFileError``."""
    from ksplicd.minisign import read_secret_key

    text = _read_key_text(path)
    encrypted = "encrypted" in text.partition("\n")[0]
    return read_secret_key(
        text, ask_password(f"Password of {path}: ") if encrypted else "", str(path)
    )


def ask_password(prompt: str) -> str:
    """Return what the user types, or the next line of standard input without a terminal.

    Raises ``KeyFileError`` when there is none.
    """
    try:
        return getpass.getpass(prompt)
    except EOFError:
        raise KeyFileError(f"{prompt}none given, on a terminal or on stdin") from None


def _read_public(path: Path) -> "PublicKey":
    from ksplicd.minisign import read_public_key

    return read_public_key(_read_key_text(path), str(path))


def _read_key_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise KeyFileError(f"{path}: cannot be read: {e}") from e


def _write_new(path: Path, text: str, mode: int) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except OSError as e:
        raise KeyFileError(f"{path}: {e.strerror}; choose another name") from e
    with os.fdopen(fd, "w", encoding="utf-8") as f:
        f.write(text)
