# SPDX-License-Identifier: GPL-2.0-only
"""The shadow variables of a kernel, read from its memory."""

from typing import Final

from ksplicd.lab.running_guest import RunningGuest

# klp_shadow_hash of kernel/livepatch/shadow.c: heads of lists, each node first of its variable.
_COUNTER: Final = """\
import os, struct
FOUND = "/run/klp_shadow_hash"  # all of kallsyms is a second's work
if not os.path.exists(FOUND):
    with open("/proc/kallsyms") as f:
        rows = [line.split() for line in f if " klp_shadow_hash" in line]
    (start, _, name), = rows
    with open(FOUND, "w") as f:
        f.write(start)
with open(FOUND) as f:
    start = f.read()
with open("/proc/kcore", "rb") as core:
    head = core.read(64)
    (at,), (size, number) = struct.unpack_from("<Q", head, 32), struct.unpack_from("<HH", head, 54)
    core.seek(at)
    parts = [struct.unpack_from("<IIQQQQ", core.read(size)) for _ in range(number)]

    def words(start, number):
        core.seek(next(p[2] + start - p[3] for p in parts if p[3] <= start < p[3] + p[5]))
        return struct.unpack(f"<{number}Q", core.read(number * 8))

    count = 0
    for node in words(int(start, 16), 1 << 12):
        while node:
            (node,), count = words(node, 1), count + 1
print(count)
"""


def count_shadows(guest: RunningGuest) -> int:
    """Return how many shadow variables there are, of all live patches."""
    guest.put("/root/count_shadows.py", _COUNTER.encode())
    return int(guest.run("python3 /root/count_shadows.py").out)
