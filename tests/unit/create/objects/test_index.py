# SPDX-License-Identifier: GPL-2.0-only
"""What references in an object mean; tests/pairs has the rest."""

import pytest

from ksplicd.create.objects.index import string_at
from ksplicd.elf.model import Section


@pytest.mark.parametrize(
    ("data", "width", "offset", "found"),
    [
        (b"ab\0c\0", 1, 0, b"ab\0"),
        (b"ab\0c\0", 1, 3, b"c\0"),
        (b"ab\0c\0", 1, 5, None),
        (b"ab\0c\0", 1, -1, None),
        (b"ab", 1, 0, None),
        (b"a\0\0\1\0\0", 2, 0, b"a\0\0\1\0\0"),
        (b"a\0\0\0b", 2, 4, None),
        (b"ab\0c\0", 1 << 62, 0, None),
    ],
)
def test_strings(data: bytes, width: int, offset: int, found: bytes | None) -> None:
    assert string_at(Section(".rodata.str", data=data, entsize=width), offset) == found
