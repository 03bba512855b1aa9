# SPDX-License-Identifier: GPL-2.0-only
"""The updates of a host, and the steps that the engine takes with them.

The sequence of the steps is the engine's (``host.engine``); policy is the bus's.
"""
