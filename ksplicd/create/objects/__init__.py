# SPDX-License-Identifier: GPL-2.0-only
"""One object: what its names, sections, tables and references mean.

It knows no second object and no kernel.
"""
