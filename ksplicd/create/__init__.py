# SPDX-License-Identifier: GPL-2.0-only
"""From a change of the kernel's source to a bundle, on the machine that builds it.

It does not sign the bundle, and loads nothing into a kernel.
"""
