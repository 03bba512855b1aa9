# SPDX-License-Identifier: GPL-2.0-only
"""Small changes of real sources, and whether create sees what the compiler makes of each."""
