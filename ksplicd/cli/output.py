# SPDX-License-Identifier: GPL-2.0-only
"""What the commands print: text for people, JSON for programs.

Every JSON document is one object with ``schema``.  Under the same number keys are added, never
changed or removed.
"""

import json
import sys
from typing import Any, Final

SCHEMA: Final = 1


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{text}\n")


def say_json(**document: Any) -> None:
    """Print a JSON document."""
    say(json.dumps({"schema": SCHEMA, **document}, indent=2, ensure_ascii=False))


def complain(text: str) -> None:
    """Print a line to standard error."""
    sys.stderr.write(f"{text}\n")
