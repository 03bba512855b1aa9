# SPDX-License-Identifier: GPL-2.0-only
"""What the commands print: text for people, JSON for programs.

Every JSON document is one object with ``schema``.  While that number stays, keys are added, never
changed or removed.
"""

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from ksplicd.errors import KspliceError
from ksplicd.text import printable

SCHEMA: Final = 1


def print_text(text: str) -> None:
    """Print one or more lines for people."""
    sys.stdout.write(_lines(text))


def print_painted(line: str) -> None:
    """Print a line that ``terminal`` has made: escaped, perhaps with colours."""
    sys.stdout.write(f"{line}\n")


def print_json(**document: Any) -> None:
    """Print a JSON document."""
    text = json.dumps({"schema": SCHEMA, **document}, indent=2, ensure_ascii=False)
    sys.stdout.write(f"{text}\n")


def print_json_error(error: KspliceError) -> None:
    """Print the JSON document of an error."""
    print_json(error=to_error(error))


def to_error(error: KspliceError) -> dict[str, str | None]:
    """Return an error as the documents have it."""
    cause = error.abort_cause or None
    return {"name": error.dbus_name(), "abort_cause": cause, "message": str(error)}


def print_error(text: str) -> None:
    """Print one or more lines to standard error."""
    sys.stderr.write(_lines(text))


def _lines(text: str) -> str:
    return "".join(f"{printable(line)}\n" for line in text.split("\n"))


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole, or leave what was there.  Raises ``OSError``, which names ``path``.

    A path that is not a regular file (/dev/stdout) is written to, and never replaced.
    """
    real = Path(os.path.realpath(path))
    temporary = (
        real if real.exists() and not real.is_file() else real.with_name(f".{real.name}.tmp")
    )
    try:
        temporary.write_bytes(data)
        if temporary is not real:
            temporary.replace(real)
    except OSError as e:
        if temporary is not real:
            with suppress(OSError):
                temporary.unlink()
        raise OSError(e.errno, e.strerror, str(path)) from e
