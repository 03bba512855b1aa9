# SPDX-License-Identifier: GPL-2.0-only
"""The finished modules of an update, and their signatures.

No code is changed here but for what livepatch needs of a finished .ko.
"""
