# SPDX-License-Identifier: GPL-2.0-only
"""Settings for all tests."""

from hypothesis import settings

# A deadline for one example says nothing on a machine that has other things to do.
settings.register_profile("ksplice", deadline=None)
settings.load_profile("ksplice")
