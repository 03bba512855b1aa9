# SPDX-License-Identifier: GPL-2.0-only
"""The finished modules of an update, and their signatures.

It decides nothing about code: the new code and the old code come in as they are.
"""
