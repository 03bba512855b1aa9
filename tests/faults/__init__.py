# SPDX-License-Identifier: GPL-2.0-only
"""Faults at every system call of the host half."""
