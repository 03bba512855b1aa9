# SPDX-License-Identifier: GPL-2.0-only
"""``ksplice config``: fill the folder that ``ksplice create --config`` needs.

Everything comes from Debian's packages of that kernel: the image, the headers, and the symbols,
which are recovered from the image because the package's System.map is a stub.
"""

import argparse
import shutil
from pathlib import Path
from typing import Final

from ksplicd.create.config import read_config_dir
from ksplicd.create.image import recover_symbols, unpack_vmlinuz, write_system_map
from ksplicd.errors import ConfigDirError
from ksplicd.lab import apt
from ksplicd.lab.cache import Cache, silent, to_stderr
from ksplicd.lab.debian import KernelPackages

EPILOG: Final = """\
Needs root (or sudo) where the headers package is not installed yet.

example: ksplice config 6.1.0-50-cloud-amd64 ./config
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument(
        "release", metavar="RELEASE", help="the kernel's `uname -r`, such as 6.1.0-50-cloud-amd64"
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="the folder to fill")
    parser.add_argument(
        "--version", metavar="VERSION",
        help="Debian's version of the packages, such as 6.1.176-1 (default: the newest offered)",
    )  # fmt: skip
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors")


def run(args: argparse.Namespace) -> int:
    """Fill the folder; return the exit status.  Raises ``KspliceError``."""
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
    symbols = recover_symbols(unpack_vmlinuz(vmlinuz.read_bytes()))
    (folder / "System.map").write_text(write_system_map(symbols))
    read_config_dir(folder)
