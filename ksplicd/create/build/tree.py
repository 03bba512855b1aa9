# SPDX-License-Identifier: GPL-2.0-only
"""A prepared output tree of the kernel's build, and which units its configuration enables.

One tree (``make O=``) per source tree, configuration and compiler is kept in the cache.
"""

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Final

from ksplicd.create.build.foreign import (
    ForeignUnit,
    Recipe,
    parse_foreign,
    parse_recipes,
    read_foreign,
    read_recipes,
    write_foreign,
    write_recipes,
)
from ksplicd.create.build.units import (
    LISTING_FLAG,
    EnabledUnit,
    parse_dry_run,
    read_listing,
    write_listing,
)
from ksplicd.create.messages import compiler_words, names_of
from ksplicd.create.patch.source_tree import Progress, SourceTree
from ksplicd.create.stock.config_dir import ConfigDir
from ksplicd.errors import BuildError, ConfigDirError, ImageMismatchError, ToolError
from ksplicd.model import VMLINUX
from ksplicd.run import run, run_any

_READY: Final = "ksplice-ready"
_LISTING: Final = "ksplice-units"
_FOREIGN: Final = "ksplice-foreign"
_RECIPES: Final = "ksplice-recipes"
_NOT_KERNEL: Final = frozenset(
    {"Documentation", "LICENSES", "arch", "rust", "samples", "scripts", "tools", "usr"}
)
_PASSING: Final = "ksplice-passing"
_COMPILER_OPTION: Final = "CONFIG_CC_VERSION_TEXT"


