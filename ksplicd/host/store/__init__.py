# SPDX-License-Identifier: GPL-2.0-only
"""What is on disk: the bundles, the drop directory, the history, the crash guard.

It trusts no bundle, and asks the kernel nothing.
"""
