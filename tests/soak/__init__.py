# SPDX-License-Identifier: GPL-2.0-only
"""An update that is applied and undone many times under load, and must leave nothing behind."""
