# SPDX-License-Identifier: GPL-2.0-only
"""What the names of symbols and sections mean: one predicate a policy, each with a real example.

The names are those of gcc and clang, of the kernel's headers and of its linker scripts
(include/asm-generic/vmlinux.lds.h).
"""

import re
from typing import Final

from ksplicd.elf.model import Section, Symbol

_NUMBER: Final = re.compile(r"\.\d+(?=\.|$)")
_COLD: Final = re.compile(r"\.cold(?:\.\d+)?$")
_LITERAL: Final = re.compile(
    r"(?:__func__|__FUNCTION__|__PRETTY_FUNCTION__)\.|CSWTCH\.\d|switch\.table\.|\.LC\d|\.L\.str"
    r"|.+\.__(?:func|FUNCTION|PRETTY_FUNCTION)__(?:\.\d+)?$"
)
_SANITIZER: Final = re.compile(
    r"\.(?:ro)?data(?:\.rel)?(?:\.ro)?(?:\.local)?\.\.L(?:ubsan_(?:data|type)|__unnamed_)\d+$"
)
_PRINTK_INDEX: Final = re.compile(
    r"(?:_entry(?:_ptr)?\.\d+|.+\._entry(?:_ptr)?(?:\.\d+)?)$"  # as gcc and clang number them
)
_TRACEPOINT: Final = re.compile(
    r"(?:print_fmt|trace_event_(?:fields|type_funcs)|__tracepoint|__tpstrtab|str__"
    r"|event|event_class|__event|__bpf_trace_tp_map)_"
)


def base_name(name: str) -> str:
    """Return the name without the numbers that the compiler deals out anew in each compilation.

    ``__already_done.7`` → ``__already_done``, ``foo.constprop.1.cold`` → ``foo.constprop.cold``,
    ``__UNIQUE_ID_ddebug312.4`` → ``__UNIQUE_ID_ddebug``,
    ``__BTF_ID__struct__sock__41`` → ``__BTF_ID__struct__sock__``.
    """
    name = _NUMBER.sub("", name)
    if name.startswith(("__UNIQUE_ID_", "__BTF_ID__")):
        name = name.rstrip("0123456789")
    return name


def main_name(name: str) -> str:
    """Return the function that a cold part belongs to: ``foo.isra.0.cold`` → ``foo.isra.0``."""
    return _COLD.sub("", name)


def is_cold_part(name: str) -> bool:
    """Tell whether the symbol is the unlikely half of a function, such as ``do_exit.cold``."""
    return _COLD.search(name) is not None


def is_prefix(symbol: Symbol) -> bool:
    """Tell whether the symbol names the padding before a function, such as ``__pfx_vfs_read``.

    objtool adds them since Linux 6.2 (CONFIG_PREFIX_SYMBOLS); they belong to their function.
    """
    return symbol.name.startswith("__pfx_")


def is_literal(symbol: Symbol) -> bool:
    """Tell whether only the content matters, such as ``__func__.3`` or ``CSWTCH.12``."""
    return _LITERAL.match(symbol.name) is not None


def is_debug_descriptor(section: Section) -> bool:
    """Tell whether a section holds dynamic debug's descriptors, such as ``__UNIQUE_ID_ddebug3.1``.

    Each belongs to one pr_debug(): new code brings its own, with the static key in it.  The
    section is called ``__verbose`` before Linux 5.8.
    """
    return section.name in ("__dyndbg", "__verbose")


def is_once_flag(section: Section) -> bool:
    """Tell whether a section holds WARN_ONCE's flags, such as ``__already_done.7``.

    A fresh copy only means that the warning may be printed once more.
    """
    return section.name in (".data.once", ".data.unlikely", ".data..once")


def is_expendable(symbol: Symbol) -> bool:
    """Tell whether a static variable's content may be lost, such as the rate limit ``_rs.4``.

    printk_ratelimited() then begins to count anew; lock classes (``__key.2``) differ by
    their address, and are empty without lockdep.
    """
    return base_name(symbol.name) in ("_rs", "rs", "__key", "__print_once", "__warned")


def is_sanitizer_record(section: Section) -> bool:
    """Tell whether a section is one of UBSAN's records, such as ``.data..Lubsan_data7``.

    It names the place of a check in the source and what was checked: content without identity, in
    which the line may differ.  clang's have no name: ``.data..L__unnamed_4``.
    """
    return _SANITIZER.match(section.name) is not None


