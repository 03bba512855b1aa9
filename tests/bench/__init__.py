# SPDX-License-Identifier: GPL-2.0-only
"""``make bench``: figures that are measured and never asserted.

Each figure stands beside its floor, which is what the same work costs without us.  Both are
measured in turn in one run, because only the two together mean something on a busy machine.  All
figures are medians.
"""
