# SPDX-License-Identifier: GPL-2.0-only
"""Inputs made from other inputs: any bytes, and JSON that stays JSON."""

import json
import random
from collections.abc import Sequence
from typing import Any, Final

_ODD: Final[Sequence[Any]] = (
    None, True, 0, -1, 1 << 64, 1e308, "", "x" * 600, "../x", "a\nb", "\ud800", "é", [], {}, [[]],
)  # fmt: skip
"""Values that somebody may not have thought of."""


def mutate_bytes(data: bytes, tokens: Sequence[bytes], rng: random.Random) -> bytes:
    """Return ``data`` with a few bytes changed, taken out, doubled, or put in."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at, size = rng.randint(0, len(out)), rng.choice((1, 1, 1, 4, 16, 512))
        match rng.randrange(6):
            case 0 if at < len(out):
                out[at] = rng.randrange(256)
            case 1 if at < len(out):
                out[at] ^= 1 << rng.randrange(8)
            case 2:
                del out[at : at + size]
            case 3:
                out[at:at] = out[at : at + size]
            case 4 if tokens:
                out[at:at] = rng.choice(tokens)
            case _:
                out[at:at] = rng.randbytes(size)
    return bytes(out)


def mutate_json(data: bytes, rng: random.Random) -> bytes | None:
    """Return the JSON in ``data`` with one value, key or entry changed; None when it is no JSON."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return json.dumps(_change(value, rng)).encode("utf-8", "replace")


def _change(value: Any, rng: random.Random) -> Any:
    if not isinstance(value, dict | list) or not value or rng.random() < 0.1:
        return _other(value, rng)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = rng.choice(keys)
    match rng.randrange(8):
        case 0:
            del value[key]
        case 1 if isinstance(value, dict):
            value[str(_other(key, rng))] = value.pop(key)
        case 2 if isinstance(value, list):
            value.insert(key, value[rng.choice(keys)])
        case _:
            value[key] = _change(value[key], rng)
    return value


def _other(value: Any, rng: random.Random) -> Any:
    if isinstance(value, str) and value and rng.random() < 0.7:
        at = rng.randrange(len(value))
        return value[:at] + rng.choice(("", "0", "A", "/", " ", "\x1b", value)) + value[at + 1 :]
    if isinstance(value, int) and rng.random() < 0.5:
        return value + rng.choice((-1, 1))
    return rng.choice(_ODD)
