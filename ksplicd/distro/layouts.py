# SPDX-License-Identifier: GPL-2.0-only
"""How Debian's releases lay a kernel out in packages: which package has what, and where in it."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One way; ``{release}`` stands for the kernel's release, as ``uname -r`` has it."""

    name: str
    image: str
    """The package that has the bootable image."""
    modules: str
    """The package that has the modules."""
    vmlinuz: str
    """The image in its package."""
    folder: str
    """The modules' folder in theirs."""

    def packages(self, release: str) -> tuple[str, ...]:
        """Return the names of the packages, each once."""
        return tuple(dict.fromkeys(p.format(release=release) for p in (self.image, self.modules)))


IMAGE: Final = "linux-image-{release}"
"""The package that every layout has.  From 7.0 on it is empty, and depends on the others."""

LAYOUTS: Final = (
    Layout(
        name="bookworm",
        image=IMAGE,
        modules=IMAGE,
        vmlinuz="boot/vmlinuz-{release}",
        folder="lib/modules/{release}",
    ),
    Layout(
        name="trixie",
        image=IMAGE,
        modules=IMAGE,
        vmlinuz="boot/vmlinuz-{release}",
        folder="usr/lib/modules/{release}",
    ),
    Layout(
        name="7.0",
        image="linux-binary-{release}",
        modules="linux-modules-{release}",
        vmlinuz="usr/lib/modules/{release}/vmlinuz",
        folder="usr/lib/modules/{release}",
    ),
)
