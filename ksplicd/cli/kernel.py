# SPDX-License-Identifier: GPL-2.0-only
"""``--kernel RELEASE``: the kernel's parts from its distribution, as ``ksplice create`` wants them.

::

    release ─▸ kernel ─▸ image, modules, headers, source ─▸ symbols ─▸ the folder of --config
"""

import argparse
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from ksplicd.cache import Cache, Progress, digest_of
from ksplicd.create.build.kmodsrc import kmodsrc
from ksplicd.create.stock.config_dir import ConfigDir, read_config_dir
from ksplicd.create.stock.from_machine import RunningHost, find_symbols
from ksplicd.create.stock.system_map import write_system_map
from ksplicd.distro.debian import Debian
from ksplicd.distro.model import Distribution, Kernel, Parts
from ksplicd.distro.plain import Plain
from ksplicd.distro.root import toolchain_root
from ksplicd.errors import NoSuchKernelError, UsageError
from ksplicd.run import has, run_any
from ksplicd.toolchain import HOST, Toolchain


class Choice(StrEnum):
    """Which compiler is run."""

    AUTO = "auto"
    HOST = "host"
    ROOT = "root"


RUNNING: Final = "running"

_DEBIANS: Final = re.compile(r"\bDebian (\d\S+)")
"""In the second field of ``uname -v``, the version of the packages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What ``create`` is given of a kernel."""

    source: Path
    config: Path
    """The folder that ``--config`` takes."""
    origins: Mapping[str, str]
    """Where each part came from, by its name."""
    toolchain: Toolchain = HOST


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say which kernel the update is for."""
    parser.add_argument(
        "source", metavar="SOURCE", type=Path, nargs="?",
        help="the kernel's source tree (with --kernel: default that of its distribution)",
    )  # fmt: skip
    parser.add_argument(
        "--kernel", metavar="RELEASE",
        help="the kernel's `uname -r`, or `running`: image, headers, modules, symbols and source"
        " are taken from Debian's archive; `ksplice kernels` lists what there is. A path, such as"
        " ./: a folder in which a kernel was built",
    )  # fmt: skip
    parser.add_argument(
        "--config", metavar="DIR", type=Path,
        help="folder with System.map, .config and build, optionally vmlinuz and flags; in place of"
        " --kernel",
    )  # fmt: skip


def add_toolchain(parser: argparse.ArgumentParser) -> None:
    """Add the argument that says where the compiler is."""
    parser.add_argument(
        "--toolchain", choices=[str(choice) for choice in Choice], default=Choice.AUTO,
        help="run the compiler of this machine (host), or that of the kernel's suite in a root"
        " that is made once (root); auto: of this machine where it is the kernel's",
    )  # fmt: skip


def check_arguments(args: argparse.Namespace) -> None:
    """Raise ``UsageError`` unless one kernel is named, with a source where that is needed."""
    if (args.kernel is None) == (args.config is None):
        given = "--kernel and --config" if args.kernel else "no kernel given"
        raise UsageError(f"{given}: give exactly one of --kernel RELEASE, --config DIR SOURCE")
    if args.toolchain == Choice.ROOT and (args.config or "/" in args.kernel):
        raise UsageError(
            "--toolchain root: goes with --kernel RELEASE; of a kernel in a folder nobody knows the"
            " suite, and its compiler has to be installed"
        )
    if args.source is None and args.config is not None:
        raise UsageError("--config DIR: goes with SOURCE, the kernel's source tree")
    if args.source is None and (args.git is not None or args.diffext is not None):
        option = "--git" if args.git is not None else "--diffext"
        raise UsageError(f"{option}: goes with SOURCE, the tree that has the change")


def inputs_of(args: argparse.Namespace, cache: Cache) -> Inputs:
    """Return the parts of the kernel that the arguments name.  Raises ``KspliceError``."""
    if args.kernel is None:
        return Inputs(source=args.source, config=args.config, origins={})
    if "/" in args.kernel:
        plain = Plain(Path(args.kernel))
        return fetch(plain, plain.kernels()[0].release, cache, source=args.source)
    debian, choice = Debian(cache), Choice(args.toolchain)

    def root_for(kernel: Kernel) -> Toolchain:
        return toolchain_root(
            debian.archive, debian.toolchain(kernel), [kmodsrc(), Path("/usr/src")]
        )

    return fetch(debian, args.kernel, cache, source=args.source, choice=choice, root_for=root_for)


def fetch(
    distribution: Distribution,
    release: str,
    cache: Cache,
    *,
    source: Path | None = None,
    choice: Choice = Choice.HOST,
    root_for: Callable[[Kernel], Toolchain] | None = None,
) -> Inputs:
    """Return the parts of a kernel, fetched where they are not in the cache.

    ``source``: a tree to take in place of the distribution's.  ``root_for``: makes the toolchain
    of a kernel's suite.  Raises ``DistroError`` and its
    leaves, ``CreateError``.
    """
    kernel = find(distribution, release)
    suite = f", suite {kernel.suite}" if kernel.suite else ""
    cache.progress(f"{kernel.release} {kernel.version} of {distribution.name}{suite}")
    if root_for is None or choice is Choice.HOST:
        check_compiler(kernel)
    parts = distribution.parts(kernel)
    config, symbols = config_of(cache, parts)
    known = read_config_dir(config)
    toolchain = HOST
    if root_for and (
        choice is Choice.ROOT or (choice is Choice.AUTO and not is_compiler_here(known))
    ):
        toolchain = root_for(kernel)
    where = "this machine" if toolchain.root is None else f"a root: {toolchain.root}"
    origins = {
        "image": parts.image.origin,
        "modules": parts.modules.origin,
        "headers": parts.headers.origin,
        "symbols": symbols,
        "source": parts.source.origin if source is None else str(source),
        "compiler": f"{known.compiler_text} ({where})",
    }
    show_origins(origins, cache.progress)
    return Inputs(
        source=source or parts.source.path, config=config, origins=origins, toolchain=toolchain
    )


def show_origins(origins: Mapping[str, str], progress: Progress) -> None:
    """Say where each part came from."""
    for name, origin in origins.items():
        progress(f"{name}: {origin}")


def find(distribution: Distribution, release: str) -> Kernel:
    """Return a kernel by its release, or the one that runs.  Raises ``NoSuchKernelError``."""
    if release != RUNNING:
        return distribution.kernel(release)
    name = os.uname()
    match = _DEBIANS.search(name.version)
    if match is None:
        raise NoSuchKernelError(
            f"{name.release}: the running kernel was not built by Debian (uname -v says"
            f" {name.version}); name another one, or fill a folder for --config with"
            " `ksplice config --running`"
        )
    return distribution.kernel(name.release, match[1])


def is_compiler_here(config: ConfigDir) -> bool:
    """Tell whether this machine has the very compiler that a kernel was built with."""
    if not has(config.compiler):
        return False
    lines = run_any([config.compiler, "--version"])[1].decode(errors="replace").splitlines()
    return lines[:1] == [config.compiler_text]


def check_compiler(kernel: Kernel) -> None:
    """Raise ``NoSuchKernelError`` when this machine does not have the kernel's compiler.

    Whether it is of the same revision is seen when the configuration is there.
    """
    if kernel.compiler and not has(kernel.compiler):
        raise NoSuchKernelError(
            f"{kernel.release} was built with {kernel.compiler}, which this machine does not have;"
            f" install the package {kernel.compiler}, or take --toolchain root"
        )


def config_of(cache: Cache, parts: Parts) -> tuple[Path, str]:
    """Return the folder that ``--config`` takes, made of a kernel's parts, and whence the symbols.

    The parts must have been asked for in this run: the folder has links to them.
    """
    release = parts.kernel.release
    given = [parts.image, parts.modules, parts.headers, parts.symbols, parts.flags]

    def make(folder: Path) -> None:
        cache.progress("reading the kernel's symbols")
        vmlinuz = parts.image.path.read_bytes()
        maps = RunningHost(release=release).maps if parts.symbols is None else (parts.symbols.path,)
        symbols, origin = find_symbols(vmlinuz, maps)
        (folder / "System.map").write_text(write_system_map(symbols))
        (folder / "symbols").write_text(origin)
        shutil.copyfile(parts.headers.path / ".config", folder / ".config")
        for name, part in (
            ("vmlinuz", parts.image), ("build", parts.headers), ("modules", parts.modules),
            ("flags", parts.flags),
        ):  # fmt: skip
            if part is not None and part.path.exists():
                (folder / name).symlink_to(part.path)
        read_config_dir(folder)

    # a folder of one's own is built in again and again
    files = [parts.headers.path / ".config", *(p.path for p in given if p is not None)]
    stats = [(p, p.stat()) for p in files if p.exists()]
    made_from = [(str(p), s.st_ino, s.st_mtime_ns * p.is_file(), s.st_size) for p, s in stats]
    digest = digest_of("2", release, made_from)
    folder = cache.entry("kernel-config", digest, make)
    return folder, (folder / "symbols").read_text()
