# SPDX-License-Identifier: GPL-2.0-only
"""Whether files that the kernel's build generates would be other ones after a change.

The command that made a file runs again with another output, before the change and after it; so do
the compilers of programs that it needs.

Proof obligation: a generated file that is not returned came out the same, byte for byte.
"""

import re
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

from ksplicd.create.build.foreign import Recipe
from ksplicd.create.build.tree import BuildTree
from ksplicd.create.patch.states import TreeStates


def find_other_generated(
    tree: BuildTree, paths: Collection[str], states: TreeStates
) -> dict[str, list[str]]:
    """Return by changed file which generated files would be other ones, or cannot be made here."""
    concerned = [r for r in tree.recipes if not r.inputs.isdisjoint(paths)]
    if not concerned:
        return {}
    made: list[Mapping[str, bytes | None]] = []
    for state in (states.before, states.after):
        with tree.source.patched(state):
            made.append({r.target: _generate(tree, r) for r in concerned})
    before, after = made
    other = [r for r in concerned
             if before[r.target] is None or before[r.target] != after[r.target]]  # fmt: skip
    found = {path: [r.target for r in other if path in r.inputs] for path in paths}
    return {path: targets for path, targets in found.items() if targets}


def _generate(tree: BuildTree, recipe: Recipe) -> bytes | None:
    """Return what a recipe makes of the source tree as it is now, None when it fails."""
    toolchain = tree.config.toolchain
    with tempfile.TemporaryDirectory(prefix="ksplice-made-") as folder:
        places = {recipe.target: f"{folder}/made"}
        for i, (program, command) in enumerate(recipe.programs):
            places[program] = f"{folder}/program{i}"
            line = re.sub(r"-Wp,-MMD,\S+", "", _moved(command, places))
            if toolchain.run_any(["sh", "-c", line], cwd=tree.output)[0]:
                return None
        last = _moved(recipe.command, places)
        status, *_ = toolchain.run_any(["sh", "-c", last], cwd=tree.output)
        made = Path(folder, "made")
        return made.read_bytes() if status == 0 and made.exists() else None


def _moved(command: str, places: Mapping[str, str]) -> str:
    """Return a command with other places for what it makes, and for the programs that it runs."""
    for old, new in places.items():
        command = re.sub(rf"(?<![\w/.-])(?:\./)?{re.escape(old)}(?![\w/.-])", new, command)
    return command
