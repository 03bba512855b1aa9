# SPDX-License-Identifier: GPL-2.0-only
"""Malformed inputs: readers of foreign bytes may only raise their own errors."""
