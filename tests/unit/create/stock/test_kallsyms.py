# SPDX-License-Identifier: GPL-2.0-only
"""The kallsyms tables of an image, in every form that a kernel from 6.1 on writes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksplicd.create.stock.kallsyms import read_kallsyms
from ksplicd.create.stock.system_map import MapSymbol
from ksplicd.errors import ConfigDirError
from tests.support.objects.kallsyms import (
    TABLES,
    Form,
    image_of,
    image_with,
    percpu_symbols,
    some_symbols,
)

WITH_PERCPU = {Form.EARLY, Form.SEQUENCE, Form.MIDDLE}


def symbols_for(form: Form) -> list[MapSymbol]:
    return [*(percpu_symbols() if form in WITH_PERCPU else []), *some_symbols()]


@pytest.mark.parametrize("form", Form)
def test_symbols_come_back_in_their_order(form: Form) -> None:
    symbols = symbols_for(form)
    assert read_kallsyms(image_of(symbols, form)) == symbols


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("count", [506, 507, 508, 509, 510, 511, 600, 777])
def test_any_number_of_symbols(form: Form, count: int) -> None:
    """The tables are padded, and the last marker may have one symbol or 256."""
    symbols = some_symbols(count)
    assert read_kallsyms(image_of(symbols, form)) == symbols


def test_name_of_more_than_127_tokens() -> None:
    symbols = some_symbols()
    symbols[300] = symbols[300]._replace(name="a_b" * 200)
    assert read_kallsyms(image_of(symbols, Form.LATE)) == symbols


def test_image_without_tables() -> None:
    with pytest.raises(ConfigDirError, match=r"vmlinuz: .* CONFIG_KALLSYMS\?.* -dbg package"):
        read_kallsyms(image_with(bytes(0x2000)))


@pytest.mark.parametrize(
    ("name", "moved", "words"),
    [
        ("linux_banner", 8, "no banner at"),
        ("_text", 8, "_text at"),
        ("_etext", -0x1000, "do not ascend"),
    ],
)
@pytest.mark.parametrize("form", Form)
def test_known_symbols_that_lie_elsewhere(form: Form, name: str, moved: int, words: str) -> None:
    symbols = [
        s._replace(address=s.address + moved) if s.name == name else s for s in some_symbols()
    ]
    if words != "do not ascend":
        symbols.sort(key=lambda s: s.address)
    with pytest.raises(ConfigDirError, match=words):
        read_kallsyms(image_of(symbols, form))


def test_symbols_without_the_banner() -> None:
    symbols = [s for s in some_symbols() if s.name != "linux_banner"]
    with pytest.raises(ConfigDirError, match=r"no symbol linux_banner among 60\d"):
        read_kallsyms(image_of(symbols, Form.LATE))


@pytest.mark.parametrize("form", [form for form in Form if form is not Form.EARLY])
def test_names_in_another_order_than_their_table_says(form: Form) -> None:
    symbols = some_symbols()
    image = image_of(symbols, form)
    numbers = sorted(range(len(symbols)), key=lambda i: symbols[i].name)
    at = image.data.index(b"".join(n.to_bytes(3) for n in numbers))
    bad = bytearray(image.data)
    bad[at + 3 * 7 + 2] ^= 1
    with pytest.raises(ConfigDirError, match="another order"):
        read_kallsyms(image_with(bytes(bad)))


@pytest.mark.parametrize("form", Form)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_damaged_tables_lose_no_symbol(form: Form, data: st.DataObject) -> None:
    """With one bit changed, a name or an address can differ; all else is refused."""
    symbols = some_symbols()
    image = bytearray(image_of(symbols, form).data)
    at = data.draw(st.integers(TABLES, len(image) - 1))
    image[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        read = read_kallsyms(image_with(bytes(image)))
    except ConfigDirError:
        return
    assert len(read) == len(symbols)
    if [s.name for s in read] != [s.name for s in symbols]:
        assert [s.address for s in read] == [s.address for s in symbols]


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(0, 0x7000), form=st.sampled_from(Form))
def test_cut_image_is_refused_by_a_sentence(cut: int, form: Form) -> None:
    whole = image_of(some_symbols(), form).data
    end = whole.rstrip(b"\0")
    with pytest.raises(ConfigDirError, match="-dbg package"):
        read_kallsyms(image_with(whole[: min(cut, len(end) - 1)]))
