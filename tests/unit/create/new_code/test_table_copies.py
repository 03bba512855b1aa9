# SPDX-License-Identifier: GPL-2.0-only
"""What counts as a copy of a table of functions, or of one of its fields."""

import pytest

from ksplicd.create.new_code.table_copies import Field, declared_members, find_copies, find_writes

HANDLER = Field(type="struct door_ops", member="handler", is_pointer=True)
MODE = Field(type="struct door_ops", member="mode", is_pointer=False)


DOORS = "static struct door_ops doors[] = { { .mode = 1 } };\n"


def lines(source: str, field: Field = HANDLER, table: str | None = "doors") -> list[int]:
    return [c.line - 1 for c in find_copies(DOORS + source, field, table)]


def function(body: str, parameters: str = "struct door_ops *ops, struct door_ops **list") -> str:
    return f"static int f({parameters})\n{{\n\t{body}\n\treturn 0;\n}}\n"


@pytest.mark.parametrize(
    "body",
    [
        "h->mine = *ops;",
        "h->mine[3] = ops[2];",
        "struct door_ops mine = *ops;",
        "struct door_ops *new = kmemdup(ops, sizeof(*ops), GFP_KERNEL);",
        "struct door_ops *new = kmemdup_array(doors, 3, sizeof(doors[0]), GFP_KERNEL);",
        "h->table = kmemdup(doors, sizeof(doors), GFP_KERNEL);",
        "memcpy(&h->mine, &doors, sizeof(doors));",
        "memcpy(h->raw, (void *)ops, 64);",
        "memcpy(h->raw, from, sizeof(struct door_ops));",
        "__builtin_memcpy(h->raw, &ops[1], 64);",
        "h->mine = doors[1];",
        "h->handler = ops->handler;",
        "h->list[2] = doors[1].handler;",
        "*slot = ops->handler;",
        "*h = (struct house) { .a = 1, .b = ops->handler };",
        "WRITE_ONCE(h->handler, ops->handler);",
        "rcu_assign_pointer(h->handler, ops->handler);",
        "setup_door(h, 3, ops->handler);",
    ],
)
def test_copies(body: str) -> None:
    assert lines(function(body)) == [3]


@pytest.mark.parametrize(
    "body",
    [
        "return ops->handler(h);",
        "if (ops->handler)\n\t\tops->handler(h);",
        "if (likely(ops->handler)) { }",
        "int (*call)(void) = READ_ONCE(ops->handler);",
        "call = ops->handler;",
        "if (ops->handler)\n\t\tcall = ops->handler;",
        "void *call = ops->handler;",
        "WARN_ON(!ops->handler);",
        "WARN_ON_ONCE(ops->handler);",
        "h->ops = ops;",
        "h->ops = doors;",
        "h->ops = &doors[2];",
        "h->ops = &ops[2];",
        "if (h->mine == *ops) { }",
        "/* h->mine = *ops; */",
        'log("h->mine = *ops;");',
        "memcpy(h->name, other->name, sizeof(h->name));",
        "h->other = ops->other;",
        "h->handler = h->parent->handler;",
        "h->mode = h->ops->mode;",
        "h->ops = *list;",
    ],
)
def test_what_is_no_copy(body: str) -> None:
    assert lines(function(body)) == []


def test_field_that_is_a_value_may_be_passed_on() -> None:
    """A number is read anew each time; where it is kept, it is copied."""
    assert lines(function("return create(h, ops->mode);"), MODE) == []
    assert lines(function("h->mode = ops->mode;"), MODE) == [3]


def test_another_table_of_the_file() -> None:
    """As fs/fuse/cuse.c, which copies the one of fs/fuse/dev.c."""
    source = "static struct door_ops mine;\n" + function("mine = others;", "void")
    assert lines(source, table=None) == []
    assert lines(source, table="others") == [4]


def test_pointers_of_a_file_and_members() -> None:
    current = "static const struct door_ops *current_ops;\n" + function("h->a = *current_ops;")
    assert lines(current, table=None) == [4]
    record = "struct house {\n\tstruct door_ops *a, *b;\n};\n"
    assert lines(record + function("x->mine = *h->b;", "void"), table=None) == [6]


def test_names_of_one_function_are_not_those_of_another() -> None:
    other = function("h->x = *ops;", "struct other *ops")
    assert lines(function("return 0;") + other) == []


def test_members_that_a_header_declares() -> None:
    header = "struct net {\n\tint a;\n\tstruct door_ops ops4;\n\tconst struct door_ops *ops6;\n};\n"
    assert declared_members(header, "struct door_ops") == {"ops4": False, "ops6": True}
    user = function("net->ops4 = x; y = net->ops4; y = *net->ops6;", "void")
    found = find_copies(user, HANDLER, None, {"ops4": False, "ops6": True})
    assert [c.line for c in found] == [3, 3]


