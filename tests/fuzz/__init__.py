# SPDX-License-Identifier: GPL-2.0-only
"""Inputs that nobody meant: what reads bytes of others may only raise its own errors."""
