# SPDX-License-Identifier: GPL-2.0-only
"""Which units a change can reach, found without compiling them all.

Where it cannot prove that a unit stays the same it names the unit; it compares no objects.
"""
