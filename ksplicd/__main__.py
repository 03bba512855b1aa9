# SPDX-License-Identifier: GPL-2.0-only
"""``python -m ksplicd``: the ``ksplice`` command where it is not installed."""

import sys

from ksplicd.cli.main import main

sys.exit(main())
