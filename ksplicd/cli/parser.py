# SPDX-License-Identifier: GPL-2.0-only
"""The parser of the command line, and what it says about wrong usage."""

import argparse
import difflib
from typing import NoReturn

from ksplicd.cli.verbs import VERBS
from ksplicd.errors import UsageError


class Parser(argparse.ArgumentParser):
    """The parser of ``ksplice``, and of each verb."""

    def error(self, message: str) -> NoReturn:
        """Raise a ``UsageError`` that says what is wrong, and the right form."""
        name = self.prog.rpartition(" ")[2]
        if name not in VERBS:
            raise UsageError(f"{message}\n`ksplice help` lists the verbs")
        form = " ".join(self.format_usage().split()).removeprefix("usage: ")
        raise UsageError(
            f"{name}: {message}\nusage: {form}\nsuch as: {VERBS[name].example}\n"
            f"`ksplice help {name}` says more"
        )


def why_no_verb(word: str) -> str:
    """Return what to say of a word that is no verb, with the verb that may be meant."""
    close = difflib.get_close_matches(word, VERBS, n=1)
    return f"no verb {word!r}" + (f"; is `ksplice {close[0]}` meant?" if close else "")
