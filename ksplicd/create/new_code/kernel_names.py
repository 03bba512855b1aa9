# SPDX-License-Identifier: GPL-2.0-only
"""By which names new code reaches what stays in the kernel.

Exported symbols by their own, all others by livepatch's
(Documentation/livepatch/module-elf-format.rst).  What has none is refused.
"""

from collections.abc import Mapping
from typing import Final

from ksplicd.create.debug import phase
from ksplicd.create.diff.difference import Difference
from ksplicd.create.new_code.model import UnitInKernel
from ksplicd.create.new_code.redirects import RedirectPlan
from ksplicd.create.objects.index import code_section_of
from ksplicd.create.objects.names import is_exit_section
from ksplicd.create.refusal import Refusals
from ksplicd.elf.model import STB_GLOBAL, STB_LOCAL, Symbol
from ksplicd.model import VMLINUX

LOG: Final = phase("cut")


class KernelNames:
    """Names what one unit's new code refers to and does not bring."""

    def __init__(
        self,
        unit: UnitInKernel,
        difference: Difference,
        plan: RedirectPlan,
        aliases_by_name: Mapping[str, str],
        refusals: Refusals,
    ) -> None:
        """``aliases_by_name``: what other units and the update's core bring."""
        self.unit, self.plan = unit, plan
        self.twins, self.stale = difference.twins, difference.stale
        self.aliases_by_name, self.refusals = aliases_by_name, refusals
        self.symbols: dict[str, Symbol] = {}
        """The new object's undefined symbols by name, in the order of need."""
        self._meant: dict[str, Symbol] = {}
        """By name in the kernel, the symbol that has it."""

    def is_in_kernel(self, function: Symbol) -> bool:
        """Tell whether the kernel has a function of this unit.

        Not one that the compiler inlined everywhere in the stock kernel, but not here.
        """
        if is_exit_section(code_section_of(function)) and self.plan.unload is not None:
            return False  # its own old form is called by nobody else
        if function in self.stale:
            return False  # the kernel's is not what it is before the change
        if function.bind != STB_LOCAL or function not in self.twins.pre_of:
            return function in self.twins.pre_of
        return self.external_name(function) is not None

    def is_reachable(self, function: Symbol) -> bool:
        """Tell whether a function, of this unit or another, has an address in the kernel."""
        return function.is_undefined or self.is_in_kernel(function)

    def is_linked(self, function: Symbol) -> bool:
        """Tell whether livepatch can lead to the kernel's own form of a function.

        It wants the address before a module is there that is patched when it is loaded.
        """
        if not self.is_reachable(function):
            return False
        name = self.external_name(function) or ""
        of_vmlinux = name.startswith(f".klp.sym.{VMLINUX}.")
        return function.is_undefined or of_vmlinux or not name.startswith(".klp.sym")

    def external_name(self, s: Symbol) -> str | None:
        """Return the name by which new code reaches ``s``, None when the kernel has no such."""
        if s.is_undefined and s.name in self.aliases_by_name:
            return self.aliases_by_name[s.name]
        twin = self.old_of(s)
        name = twin.name if twin is not None else s.name
        is_local = s.section is not None and (twin or s).bind == STB_LOCAL
        if not is_local and self.unit.is_exported(name):
            return name
        return self.unit.livepatch_symbol(name, is_local=is_local)

    def old_of(self, s: Symbol) -> Symbol | None:
        """Return what the kernel has of a symbol of this unit; a new name of a function is new."""
        return self.twins.pre_of.get(s) if s.is_function else self.twins.old_of(s)

    def external_symbol(self, s: Symbol) -> Symbol:
        """Return the undefined symbol by which the new code reaches ``s`` in the kernel."""
        wanted = self.name_in_kernel(s)
        meant = self.old_of(s) or s
        if self._meant.setdefault(wanted, meant) is not meant:  # of two files that ld -r has linked
            self.refusals.add(
                s.name, s.section, "the new code needs several symbols of this name",
                "compare the objects of their files one by one",
            )  # fmt: skip
        if wanted not in self.symbols:
            why = self._why_so_named(s, wanted)
            LOG.debug("%s: links to %s as %s: %s", self.unit.source, s.name, wanted, why)
            self.symbols[wanted] = Symbol(wanted, bind=STB_GLOBAL)
        return self.symbols[wanted]

    def _why_so_named(self, s: Symbol, name: str) -> str:
        """Return where the name is from, for the log."""
        if name == self.aliases_by_name.get(s.name):
            return "another object of the update has it"
        return f"the kernel {'does not export' if name.startswith('.klp') else 'exports'} it"

    def name_of_old(self, s: Symbol | None) -> str:
        """Return the symbol by which the kernel knows a function of the pre object."""
        if s is None:
            return ""
        if (twin := self.twins.post_of.get(s)) is not None:
            return self.name_in_kernel(twin)
        is_local = s.section is not None and s.bind == STB_LOCAL
        name = self.unit.livepatch_symbol(s.name, is_local=is_local)
        if name is None:
            self.refuse_unknown(s)
        return name or s.name

    def name_in_kernel(self, s: Symbol) -> str:
        """Return the name by which new code reaches ``s``; without one, it is refused."""
        name = self.external_name(s)
        if name is None:
            self.refuse_unknown(s)
        return name or s.name

    def refuse_unknown(self, s: Symbol) -> None:
        """Refuse what new code cannot reach."""
        self.refusals.add(
            s.name, s.section, "the new code needs it, but the kernel's kallsyms lack it",
            "do not refer to it from the changed functions",
        )  # fmt: skip
