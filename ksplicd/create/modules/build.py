# SPDX-License-Identifier: GPL-2.0-only
"""The three kinds of module, built by kbuild from ``kmodsrc/`` against the kernel's headers.

The C is the same for every update; the old code's tables, the new code's objects and the list of
functions are data.  Symbols that the kernel does not export are undefined ``.klp.sym.*`` symbols
until the very end: then the finished .ko gets its livepatch relocations, because a later ``ld -r``
would destroy them.
"""

import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ksplicd.create.build.kmodsrc import kmodsrc
from ksplicd.create.diff.hooks import CHECKS
from ksplicd.create.messages import compiler_words
from ksplicd.create.new_code.aliases import is_function_alias
from ksplicd.create.new_code.model import Anchored, NewCode
from ksplicd.create.new_code.tripwires import count_calls
from ksplicd.create.stock.config_dir import ConfigDir
from ksplicd.elf import (
    LivepatchRelocations,
    Object,
    Relocation,
    Symbol,
    read_object,
    write_object,
)
from ksplicd.elf.model import SHN_LIVEPATCH, STB_LOCAL, STT_FUNC, STT_NOTYPE
from ksplicd.errors import BuildError
from ksplicd.model import (
    ANCHOR_PREFIX,
    NEW_SUFFIX,
    VMLINUX,
    core_module,
    flat_target,
    new_module,
    old_module,
)
from ksplicd.run import run_any

_KLP_SYMBOL: Final = re.compile(r"\.klp\.sym(?:@(?P<target>[^@]+)@|\.)(?P<object>[^.]+)\.")
"""``.klp.sym.OBJECT.NAME,POS``.  With ``@TARGET@`` for the second ``.`` its relocations go with
another object's: what a module depends on is sure to be there only when the module is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Modules:
    """The finished modules of an update, by file name."""

    core: str
    new: str
    old: Mapping[str, str]
    """File name by target."""
    files: Mapping[str, bytes]


def build_modules(
    kid: str, config: ConfigDir, old_code: Mapping[str, bytes], new_code: Sequence[NewCode]
) -> Modules:
    """Build the modules of update ``kid``; ``old_code`` holds the tables by target.

    The result depends on the arguments only, not on where it is built.  Raises ``BuildError``.
    """
    with tempfile.TemporaryDirectory(prefix="ksplice-modules-") as folder:
        build = Path(folder)
        write_sources(build, old_code, new_code)
        status, out, err = run_any(make_command(build, kid, config, old_code, new_code))
        if status:
            raise BuildError(compiler_words("the update's modules", out + err))
        core, new = f"{core_module(kid)}.ko", f"{new_module(kid)}.ko"
        old = {target: f"{old_module(kid, target)}.ko" for target in old_code}
        return Modules(
            core=core,
            new=new,
            old=old,
            files={
                name: write_livepatch_module((build / name).read_bytes(), name)
                for name in (core, new, *old.values())
            },
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
    (build / "update.h").write_text(_update_header(new_code))
    (build / "anchors.h").write_text(_anchors_header(new_code))
    (build / "redirects.h").write_text(_redirects_header(new_code))


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
        f"KSPLICE_ANCHORS={'y' if _anchors(new_code) else ''}",
        f"KSPLICE_KEEPS_CODE={'y' if any(unit.keeps_code for unit in new_code) else ''}",
        f"KSPLICE_TRIPWIRES={tripwires or ''}", "modules",
    ]  # fmt: skip


def _objects(new_code: Sequence[NewCode]) -> list[str]:
    return [f"unit{i}.o" for i in range(len(new_code))]


def _update_header(new_code: Sequence[NewCode]) -> str:
    """Return update.h: the tables of kmodsrc/new_code.c."""
    declared: list[str] = []
    tables: list[str] = []
    objects: list[str] = []
    targets = _targets(new_code)
    for i, target in enumerate(targets):
        units = [unit for unit in new_code if unit.target == target]
        replaced = [(r.name, r.sympos, r.alias) for unit in units for r in unit.redirected]
        hooks = [hook for unit in units for hook in unit.hooks]
        tables += _function_table(f"funcs_{i}", replaced)
        tables += [
            f"static const struct hook hooks_{i}[] = {{",
            *(
                f"\t{{ HOOK_{h.kind}, .{'check' if h.kind in CHECKS else 'act'} = {h.alias} }},"
                for h in hooks
            ),
            "\t{ }\n};",
        ]
        declared += [f"void {alias}(void);" for _, _, alias in replaced]
        declared += [f"{'int' if h.kind in CHECKS else 'void'} {h.alias}(void);" for h in hooks]
        name = f'.name = "{target}", ' if target != VMLINUX else ""
        objects.append(f"\t{{ {name}.funcs = funcs_{i}, .callbacks = KSPLICE_CALLBACKS }},")
    if anchors := _anchors(new_code):
        rows = [(f"{ANCHOR_PREFIX}{i}_{a.function}", 0, a.alias) for i, a in enumerate(anchors)]
        tables += _function_table("anchors", rows)
        declared += [f"void {a.alias}(void);" for a in anchors]
        objects.append("\t{ .name = KSPLICE_CORE, .funcs = anchors },")
    hooks_of = ", ".join(f"hooks_{i}" for i, _ in enumerate(targets))
    names = "".join(f'"{target}", ' for target in dict.fromkeys(unit.target for unit in new_code))
    return "\n".join(
        [
            "/* Generated by ksplice create. */",
            *dict.fromkeys(declared),
            *tables,
            "static struct klp_object objects[] = {",
            *objects,
            "\t{ }\n};",
            f"static const struct hook *const hooks[] = {{ {hooks_of} }};",
            f"static const char *const must_match[] = {{ {names}NULL }};",
            "",
        ]
    )


def _function_table(name: str, rows: Sequence[tuple[str, int, str]]) -> list[str]:
    return [
        f"static struct klp_func {name}[] = {{",
        *(
            f'\t{{ .old_name = "{old}", .old_sympos = {position}, .new_func = {new} }},'
            for old, position, new in rows
        ),
        "\t{ }\n};",
    ]


def _targets(new_code: Sequence[NewCode]) -> list[str]:
    """Return the klp_patch's objects, vmlinux first: its callbacks tell where the update is."""
    return list(dict.fromkeys([VMLINUX, *(unit.target for unit in new_code)]))


