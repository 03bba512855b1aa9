# SPDX-License-Identifier: GPL-2.0-only
"""Whose bundles may be loaded.

It verifies bytes that it is given; it loads nothing.
"""
