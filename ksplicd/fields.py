# SPDX-License-Identifier: GPL-2.0-only
"""Typed getters for untrusted JSON: every refusal names the file and the field."""

import json
import re
from typing import Final, NoReturn

from ksplicd.errors import KspliceError

ONE_LINE: Final = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]*")
"""Text that cannot move a terminal's cursor or break a line of a log."""

MANY_LINES: Final = re.compile(r"[^\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]*")

_SHOWN = 60


class Fields:
    """A JSON object whose fields are taken one by one, until it is closed.

    ``where`` is the place at the start of messages, such as ``manifest.json: kernel.``; ``error``
    is the class to raise.
    """

    def __init__(self, value: object, where: str, error: type[KspliceError]) -> None:
        """Raise ``error`` unless ``value`` is an object."""
        self._where = where
        self._error = error
        if not isinstance(value, dict):
            raise error(f"{where.rstrip('.: ')}: {_show(value)} is not an object")
        self._left: dict[str, object] = {**value}

    @classmethod
    def parse(cls, data: bytes | str, where: str, error: type[KspliceError]) -> "Fields":
        """Parse one JSON object; duplicate keys, NaN and the like are refused."""
        try:
            text = data if isinstance(data, str) else data.decode("utf-8")
            value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as e:
            raise error(f"{where}: not valid JSON: {e}") from None
        return cls(value, f"{where}: ", error)

    def close(self) -> None:
        """Refuse the fields that were not taken."""
        if self._left:
            self.refuse(next(iter(self._left)), "unknown field")

    def refuse(self, key: str, why: str) -> NoReturn:
        """Raise the error for field ``key``."""
        raise self._error(f"{self._where}{key}: {why}")

    def text(self, key: str, pattern: re.Pattern[str] = ONE_LINE, what: str = "plain text") -> str:
        """Take a string that is ``what`` (``pattern``, whole)."""
        return self._check_text(key, self._take(key), pattern, what)

    def texts(self, key: str, pattern: re.Pattern[str], what: str) -> tuple[str, ...]:
        """Take an array of strings, all different."""
        found = tuple(
            self._check_text(f"{key}[{i}]", item, pattern, what)
            for i, item in enumerate(self._take_list(key))
        )
        if len(set(found)) != len(found):
            self.refuse(key, "the same entry twice")
        return found

    def number(self, key: str, low: int, high: int) -> int:
        """Take an integer from ``low`` to ``high``."""
        return self._check_number(key, self._take(key), low, high)

    def numbers(self, key: str, low: int, high: int) -> tuple[int, ...]:
        """Take an array of integers from ``low`` to ``high``."""
        return tuple(
            self._check_number(f"{key}[{i}]", item, low, high)
            for i, item in enumerate(self._take_list(key))
        )

    def flag(self, key: str) -> bool:
        """Take true or false."""
        value = self._take(key)
        if not isinstance(value, bool):
            self.refuse(key, f"{_show(value)} is not true or false")
        return value

    def seconds(self, key: str) -> float:
        """Take a point in time."""
        value = self._take(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**40:
            self.refuse(key, f"{_show(value)} is not a number of seconds")
        return float(value)

    def skip(self, key: str) -> None:
        """Take a value of any form, and leave it unread."""
        self._take(key)

    def has(self, key: str) -> bool:
        """Tell whether a field is there that was not taken yet."""
        return key in self._left

    def group(self, key: str) -> "Fields":
        """Take an object."""
        return Fields(self._take(key), f"{self._where}{key}.", self._error)

    def groups(self, key: str) -> list["Fields"]:
        """Take an array of objects."""
        return [
            Fields(item, f"{self._where}{key}[{i}].", self._error)
            for i, item in enumerate(self._take_list(key))
        ]

    def names(self) -> list[str]:
        """Return the names of the fields that were not taken yet."""
        return list(self._left)

    def _take(self, key: str) -> object:
        if key not in self._left:
            self.refuse(key, "missing")
        return self._left.pop(key)

    def _take_list(self, key: str) -> list[object]:
        value = self._take(key)
        if not isinstance(value, list):
            self.refuse(key, f"{_show(value)} is not an array")
        return value

    def _check_number(self, key: str, value: object, low: int, high: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            self.refuse(key, f"{_show(value)} is not a whole number from {low} to {high}")
        return value

    def _check_text(self, key: str, value: object, pattern: re.Pattern[str], what: str) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            self.refuse(key, f"{_show(value)} is not {what}")
        return value


def _show(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"field {_show(key)} occurs twice")
        found[key] = value
    return found


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")
