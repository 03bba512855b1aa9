# SPDX-License-Identifier: GPL-2.0-only
"""The doors to the running kernel: system calls, sysfs, its log, its kprobes, its tripwires.

It knows names and errnos, and decides nothing about updates.
"""
