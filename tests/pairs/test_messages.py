# SPDX-License-Identifier: GPL-2.0-only
"""Static constants of one name in one function, as ``NL_SET_ERR_MSG()`` makes them."""

from pathlib import Path

from tests.support.objects.pair import changed, compare, cut

HEAD = """
#define TELL(to, text) do { static const char __msg[] = text; *(to) = __msg; } while (0)
int f(int x, const char **to)
{
    if (hidden(x)) { TELL(to, "IPv4 multicast source address"); return 1; }
    MORE
    if (exported(x)) { TELL(to, "IPv6 multicast source address"); return 3; }
    return 0;
}
"""
ONE = HEAD.replace("MORE", "")
TWO = HEAD.replace("MORE", 'if (x == 4) { TELL(to, "IPv4 all-zeros source address"); return 2; }')


def test_one_more_message(tmp_path: Path) -> None:
    """The old ones keep their addresses, wherever the new one comes in their order."""
    d = compare(tmp_path, ONE, TWO)
    assert (changed(d), d.refusals) == (["f"], ())
    data = [s.data for s in cut(d).obj.sections if s.name.startswith(".rodata")]
    assert data == [b"IPv4 all-zeros source address\0"]


def test_one_message_less(tmp_path: Path) -> None:
    d = compare(tmp_path, TWO, ONE)
    assert (changed(d), d.refusals) == (["f"], ())
    assert d.copied_constants == ()
    assert not [s for s in cut(d).obj.sections if s.name.startswith(".rodata")]
