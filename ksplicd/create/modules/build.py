# SPDX-License-Identifier: GPL-2.0-only
"""The three kinds of module, built by kbuild from ``kmodsrc/`` against the kernel's headers.

The C is the same for every update; the old code's tables, the new code's objects and the list of
functions are data.  Here make is run; what a livepatch needs of the finished .ko is done by
``livepatch.py``.
"""

import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ksplicd.create.build.kmodsrc import kmodsrc
from ksplicd.create.messages import compiler_words
from ksplicd.create.modules.c_tables import headers_of
from ksplicd.create.modules.livepatch import write_livepatch_module
from ksplicd.create.modules.unwind import check_unwind_data
from ksplicd.create.new_code.model import NewCode
from ksplicd.create.new_code.tripwires import count_calls
from ksplicd.create.stock.config_dir import ConfigDir
from ksplicd.elf.read import read_object
from ksplicd.elf.write import write_object
from ksplicd.errors import BuildError
from ksplicd.model import (
    ANCHOR_PREFIX,
    core_module,
    flat_target,
    new_module,
    old_module,
)

_ORC: Final = re.compile(r"^CONFIG_UNWINDER_ORC=y$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Modules:
    """The finished modules of an update, by file name."""

    core: str
    new: str
    old: Mapping[str, str]
    """File name by target."""
    files: Mapping[str, bytes]


def build_modules(
    build: Path,
    kid: str,
    config: ConfigDir,
    old_code: Mapping[str, bytes],
    new_code: Sequence[NewCode],
) -> Modules:
    """Build the modules of update ``kid`` in a folder; ``old_code`` holds the tables by target.

    The result does not depend on where the folder is.  Raises ``BuildError``.
    """
    write_sources(build, old_code, new_code)
    command = make_command(build, kid, config, old_code, new_code)
    status, out, err = config.toolchain.run_any(command, cwd=build)
    if status:
        raise BuildError(compiler_words("the update's modules", out + err))
    core, new = f"{core_module(kid)}.ko", f"{new_module(kid)}.ko"
    old = {target: f"{old_module(kid, target)}.ko" for target in old_code}
    files = {name: (build / name).read_bytes() for name in (core, new, *old.values())}
    if _ORC.search(config.text):
        for name, ko in files.items():
            check_unwind_data(read_object(ko, name), (out + err).decode(errors="replace"))
    return Modules(
        core=core,
        new=new,
        old=old,
        files={name: write_livepatch_module(ko, name) for name, ko in files.items()},
    )


def write_sources(build: Path, old_code: Mapping[str, bytes], new_code: Sequence[NewCode]) -> None:
    """Fill the folder ``build`` with what kbuild makes the modules from."""
    for source in kmodsrc().iterdir():
        if source.suffix in (".c", ".h") or source.name == "Kbuild":
            shutil.copy(source, build / source.name)
    for target, blob in old_code.items():
        (build / f"{flat_target(target)}.old").write_bytes(blob)
    for name, unit in zip(_objects(new_code), new_code, strict=True):
        (build / f"{name}_shipped").write_bytes(write_object(unit.obj))
        (build / f".{name}.cmd").touch()
    for header, text in headers_of(new_code).items():
        (build / header).write_text(text)


def make_command(
    build: Path,
    kid: str,
    config: ConfigDir,
    targets: Iterable[str],
    new_code: Sequence[NewCode],
) -> list[str]:
    """Return the command that builds the modules in the folder that ``write_sources`` filled."""
    tripwires = sum(count_calls(unit.obj) for unit in new_code)
    return [
        "make", "-C", str(config.build.resolve()), f"M={build}", "-j2", f"CC={config.compiler}",
        # No debug information, which would hold the build folder's path.
        f"KCFLAGS=-g0 -fmacro-prefix-map={build}/=",
        # ... so that there is nothing to make BTF of, where the headers have a vmlinux for that.
        "CONFIG_DEBUG_INFO_BTF_MODULES=",
        "KBUILD_MODPOST_WARN=1", f"KSPLICE_KID={kid}",
        f"KSPLICE_TARGETS={' '.join(map(flat_target, targets))}",
        f"KSPLICE_NEW={' '.join(_objects(new_code))}",
        f"KSPLICE_REDIRECTS={'y' if any(unit.redirects for unit in new_code) else ''}",
        f"KSPLICE_ANCHORS={'y' if any(unit.anchors for unit in new_code) else ''}",
        f"KSPLICE_ANCHOR_PREFIX={ANCHOR_PREFIX}",
        f"KSPLICE_KEEPS_CODE={'y' if any(unit.keeps_code for unit in new_code) else ''}",
        f"KSPLICE_TRIPWIRES={tripwires or ''}", "modules",
    ]  # fmt: skip


def _objects(new_code: Sequence[NewCode]) -> list[str]:
    return [f"unit{i}.o" for i in range(len(new_code))]
