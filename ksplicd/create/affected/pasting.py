# SPDX-License-Identifier: GPL-2.0-only
"""Names that macros put together with ``##``.

A *form* is what a macro makes of its parameters: ``sock_ ## op`` is the form of names that begin
with ``sock_``.  A macro that hands its parameters on has the forms of the macro that gets them, so
that ``#define CALL(op) CAT(sock_, op)`` has it too.

A macro with a form that begins or ends with a fixed part of some length counts as mentioning every
name of that form.  One whose fixed parts are short or in the middle (``a ## _ ## b``) counts where
the text that names it has the parts, in any of the ways in which the name can be divided.

Proof obligation: a name that is put together in a unit has a form of a macro that the unit's text,
or the text of a header that it draws in, names together with the parts that are not fixed.
"""

import itertools
import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

_TOKEN: Final = re.compile(r'"(?:\\.|[^"\\\n])*"|\w+|##|[^\s]')
_DEFINE: Final = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w+)(\([^)]*\))?([^\n]*)", re.MULTILINE)
_COMMENT: Final = re.compile(r"//.*|/\*.*?(?:\*/|$)")
_WORD: Final = re.compile(r"\w+")
_PASTES: Final = re.compile(r"\w+(?:\s*##\s*\w+)+")
_HANDS_ON: Final = re.compile(r"(\w+)\s*\(\s*\w+(?:\s*,\s*\w+)*\s*\)")
_TELLING: Final = 3
"""A fixed part of fewer characters is in too many names to count."""

_NUMBERS: Final = frozenset(("__COUNTER__", "__LINE__"))
_MANY: Final = 256
"""Forms of one macro above which it is taken to make any name."""
_ROUNDS: Final = 8
"""How often parameters are followed from one macro to the next."""


class Definition(NamedTuple):
    """One definition of a macro."""

    name: str
    parameters: tuple[str, ...] | None
    """None: it takes none, and stands without brackets."""
    body: str


def read_definitions(text: str) -> Iterator[Definition]:
    """Yield the definitions in a text."""
    for name, brackets, body in _DEFINE.findall(text.replace("\\\r\n", "").replace("\\\n", "")):
        parameters = tuple(p.strip() for p in brackets[1:-1].split(",")) if brackets else None
        yield Definition(name, parameters, _COMMENT.sub(" ", body) if "/" in body else body)


Part = str | int | None
"""Of a name: a fixed word, the number of a parameter, or anything."""


@dataclass(frozen=True)
class Form:
    """Names of one form."""

    parts: tuple[Part, ...]

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """What the names match."""
        parts = (re.escape(part) if isinstance(part, str) else r"\w+" for part in self.parts)
        return re.compile("".join(parts))

    @cached_property
    def is_telling(self) -> bool:
        """Tell whether a fixed part at either end is long enough."""
        ends = (part for part in (self.parts[0], self.parts[-1]) if isinstance(part, str))
        return any(len(word) >= _TELLING for word in ends)

    @cached_property
    def is_of_names(self) -> bool:
        """Tell whether it makes names that others write: no numbers, none that is counted."""
        first = self.parts[0]
        is_number = isinstance(first, str) and first[0].isdigit()
        return not is_number and not _NUMBERS.intersection(map(str, self.parts))

    def makes(self, name: str, words: Collection[str]) -> bool:
        """Tell whether it makes a name of parameters that are among some words."""
        return bool(self.pattern.fullmatch(name)) and _divides(name, self.parts, words)


def _divides(name: str, parts: Sequence[Part], words: Collection[str]) -> bool:
    if not parts:
        return not name
    part, rest = parts[0], parts[1:]
    if isinstance(part, str):
        return name.startswith(part) and _divides(name.removeprefix(part), rest, words)
    return any(
        (not isinstance(part, int) or name[:end] in words) and _divides(name[end:], rest, words)
        for end in range(1, len(name) + 1)
    )


_ByPart = Mapping[str, Sequence[tuple[str, Form]]]
_ANY_NAME: Final = Form((None, None))


