# SPDX-License-Identifier: GPL-2.0-only
"""The verbs: where each is, what it is for, and what it looks like.

Help and the messages about wrong usage are made from this table; nothing is imported for it.
"""

import importlib.util
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """A verb of ``ksplice``."""

    name: str
    module: str
    """In ``ksplicd.cli``; it has ``add_arguments(parser)`` and ``run(args)``, or, where several
    verbs share it, ``add_parser(verbs)``."""
    group: str
    help: str
    example: str
    """A whole command."""

    @property
    def path(self) -> str:
        """Return the module's full name."""
        return f"ksplicd.cli.{self.module}"

    def is_installed(self) -> bool:
        """Return whether this machine has it: a host has no ``create``."""
        return importlib.util.find_spec(self.path) is not None


_LOOK: Final = "Look at this host"
_CHANGE: Final = "Change this host"
_BUILD: Final = "Build updates"
_KEYS: Final = "Keys and signatures"


def _verb(group: str, module: str, name: str, text: str, example: str) -> Verb:
    return Verb(name=name, module=module, group=group, help=text, example=f"ksplice {example}")


VERBS: Final = {
    verb.name: verb
    for verb in (
        _verb(
            _LOOK, "status", "status",
            "show the host at one glance, and what a person must do; the default", "status",
        ),
        _verb(_LOOK, "show", "list", "list every update on this host", "list"),
        _verb(_LOOK, "show", "view", "list the updates in the kernel, or show one",
              "view --id 8c4o6ucj"),
        _verb(_LOOK, "show", "history", "show what happened, newest first",
              "history --id 8c4o6ucj"),
        _verb(_LOOK, "doctor", "doctor", "whether this machine can be patched, and what to do",
              "doctor"),
        _verb(_CHANGE, "change", "apply", "apply an update to the running kernel",
              "apply ksplice-8c4o6ucj.tar.gz"),
        _verb(_CHANGE, "change", "undo", "take an update out of the running kernel",
              "undo 8c4o6ucj"),
        _verb(_CHANGE, "change", "release",
              "let an update be applied that was new when the machine crashed",
              "release 8c4o6ucj"),
        _verb(_CHANGE, "change", "remove", "delete the bundle of an update that is not applied",
              "remove 8c4o6ucj"),
        _verb(_BUILD, "create", "create", "build an update from a kernel's source and a patch",
              "create --patch fix.patch --kernel running"),
        _verb(_BUILD, "kernels", "kernels", "list the kernels that can be patched here",
              "kernels cloud"),
        _verb(_BUILD, "config", "config", "fill the folder that create needs for --config",
              "config --running config"),
        _verb(_BUILD, "try_", "try",
              "apply an update in a throwaway guest, check it, and undo it",
              "try ksplice-8c4o6ucj.tar.gz"),
        _verb(_BUILD, "objdiff", "objdiff", "compare two objects and cut out the new code",
              "objdiff pre.o post.o -o new.o"),
        _verb(_BUILD, "cache", "cache", "show what the cache holds, and prune it",
              "cache --prune"),
        _verb(_KEYS, "keys", "keygen", "make a key pair for signing updates", "keygen updates"),
        _verb(_KEYS, "keys", "sign", "sign a bundle: writes FILE.minisig",
              "sign --key updates.key ksplice-8c4o6ucj.tar.gz"),
        _verb(_KEYS, "keys", "verify", "check FILE against FILE.minisig",
              "verify ksplice-8c4o6ucj.tar.gz"),
    )
}  # fmt: skip
"""By name, in the order in which they are listed."""


def format_groups() -> str:
    """Return the verbs that are installed, by group, for ``--help``."""
    found = [verb for verb in VERBS.values() if verb.is_installed()]
    width = max(len(verb.name) for verb in found)
    parts = []
    for group in dict.fromkeys(verb.group for verb in found):
        lines = [f"    {v.name:{width}}  {v.help}" for v in found if v.group == group]
        parts.append("\n".join([f"{group}:", *lines]))
    return "\n\n".join(parts)
