# SPDX-License-Identifier: GPL-2.0-only
"""The life of an update on one host.

::

    stages, clock ◂ kernel, store            the nouns; the doors to the kernel and the disk
    store         ◂ trust                    whose bundles may be loaded
    kernel, store, trust ◂ report            journal, metrics, sentences
    all of them   ◂ updates ◂ engine ◂ boot  one method per arrow of the story

    dropped ─verify▸ staged ─load▸ loading ─match▸ matched ─enable▸ transitioning ─▸ applied
       └▸ rejected          └────────────┴─▸ failed (all unloaded) ◂┘     reversing ◂─undo─┘
                                                                             └▸ reversed

``engine`` has the arrows, ``updates`` the steps behind them, ``stages`` the diagram as data.  No
room knows the bus or the command line.
"""
