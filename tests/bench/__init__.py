# SPDX-License-Identifier: GPL-2.0-only
"""``make bench``: measured, never asserted.

Each figure stands beside its floor, what the same work costs without us, taken in turn in the same
run: the machine may be busy, so only the two together say something.  Medians throughout.
"""
