# SPDX-License-Identifier: GPL-2.0-only
"""Install this source tree into a guest, the way a package does, and start the service."""

from pathlib import Path
from typing import Final

from ksplicd.lab.snapshot import PACKAGE_COMMANDS, Layer
from ksplicd.run import run

SOURCE: Final = Path(__file__).parents[3]

# Another suite's Python has other files; what a host runs is compiled, as dpkg's trigger does it.
_COMPILE: Final = (
    "[ -e {package}/__pycache__/daemon.$(python3 -c 'import sys;"
    " print(sys.implementation.cache_tag)').pyc ] || python3 -m compileall -q"
    " --invalidation-mode unchecked-hash -x '/(create|lab|distro)/' {package}"
).format(package="/usr/lib/python3/dist-packages/ksplicd")

# The service runs in the snapshot, and what its first call needs is in memory.
_START: Final = ("systemctl enable -q --now ksplicd.service", "ksplice status >/dev/null")


def package_layer(tree: Path) -> Layer:
    """Return the layer with ksplicd, installed below ``tree`` first (an empty folder)."""
    run(["make", "--no-print-directory", "-C", SOURCE, "install", f"DESTDIR={tree}"])
    # dpkg's trigger does this in the guest; the same Python does it faster here
    modules = tree / "usr/lib/python3/dist-packages"
    compile_all = ["/usr/bin/python3", "-m", "compileall", "-q", "-p", "/", "-s", str(tree)]
    run([*compile_all, "--invalidation-mode", "unchecked-hash", modules])
    return Layer(tree=tree, commands=(_COMPILE, *PACKAGE_COMMANDS, *_START))