def is_printk_index(symbol: Symbol) -> bool:
    """Tell whether the symbol is an entry of printk's index, such as ``_entry.12``.

    Only debugfs reads them, from a list of the linker's; they hold the line of their printk().
    A variable may have the name, too; one of a file, even constant, has no number.
    """
    section = symbol.section
    return (
        _PRINTK_INDEX.match(symbol.name) is not None
        and section is not None
        and section.name.startswith((".rodata", ".printk_index", ".data.rel.ro"))
    )


def is_content_alone(symbol: Symbol) -> bool:
    """Tell whether nobody asks which of two symbols of the same content this is.

    ``__func__.3``, whose reader sees the text; ``_entry.12``, which stands in a list.
    """
    return is_literal(symbol) or is_printk_index(symbol)


def has_no_identity(section: Section) -> bool:
    """Tell whether a fresh copy of the section does as well as the one that the kernel has.

    ``__already_done.7``, ``__UNIQUE_ID_ddebug3.1``, ``.data..Lubsan_data7``.
    """
    return is_once_flag(section) or is_debug_descriptor(section) or is_sanitizer_record(section)


def is_tracepoint(symbol: Symbol) -> bool:
    """Tell whether the symbol describes a tracepoint, such as ``print_fmt_sched_switch``."""
    return _TRACEPOINT.match(symbol.name) is not None


def is_static_call(symbol: Symbol) -> bool:
    """Tell whether the symbol is what a static call leads to: ``__SCK__x``, ``__SCT__x``.

    The key, and the trampoline to which calls have gone until boot code rewrote them.
    """
    return symbol.name.startswith(("__SCK__", "__SCT__"))


def is_bound_at_boot(symbol: Symbol) -> bool:
    """Tell whether boot code has made direct calls of a table's pointers, such as ``pv_ops``.

    Or of ``selinux_hooks``: since Linux 6.12 security hooks are static calls.
    """
    section = symbol.section
    is_late = section is not None and section.name.startswith(".data..ro_after_init")
    return (
        is_static_call(symbol)
        or symbol.name == "pv_ops"
        or (is_late and symbol.name.endswith("_hooks"))
    )


def is_init_section(section: Section) -> bool:
    """Tell whether a section is used once, before all else, such as ``.init.text``."""
    return section.name.startswith((".init", ".con_initcall", ".security_initcall"))


def is_exit_section(section: Section) -> bool:
    """Tell whether a section holds what runs when a module is unloaded, such as ``.exit.text``."""
    return section.name.startswith(".exit")


def is_boot_section(section: Section) -> bool:
    """Tell whether a section is used at boot or at unload only, such as ``.init.text``.

    ``.init.data``, ``.initcall6.init``, ``.init.rodata`` and ``.exitcall.exit`` are others.
    """
    return is_init_section(section) or is_exit_section(section)


def is_per_cpu(section: Section) -> bool:
    """Tell whether a section holds the image of per-CPU data, such as ``.data..percpu..read``."""
    return section.name.startswith(".data..percpu")


def is_read_only(section: Section) -> bool:
    """Tell whether nobody writes the section, such as ``.rodata.ext4_filetype_table``.

    Not ``.data..ro_after_init``, which boot code writes.
    """
    return section.name.startswith(".rodata") and not section.name.startswith(".rodata..ro_after")


def is_ro_after_init(section: Section) -> bool:
    """Tell whether only boot code writes the section, such as ``.data..ro_after_init``."""
    return section.name.startswith((".data..ro_after_init", ".rodata..ro_after"))


def text_class(section: Section) -> str:
    """Return what a section of code is for: ``.sched.text`` → ``.sched``.

    ``.text.unlikely`` and ``.text.vfs_read``, as of one function a section, are ``.text``.
    """
    name = section.name
    return ".text" if name.startswith(".text") else name.split(".text", 1)[0]


def is_code_fragment(section: Section) -> bool:
    """Tell whether a section holds pieces of functions, such as ``.altinstr_aux``.

    ``static_cpu_has()`` jumps there before alternatives are applied, and an exception's repair was
    in ``.fixup`` until Linux 5.16.  The pieces have no names.
    """
    return section.name in (".altinstr_aux", ".fixup")
