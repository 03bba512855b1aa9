# SPDX-License-Identifier: GPL-2.0-only
"""The module of new code without the update's other modules, for the referee.

Kbuild takes five times as long for all modules of an update as for the one object that the
referee judges.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ksplicd.create.messages import compiler_words
from ksplicd.create.modules.build import make_command, write_sources
from ksplicd.create.modules.livepatch import write_livepatch_module
from ksplicd.create.new_code.model import NewCode
from ksplicd.create.stock.config_dir import ConfigDir
from ksplicd.errors import BuildError
from ksplicd.model import new_module
from ksplicd.run import run_any


def link_new_module(
    folder: Path,
    kid: str,
    config: ConfigDir,
    old_code: Mapping[str, bytes],
    new_code: Sequence[NewCode],
) -> bytes:
    """Return the new code of an update with its tables, linked but without what modpost adds.

    Raises ``BuildError``.
    """
    write_sources(folder, old_code, new_code)
    *command, _ = make_command(folder, kid, config, old_code, new_code)
    name = f"{new_module(kid)}.o"
    status, out, err = run_any([*command, name])
    if status:
        raise BuildError(compiler_words("the update's new code", out + err))
    return write_livepatch_module((folder / name).read_bytes(), name)
