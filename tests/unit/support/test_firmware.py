# SPDX-License-Identifier: GPL-2.0-only
import struct

import pytest

from ksplicd.errors import LabError
from tests.support.guest.firmware import add_db

STORE = bytes(40) + b"_FVH" + bytes(0x64 - 44) + b"\xff" * 4000


def test_db_is_one_variable_with_one_certificate() -> None:
    store = add_db(STORE, b"certificate")
    assert len(store) == len(STORE)
    assert store[:0x64] == STORE[:0x64]
    start, state, _, attributes = struct.unpack_from("<HBBI", store, 0x64)
    assert (start, state, attributes) == (0x55AA, 0x3F, 0x27)
    name_size, data_size = struct.unpack_from("<II", store, 0x64 + 36)
    at = 0x64 + 60
    assert store[at : at + name_size].decode("utf-16-le") == "db\0"
    data = store[at + name_size :][:data_size]
    size, header, entry = struct.unpack_from("<III", data, 16)
    assert (size, header, entry) == (len(data), 0, len(data) - 28)
    assert data.endswith(b"certificate")
    assert set(store[at + name_size + data_size :]) == {0xFF}


@pytest.mark.parametrize("store", [b"", bytes(5000), add_db(STORE, b"another")])
def test_store_that_is_not_empty(store: bytes) -> None:
    with pytest.raises(LabError, match="is no empty variable store"):
        add_db(store, b"certificate")
