# SPDX-License-Identifier: GPL-2.0-only
"""Machines made of files, each with one thing in the way."""

import errno
import gzip
import json
import os
from pathlib import Path

import pytest

from ksplicd import minisign
from ksplicd.cli import doctor_host, doctor_kernel
from ksplicd.cli.doctor import to_report, to_summary
from ksplicd.cli.finding import Finding, Verdict, bad, note, ok, unknown
from ksplicd.cli.main import main
from ksplicd.cli.terminal import Terminal
from ksplicd.config import OnDrop, Settings
from ksplicd.errors import NoDaemonError
from ksplicd.host.clock import built
from tests.support.bundles import samples
from tests.support.needs import have_no_root

RELEASE = "6.12.107+deb13-cloud-amd64"
VERSION = "#1 SMP PREEMPT_DYNAMIC Debian 6.12.107-1 (2026-10-01)"
MACHINE = os.uname_result(("Linux", "host", RELEASE, VERSION, "x86_64"))
CONFIG = "".join(
    f"CONFIG_{word}=y\n"
    for word in ("LIVEPATCH", "MODULES", "MODULE_UNLOAD", "KALLSYMS_ALL", "STACKTRACE")
)
FILES = {
    "sys/kernel/notes": "notes",
    f"lib/modules/{RELEASE}/modules.dep": "",
    f"boot/config-{RELEASE}": CONFIG,
    "sys/kernel/livepatch/ksplice_8c4o6ucj_new/enabled": "1\n",
    "sys/kernel/security/lockdown": "[none] integrity confidentiality\n",
    "sys/kernel/debug/kprobes/enabled": "1\n",
    "sys/kernel/tracing/current_tracer": "nop\n",
    "proc/sys/kernel/modules_disabled": "0\n",
    "proc/sys/kernel/ftrace_enabled": "1\n",
    "proc/sys/vm/memfd_noexec": "1\n",
    "proc/meminfo": "MemTotal: 9000000 kB\nMemAvailable:  800000 kB\n",
    "proc/version": "Linux version 6.12 (x) (x86_64-linux-gnu-gcc-14 (Debian 14.2.0-19) 14.2.0)",
    "proc/cmdline": "root=/dev/vda1\n",
    "usr/share/dbus-1/system-services/org.freedesktop.PolicyKit1.service": "",
    "usr/share/polkit-1/actions/org.ksplice.ksplicd1.policy": "",
    "var/lib/ksplice/history.jsonl": "",
    "etc/ksplicd/ksplicd.conf": "[ksplicd]\n",
}


