# SPDX-License-Identifier: GPL-2.0-only
"""Whether an update fits the running kernel: its build, its loaded modules, its targets.

The checks only ask the kernel.  How updates stand to each other is ``order``.
"""

from ksplicd.errors import ModulePresentError, TargetNotLoadedError, WrongKernelError
from ksplicd.host.kernel.door import KernelDoor
from ksplicd.model import VMLINUX, Manifest, core_module, new_module, old_module


def check_kernel(manifest: Manifest, kernel: KernelDoor) -> None:
    """Raise ``WrongKernelError`` when the update is for another kernel than the running one."""
    wanted = manifest.kernel
    release = kernel.release()
    if wanted.release != release:
        raise WrongKernelError(
            f"{manifest.kid}: is for kernel {wanted.release}, but {release} runs here"
        )
    build_id = kernel.build_id()
    if wanted.build_id != build_id:
        raise WrongKernelError(
            f"{manifest.kid}: is for another build of {release}: build id {wanted.build_id}, "
            f"but {build_id} runs here; build it from this kernel's own package version"
        )


def is_for_next(manifest: Manifest, kernel: KernelDoor) -> bool:
    """Return whether the update is for a kernel that is installed here and does not run.

    Of the running release there is one build: an update for another one can never be applied.
    """
    release = manifest.kernel.release
    return release != kernel.release() and kernel.is_installed(release)


def update_modules(manifest: Manifest) -> tuple[str, ...]:
    """Return the names of the update's modules in the order in which they are loaded."""
    kid = manifest.kid
    olds = (old_module(kid, target.name) for target in manifest.targets)
    return core_module(kid), *olds, new_module(kid)


def check_modules(manifest: Manifest, kernel: KernelDoor) -> None:
    """Raise ``ModulePresentError`` when a module of one of the update's names is loaded."""
    loaded = kernel.modules()
    for name in update_modules(manifest):
        if name in loaded and kernel.is_kept(name):
            raise ModulePresentError(
                f"/sys/module/{name}: is still loaded after the undo, because the kernel may hold"
                " pointers to its functions; apply this update after the next boot, or build it"
                " again from the same patch"
            )
        if name in loaded and kernel.modules_disabled():
            raise ModulePresentError(
                f"/sys/module/{name}: is loaded already, and can neither be used again nor be"
                " unloaded, because kernel.modules_disabled is 1; apply this update after the next"
                " boot"
            )
        if name in loaded:
            raise ModulePresentError(
                f"/sys/module/{name}: is loaded, but not by ksplicd; `rmmod {name}` first"
            )


def check_targets(manifest: Manifest, kernel: KernelDoor) -> None:
    """Raise ``TargetNotLoadedError`` when a module that has to be loaded is not."""
    loaded = kernel.modules() | {VMLINUX}
    for target in manifest.targets:
        if not target.late and target.name.replace("-", "_") not in loaded:
            raise TargetNotLoadedError(
                f"{manifest.kid}: patches module {target.name}, which is not loaded; "
                f"`modprobe {target.name}` first"
            )
