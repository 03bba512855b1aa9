# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's own compiler and make, for single units.

It knows which command makes a unit, never what the unit's object means.
"""
