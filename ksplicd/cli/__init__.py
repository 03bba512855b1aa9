# SPDX-License-Identifier: GPL-2.0-only
"""The ksplice command and its verbs."""
