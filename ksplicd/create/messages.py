# SPDX-License-Identifier: GPL-2.0-only
"""Parts of messages for people: some of many names, a compiler's words."""

from collections.abc import Iterable


def names_of(names: Iterable[str], shown: int = 4) -> str:
    """Return the first of some names, and how many more there are."""
    all_names = list(names)
    more = f" and {len(all_names) - shown} more" if all_names[shown:] else ""
    return ", ".join(all_names[:shown]) + more


def compiler_words(what: str, output: bytes) -> str:
    """Return a message with the lines of a failed compilation that name the fault."""
    lines = output.decode(errors="replace").splitlines()
    telling = [x for x in lines if "error" in x.lower() or "***" in x or "No rule" in x]
    return f"{what}: does not compile:\n" + "\n".join(f"  {x}" for x in (telling or lines)[-12:])
