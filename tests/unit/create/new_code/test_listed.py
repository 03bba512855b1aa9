# SPDX-License-Identifier: GPL-2.0-only
import pytest

from ksplicd.create.new_code.listed import number_note, refuse_too_many
from ksplicd.create.new_code.model import Anchored, NewCode, Redirected
from ksplicd.elf.model import Object
from ksplicd.errors import UnsupportedChangeError


def unit(name: str, functions: int, anchors: int = 0) -> NewCode:
    return NewCode(
        unit=name,
        target="vmlinux",
        obj=Object(name),
        redirected=tuple(
            Redirected(name=f"f{n}", sympos=0, alias=f"f{n}", reason="its bytes have changed")
            for n in range(functions)
        ),
        anchors=tuple(Anchored(function=f"f{n}", alias=f"a{n}") for n in range(anchors)),
    )


def test_as_many_as_may_be() -> None:
    refuse_too_many([unit("fs/a.c", 10, 5), unit("fs/b.c", 5)], 20)


def test_one_more_is_refused_with_the_largest_files_and_the_ways_out() -> None:
    with pytest.raises(UnsupportedChangeError, match="look for 21 functions") as e:
        refuse_too_many([unit("fs/a.c", 3), unit("fs/b.c", 10, 8)], 20)
    message = str(e.value)
    assert "may have 20" in message
    assert "fs/b.c (18), fs/a.c (3)" in message
    assert "--series" in message
    assert "--max-functions" in message


def test_many_are_noted_with_their_number() -> None:
    assert number_note([unit("fs/a.c", 29)]) == []
    (note,) = number_note([unit("fs/a.c", 20), unit("fs/b.c", 5, 5)])
    assert "30 functions" in note
