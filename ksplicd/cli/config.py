# SPDX-License-Identifier: GPL-2.0-only
"""``ksplice config``: fill the folder that ``ksplice create --config`` needs.

The image, the headers, the modules and the symbols come from Debian's packages of that kernel, or
from the running machine.  The image package's System.map is a stub: without the -dbg package the
symbols are recovered from the image.
"""

import argparse
import os
import shutil
from pathlib import Path
from typing import Final

from ksplicd.cache import Cache, silent, to_stderr
from ksplicd.create.stock.config_dir import read_config_dir
from ksplicd.create.stock.from_machine import RunningHost, fill_from_machine, find_symbols
from ksplicd.create.stock.system_map import write_system_map
from ksplicd.distro import apt
from ksplicd.distro.packages import KernelPackages
from ksplicd.errors import ConfigDirError, UsageError

EPILOG: Final = """\
Needs root (or sudo) where the headers package is not installed yet.

examples: ksplice config 6.1.0-50-cloud-amd64 ./config
          ksplice config --running ./config
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument(
        "release", metavar="RELEASE", nargs="?",
        help="the kernel's `uname -r`, such as 6.1.0-50-cloud-amd64",
    )  # fmt: skip
    parser.add_argument("folder", metavar="DIR", type=Path, help="the folder to fill")
    parser.add_argument(
        "--running", action="store_true",
        help="take the running kernel, as it is installed on this machine, in place of RELEASE",
    )  # fmt: skip
    parser.add_argument(
        "--version", metavar="VERSION",
        help="Debian's version of the packages, such as 6.1.176-1 (default: the newest offered)",
    )  # fmt: skip
    parser.add_argument("-q", "--quiet", action="store_true", help="print only errors")


def run(args: argparse.Namespace) -> int:
    """Fill the folder; return the exit status.  Raises ``KspliceError``."""
    if args.running == (args.release is not None):
        raise UsageError("give either the kernel's RELEASE or --running")
    if args.running:
        release = os.uname().release
        origin = fill_from_machine(args.folder, RunningHost(release=release))
        if not args.quiet:
            print(f"{args.folder}: {release}, symbols from {origin}")
        return 0
    cache = Cache(progress=silent if args.quiet else to_stderr)
    package = f"linux-image-{args.release}"
    offered = apt.versions(package)
    version = args.version or next(iter(offered), None)
    if version is None:
        raise ConfigDirError(
            f"{package}: not in this machine's package sources; run `apt-get update`, or give a"
            " release that `apt-cache search linux-image-` lists"
        )
    kernel = KernelPackages(cache=cache, release=args.release, version=version)
    fill(args.folder, kernel)
    if not args.quiet:
        print(f"{args.folder}: {args.release} ({version})")
    return 0


def fill(folder: Path, kernel: KernelPackages) -> None:
    """Fill ``folder`` for a kernel and check the result."""
    headers = kernel.install_headers()
    vmlinuz = kernel.vmlinuz()
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(vmlinuz, folder / "vmlinuz")
    shutil.copyfile(headers / ".config", folder / ".config")
    for link, to in ((folder / "build", headers), (folder / "modules", kernel.modules())):
        link.unlink(missing_ok=True)
        link.symlink_to(to)
    hosts = (
        RunningHost(release=kernel.release),
        RunningHost(release=kernel.release, root=kernel.image_root()),
    )
    symbols, _ = find_symbols(vmlinuz.read_bytes(), [path for host in hosts for path in host.maps])
    (folder / "System.map").write_text(write_system_map(symbols))
    read_config_dir(folder)
