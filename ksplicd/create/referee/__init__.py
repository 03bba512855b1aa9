# SPDX-License-Identifier: GPL-2.0-only
"""The referee of the result: proves that a finished update does what the change says.

It reads the plain objects of each unit, of before and after the change, and the finished module of
new code, and shares no decision with ``diff`` and ``new_code``; it makes and changes nothing.
"""
