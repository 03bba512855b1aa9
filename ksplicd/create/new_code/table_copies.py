# SPDX-License-Identifier: GPL-2.0-only
"""Where the kernel's source copies tables of a type, or one field of them.

A field that is exchanged in a table stays as it was in each copy that somebody has made: sysctl
tables of network namespaces, ``struct dst_ops``.  The source is read as text, without a compiler:
what can be such a copy counts as one.  Not seen are copies by a macro, by casts to other types, and
by pointers that a file has under a type of another name.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

_BLANKED: Final = re.compile(
    r"""//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""", re.DOTALL
)
_NO_LINE_END: Final = re.compile(r"[^\n]")
_IDENTIFIER: Final = r"[A-Za-z_]\w*"
_PATH: Final = rf"(?:{_IDENTIFIER}(?:\s*\[[^\[\]]*\])*\s*(?:->|\.)\s*)*"
"""What stands in front of the last name of ``a->b[i].c``."""

_COPYING: Final = re.compile(
    r"\b(?P<name>(?:__|__builtin_|devm_)?(?:memcpy|memmove|memdup|kmemdup|kvmemdup)\w*)\s*\("
)
_ONLY_READING: Final = frozenset({
    "if", "while", "for", "switch", "return", "sizeof", "likely", "unlikely", "READ_ONCE",
    "IS_ERR", "IS_ERR_OR_NULL", "typeof", "rcu_dereference", "rcu_access_pointer",
})  # fmt: skip
_ONLY_READING_LIKE: Final = re.compile(r"(?:WARN|BUG|INDIRECT_CALL|VM_|pr_|dev_|printk|trace_)")
_READS_NUMBERS: Final = re.compile(
    r"(?:min|max|clamp|mem(?:cmp|cpy|move|set|chr)|strn?(?:cmp|len)|strlcpy|strscpy|sn?printf|k[mvz]"
    r"|kcalloc|skb_|nla_|BIT|GENMASK|ALIGN|IS_ALIGNED|DIV_ROUND|test_bit|le\d|be\d|cpu_to|[nh]to[nh])"
)
"""Callees that keep no number that they get."""
_ASSIGNED: Final = re.compile(r"(?<![=!<>+\-*/|&^%])=(?!=)\s*(?P<right>[^;,{}=?]+?)\s*(?=[;,}])")
_LASTING: Final = re.compile(
    rf"(?:(?<!\w)(?<!\w )\*\s*{_IDENTIFIER}|(?:->|\.)\s*{_IDENTIFIER}|\])(?:\s*\[[^\[\]]*\])*\s*$"
)
"""The end of what is no variable of a function: ``*a``, ``a->b``, ``.b``, ``a[i]``."""
_LONGEST_LEFT: Final = 200
"""Characters in front of a "=" that are looked at."""
_NEXT_DECLARED: Final = re.compile(
    rf",\s*(?P<star>\**)\s*(?P<name>{_IDENTIFIER})(?P<index>\s*\[[^\]]*\])?\s*[,;=]"
)
_STATEMENT: Final = re.compile(r"[^;{}\s][^;{}]*")
_ANY_ASSIGNED: Final = re.compile(
    r"(?P<left>[^=]*?[^=!<>+\-*/|&^%])\s*(?:[-+*/|&^%]|<<|>>)?=(?!=)\s*(?P<right>.*)", re.DOTALL
)
_IF: Final = re.compile(r"\bif\s*\(")
_CALL: Final = re.compile(rf"\b(?P<callee>{_IDENTIFIER})\s*\((?P<of>[^()]*)\)")
_CAST: Final = re.compile(r"^\(\s*(?:const\s+|struct\s+|void\b)[^()]*\)\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field of the tables of a type."""

    type: str
    """As the source writes it: ``struct ctl_table``, or a typedef's name."""
    member: str
    is_pointer: bool = False
    """Whether whoever gets it as an argument may keep it: a pointer to a function."""
    is_value: bool = False
    """Whether it is a number, of which others are made: what is made of it is kept, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A place in a source file."""

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class _Name:
    """A name by which a piece of source has one table, or several."""

    stars: int
    """Pointers on the way to the table."""
    is_array: bool

    @property
    def is_pointer(self) -> bool:
        return self.stars > 0

    def or_else(self, other: "_Name | None") -> "_Name":
        """Return what a name that has both meanings can be at the most: a table, not a pointer."""
        if other is None:
            return self
        return _Name(min(self.stars, other.stars), is_array=self.is_array and other.is_array)


def find_copies(
    source: str, field: Field, table: str | None, members: dict[str, bool] | None = None
) -> Iterator[Copy]:
    """Yield what in a source file copies a table of a type, or the field.

    ``table``: the name of the table in this file, None when the file cannot name it; other named
    tables of the type are not looked at.  ``members``: names of members of the type that headers
    declare, and whether they are pointers.
    """
    yield from _find(_copies_in, source, field, table, members)


def find_writes(
    source: str, field: Field, table: str | None, members: dict[str, bool] | None = None
) -> Iterator[Copy]:
    """Yield what in a source file writes a field, or a whole table, or takes the field's address.

    Initialisers do not.
    """
    yield from _find(_writes_in, source, field, table, members)


def _find(
    find: Callable[[str, Field, dict[str, _Name]], Iterator[int]],
    source: str,
    field: Field,
    table: str | None,
    members: dict[str, bool] | None,
) -> Iterator[Copy]:
    """Yield what is found in the functions of a file, with the names by which they have tables."""
    text = _blanked(source)
    everywhere = {
        n: _Name(int(is_pointer), is_array=False) for n, is_pointer in (members or {}).items()
    }
    everywhere |= {
        name: found for name, (found, is_member) in _declared(text, field.type).items() if is_member
    }
    if table is not None:
        is_array = re.search(rf"^\w[^;{{}}()=]*\b{re.escape(table)}\s*\[", text, re.MULTILINE)
        everywhere[table] = _Name(0, is_array=is_array is not None)
    at = 0
    for chunk in re.split(r"(?<=\n\})", text):
        local = {n: f for n, (f, _) in _declared(chunk, field.type, is_local=True).items()}
        names = everywhere | local
        if any(name in chunk for name in (*names, field.type.split()[-1])):
            for offset in find(chunk, field, names):
                line = text.count("\n", 0, at + offset)
                yield Copy(line=line + 1, text=source.splitlines()[line].strip())
        at += len(chunk)


def _blanked(source: str) -> str:
    """Return a source with a blank for each character of comments and strings."""
    return _BLANKED.sub(
        lambda m: _NO_LINE_END.sub(" ", m[0]) if "\n" in m[0] else " " * len(m[0]), source
    )


def declared_members(header: str, type_name: str) -> dict[str, bool]:
    """Return the members that a header declares of a type; whether each can only be a pointer."""
    text = _BLANKED.sub(" ", header)
    return {
        name: found.is_pointer
        for name, (found, is_member) in _declared(text, type_name).items()
        if is_member
    }


def _declared(
    text: str, type_name: str, *, is_local: bool = False
) -> dict[str, tuple[_Name, bool]]:
    """Return the names declared with a type, and which of them functions do not declare.

    A file's own variables are left out: each is one table, and another one.
    """
    found: dict[str, tuple[_Name, bool]] = {}

    def note(name: str, what: _Name, *, is_shared: bool) -> None:
        before = found.get(name)
        is_same = before is not None and before[1] == is_shared
        found[name] = (what.or_else(before[0] if before and is_same else None), is_shared)

    if type_name.split()[-1] not in text:
        return found
    words = r"\s+".join(map(re.escape, type_name.split()))
    declaration = re.compile(
        rf"\b{words}\b(?P<stars>(?:\s|\*|\bconst\b|\b__\w+\b)*?)(?P<name>{_IDENTIFIER})"
        rf"(?P<index>\s*\[[^\]]*\])?(?P<end>\s*[=;,):])"
    )
    for m in declaration.finditer(text):
        line = text.rfind("\n", 0, m.start()) + 1
        is_parameter = m["end"].strip() in (",", ")") and "(" in text[line : m.start()]
        at_file_level = not text[line : line + 1].isspace() and not is_parameter
        stars = m["stars"].count("*")
        if at_file_level and (is_local or not stars):
            continue
        is_shared = not is_local and (at_file_level or _is_in_record(text, m.start()))
        name = _Name(stars, is_array=m["index"] is not None)
        note(m["name"], name, is_shared=is_shared)
        end = m.end()
        while not is_parameter and (more := _NEXT_DECLARED.match(text, end - 1)):
            name = _Name(len(more["star"]), is_array=more["index"] is not None)
            note(more["name"], name, is_shared=is_shared)
            end = more.end()
    return found


def _is_in_record(text: str, at: int) -> bool:
    """Tell whether the outermost brace around a place opens a structure."""
    start = max(text.rfind("\n}", 0, at), 0)
    depth, brace = 0, -1
    for i in range(start, at):
        if text[i] == "{":
            brace, depth = (i if depth == 0 else brace), depth + 1
        elif text[i] == "}":
            depth = max(depth - 1, 0)
    if depth == 0:
        return False
    head = text[start:brace].rpartition(";")[2]
    return re.search(rf"\b(?:struct|union)\s+(?:{_IDENTIFIER}\s*)?$", head.rstrip()) is not None


def _copies_in(chunk: str, field: Field, names: dict[str, _Name]) -> Iterator[int]:
    """Yield the offsets at which a function, or what stands outside, copies."""
    for m in _COPYING.finditer(chunk):
        arguments = _arguments(chunk, m.end())
        looked_at = arguments[:1] if "dup" in m["name"] else arguments[:2]
        whole = re.compile(rf"sizeof\s*\(?\s*{re.escape(field.type)}\b")
        if any(_last_name(a) in names for a in looked_at) or any(map(whole.search, arguments)):
            yield m.start()
    named = re.compile(rf"\b(?:{'|'.join(names)})\b") if names else None
    for m in _ASSIGNED.finditer(chunk) if named is not None else ():
        if named is not None and named.search(m["right"]):
            left = re.split(r"[;{}(,]", chunk[max(0, m.start() - _LONGEST_LEFT) : m.start()])[-1]
            if _is_copied(left, m["right"], field, names):
                yield m.start()
    if field.is_value and field.member in chunk:
        yield from _values_kept(chunk, field, names)
    if (field.is_pointer or field.is_value) and field.member in chunk:
        kept = rf"(?P<callee>{_IDENTIFIER})\s*\((?:[^();{{}}]*,)?\s*{_PATH}(?P<base>{_IDENTIFIER})"
        kept += rf"(?:\s*\[[^\[\]]*\])?\s*(?:->|\.)\s*{re.escape(field.member)}\s*[,)]"
        for m in re.finditer(kept, chunk):
            callee = m["callee"]
            if m["base"] in names and not _only_reads(callee, field):
                yield m.start()


def _only_reads(callee: str, field: Field) -> bool:
    """Tell whether a function or a macro keeps nothing of a field that it gets."""
    if callee in _ONLY_READING or _ONLY_READING_LIKE.match(callee):
        return True
    return field.is_value and _READS_NUMBERS.match(callee) is not None


def _values_kept(chunk: str, field: Field, names: dict[str, _Name]) -> Iterator[int]:
    """Yield where what is made of a number is kept.

    Directly, by way of a variable, by what an ``if`` decides, or returned.
    """
    bases = "|".join(map(re.escape, names))
    member = rf"(?:\s*\[[^\[\]]*\])*\s*(?:->|\.)\s*{re.escape(field.member)}\b"
    use = re.compile(rf"\b(?:{bases}){member}")
    made: list[str] = []
    for m in _STATEMENT.finditer(chunk):
        statement = m[0]
        if re.match(rf"\s*return\s+\(?\s*{_PATH}(?:{bases}){member}\s*\)?\s*$", statement):
            yield m.start()
        assigned = _ANY_ASSIGNED.match(statement)
        if assigned is None:
            continue
        right = _without_calls(assigned["right"])
        is_made = use.search(right) or any(re.search(rf"\b{v}\b", right) for v in made)
        if is_made and _LASTING.search(assigned["left"]):
            yield m.start()
        elif is_made and (variable := re.search(rf"({_IDENTIFIER})\s*$", assigned["left"])):
            made.append(variable[1])
    for m in _IF.finditer(chunk):
        condition = _arguments(chunk, m.end())
        text = ",".join(condition)
        if use.search(text) or any(re.search(rf"\b{v}\b", text) for v in made):
            inside = (_ANY_ASSIGNED.match(s) for s in _controlled(chunk, m.end() + len(text) + 1))
            if any(a is not None and _LASTING.search(a["left"]) for a in inside):
                yield m.start()


def _controlled(text: str, at: int) -> list[str]:
    """Return the statements of the block, or the only one, that begins behind a condition."""
    begin = text.find("{", at)
    if begin < 0 or text[at:begin].strip():
        return [text[at : text.find(";", at)]]
    depth = 0
    for i in range(begin, len(text)):
        depth += (text[i] == "{") - (text[i] == "}")
        if depth == 0:
            return re.split(r"[;{}]", text[begin:i])
    return re.split(r"[;{}]", text[begin:])


def _without_calls(text: str) -> str:
    """Return an expression without the calls that make something else: ``alloc(n)``."""
    while True:
        less = _CALL.sub(
            lambda m: f" {m['of']} " if _READS_NUMBERS.match(m["callee"]) else " ", text
        )
        if less == text:
            return text
        text = less


def _writes_in(chunk: str, field: Field, names: dict[str, _Name]) -> Iterator[int]:
    """Yield the offsets at which a function writes a field of a table, or all of one."""
    if not names:
        return
    base = rf"\b(?:{'|'.join(map(re.escape, names))})(?:\s*\[[^\[\]]*\])*"
    place = rf"{base}(?:\s*->\s*|\.){re.escape(field.member)}\b(?:\s*\[[^\[\]]*\])*"
    written = r"\s*(?:(?:[-+*/|&^%]|<<|>>)?=(?!=)|\+\+|--)"
    forms = f"{place}{written}", rf"(?:\+\+|--|[(,=?:{{;]\s*&)\s*{_PATH}{place}"
    for m in re.finditer("|".join(forms), chunk):
        yield m.start()
    pointers = "|".join(re.escape(n) for n, name in names.items() if name.stars == 1)
    for m in re.finditer(rf"[;{{}})]\s*\*\s*(?:{pointers})\s*=(?!=)", chunk) if pointers else ():
        yield m.end() - 1


def _is_copied(left: str, right: str, field: Field, names: dict[str, _Name]) -> bool:
    """Tell whether an assignment copies a table, or keeps the field."""
    right = _CAST.sub("", right.strip())
    m = re.fullmatch(
        rf"(?P<star>\**)\s*\(?\s*{_PATH}(?P<name>{_IDENTIFIER})(?P<index>\s*\[[^\[\]]*\])?\s*\)?",
        right,
    )
    if m is None:
        return False
    name = names.get(m["name"])
    if name is not None:
        if m["star"]:
            return len(m["star"]) == name.stars
        if _is_pointer(left, field, names):
            return False
        if name.is_pointer:
            return m["index"] is not None and not name.is_array
        return m["index"] is not None or not name.is_array
    base = re.search(rf"({_IDENTIFIER})(?:\s*\[[^\[\]]*\])?\s*(?:->|\.)\s*{_IDENTIFIER}$", right)
    is_kept = _LASTING.search(left) is not None
    return bool(base and m["name"] == field.member and base[1] in names and is_kept)


def _is_pointer(left: str, field: Field, names: dict[str, _Name]) -> bool:
    """Tell whether what is set is a pointer to a table: a variable so declared, here or before."""
    words = r"\s+".join(map(re.escape, field.type.split()))
    if re.match(rf"\s*(?:(?:const|static|register)\s+)*{words}\b[\s\w]*\*[\s\w*]*$", left):
        return True
    variable = names.get(left.strip())
    return variable is not None and variable.is_pointer


def _arguments(text: str, at: int) -> list[str]:
    """Return the arguments of a call whose parenthesis opens in front of ``at``."""
    depth, start, found = 1, at, []
    for i in range(at, min(len(text), at + 2000)):
        c = text[i]
        depth += (c in "([{") - (c in ")]}")
        if depth == 0 or (depth == 1 and c == ","):
            found.append(text[start:i])
            start = i + 1
        if depth == 0:
            break
    return found


def _last_name(argument: str) -> str:
    """Return the last name of an argument such as ``&net->ipv6.ops``, or ``(void *)t``."""
    argument = _CAST.sub("", argument.strip()).strip("&*() ")
    m = re.fullmatch(rf"{_PATH}({_IDENTIFIER})(?:\s*\[[^\[\]]*\])?(?:\s*\+.*)?", argument)
    return m[1] if m else ""
