# SPDX-License-Identifier: GPL-2.0-only
"""Which module imports which, read from the sources.  Imports for type checking count."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path


def read_graph(*roots: Path) -> dict[str, set[str]]:
    """Return what each module below some packages imports of them, by dotted names."""
    files = {module_of(path, root): path for root in roots for path in sorted(root.rglob("*.py"))}
    graph = {}
    for module, path in files.items():
        found = _names_in(ast.parse(path.read_text()))
        wholes = {f"{of}.{name}" if f"{of}.{name}" in files else of for of, name in found}
        graph[module] = (wholes & files.keys()) - {module}
    return graph


def module_of(path: Path, root: Path) -> str:
    """Return the name of the module in a file of the package ``root``."""
    parts = [root.name, *path.relative_to(root).with_suffix("").parts]
    return ".".join(parts).removesuffix(".__init__")


def _names_in(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Return what a module imports: a module, and a name in it (or nothing)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, "relative imports are not used"
            yield from ((node.module, alias.name) for alias in node.names)


def reachable(graph: Mapping[str, set[str]], start: str) -> set[str]:
    """Return what a module imports, and what that imports, and so on."""
    found: set[str] = set()
    left = [start]
    while left:
        new = graph[left.pop()] - found
        found |= new
        left += new
    return found
