# SPDX-License-Identifier: GPL-2.0-only
"""The matching of ``kmodsrc/`` as an ordinary program, with the compiler's sanitizers watching."""
