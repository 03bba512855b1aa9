# SPDX-License-Identifier: GPL-2.0-only
"""What became of each hunk of a patch in the running kernel, with the evidence.

It looks at what the other rooms have made, and changes nothing of it.
"""
