# SPDX-License-Identifier: GPL-2.0-only
"""The D-Bus interface org.ksplice.Ksplicd1."""
