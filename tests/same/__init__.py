# SPDX-License-Identifier: GPL-2.0-only
"""Two states of this project, given the same changes: do they make the same updates?"""
