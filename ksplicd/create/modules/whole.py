# SPDX-License-Identifier: GPL-2.0-only
"""``--build-modules``: a target's whole .ko after the change, for the next boot.

The kernel's own build compiles and links the module's object in the prepared tree; the headers'
build makes the .ko of it, as of any module that comes from outside: only there are the versions of
all symbols known.  So the module is marked as one from outside (no ``intree``), and has no BTF.

No update's core is there at the next boot: hooks are not called, tripwires are nothing.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from ksplicd.create.build.compiler import Kbuild
from ksplicd.create.build.kmodsrc import kmodsrc
from ksplicd.create.messages import compiler_words
from ksplicd.create.patch.source_tree import PatchedFile
from ksplicd.create.stock.config_dir import ConfigDir
from ksplicd.errors import BuildError, UnsupportedChangeError


def build_whole_modules(
    build: Path, kbuild: Kbuild, files: Sequence[PatchedFile], targets: Sequence[str]
) -> dict[str, bytes]:
    """Return the .ko of each module as it is with ``files`` in the tree, built in a folder.

    Raises ``BuildError``, ``UnsupportedChangeError`` for a module whose place is not known.
    """
    if not targets:
        return {}  # make without a target makes all of the kernel
    tree, config = kbuild.tree, kbuild.tree.config
    tree.progress("building the changed modules whole")
    build.mkdir(exist_ok=True)
    objects = {target: object_of(config, target) for target in targets}
    with tree.source.patched([*files, _header(kbuild.kid)]), tree.passing():
        tree.make(*map(str, objects.values()))
        for obj in objects.values():
            shutil.copy(tree.output / obj, build / f"{obj.name}_shipped")
            (build / f".{obj.name}.cmd").touch()
    (build / "Kbuild").write_text("".join(f"obj-m += {obj.name}\n" for obj in objects.values()))
    argv = [
        "make", "-C", str(config.build.resolve()), f"M={build}", f"CC={config.compiler}",
        f"KCFLAGS=-g0 -fmacro-prefix-map={build}/=", "modules",
    ]  # fmt: skip
    status, out, err = config.toolchain.run_any(argv, cwd=build)
    if status:
        raise BuildError(compiler_words(", ".join(targets), out + err))
    made = {t: build / obj.with_suffix(".ko").name for t, obj in objects.items()}
    config.toolchain.run(["strip", "--strip-debug", *made.values()])  # it has paths of this machine
    return {target: path.read_bytes() for target, path in made.items()}


def _header(kid: str) -> PatchedFile:
    """Return ksplice-patch.h where make finds it without other arguments, which change all."""
    defines = f"#define KSPLICE_KID {kid}\n#define KSPLICE_WHOLE_MODULE\n"
    text = (kmodsrc() / "ksplice-patch.h").read_bytes()
    return PatchedFile(Path("include/ksplice-patch.h"), defines.encode() + text)


def object_of(config: ConfigDir, target: str) -> Path:
    """Return the path of a module's object in the output tree, from where the .ko is installed.

    Raises ``UnsupportedChangeError`` when it is not installed.
    """
    folder = config.modules / "kernel"
    for path in folder.rglob("*.ko*"):
        name = path.name.partition(".ko")[0]
        if name.replace("-", "_") == target:
            return path.relative_to(folder).with_name(f"{name}.o")
    raise UnsupportedChangeError(
        f"{target}: no such module in {folder}, so it is not known where it is built; leave out"
        " --build-modules"
    )


def file_names(modules: Mapping[str, bytes], config: ConfigDir) -> dict[str, str]:
    """Return the .ko file's name of each target."""
    return {target: object_of(config, target).with_suffix(".ko").name for target in modules}
