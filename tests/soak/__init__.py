# SPDX-License-Identifier: GPL-2.0-only
"""An update that is applied and undone again and again, under load: nothing may stay."""
