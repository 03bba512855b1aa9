# SPDX-License-Identifier: GPL-2.0-only
"""The distribution's kernel, and where each unit lies in it.

It reads what was shipped; nothing here is compiled or changed.
"""
