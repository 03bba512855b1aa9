# SPDX-License-Identifier: GPL-2.0-only
"""Files in memory (memfd_create(2)) that hold modules and bundles, and are never run."""

import errno
import os
from typing import Final

_NOEXEC_SEAL: Final = 0x0008  # MFD_NOEXEC_SEAL, <linux/memfd.h>


def open_memory_file(name: str) -> int:
    """Return the descriptor of an empty file in memory that can be sealed.  Raises ``OSError``.

    It says that it is not to be run, without which vm.memfd_noexec=2 refuses it (EACCES;
    mm/memfd.c, check_sysctl_memfd_noexec()).  Kernels before 6.3 do not know that word (EINVAL).
    """
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(name, flags | _NOEXEC_SEAL)
    except OSError as e:
        if e.errno != errno.EINVAL:
            raise
    return os.memfd_create(name, flags)
