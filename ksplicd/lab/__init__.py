# SPDX-License-Identifier: GPL-2.0-only
"""A throwaway machine that boots a stock kernel."""
