# SPDX-License-Identifier: GPL-2.0-only
"""Imports point one way: bytes below, side effects above, nobody imports the bus."""

import ast
from pathlib import Path

import pytest

import ksplicd

ROOT = Path(ksplicd.__file__).parent
NOUNS = {"errors", "model", "text", "notes"}
FILES = {"bundle", "manifest", "fields", "modinfo", "minisign", "ed25519"}
MAY_IMPORT = {
    "elf": {"elf", "errors"},
    "create": {"create", "elf", "run", "bundle", *NOUNS},
    "host": {"host", "config", *FILES, *NOUNS},
    "bus": {"bus", "host", "config", "bundle", *NOUNS},
    "lab": {"lab", "run", "bundle", *NOUNS},
    "cli": {"cli", "create", "elf", "host", "bus", "lab", "run", "config", *FILES, *NOUNS},
    "bundle.py": {*FILES, *NOUNS},
    "minisign.py": {*FILES, *NOUNS},
    "model.py": set(),
    "errors.py": set(),
    "text.py": set(),
    "notes.py": set(),
    "run.py": {"errors"},
}


def imports_of(path: Path) -> set[str]:
    """Return the parts of ksplicd that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {n.split(".")[1] for n in names if n.startswith("ksplicd.")}
    return found - {"__version__"}


@pytest.mark.parametrize("layer", MAY_IMPORT)
def test_imports(layer: str) -> None:
    path = ROOT / layer
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    assert files
    for file in files:
        extra = imports_of(file) - MAY_IMPORT[layer]
        assert not extra, f"{file.relative_to(ROOT)} imports {extra}"
