# SPDX-License-Identifier: GPL-2.0-only
"""The machines of the matrix, and the few that cover every pair of values.

Four kernels, four processors and four lines of arguments are numbered as the elements of the field
of four; addition there is the exclusive or.  The 16 pairs (processor a, arguments b) with the
kernel a + b and the processors' number by the lowest bit of a + 2b then have every pair of values
of any two columns: an orthogonal array of strength two.
"""

import itertools
from collections.abc import Iterator
from typing import Final, NamedTuple

KERNELS: Final = ("6.1-cloud", "6.1-generic", "6.12-cloud", "6.12-generic")
CPUS: Final = ("max", "qemu64", "Skylake-Client", "EPYC-Milan")
ARGUMENTS: Final = ("", "mitigations=off", "spectre_v2=off", "preempt=full")
SMP: Final = (1, 4)
_TWICE: Final = (0, 2, 3, 1)
"""Twice each element of the field of four."""


class Place(NamedTuple):
    """A machine of the matrix."""

    kernel: str
    cpu: str
    arguments: str
    """Of the kernel; none when empty."""
    smp: int

    def __str__(self) -> str:
        count = "1 cpu" if self.smp == 1 else f"{self.smp} cpus"
        return f"{self.kernel} {self.cpu} {self.arguments or 'defaults'} {count}"


def all_places() -> list[Place]:
    """Return the whole product, kernel by kernel."""
    return [Place(*values) for values in itertools.product(KERNELS, CPUS, ARGUMENTS, SMP)]


def enough_places() -> list[Place]:
    """Return 16 machines with every pair of values of any two columns, kernel by kernel."""
    return sorted(_orthogonal(), key=all_places().index)


def _orthogonal() -> Iterator[Place]:
    for cpu, arguments in itertools.product(range(4), repeat=2):
        yield Place(
            kernel=KERNELS[cpu ^ arguments],
            cpu=CPUS[cpu],
            arguments=ARGUMENTS[arguments],
            smp=SMP[(cpu ^ _TWICE[arguments]) & 1],
        )


def select(places: list[Place], words: list[str]) -> list[Place]:
    """Return the places whose text has all of ``words``."""
    return [place for place in places if set(words) <= set(str(place).split())]
