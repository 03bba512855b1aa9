# SPDX-License-Identifier: GPL-2.0-only
"""The updates of a host, and the steps of the engine.

The order of the steps is the engine's (ksplicd/host/engine.py).
"""
