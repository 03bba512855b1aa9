# SPDX-License-Identifier: GPL-2.0-only
"""The change, as files before and after, and the source tree while it is patched.

It imports nothing else of create, and compiles nothing.
"""
