# SPDX-License-Identifier: GPL-2.0-only
"""The errors: one class per cause.

A class carries what each surface shows: the D-Bus error name, the exit status of the command, and
the abort cause, which is Ksplice's own word where Ksplice had one.  A message says what was
refused, where, and what to do next.  A bug of ours is an assertion, never one of these.
"""

import re
from collections.abc import Sequence
from typing import ClassVar, Final

ERROR_PREFIX: Final = "org.ksplice.Ksplicd1.Error."


class KspliceError(Exception):
    """Base of every error that is raised on purpose."""

    exit_status: ClassVar[int] = 1
    abort_cause: ClassVar[str] = ""

    @classmethod
    def dbus_name(cls) -> str:
        """Return the D-Bus error name: the class name without ``Error``."""
        return ERROR_PREFIX + cls.__name__.removesuffix("Error")


class UsageError(KspliceError):
    """The command was given wrong arguments; the message has the right form (sysexits.h)."""

    exit_status = 64


class ToolError(KspliceError):
    """A program failed; the message has the end of its output."""


# --- create -------------------------------------------------------------------------------------


class CreateError(KspliceError):
    """No bundle can be made from this input."""


class NoChangesError(CreateError):
    """The diff changes no object code."""

    exit_status = 66


class ConfigDirError(CreateError):
    """``--config DIR`` lacks a part, or its parts do not belong together."""


class SourceTreeError(CreateError):
    """The source tree is unusable, or in use."""


class PatchError(CreateError):
    """The patch does not apply."""


class BuildError(CreateError):
    """A touched unit does not compile."""


class UnsupportedChangeError(CreateError):
    """The change cannot be made in a running kernel; names each symbol and the way out."""

    def __init__(self, message: str, refusals: Sequence[object] = ()) -> None:
        super().__init__(message)
        self.refusals = tuple(refusals)
        """``create.refusal.Refusal``, one per symbol; empty when the whole input is refused."""


class UnaccountedError(CreateError):
    """A part of the patch would be missing from the running kernel, and nobody accepted that."""

    def __init__(self, message: str, places: Sequence[tuple[str, int]] = ()) -> None:
        super().__init__(message)
        self.places = tuple(places)
        """File and line, as the patch leaves the file, of each hunk."""


class ElfError(CreateError):
    """An object file is damaged or of an unsupported kind."""


class ImageMismatchError(CreateError):
    """The pre objects are not what the stock image was built from."""

    abort_cause = "no_match"


class ContradictionError(CreateError):
    """The update that was made does not do what the change says: a fault of ours."""

    exit_status = 70

    def __init__(self, found: Sequence[str]) -> None:
        lines = "\n".join(f"  {line}" for line in found)
        super().__init__(
            "internal error: the update does not do what the kernel with the change would do, so"
            f" that nothing is written; please report this with the patch:\n{lines}"
        )
        self.found = tuple(found)
        """One sentence each."""


# --- the bundle ---------------------------------------------------------------------------------


class BundleError(KspliceError):
    """The bundle itself is at fault."""

    exit_status = 2


class BadBundleError(BundleError):
    """The archive, its contents file or its manifest breaks the format."""


class BadSignatureError(BundleError):
    """No trusted key signed these bytes."""

    exit_status = 3


class SignerNotAllowedError(BadSignatureError):
    """A trusted key signed this update, but the policy reserves it for other keys."""


class KeyFileError(KspliceError):
    """A minisign key file cannot be read or used."""


class PasswordNeededError(KeyFileError):
    """The secret key is encrypted and no password was given."""


# --- the host -----------------------------------------------------------------------------------


class HostError(KspliceError):
    """This host cannot do what was asked, and nothing was changed."""


class WrongKernelError(HostError):
    """The update was built for another kernel release or build id."""

    exit_status = 4
    abort_cause = "bad_system_map"


class NoSuchUpdateError(HostError):
    """No update has this id."""


class AlreadyAppliedError(HostError):
    """The update is applied."""


class AlreadyReversedError(HostError):
    """The update is not applied any more."""

    abort_cause = "already_reversed"


class AlreadyStagedError(HostError):
    """An update of this id but other content is staged."""


class ModulePresentError(HostError):
    """/sys/module has a module of this name that ksplicd did not load."""


class InUseError(HostError):
    """Another update needs this one, or one is in transition."""


class MissingDependencyError(HostError):
    """An update that this one depends on is not applied."""


class ExcludedError(HostError):
    """An applied update must not be applied together with this one."""


