# SPDX-License-Identifier: GPL-2.0-only
"""What replaces old code: how it is redirected, what is cut out, by which names it links.

It compares nothing, and runs no compiler for the modules.
"""
