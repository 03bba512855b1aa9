# SPDX-License-Identifier: GPL-2.0-only
"""Where a kernel's parts come from: its packages, and the machine's apt.

It does not build updates and starts no guest.
"""
