# SPDX-License-Identifier: GPL-2.0-only
"""System.map files, and their symbols by name and address."""

import pytest

from ksplicd.create.stock.system_map import MapSymbol, SymbolMap, read_system_map, write_system_map
from ksplicd.errors import ConfigDirError
from tests.support.objects.link import TEXT


def test_map_survives_writing_and_reading() -> None:
    symbols = [MapSymbol(0, "A", "percpu"), MapSymbol(TEXT, "T", "_stext")]
    text = write_system_map(symbols)
    assert text.splitlines()[1] == "ffffffff81000000 T _stext"
    assert read_system_map(text) == symbols
    assert read_system_map(text + "ffffffffc0000000 t x\t[ext4]\n") == symbols


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ffffffffffffffff B The real System.map is in the -dbg package\n", "System.map:1: not"),
        ("0000000000000000 T _stext\n0000000000000000 T x\n", "read /proc/kallsyms as root"),
        ("", "no addresses"),
    ],
)
def test_refuses_maps_without_symbols(text: str, words: str) -> None:
    with pytest.raises(ConfigDirError, match=words):
        read_system_map(text)


def test_symbol_map_counts_equal_names_in_order() -> None:
    symbols = SymbolMap([
        MapSymbol(TEXT, "t", "once"), MapSymbol(TEXT + 16, "t", "twice"),
        MapSymbol(TEXT + 32, "d", "twice"),
    ])  # fmt: skip
    assert symbols.position("once", TEXT) == 0
    assert [symbols.position("twice", TEXT + n) for n in (16, 32, 48)] == [1, 2, None]
    assert symbols.position("never", TEXT) is None
    assert symbols.is_unique("once")
    assert not symbols.is_unique("twice")
    assert symbols.nearest_unique(TEXT + 40) == ("once", TEXT)
    assert symbols.nearest_unique(TEXT - 1) is None
