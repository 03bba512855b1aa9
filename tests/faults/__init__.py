# SPDX-License-Identifier: GPL-2.0-only
"""Faults at every system call: what the host half does when the machine fails it."""
