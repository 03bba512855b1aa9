# SPDX-License-Identifier: GPL-2.0-only
"""Two objects of one unit: what is the same, what differs, and why.

It does not decide how a function is redirected, and cuts nothing out.
"""