class BuildTree:
    """The output tree of one source tree for one configuration."""

    def __init__(
        self,
        source: SourceTree,
        config: ConfigDir,
        cache: Path,
        *,
        jobs: int = 1,
        progress: Progress = lambda _: None,
    ) -> None:
        self.source, self.config, self.jobs, self.progress = source, config, jobs, progress
        self.notes: tuple[str, ...] = ()
        """What is to be known of the compiler."""
        self.output = cache / "kbuild" / self._key()
        self._naming: dict[str, list[str]] = {}

    def _key(self) -> str:
        """Digest of what the prepared tree is made from."""
        root = self.source.root
        made_from = [
            str(root),
            str((root / "Makefile").stat().st_ino),
            (root / "Makefile").read_text(),
            self.config.text,
            self.config.release,
            *self.config.flags,
            self.compiler(),
        ]
        if self.config.toolchain.root is not None:  # make's own programs are of that root
            made_from.append(str(self.config.toolchain.root))
        return hashlib.sha256("\0".join(made_from).encode()).hexdigest()[:16]

    def compiler(self) -> str:
        """Return the first line of the compiler's version.

        Another revision of the same version is taken, with a note: whether it makes the same code
        is seen when the objects are compared with the image.  Raises ``ConfigDirError``.
        """
        wanted, program = self.config.compiler_text, self.config.compiler
        try:
            out = self.config.toolchain.run([program, "--version"])
        except ToolError as e:
            raise ConfigDirError(
                f"{program} is needed, because the kernel was built with it ({wanted}); install"
                f" the package {program}"
            ) from e
        line = out.decode(errors="replace").splitlines()[0]
        if without_revision(line) != without_revision(wanted):
            raise ConfigDirError(
                f"{program} is “{line}”, but the kernel was built with “{wanted}”; install that"
                " version"
            )
        if line != wanted:
            words = f"the compiler is “{line}”, that of the kernel was “{wanted}”"
            self.notes = (f"{words}; both make the same code of the compiled files, byte for byte",)
        return line

    @contextmanager
    def naming_compiler(self) -> Iterator[None]:
        """Name the compiler where objects are not those of the image, and it is another one."""
        try:
            yield
        except ImageMismatchError as e:
            if not self.notes:
                raise
            raise ImageMismatchError(
                f"{e}\nthe compiler is “{self.compiler()}”, but the kernel was built with"
                f" “{self.config.compiler_text}”, and they do not make the same code; install that"
                " revision, or use --toolchain root"
            ) from e

    def _command(self, *arguments: str) -> list[str]:
        argv = [
            "make", "-C", self.source.root, f"O={self.output}", "ARCH=x86",
            f"CC={self.config.compiler}", f"KERNELRELEASE={self.config.release}",
            "LOCALVERSION=", "KBUILD_VERBOSE=0", *self.config.flags, *arguments,
        ]  # fmt: skip
        if "\nCONFIG_RUST=y\n" not in self.config.text:
            argv.append("RUSTC=false")  # one that happens to be here would change .config
        return list(map(str, argv))

    def make(self, *targets: str) -> None:
        """Run the kernel's own build for some targets.  Raises ``BuildError``."""
        argv = self._command(f"-j{self.jobs}", *targets)
        status, out, err = self.config.toolchain.run_any(argv, cwd=self.output)
        if status:
            raise BuildError(compiler_words(names_of(targets), out + err))

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Have the prepared output tree to ourselves while the context lasts.

        Raises ``ConfigDirError`` when the source tree cannot take the configuration as it is,
        ``BuildError`` when it cannot be prepared.
        """
        self.output.mkdir(parents=True, exist_ok=True)
        fd = os.open(self.output, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            os.utime(self.output)  # the cache deletes first what was used longest ago
            self._forget()
            if not (self.output / _READY).exists():
                self._prepare()
            yield
        finally:
            os.close(fd)

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Forget again what make compiles while the context lasts, also after a kill.

        The originals of patched files are older than such objects, which would pass for fresh.
        """
        (self.output / _PASSING).touch()
        try:
            yield
        finally:
            self._forget()

    def _forget(self) -> None:
        marker = self.output / _PASSING
        if marker.exists():
            newer = ["-newer", str(marker), "-type", "f"]
            names = ["(", "-name", "*.o", "-o", "-name", ".*.o.cmd", ")"]
            run(["find", self.output, *newer, *names, "-delete"])
            marker.unlink()

    def _prepare(self) -> None:
        self.progress("preparing the kernel's build tree")
        if (self.source.root / ".config").exists():
            raise ConfigDirError(
                f"{self.source.root}: was configured or built in place; run `make mrproper` there,"
                " or unpack the source anew"
            )
        for old in self.output.iterdir():
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
        wanted = self.output / ".config"
        wanted.write_text(self.config.text)
        self.make("olddefconfig")
        self._check_config(wanted.read_text())
        self.make("prepare")
        (self.output / _READY).touch()

    def _check_config(self, made: str) -> None:
        """Refuse any difference: a lost option changes code (dwarves missing drops BTF)."""
        before, after = _options(self.config.text), _options(made)
        if self.notes:  # another revision of the compiler
            after[_COMPILER_OPTION] = before.get(_COMPILER_OPTION, "")
        lost = sorted(before.items() - after.items())
        added = sorted(after.items() - before.items())
        if lost or added:
            lines = [f"  -{k}={v}" for k, v in lost[:8]] + [f"  +{k}={v}" for k, v in added[:8]]
            hint = ""
            if any("BTF" in name or "PAHOLE" in name for name, _ in lost):
                hint = "; install the package dwarves"
            raise ConfigDirError(
                f"{self.config.path}/.config does not fit {self.source.root}: this tree and this"
                f" compiler make another configuration of it{hint}\n" + "\n".join(lines)
            )

    # --- units ----------------------------------------------------------------------------------

    def files_naming(self, word: str) -> list[str]:
        """Return the C files and headers of the kernel, for x86, that have a word; sorted.

        The source tree must be as it was found: each word is searched for once.
        """
        if word not in self._naming:
            self._naming[word] = self._files_naming(word)
        return self._naming[word]

    def _files_naming(self, word: str) -> list[str]:
        root = self.source.root
        folders = sorted(
            p.name for p in root.iterdir()
            if p.is_dir() and not p.name.startswith(".") and p.name not in _NOT_KERNEL
        )  # fmt: skip
        folders += [arch for arch in ("arch/x86",) if (root / arch).is_dir()]
        include = ("--include=*.c", "--include=*.h")
        _, out, _ = run_any(["grep", "-rlwF", *include, "-e", word, "--", *folders], cwd=root)
        return sorted(out.decode(errors="surrogateescape").splitlines())

    @cached_property
    def listing(self) -> dict[str, EnabledUnit]:
        """Every unit that the configuration enables, by source."""
        return read_listing(self._listed(_LISTING))

    @cached_property
    def foreign(self) -> list[ForeignUnit]:
        """What is compiled beside the units."""
        return read_foreign(self._listed(_FOREIGN))

    @cached_property
    def recipes(self) -> list[Recipe]:
        """How files are generated."""
        return read_recipes(self._listed(_RECIPES))

    def _listed(self, name: str) -> str:
        """Return one of the listings.

        Made once, by asking make what it would run; that takes 10 s of processor time.
        """
        kept = self.output / name
        if not kept.exists():
            self._list()
        return kept.read_text()

    def _list(self) -> None:
        self.progress("listing the units that the configuration enables")
        argv = self._command("-k", "-n", "KBUILD_VERBOSE=1", f"KCFLAGS={LISTING_FLAG}",
                             f"KAFLAGS={LISTING_FLAG}", "vmlinux", "modules")  # fmt: skip
        _, out, err = self.config.toolchain.run_any(
            argv, cwd=self.output
        )  # parts fail: the distribution's signing key is not public
        text, root = out.decode(errors="replace"), self.source.root
        units = parse_dry_run(text, root)
        if not any(VMLINUX in u.targets for u in units):
            raise BuildError(compiler_words("list of enabled units", out[-4096:] + err))
        names = ["-name", ".*.cmd", "!", "-name", ".*.o.cmd"]
        found = run(["find", self.output, *names, "-print0"]).split(b"\0")
        recorded = (Path(os.fsdecode(path)) for path in found if path)
        recipes = parse_recipes(text, (p.read_text(errors="replace") for p in recorded), root)
        foreign = parse_foreign(text, root, self.config.compiler)
        for name, listing in (
            (_RECIPES, write_recipes(recipes)), (_FOREIGN, write_foreign(foreign)),
            (_LISTING, write_listing(units)),
        ):  # fmt: skip
            temporary = (self.output / name).with_suffix(".new")
            temporary.write_text(listing)
            temporary.replace(self.output / name)


def without_revision(version: str) -> str:
    """Return the first line of a compiler's version without the distribution's: its brackets.

    ``gcc-12 12.2.0`` for ``gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0``.
    """
    return " ".join(re.sub(r"\([^()]*\)", " ", version).split())


def _options(config: str) -> dict[str, str]:
    """Return the options that are set, without the versions of a compiler that nothing is for."""
    options = dict(re.findall(r"^(CONFIG_\w+)=(.*)$", config, re.MULTILINE))
    if "CONFIG_RUST" in options:
        return options
    return {name: value for name, value in options.items() if not name.startswith("CONFIG_RUSTC_")}