def put(root: Path, path: str, text: str = "") -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine on which all is well."""
    for path, text in FILES.items():
        put(tmp_path, path, text)
    key = minisign.write_public_key(samples.KEY.public)
    put(tmp_path, "etc/ksplicd/keys.d/test.pub", key)
    return tmp_path


def test_machine_on_which_all_is_well(root: Path) -> None:
    found = doctor_kernel.check_running(root, MACHINE)
    assert [f for f in found if f.verdict is not Verdict.OK or f.do] == []
    assert [f.name for f in found] == [
        *("kernel", "livepatch", "modules", "lockdown", "memory files", "kprobes", "tracers"),
    ]


@pytest.mark.parametrize(
    ("path", "text", "name", "verdict", "words"),
    [
        ("run/systemd/container", "lxc", "kernel", Verdict.BAD, "container"),
        (f"boot/config-{RELEASE}", "CONFIG_MODULES=y\n", "livepatch", Verdict.BAD, "LIVEPATCH"),
        (
            f"boot/config-{RELEASE}",
            CONFIG.replace("CONFIG_KALLSYMS_ALL=y", "# CONFIG_KALLSYMS_ALL is not set"),
            "livepatch", Verdict.BAD, "without CONFIG_KALLSYMS_ALL",
        ),
        ("proc/sys/kernel/ftrace_enabled", "0\n", "livepatch", Verdict.BAD, "ftrace is off"),
        ("sys/kernel/livepatch/kpatch_1/enabled", "1", "livepatch", Verdict.NOTE, "kpatch_1"),
        ("proc/sys/kernel/modules_disabled", "1\n", "modules", Verdict.BAD, "modules_disabled is"),
        ("sys/kernel/security/lsm", "lockdown,loadpin", "modules", Verdict.BAD, "LoadPin"),
        (
            "sys/kernel/security/lockdown", "none [integrity] confidentiality\n",
            "lockdown", Verdict.NOTE, "lockdown=integrity",
        ),
        ("sys/module/module/parameters/sig_enforce", "Y", "lockdown", Verdict.NOTE, "sig_enforce"),
        ("sys/kernel/debug/kprobes/enabled", "0\n", "kprobes", Verdict.NOTE, "kprobes are off"),
        (
            "sys/kernel/debug/kprobes/list", "ffffffff9df61c60  k  do_fcntl+0x20    [OPTIMIZED]\n",
            "kprobes", Verdict.NOTE, "at do_fcntl+0x20",
        ),
        ("sys/kernel/tracing/current_tracer", "function\n", "tracers", Verdict.NOTE, "function"),
    ],
)  # fmt: skip
def test_what_is_in_the_way(
    root: Path, path: str, text: str, name: str, verdict: Verdict, words: str
) -> None:
    put(root, path, text)
    found = [f for f in doctor_kernel.check_running(root, MACHINE) if f.verdict is not Verdict.OK]
    assert [(f.name, f.verdict) for f in found] == [(name, verdict)]
    assert words in found[0].what
    assert found[0].do


@pytest.mark.parametrize(
    ("release", "architecture", "verdict"),
    [
        ("5.10.0-30-amd64", "x86_64", Verdict.BAD),
        (RELEASE, "aarch64", Verdict.BAD),
        ("7.0.1-amd64", "x86_64", Verdict.NOTE),  # it runs, and is not installed
    ],
)
def test_kernels(root: Path, release: str, architecture: str, verdict: Verdict) -> None:
    machine = os.uname_result(("Linux", "host", release, VERSION, architecture))
    assert doctor_kernel.check_kernel(root, machine).verdict is verdict


def test_kernel_without_a_build_id(root: Path) -> None:
    (root / "sys/kernel/notes").unlink()
    assert doctor_kernel.check_kernel(root, MACHINE).verdict is Verdict.BAD


def test_configuration_in_proc(root: Path) -> None:
    (root / "boot" / f"config-{RELEASE}").unlink()
    (root / "proc/config.gz").write_bytes(gzip.compress(b"CONFIG_MODULES=y\n"))
    assert doctor_kernel.check_livepatch(root, RELEASE).verdict is Verdict.BAD
    (root / "proc/config.gz").write_bytes(b"no gzip")
    assert doctor_kernel.check_livepatch(root, RELEASE).verdict is Verdict.OK


def test_keys_that_a_locked_kernel_trusts(root: Path) -> None:
    put(root, "sys/module/module/parameters/sig_enforce", "Y")
    key = "2a1b I------ 1 perm 1f030000 0 0 asymmetri Debian Secure Boot CA: X509.rsa 1a []"
    put(root, "proc/keys", f"{key}\n{key}\n")
    found = doctor_kernel.check_lockdown(root)
    assert "; it trusts Debian Secure Boot CA" in found.what
    assert "--module-sign-key" in found.do


def test_memory_files_that_are_refused(root: Path) -> None:
    def refuse(_name: str) -> int:
        raise OSError(errno.EACCES, "Permission denied")

    put(root, "proc/sys/vm/memfd_noexec", "2\n")
    found = doctor_kernel.check_memory_files(root, refuse)
    assert found.verdict is Verdict.BAD
    assert found.what.endswith("Permission denied (vm.memfd_noexec is 2)")


@pytest.mark.parametrize("folder", ["debug", "tracing"])
def test_what_is_shown_to_root_only(root: Path, folder: str) -> None:
    path = root / "sys/kernel" / folder
    path.rename(root / "elsewhere")
    found = doctor_kernel.check_running(root, MACHINE)
    (left,) = [f for f in found if f.verdict is Verdict.UNKNOWN]
    assert left.do == "run `sudo ksplice doctor`"


# --- around the kernel --------------------------------------------------------------------------


def test_surroundings_where_all_is_well(root: Path) -> None:
    found = [
        doctor_host.check_clock(built() + 1, root),
        doctor_host.check_service(lambda: "0.1.0"),
        doctor_host.check_polkit(root),
        doctor_host.check_keys(root, Settings(), os.geteuid()),
        doctor_host.check_sources(root, Settings()),
        doctor_host.check_toolchain(root, lambda program: program),
    ]
    assert [f for f in found if f.verdict is not Verdict.OK or f.do] == []


def test_clock(root: Path) -> None:
    assert doctor_host.check_clock(1000.0, root).verdict is Verdict.BAD
    (root / "run/systemd/timesync").mkdir(parents=True)
    assert doctor_host.check_clock(built() + 1, root).verdict is Verdict.NOTE


@pytest.mark.parametrize(("kib", "verdict"), [(1000, Verdict.BAD), (100_000, Verdict.NOTE)])
def test_little_memory(root: Path, kib: int, verdict: Verdict) -> None:
    put(root, "proc/meminfo", f"MemAvailable: {kib} kB\n")
    assert doctor_host.check_space(root).verdict is verdict


def test_service_that_does_not_answer() -> None:
    def ask() -> str:
        raise NoDaemonError("ksplicd is not running")

    found = doctor_host.check_service(ask)
    assert (found.verdict, found.what) == (Verdict.BAD, "ksplicd is not running")


@pytest.mark.parametrize(
    "path",
    [
        "usr/share/dbus-1/system-services/org.freedesktop.PolicyKit1.service",
        "usr/share/polkit-1/actions/org.ksplice.ksplicd1.policy",
    ],
)
def test_no_polkit(root: Path, path: str) -> None:
    (root / path).unlink()
    assert doctor_host.check_polkit(root).verdict is Verdict.NOTE


def test_settings_with_a_mistake(root: Path) -> None:
    put(root, "etc/ksplicd/ksplicd.conf", "[ksplicd]\non-drop = maybe\n")
    found, _ = doctor_host.check_settings(root)
    assert found.verdict is Verdict.BAD
    assert "ksplicd.conf:2: on-drop" in found.what


def test_keys(root: Path) -> None:
    me, key = os.geteuid(), root / "etc/ksplicd/keys.d/test.pub"
    key.with_name("bad.pub").write_text("no key\n")
    found = doctor_host.check_keys(root, Settings(), me)
    assert (found.verdict, "bad.pub is not trusted" in found.what) == (Verdict.NOTE, True)
    key.unlink()
    assert doctor_host.check_keys(root, Settings(), me).verdict is Verdict.BAD
    key.with_name("bad.pub").unlink()
    assert doctor_host.check_keys(root, Settings(), me).verdict is Verdict.BAD
    lax = Settings(require_signature=False)
    assert doctor_host.check_keys(root, lax, me).verdict is Verdict.OK
    key.parent.chmod(0o777)
    assert doctor_host.check_keys(root, Settings(), me).verdict is Verdict.BAD


@have_no_root
def test_keys_that_are_shown_to_root_only(root: Path) -> None:
    (root / "etc/ksplicd/keys.d").chmod(0)
    try:
        assert doctor_host.check_keys(root, Settings()).verdict is Verdict.UNKNOWN
    finally:
        (root / "etc/ksplicd/keys.d").chmod(0o700)


def test_sources(root: Path) -> None:
    applied = doctor_host.check_sources(root, Settings(on_drop=OnDrop.APPLY))
    assert applied.what.endswith("is applied (on-drop = apply)")
    put(root, "etc/ksplicd/disable")
    assert doctor_host.check_sources(root, Settings()).verdict is Verdict.NOTE
    (root / "var/lib/ksplice/history.jsonl").unlink()
    (root / "var/lib/ksplice").rmdir()
    assert doctor_host.check_sources(root, Settings()).verdict is Verdict.BAD


@pytest.mark.parametrize(
    ("lacking", "words"),
    [("gcc-14", "apt install gcc-14; "), ("ld", "apt install binutils"), ("mmdebstrap", "mmdeb")],
)
def test_toolchain(root: Path, lacking: str, words: str) -> None:
    found = doctor_host.check_toolchain(root, lambda name: None if name == lacking else name)
    assert found.verdict is Verdict.NOTE
    assert words in found.do


# --- the verb -----------------------------------------------------------------------------------

FOUND = [ok("a", "is well"), note("long name", "so\x1b", "that"), bad("c", "no", "this")]


def test_report() -> None:
    assert to_report(FOUND, Terminal(width=20)) == [
        "ok    a          is well",
        r"note  long name  so\x1b",
        "    to do: that",
        "bad   c          no",
        "    to do: this",
    ]


@pytest.mark.parametrize(
    ("found", "summary"),
    [
        (FOUND, "This machine cannot be patched now: c."),
        (FOUND[:2], "This machine can be patched."),
        ([unknown("d", "?")], "This machine can be patched. Not looked at: d."),
    ],
)
def test_summary(found: list[Finding], summary: str) -> None:
    assert to_summary(found) == summary


def test_exit_status_is_the_documents(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent/bus")
    assert main(["doctor", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["schema"], document["can_be_patched"]) == (1, False)
    verdicts = {check["name"]: check["verdict"] for check in document["checks"]}
    assert len(verdicts) == 15
    assert verdicts["service"] == "bad"
