# SPDX-License-Identifier: GPL-2.0-only
"""What becomes of the address of a datum, in code that gcc makes."""

from pathlib import Path

import pytest

from ksplicd.create.objects.address_use import AddressUse, address_use
from ksplicd.create.objects.index import ObjectIndex
from tests.support.objects.compile import SPLIT, compile_object
from tests.support.objects.pair import SIZES

PRELUDE = """
struct type { int a, b; };
static const struct type one = { 1, 2 }, table[4] = { { 3, 4 } };
struct object { const struct type *type, *other; int n; };
int read(const struct type *);
struct object *find(int);
struct object *const list[2];
"""
STORED, COMPARED, RETURNED = AddressUse.STORED, AddressUse.COMPARED, AddressUse.RETURNED


@pytest.mark.parametrize(
    ("source", "use"),
    [
        ("int f(int i) { return table[i].a; }", None),
        ("int f(void) { return read(&one); }", None),
        ("int f(int i) { return i ? read(&one) : read(&table[1]) + 1; }", None),
        ("int f(struct object *o) { return read(&one) + read(&one) + o->n; }", None),
        ("int f(int i) { struct object o = { &one, 0, i }; return read((void *)&o); }", None),
        ("void f(struct object *o) { o->type = &one; }", STORED),
        ("void f(struct object *o, int i) { o->type = &table[i]; }", STORED),
        ("void f(struct object *o) { o->type = o->other = &one; read(&one); }", STORED),
        ("void f(int i) { const struct type *t = i ? &one : 0; find(i)->type = t; }", STORED),
        ("void f(int i) { const struct type *t = &table[i]; read(t); find(i)->type = t; }", STORED),
        ("int f(struct object *o) { return o->type == &one; }", COMPARED),
        ("int f(struct object *o, int i) { return o->type == &table[i]; }", COMPARED),
        ("const struct type *f(void) { return &one; }", RETURNED),
        ("const struct type *f(int i) { return read(&one) ? &table[i] : 0; }", RETURNED),
    ],
)
def test_address_use(tmp_path: Path, source: str, use: AddressUse | None) -> None:
    index = ObjectIndex(compile_object(tmp_path, PRELUDE + source, *SPLIT, "-mno-sse"), SIZES)
    (f,) = index.obj.functions()
    assert f.section is not None
    uses = {address_use(index, f.section, r) for r in f.section.relocations
            if (s := index.locate(f.section, r).symbol) and s.name in ("one", "table")}  # fmt: skip
    assert uses - {None} == ({use} if use else set())
