# SPDX-License-Identifier: GPL-2.0-only
"""What files include in every unit of C, and what in none, by the conditions that they ask for.

Proof obligation: ``users`` and ``closure`` follow only includes that every unit of C takes which
reads the file, and ``never`` has only those that none takes.
"""

from collections import defaultdict
from collections.abc import Iterable


class SureIncludes:
    """Edges of an include graph that are sure."""

    def __init__(self) -> None:
        self._surely: dict[str, set[str]] = {}
        self._never: dict[str, set[str]] = {}
        self._users: dict[str, set[str]] = defaultdict(set)
        self._closures: dict[tuple[str, ...], set[str]] = {}

    def add(self, path: str, surely: Iterable[str], maybe: set[str], every: Iterable[str]) -> None:
        """Take in what a file includes, in one more of its versions.

        ``maybe``: in some unit of C, or perhaps; ``every``: in all versions, also in assembly.
        """
        sure = set(surely)
        if path in self._surely:
            sure &= self._surely[path]
            for other in self._surely[path] - sure:
                self._users[other].discard(path)
            self._never[path] = (self._never[path] | set(every)) - maybe
        else:
            self._never[path] = set(every) - maybe
        self._surely[path] = sure
        for other in sure:
            self._users[other].add(path)
        self._closures.clear()

    def never(self, path: str) -> set[str]:
        """Return what a file includes in no unit of C."""
        return self._never.get(path, set())

    def closure(self, *paths: str) -> set[str]:
        """Return files and all that a unit of C surely gets with them; not to be changed."""
        if paths not in self._closures:
            seen, todo = set(paths), list(paths)
            while todo:
                fresh = self._surely.get(todo.pop(), set()) - seen
                seen |= fresh
                todo += fresh
            self._closures[paths] = seen
        return self._closures[paths]

    def users(self, path: str, without: str = "") -> set[str]:
        """Return the files that surely include ``path``, by another file than ``without``."""
        seen, todo = {path, without}, [path]
        while todo:
            fresh = self._users.get(todo.pop(), set()) - seen
            seen |= fresh
            todo += fresh
        return seen - {without}
