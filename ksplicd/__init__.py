# SPDX-License-Identifier: GPL-2.0-only
"""Live patching for stock Linux kernels.

::

    create:  patch ─▸ touched units ─▸ pre and post objects ─▸ diff ─▸ old code · new code
             ─▸ modules (core, old, new) ─▸ check against the stock image ─▸ bundle, signed

    host: dropped ─verify▸ staged ─load▸ loading ─match▸ matched ─enable▸ transitioning ─▸ applied
             └▸ rejected          └────────────┴─▸ failed (all unloaded) ◂┘     reversing ◂─undo─┘
                                                                                   └▸ reversed

``create.pipeline`` has one call per arrow of the first story, ``host.engine`` one method per arrow
of the second.
"""

__version__ = "0.1.0"