@pytest.mark.parametrize(
    "records",
    ["struct a {\n\tstruct door_ops *ops;\n};\nstruct b {\n\tstruct door_ops ops;\n};\n",
     "struct b {\n\tstruct door_ops ops;\n};\nstruct a {\n\tstruct door_ops *ops;\n};\n"],
)  # fmt: skip
def test_one_name_of_two_members(records: str) -> None:
    """What is set tells a pointer from a table, where the name does not."""
    assert declared_members(records, "struct door_ops") == {"ops": False}
    assert lines(records + function("x->mine = y->ops;", "void"), table=None) == [9]
    pointers = "struct door_ops *p = y->ops, q = y->ops; const struct door_ops *const c = y->ops;"
    assert lines(records + function(pointers, "void"), table=None) == [9]  # q
    assert lines(records + function("int n; p = y->ops;", "struct door_ops *p"), table=None) == []


def test_typedef() -> None:
    field = Field(type="door_t", member="handler", is_pointer=True)
    assert lines(function("h->mine = *d;", "door_t *d"), field, None) == [3]


def test_parameters_on_lines_of_their_own() -> None:
    assert lines(function("h->x = *ops;", "int a,\n\t    const struct door_ops *ops")) == [4]


LENGTH = Field(type="struct door_ops", member="len", is_value=True)


@pytest.mark.parametrize(
    "text",
    [
        "h->len = ops->len;",
        "h->len = 4 + ops->len * 2;",
        "h->flags |= ops->len;",
        "h->big = ops->len > 4 ? 1 : 2;",
        "h->len = htons(max(4, ops->len));",
        "if (ops->len & 4) h->flags |= 1;",
        "if (x && f(ops->len, 3)) { if (h) h->wide = true; }",
        "bool is_wide = ops->len > 3; if (is_wide) { x(); h->wide = true; }",
        "*p = ops->len;",
        "int n = ops->len; if (n) h->n = n + 1;",
        "n = ops->len; m = n * 2; a[0] = m;",
        "struct mine m = { .n = ops->len };",
        "register_door(h, ops->len);",
        "return ops->len;",
    ],
)
def test_what_is_made_of_a_value_is_kept(text: str) -> None:
    source = f"int f(const struct door_ops *ops)\n{{\n\t{text}\n}}\n"
    assert {c.line for c in find_copies(source, LENGTH, None)} == {3}


@pytest.mark.parametrize(
    "text",
    [
        "if (n > ops->len) return -EINVAL;",
        "for (i = 0; i < ops->len; i++) h->sum += i;",
        "int n = ops->len; if (n > 4) return n;",
        "h->p = kmalloc(n, GFP_KERNEL); memset(h->p, 0, ops->len);",
        "n = min(x, ops->len);",
        "return ops->len == 4;",
        "if (ops->len > 4) { n = 4; return -EINVAL; } h->n = 4;",
        "if (n > ops->len) return -EINVAL; h->n = 4;",
        "int n = ops->len; void *p = make(h, n); h->p = p;",
        "h->len = other->len;",
    ],
)
def test_a_value_that_is_only_read(text: str) -> None:
    source = f"int f(const struct door_ops *ops)\n{{\n\t{text}\n}}\n"
    assert [c.line for c in find_copies(source, LENGTH, None)] == []


@pytest.mark.parametrize(
    "text",
    [
        "ops->len = 4;", "ops[i].len |= 1;", "ops->len++;", "--ops->len;", "get(&ops->len);",
        "doors[1].len = 1;", "ops->len[2] = 3;", "x(); *ops = *other;",
    ],
)  # fmt: skip
def test_writes_of_a_field(text: str) -> None:
    source = f"{DOORS}void f(struct door_ops *ops)\n{{\n\t{text}\n}}\n"
    assert [c.line for c in find_writes(source, LENGTH, "doors")] == [4]


@pytest.mark.parametrize(
    "text",
    [
        "struct door_ops d = { .len = 4 };", "if (ops->len == 4) x();", "x = ops->len;",
        "ops->length = 4;", "h->len = 4;", "// ops->len = 4;", "y = x & ops->len;",
        "*h = ops->len;", "x(); *list = ops;",
    ],
)  # fmt: skip
def test_what_writes_no_field(text: str) -> None:
    source = f"{DOORS}void f(struct door_ops *ops, struct door_ops **list)\n{{\n\t{text}\n}}\n"
    assert list(find_writes(source, LENGTH, "doors")) == []