def _anchors(new_code: Sequence[NewCode]) -> list[Anchored]:
    return [anchored for unit in new_code for anchored in unit.anchors]


def _anchors_header(new_code: Sequence[NewCode]) -> str:
    """Return anchors.h: what kmodsrc/anchors.c makes its functions from."""
    lines = ["/* Generated by ksplice create. */"]
    lines += [f"KSPLICE_ANCHOR({i}, {a.function})" for i, a in enumerate(_anchors(new_code))]
    return "\n".join([*lines, ""])


def _redirects_header(new_code: Sequence[NewCode]) -> str:
    """Return redirects.h: what kmodsrc/redirect.c leads to new code."""
    targets = _targets(new_code)
    redirects = [(targets.index(unit.target), r) for unit in new_code for r in unit.redirects]
    symbols = dict.fromkeys(s for _, r in redirects for s in (r.place, r.old, r.new) if s)
    names = {"": "NULL"} | {symbol: f"ksplice_symbol_{i}" for i, symbol in enumerate(symbols)}
    lines = ["/* Generated by ksplice create. */"]
    # Quoted twice: to the assembler, a bare comma would end the name.
    lines += [
        f'extern char {name}[] asm("\\"{symbol}\\"");' for symbol, name in names.items() if symbol
    ]
    lines.append("static struct redirect redirects[] = {")
    lines += [
        f"\t{{ .object = {target}, .kind = REDIRECT_{r.kind.name},"
        f" .place = {names[r.place]} + {r.offset}, .old = {names[r.old]}, .new = {names[r.new]} }},"
        for target, r in redirects
    ]
    return "\n".join([*lines, "};", ""])


def write_livepatch_module(ko: bytes, name: str) -> bytes:
    """Turn the undefined ``.klp.sym.*`` symbols of a .ko into livepatch symbols.

    Their relocations move to ``.klp.rela.OBJECT.SECTION`` sections
    (Documentation/livepatch/module-elf-format.rst).
    """
    obj = read_object(ko, name)
    _rename_new_functions(obj)
    owners: dict[Symbol, str] = {}
    for s in obj.symbols:
        m = _KLP_SYMBOL.match(s.name) if s.is_undefined else None
        if m is not None:
            owners[s] = m["target"] or m["object"]
            s.name = s.name.replace(f"@{m['target']}@", ".", 1) if m["target"] else s.name
            s.shndx, s.type = SHN_LIVEPATCH, STT_NOTYPE
    for section in obj.sections:
        moved: dict[str, list[Relocation]] = defaultdict(list)
        kept = []
        for r in section.relocations:
            if r.symbol.shndx == SHN_LIVEPATCH:
                moved[owners[r.symbol]].append(r)
            else:
                kept.append(r)
        if not section.is_alloc:
            continue
        section.relocations = kept
        for owner, relocations in moved.items():
            obj.livepatch.append(
                LivepatchRelocations(f".klp.rela.{owner}.{section.name}", section, relocations)
            )
    return write_object(obj)


def _rename_new_functions(obj: Object) -> None:
    """Let no function have the name of the one that it replaces: ``do_fcntl.ksplice``.

    Since 6.6 (b022f0c7e404, also in 6.1.60), a name that two functions have is refused for a
    kprobe: nobody could probe the old one while the update is applied.
    """
    aliased = {(s.section, s.value) for s in obj.symbols if is_function_alias(s.name)}
    for s in obj.symbols:
        if s.bind == STB_LOCAL and s.type == STT_FUNC and (s.section, s.value) in aliased:
            s.name += NEW_SUFFIX
