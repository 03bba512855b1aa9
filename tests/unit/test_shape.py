# SPDX-License-Identifier: GPL-2.0-only
"""The product's functions are short and its classes have few fields; exceptions are named here."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import ksplicd

ROOT: Final = Path(ksplicd.__file__).parent
MOST_LINES: Final = 60
MOST_FIELDS: Final = 12

REASONS: Final = {
    "config.py: Settings": "one field for each key of ksplicd.conf",
    "create/request.py: Request": "one field for each option of ksplice create",
    "model.py: Manifest": "one field for each key of manifest.json",
}
"""What is longer, and why."""


def functions_in(
    body: list[ast.stmt], outer: str = ""
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Return functions and methods by their qualified names; what is inside one is part of it."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield outer + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from functions_in(node.body, f"{outer}{node.name}.")
        else:
            yield from functions_in(blocks_of(node), outer)


def classes_in(body: list[ast.stmt], outer: str = "") -> Iterator[tuple[str, ast.ClassDef]]:
    """Return classes by their qualified names."""
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield outer + node.name, node
            yield from classes_in(node.body, f"{outer}{node.name}.")
        else:
            yield from classes_in(blocks_of(node), outer)


def blocks_of(node: ast.stmt) -> list[ast.stmt]:
    """Return the statements inside another one, whatever they hang on."""
    return [inner for inner in ast.iter_child_nodes(node) if isinstance(inner, ast.stmt)]


def lines_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def fields_of(node: ast.ClassDef) -> set[str]:
    """Return annotated names of the class's body, and attributes that are set on ``self``.

    A class variable, an enumeration's members and a Protocol's properties are no fields.
    """
    found = set()
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            of_class = ast.unparse(statement.annotation).startswith(("ClassVar", "Final"))
            found |= set() if of_class else {statement.target.id}
    for name, method in functions_in(node.body):
        if "." not in name and method.args.args:
            found |= set(set_on(method.args.args[0].arg, method))
    return found


def set_on(owner: str, method: ast.AST) -> Iterator[str]:
    """Return the attributes of ``owner`` that a method assigns."""
    for node in ast.walk(method):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == owner
        ):
            yield node.attr


def too_long(root: Path) -> dict[str, str]:
    """Return what is too long, as ``FILE: NAME``, and how long it is."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        body, file = ast.parse(path.read_text()).body, path.relative_to(root)
        for name, function in functions_in(body):
            if lines_of(function) > MOST_LINES:
                found[f"{file}: {name}"] = f"{lines_of(function)} lines"
        for name, node in classes_in(body):
            if len(fields_of(node)) > MOST_FIELDS:
                found[f"{file}: {name}"] = f"{len(fields_of(node))} fields"
    return found


def test_what_is_long_has_a_reason() -> None:
    found = too_long(ROOT)
    assert {name: size for name, size in found.items() if name not in REASONS} == {}
    assert REASONS.keys() - found.keys() == set(), "no longer long"


def test_what_is_long_is_found(tmp_path: Path) -> None:
    lines = "    pass\n" * MOST_LINES
    fields = "".join(f"    f{i}: int\n" for i in range(MOST_FIELDS - 1))
    (tmp_path / "a.py").write_text(
        f"def just():\n{lines.removesuffix('    pass' + chr(10))}"
        f"if True:\n  def long():\n{lines}"
        f"class Full:\n{fields}    def set(self):\n        self.f1 = self.more = 1\n"
        f"class Fuller:\n{fields}    X: Final = 1\n"
        "    def set(self):\n        self.more, self.other = 1, 2\n"
        f"class C:\n  class D:\n   async def long(self):\n{lines}"
    )
    assert too_long(tmp_path) == {
        "a.py: long": f"{MOST_LINES + 1} lines",
        "a.py: Fuller": f"{MOST_FIELDS + 1} fields",
        "a.py: C.D.long": f"{MOST_LINES + 1} lines",
    }
