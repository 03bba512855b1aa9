# SPDX-License-Identifier: GPL-2.0-only
"""The life of an update on one host."""
