# SPDX-License-Identifier: GPL-2.0-only
"""The doors to the running kernel: system calls, sysfs, its log, its kprobes.

Nothing here decides about updates.
"""
