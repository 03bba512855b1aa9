# SPDX-License-Identifier: GPL-2.0-only
"""Text of strangers on its way to people: a task may call itself what it likes."""


def printable(text: str) -> str:
    r"""Return ``text`` with what a terminal would obey, or journalctl hide, as ``\x1b``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
