# SPDX-License-Identifier: GPL-2.0-only
"""Untrusted text that people will read: a task may choose any name."""


def printable(text: str) -> str:
    r"""Return ``text`` with control and other unprintable characters escaped, as ``\x1b``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
