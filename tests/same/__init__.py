# SPDX-License-Identifier: GPL-2.0-only
"""Compares the updates that two states of this project make of the same changes."""
