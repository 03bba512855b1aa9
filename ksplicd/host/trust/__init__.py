# SPDX-License-Identifier: GPL-2.0-only
"""Whose bundles may be loaded: files, signatures, keys, and who may sign what.

It loads nothing, and does not check whether an update fits the running kernel.
"""
