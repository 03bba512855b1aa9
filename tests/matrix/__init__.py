# SPDX-License-Identifier: GPL-2.0-only
"""``make test-matrix``: one update applied, seen to work and undone on many machines.

Machines differ in what a kernel makes of its own code when it boots: the flavour, the processor,
the arguments, the number of processors.  All of them have KASLR.
"""