class Pasting:
    """The macros of some texts that put names together."""

    def __init__(self, definitions: Iterable[Definition], others: "Pasting | None" = None) -> None:
        """Read definitions; ``others``: the macros that these may use."""
        self._others = others
        self.forms: dict[str, set[Form]] = defaultdict(set)
        self._brings: dict[str, set[str]] = defaultdict(set)
        """By macro, words that stand in a text that names it."""
        self._plain: dict[str, str] = {}
        """By macro without parameters, the one word that it stands for, empty for anything."""
        every = list(definitions)
        self.glue: set[str] = _glue_of(every, others.glue if others else ())
        """Macros that paste their arguments and do nothing else with them: ``__PASTE``."""
        calling = list[tuple[Definition, list[str]]]()
        for definition in every:
            if definition.parameters is None:
                body = definition.body.strip()
                is_alone = self.stands_for(definition.name) in (None, body)
                self._plain[definition.name] = body if is_alone and _WORD.fullmatch(body) else ""
            if words := _brought(definition):
                self._brings[definition.name] |= words
            if "##" in definition.body:
                tokens = _TOKEN.findall(definition.body)
                chains = set(_chains(tokens, definition.parameters or ()))
                _take(self.forms, definition.name, chains)
            if "(" in definition.body:
                calling.append((definition, _TOKEN.findall(definition.body)))
        direct = {name: frozenset(forms) for name, forms in self.forms.items()}
        for _ in range(_ROUNDS):  # anew each time: what was taken for anything may be known by now
            found = self._hand_on(direct, calling)
            if found == self.forms:
                break
            self.forms = found

    def _hand_on(
        self, direct: Mapping[str, frozenset[Form]], calling: Sequence[tuple[Definition, list[str]]]
    ) -> dict[str, set[Form]]:
        """Return the forms of macros, with those of the macros that they use."""
        found = defaultdict(set, {name: set(forms) for name, forms in direct.items()})
        for definition, tokens in calling:
            at = 0
            while at < len(tokens) - 1:
                word = tokens[at]
                at += 1
                if tokens[at] == "(" and word != definition.name and self.forms_of(word):
                    made = self._called(tokens[at - 1 :], definition.parameters or ())
                    _take(found, definition.name, made)
                    if word in self.glue:
                        at += _length(tokens[at:])
        return found

    def _called(self, tokens: Sequence[str], parameters: Sequence[str]) -> set[Form]:
        """Return the forms that a call, at the begin of some tokens, makes."""
        arguments = [self._argument(a, parameters) for a in _arguments(tokens)]
        return {
            filled
            for form in self.forms_of(tokens[0])
            for filled in _filled(form, arguments)
        }  # fmt: skip

    def _argument(self, tokens: Sequence[str], parameters: Sequence[str]) -> list[tuple[Part, ...]]:
        """Return what an argument can be: one word, what a call in it makes, or anything."""
        if not tokens:
            return [()]
        if len(tokens) == 1:
            part = _part(tokens[0], parameters)
            if isinstance(part, str):
                word = self.stands_for(part)
                part = part if word is None else word or None
            return [(part,)]
        if self.forms_of(tokens[0]) and tokens[1] == "(" and _length(tokens[1:]) == len(tokens) - 1:
            return [form.parts for form in self._called(tokens, parameters)] or [(None,)]
        return [(None,)]

    def forms_of(self, macro: str) -> Collection[Form]:
        """Return the forms of a macro, by a definition here before one elsewhere."""
        found = self.forms.get(macro, ())
        return found if found or self._others is None else self._others.forms_of(macro)

    def stands_for(self, macro: str) -> str | None:
        """Return the one word that a macro without parameters is, empty for other text."""
        if macro in self._plain or self._others is None:
            return self._plain.get(macro)
        return self._others.stands_for(macro)

    def brought_by(self, macro: str) -> Collection[str]:
        """Return the words that stand in a text that names a macro."""
        more = self._others.brought_by(macro) if self._others else ()
        return {*self._brings.get(macro, ()), *more}

    def macros(self, names: Iterable[str]) -> set[str]:
        """Return the macros that have a telling part of one of the names."""
        begins, ends = self._telling
        found = set[str]()
        for name in names:
            for at in range(_TELLING, len(name)):
                candidates = (*begins.get(name[:at], ()), *ends.get(name[-at:], ()))
                found |= {macro for macro, form in candidates if form.pattern.fullmatch(name)}
        return found

    @cached_property
    def _telling(self) -> tuple[_ByPart, _ByPart]:
        """The telling forms by their first part, and others by their last."""
        begins: dict[str, list[tuple[str, Form]]] = defaultdict(list)
        ends: dict[str, list[tuple[str, Form]]] = defaultdict(list)
        for macro, forms in self.forms.items():
            for form in forms:
                first, last = form.parts[0], form.parts[-1]
                if not form.is_of_names:
                    continue
                if isinstance(first, str) and len(first) >= _TELLING:
                    begins[first].append((macro, form))
                elif isinstance(last, str) and len(last) >= _TELLING:
                    ends[last].append((macro, form))
        return begins, ends

    def loose_macros(self, names: Iterable[str]) -> set[str]:
        """Return the macros that make one of the names if they are given its parts."""
        wanted = list(names)
        return {m for m, form in self._loose if any(map(form.pattern.fullmatch, wanted))}

    @cached_property
    def _loose(self) -> list[tuple[str, Form]]:
        """The forms without a telling part."""
        return [
            (macro, form)
            for macro, forms in self.forms.items()
            for form in forms
            if form.is_of_names and not form.is_telling
        ]

    def puts_together(self, text: str, names: Collection[str]) -> bool:
        """Tell whether a text names a macro without a telling part, and the parts of a name."""
        words = set(_WORD.findall(text))
        forms = {
            form
            for macro in words
            for form in self.forms_of(macro)
            if form.is_of_names and not form.is_telling
        }
        if not forms:
            return False
        fresh = words
        while fresh := {other for word in fresh for other in self.brought_by(word)} - words:
            words |= fresh
        return any(form.makes(name, words) for form in forms for name in names)


