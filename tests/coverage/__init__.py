# SPDX-License-Identifier: GPL-2.0-only
"""``make coverage``: how many of a distribution's own changes become updates.

::

    OLD, NEW ─▸ changed files that the flavour compiles ─▸ one patch each
             ─▸ compiled alone ─▸ compared ─▸ matched with the stock kernel ─▸ cut ─▸ built, packed
             ─▸ some of them applied and undone in a guest
"""
