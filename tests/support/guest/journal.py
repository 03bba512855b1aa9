# SPDX-License-Identifier: GPL-2.0-only
"""The journal of a guest."""

from ksplicd.lab.guest import Guest


def read_journal(guest: Guest, query: str) -> str:
    """Return what journalctl(1) prints for ``query``, without the space around it.

    journald reads what it is sent some time later: everything that was sent before this call is
    waited for.
    """
    return guest.run(f"journalctl --sync; journalctl --no-pager {query}").out.strip()