def _take(forms: dict[str, set[Form]], name: str, made: Iterable[Form]) -> None:
    fresh = {form for form in made if len(form.parts) > 1}
    if fresh:
        forms[name] |= fresh
        if len(forms[name]) > _MANY:
            forms[name] = {_ANY_NAME}


def _glue_of(definitions: Iterable[Definition], known: Collection[str]) -> set[str]:
    found, calls = set(known), dict[str, str]()
    other = set[str]()
    for name, parameters, body in definitions:
        if parameters and _PASTES.fullmatch(body.strip()):
            found.add(name)
        elif parameters and (m := _HANDS_ON.fullmatch(body.strip())):
            calls[name] = m[1]
        else:
            other.add(name)
    while fresh := {name for name, called in calls.items() if called in found} - found:
        found |= fresh
    return found - other


def _brought(definition: Definition) -> set[str]:
    """Return the words that a macro stands for, or all that one gives to its parameters.

    A list such as ``X(read) X(write)`` gives them to what its user defines as ``X``.
    """
    words = _WORD.findall(definition.body)
    if definition.parameters is None:
        return set(words) if "##" not in definition.body else set()
    body = definition.body.replace(" (", "(")
    is_given = any(f"{p}(" in body and p in words for p in definition.parameters or ())
    return set(words) if is_given else set()


def _chains(tokens: Sequence[str], parameters: Sequence[str]) -> Iterator[Form]:
    """Yield the form of each run of ``a ## b`` in a macro's body."""
    at = 1
    while at < len(tokens) - 1:
        if tokens[at] != "##":
            at += 1
            continue
        parts = [_part(tokens[at - 1], parameters)]
        while tokens[at : at + 1] == ["##"] and at + 1 < len(tokens):
            parts.append(_part(tokens[at + 1], parameters))
            at += 2
        if all(part != "" for part in parts):
            yield Form(_joined(parts))


def _part(word: str, parameters: Sequence[str]) -> Part:
    """Return the part that a word is; anything for a bracket, empty for what makes no name."""
    if word in parameters:
        return parameters.index(word)
    if word in (")", "__VA_ARGS__"):
        return None
    return word if word[0].isalnum() or word[0] == "_" else ""


def _length(tokens: Sequence[str]) -> int:
    """Return how many tokens there are up to the bracket that closes the first."""
    depth = 0
    for i, word in enumerate(tokens):
        depth += (word == "(") - (word == ")")
        if depth == 0:
            return i + 1
    return len(tokens)


def _arguments(tokens: Sequence[str]) -> list[list[str]]:
    """Return the arguments of a call, each as tokens."""
    found: list[list[str]] = [[]]
    depth = 0
    for word in tokens[2 : _length(tokens[1:])]:
        depth += (word == "(") - (word == ")")
        if word == "," and depth == 0:
            found.append([])
        else:
            found[-1].append(word)
    return found


def _filled(form: Form, arguments: Sequence[Sequence[tuple[Part, ...]]]) -> Iterator[Form]:
    """Yield what a form becomes when its parameters are some arguments."""
    choices = [
        [(part,)] if not isinstance(part, int)
        else arguments[part] if part < len(arguments) else [()]
        for part in form.parts
    ]  # fmt: skip
    if math.prod(map(len, choices)) > _MANY:
        yield _ANY_NAME
        return
    for parts in itertools.product(*choices):
        yield Form(_joined(part for several in parts for part in several))


def _joined(parts: Iterable[Part]) -> tuple[Part, ...]:
    """Return parts with those that are fixed and side by side as one."""
    found: list[Part] = []
    for part in parts:
        last = found[-1] if found else None
        if isinstance(part, str) and isinstance(last, str) and not {part, last} & _NUMBERS:
            found[-1] = last + part
        elif part is not None or last is not None or not found:
            found.append(part)
    return tuple(found)