class SupersededError(HostError):
    """An applied update replaces this one."""


class ReplayedError(HostError):
    """The update was undone or quarantined here; only a person may apply it again."""


class QuarantinedError(HostError):
    """The machine went down while the update was new; a person has to release it first."""

    exit_status = 8
    abort_cause = "quarantined"


class NotQuarantinedError(HostError):
    """The update is not quarantined."""


class UnknownFlagsError(HostError):
    """A call has flags or options that this version does not know."""


class PermissionDeniedError(HostError):
    """The policy does not allow the call."""


class ConfigFileError(HostError):
    """ksplicd.conf is wrong; the message names line and reason."""


class NoDaemonError(HostError):
    """ksplicd is not on the bus, or has left it."""


class StoreFullError(HostError):
    """The store has no room for the bundle."""


class StoreError(HostError):
    """The store under /var/lib/ksplice cannot be read or written."""


# --- the kernel refused -------------------------------------------------------------------------


class ApplyError(KspliceError):
    """The kernel refused, and every module of the update has been unloaded."""

    exit_status = 5


class NoMatchError(ApplyError):
    """The running code is not the code that the update was built from."""

    abort_cause = "no_match"


class FailedToFindError(ApplyError):
    """A symbol that the update needs is not in the running kernel."""

    abort_cause = "failed_to_find"


class BadSystemMapError(ApplyError):
    """The running kernel's symbols are not those that the update was built for."""

    abort_cause = "bad_system_map"


class MissingExportError(ApplyError):
    """The kernel does not export a symbol that the update's modules link to."""

    abort_cause = "missing_export"


class CodeBusyError(ApplyError):
    """A task stayed inside a function to be replaced until the limit."""

    exit_status = 6
    abort_cause = "code_busy"


class TargetNotLoadedError(ApplyError):
    """A module to be patched is not loaded."""

    abort_cause = "target_not_loaded"


class OutOfMemoryError(ApplyError):
    """The kernel has no memory for the update."""

    abort_cause = "out_of_memory"


class CallFailedError(ApplyError):
    """A hook of the update returned an error."""

    abort_cause = "call_failed"


class ModuleRefusedError(ApplyError):
    """finit_module failed: lockdown, signature enforcement or vermagic."""

    abort_cause = "module_refused"


class UnexpectedError(ApplyError):
    """The kernel failed for a reason that has no class here."""

    abort_cause = "unexpected"


class KernelWarningError(ApplyError):
    """The kernel logged a warning or an oops in code of a new update."""

    abort_cause = "kernel_warning"


class CancelledError(ApplyError):
    """The job was cancelled; the kernel is as it was before."""

    exit_status = 7
    abort_cause = "cancelled"


# --- the distribution ---------------------------------------------------------------------------


class DistroError(KspliceError):
    """A kernel's parts cannot be had from the distribution."""


class NoSuchKernelError(DistroError):
    """The distribution has no kernel of this release, or not all of its parts."""


class NoSuchSuiteError(DistroError):
    """The mirror has no such suite."""


class UnreachableError(DistroError):
    """The mirror does not answer, and the cache has not what is needed."""


class UntrustedError(DistroError):
    """The archive is not signed by the distribution's keys, or a file is not the signed one."""


class ToolchainError(DistroError):
    """The kernel's compiler cannot be had or run here."""


class NoSpaceError(DistroError):
    """The disk of the cache is full."""


# --- the lab ------------------------------------------------------------------------------------


class LabError(KspliceError):
    """The throwaway machine cannot be started, or did not do what was asked."""


class GuestPanicError(LabError):
    """The guest's kernel panicked; the message carries the end of its console."""


def walk(cls: type[KspliceError] = KspliceError) -> list[type[KspliceError]]:
    """Return ``cls`` and every error below it, parents first."""
    return [cls, *(leaf for child in cls.__subclasses__() for leaf in walk(child))]


def by_abort_cause(cause: str) -> type[ApplyError]:
    """Return the error class for an abort cause that the kernel part reports."""
    for cls in walk(ApplyError):
        if cause and cls.abort_cause == cause:
            assert issubclass(cls, ApplyError)
            return cls
    return UnexpectedError


def cause_of(error: Exception) -> str:
    """Return the abort cause, or for an error without one its name: ``InUseError`` → ``in_use``."""
    if not isinstance(error, KspliceError):
        return UnexpectedError.abort_cause
    name = type(error).__name__.removesuffix("Error")
    return error.abort_cause or re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
