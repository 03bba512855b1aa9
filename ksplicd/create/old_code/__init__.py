# SPDX-License-Identifier: GPL-2.0-only
"""What the running kernel must have where an update is applied.

The comparing itself is done in the kernel, by kmodsrc/.
"""
