# SPDX-License-Identifier: GPL-2.0-only
"""Headers of messages: what is remembered of them is small."""

from ksplicd.bus import message
from ksplicd.bus.message import Field, Kind, read_header, write


def test_large_headers_are_not_remembered() -> None:
    """256 callers' paths of 60 KB would be 30 MB."""
    small: dict[Field, str | int] = {
        Field.PATH: "/a",
        Field.MEMBER: "Describe",
        Field.SENDER: ":1.7",
    }
    assert read_header(write(Kind.CALL, 1, small, "x"), 0).text(Field.PATH) == "/a"
    before = message._read_fields.cache_info()
    for i in range(3):
        large = small | {Field.PATH: f"/a{i}" + "b" * 60_000}
        header = read_header(write(Kind.CALL, 1, large, "x"), 0)
        assert header.text(Field.PATH) == large[Field.PATH]
    assert message._read_fields.cache_info() == before
