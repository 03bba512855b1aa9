# SPDX-License-Identifier: GPL-2.0-only
from ksplicd.create.new_code.aliases import Aliases, is_function_alias


def test_each_alias_is_dealt_out_once() -> None:
    aliases = Aliases()
    dealt = [aliases.for_function(), aliases.for_datum(), aliases.for_hook()]
    assert dealt == ["ksplice_new_0", "ksplice_data_1", "ksplice_hook_2"]
    assert all(alias in aliases for alias in dealt)
    assert "ksplice_new_3" not in aliases
    assert [is_function_alias(alias) for alias in dealt] == [True, False, False]
