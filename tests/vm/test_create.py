# SPDX-License-Identifier: GPL-2.0-only
"""``ksplice create`` on a stock kernel's source: needs the packages, but no guest."""

import errno
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ksplicd import bundle
from ksplicd.cache import Cache
from ksplicd.create.build.units import TargetFilter, Unit
from ksplicd.create.modules.signature import ModuleKey
from ksplicd.create.patch.source_tree import PRESRC, SourceTree
from ksplicd.create.pipeline import create, make_prebuilt
from ksplicd.create.request import Created, Request
from ksplicd.distro.packages import KernelPackages
from ksplicd.elf.read import read_object
from ksplicd.errors import (
    BuildError,
    ConfigDirError,
    NoChangesError,
    PatchError,
    UnsupportedChangeError,
)
from ksplicd.run import run
from tests.support.guest.hand import Edit, write_patch
from tests.support.kernels import slice as sample


@pytest.fixture(scope="module")
def request_(lab_cache: Cache, kernel: KernelPackages) -> Request:
    """A request whose patch is to be replaced."""
    return sample.request_for(lab_cache, kernel, Path("none"), kid="test0001")


@pytest.fixture(autouse=True)
def tree_is_left_as_found(tree: Path) -> Iterator[None]:
    """Compare the touched files before and after each test."""
    files = [
        "fs/fcntl.c", "kernel/sys.c", "fs/proc/cmdline.c", "fs/romfs/super.c", "include/net/sock.h",
        "include/linux/fs.h",
    ]  # fmt: skip

    def state() -> dict[str, tuple[bytes, int]]:
        with SourceTree(tree).lock():
            return {f: ((tree / f).read_bytes(), (tree / f).stat().st_mtime_ns) for f in files}

    before = state()
    yield
    assert state() == before
    with SourceTree(tree).lock():
        leftovers = [p for f in files for p in (tree / f).parent.glob(f"*{PRESRC}")]
    assert leftovers == []


def edit(tree: Path, tmp_path: Path, path: str, old: str, new: str) -> Path:
    """Return a patch that replaces the first ``old`` in a file of the tree."""
    return write_patch(tree, tmp_path / "edit.patch", Edit(path, old, new))


@pytest.fixture(scope="module")
def first(lab_cache: Cache, request_: Request) -> Created:
    """The update of one fix, created for two tests."""
    return create(replace(request_, patches=(fcntl_patch(lab_cache),), kid="first000"))


@pytest.mark.parametrize("fix", sample.FIXES, ids=lambda fix: fix.file)
def test_real_fix(lab_cache: Cache, request_: Request, first: Created, fix: sample.Fix) -> None:
    patch = sample.cut_patch(lab_cache, fix.old, fix.new, [fix.file])
    made = first if fix == sample.FCNTL else create(replace(request_, patches=(patch,)))
    content = bundle.unpack(made.data)
    functions = content.manifest.targets[0].functions
    assert functions
    assert {f.unit for f in functions} == {fix.file}
    assert content.files["patch"] == patch.read_bytes()


def test_several_fixes_in_one_update_and_the_same_bytes_again(
    lab_cache: Cache, request_: Request, tmp_path: Path
) -> None:
    files = [fix.file for fix in sample.FIXES]
    patch = sample.cut_patch(lab_cache, sample.FCNTL.old, sample.FCNTL.new, files)
    first = create(replace(request_, patches=(patch,)))
    assert {f.unit for f in first.manifest.targets[0].functions} == set(files)
    again = create(replace(request_, patches=(patch,), keep=tmp_path / "kept here"))
    assert again.data == first.data
    objects = {Unit(file).flat_name + ".o" for file in files}
    for name in ("plain", "pre", "post", "new"):
        found = {p.name: p for p in (tmp_path / "kept here" / name).glob("*.o")}
        assert found.keys() == objects
        assert all(read_object(p.read_bytes()).functions() for p in found.values())
    assert (tmp_path / "kept here" / "modules" / "ksplice_test0001_new.ko").exists()


def test_patch_that_changes_no_code(request_: Request, tree: Path, tmp_path: Path) -> None:
    patch = edit(tree, tmp_path, "fs/proc/cmdline.c", "#include", "/* a comment\n */\n#include")
    with pytest.raises(NoChangesError, match=r"fs/proc/cmdline\.c: .* no code") as e:
        create(replace(request_, patches=(patch,)))
    assert e.value.exit_status == 66


def test_patch_that_breaks_the_build(request_: Request, tree: Path, tmp_path: Path) -> None:
    patch = edit(tree, tmp_path, "fs/proc/cmdline.c", "seq_puts(", "seq_putz(")
    with pytest.raises(BuildError, match=r"fs/proc/cmdline\.c: does not compile:\n.*seq_putz"):
        create(replace(request_, patches=(patch,)))


def test_patch_that_does_not_apply(request_: Request, tmp_path: Path) -> None:
    patch = tmp_path / "bad.patch"
    patch.write_text("--- a/fs/fcntl.c\n+++ b/fs/fcntl.c\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n")
    with pytest.raises(PatchError, match=r"bad\.patch: does not apply"):
        create(replace(request_, patches=(patch,)))


def test_header_that_changes_no_code(request_: Request, tree: Path, tmp_path: Path) -> None:
    patch = edit(tree, tmp_path, "include/linux/fs.h", "#include", "/* c */\n#include")
    with pytest.raises(NoChangesError, match=r"include/linux/fs\.h: \d+ units depend on it"):
        create(replace(request_, patches=(patch,)))


def test_module_and_vmlinux_in_one_update(
    lab_cache: Cache, request_: Request, tree: Path, tmp_path: Path
) -> None:
    module = edit(tree, tmp_path, "fs/romfs/super.c", "return -EINVAL;", "return -EIO;")
    made = create(replace(request_, patches=(module, fcntl_patch(lab_cache))))
    functions = {t.name: {f.name for f in t.functions} for t in made.manifest.targets}
    assert functions == {"romfs": {"romfs_fill_super"}, "vmlinux": {"do_fcntl"}}


def test_file_that_the_kernel_is_configured_without(
    request_: Request, tree: Path, tmp_path: Path
) -> None:
    patch = edit(tree, tmp_path, "fs/bfs/dir.c", "return -ENOSPC;", "return -EIO;")
    with pytest.raises(UnsupportedChangeError, match=r"fs/bfs/dir\.c: .* configured without"):
        create(replace(request_, patches=(patch,)))


def test_changed_data_is_refused_by_name(request_: Request, tree: Path, tmp_path: Path) -> None:
    patch = edit(tree, tmp_path, "kernel/sys.c", "int overflowuid = DEFAULT_OVERFLOWUID;",
                 "int overflowuid = DEFAULT_OVERFLOWUID - 1;")  # fmt: skip
    with pytest.raises(UnsupportedChangeError, match=r"overflowuid .*initialised data changes"):
        create(replace(request_, patches=(patch,), keep=tmp_path / "kept"))
    kept = tmp_path / "kept"
    for name in ("plain", "pre", "post"):
        assert [p.name for p in (kept / name).glob("*.o")] == ["kernel-sys.o"]
    assert not (kept / "modules").exists()


COPIED = {
    "ip6_dst_ops_template": (
        Edit("net/ipv6/route.c", "=\tip6_mtu,\n", "=\tcapped,\n"),
        Edit(
            "net/ipv6/route.c",
            "static struct dst_ops ip6_dst_ops_template",
            "static unsigned int capped(const struct dst_entry *dst)\n"
            "{\n\treturn min(ip6_mtu(dst), 1400U);\n}\n\n"
            "static struct dst_ops ip6_dst_ops_template",
        ),
    ),
    "ipv4_net_table": (
        Edit("net/ipv4/sysctl_net_ipv4.c", "= proc_dou8vec_minmax,\n", "= asking,\n"),
        Edit(
            "net/ipv4/sysctl_net_ipv4.c",
            "static struct ctl_table ipv4_net_table[]",
            "static int asking(struct ctl_table *table, int write, void *buffer, size_t *lenp,\n"
            "\t\t  loff_t *ppos)\n{\n\tif (write && !capable(CAP_SYS_ADMIN))\n\t\treturn -EPERM;\n"
            "\treturn proc_dou8vec_minmax(table, write, buffer, lenp, ppos);\n}\n\n"
            "static struct ctl_table ipv4_net_table[]",
        ),
    ),
}
"""Each network namespace has a copy; the old function is called from many places."""


@pytest.mark.parametrize("table", COPIED)
def test_pointer_of_a_copied_table_is_refused_with_both_reasons(
    request_: Request, tree: Path, tmp_path: Path, table: str
) -> None:
    patch = write_patch(tree, tmp_path / "p", *COPIED[table])
    words = rf"{table} .*copies it from such a .*: net/.*; \w+ cannot be redirected instead: \w+ is"
    with pytest.raises(UnsupportedChangeError, match=words):
        create(replace(request_, patches=(patch,)))


def test_boot_code_is_refused_by_name(request_: Request, tree: Path, tmp_path: Path) -> None:
    patch = edit(tree, tmp_path, "fs/fcntl.c", "BUILD_BUG_ON(21 - 1",
                 'pr_info("boot\\n");\n\tBUILD_BUG_ON(21 - 1')  # fmt: skip
    with pytest.raises(UnsupportedChangeError, match=r"fcntl_init .*runs only at boot"):
        create(replace(request_, patches=(patch,)))


def copy_config(request_: Request, tmp_path: Path) -> Path:
    folder = tmp_path / "config"
    folder.mkdir()
    for name in ("System.map", ".config", "vmlinuz"):
        (folder / name).write_bytes((request_.config / name).read_bytes())
    (folder / "build").symlink_to((request_.config / "build").resolve())
    return folder


def fcntl_patch(lab_cache: Cache) -> Path:
    return sample.cut_patch(lab_cache, sample.FCNTL.old, sample.FCNTL.new, ["fs/fcntl.c"])


def test_system_map_of_another_kernel(lab_cache: Cache, request_: Request, tmp_path: Path) -> None:
    folder = copy_config(request_, tmp_path)
    text = (folder / "System.map").read_text()
    moved = re.sub(r"^(\w{15})(\w)( . linux_banner)$", r"\g<1>8\3", text, flags=re.MULTILINE)
    (folder / "System.map").write_text(moved.replace("0 D linux_banner", "8 D linux_banner"))
    with pytest.raises(ConfigDirError, match="linux_banner is not where"):
        create(replace(request_, config=folder, patches=(fcntl_patch(lab_cache),)))


def test_configuration_that_does_not_fit_the_tree(
    lab_cache: Cache, request_: Request, tmp_path: Path
) -> None:
    folder = copy_config(request_, tmp_path)
    headers = tmp_path / "headers"
    generated = headers / "include/generated"
    generated.mkdir(parents=True)
    utsrelease = request_.config / "build/include/generated/utsrelease.h"
    (generated / "utsrelease.h").write_bytes(utsrelease.read_bytes())
    (folder / "build").unlink()
    (folder / "build").symlink_to(headers)
    with (folder / ".config").open("a") as f:
        f.write("CONFIG_NO_SUCH_OPTION=y\n")
    with pytest.raises(ConfigDirError, match=r"does not fit(.*\n)+.*-CONFIG_NO_SUCH_OPTION=y"):
        create(
            replace(request_, config=folder, cache=tmp_path / "cache",
                    patches=(fcntl_patch(lab_cache),))
        )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_gives_the_tree_back(
    lab_cache: Cache, request_: Request, tree: Path, tmp_path: Path, number: signal.Signals
) -> None:
    with sample.tree_turn(lab_cache):
        process = start_create(lab_cache, request_, tmp_path)
        try:
            wait_patched(tree, process)
            process.send_signal(number)
            assert process.wait(30) != 0
        finally:
            process.kill()
            process.wait()
    for name in ("plain", "pre"):
        assert [p.name for p in (tmp_path / "kept" / name).glob("*.o")] == ["fs-fcntl.o"]
    assert not list((tmp_path / "tmp").iterdir())


def test_kill_is_reverted_by_the_next_run(
    lab_cache: Cache, request_: Request, tree: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    with sample.tree_turn(lab_cache):
        process = start_create(lab_cache, request_, tmp_path)
        try:
            wait_patched(tree, process)
        finally:
            process.kill()
            process.wait()
        assert (tree / f"fs/fcntl.c{PRESRC}").exists()
        create(replace(request_, patches=(fcntl_patch(lab_cache),)), said.append)
    assert any("fs/fcntl.c" in line and "original back" in line for line in said)


def start_create(lab_cache: Cache, request_: Request, tmp_path: Path) -> subprocess.Popen[bytes]:
    code = "import sys; from ksplicd.cli.main import main_create; sys.exit(main_create())"
    argv = [
        # a shell without job control has its background ignore SIGINT
        "env", "--default-signal=INT",
        sys.executable, "-c", code, "--patch", fcntl_patch(lab_cache), "-q",
        "--config", request_.config, "-o", tmp_path, "--keep", "kept", request_.source,
    ]  # fmt: skip
    (tmp_path / "tmp").mkdir()
    more = {"XDG_CACHE_HOME": str(lab_cache.root.parent), "TMPDIR": str(tmp_path / "tmp")}
    return subprocess.Popen(list(map(str, argv)), cwd=tmp_path, env={**os.environ, **more})


def wait_patched(tree: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until the tree is patched; the compiler then takes about half a second."""
    deadline = time.monotonic() + 60
    while not (tree / f"fs/fcntl.c{PRESRC}").exists():
        assert process.poll() is None, "create ended before the tree was patched"
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_callers_in_other_files_are_taken_in(
    lab_cache: Cache, request_: Request, tmp_path: Path
) -> None:
    """avc_has_perm_noaudit is inline, but out of line, and has callers in two other files."""
    patch = sample.cut_patch(
        lab_cache, sample.FCNTL.old, sample.FCNTL.new, ["security/selinux/avc.c"]
    )
    made = create(replace(request_, patches=(patch,), keep=tmp_path / "kept"))
    units = {f.unit for f in made.manifest.targets[0].functions}
    for name in ("plain", "pre", "new"):
        found = {p.name for p in (tmp_path / "kept" / name).glob("*.o")}
        assert found == {f"{Unit(unit).flat_name}.o" for unit in units}, name
    assert units == {
        "security/selinux/avc.c", "security/selinux/hooks.c", "security/selinux/ss/services.c",
    }  # fmt: skip
    assert "calls avc_has_perm_noaudit" in made.reasons["selinux_inode_permission"]


MENDED = (
    Edit(
        "security/selinux/hooks.c", "\tif (!mask)\n\t\treturn 0;\n\n\tvalidate_creds",
        "\tif (!mask)\n\t\treturn -ENOTTY;\n\n\tvalidate_creds",
    ),
    Edit(
        "security/selinux/netif.c", "\trcu_read_lock();\n\tnetif = sel_netif_find(ns, ifindex);\n",
        "\tif (avc_has_perm_noaudit(&selinux_state, 0, 0, 0, 0, 0, NULL))\n\t\treturn -EIO;\n"
        "\trcu_read_lock();\n\tnetif = sel_netif_find(ns, ifindex);\n",
    ),
)  # fmt: skip

AGAIN = Edit(
    "security/selinux/hooks.c",
    "\t\treturn -ENOTTY;\n\n\tvalidate",
    "\t\treturn -EBADF;\n\n\tvalidate",
)


def test_callers_are_taken_in_as_an_earlier_update_left_them(
    lab_cache: Cache, request_: Request, tree: Path, tmp_path: Path
) -> None:
    """Else the second update would take back what the first has mended in hooks.c.

    In netif.c the first brings a call, which the stock kernel does not have.
    """
    mend = write_patch(tree, tmp_path / "mend.patch", *MENDED)
    first = create(replace(request_, patches=(mend,), kid="first000"))
    assert functions_of(first) == {"vmlinux": {"selinux_inode_permission", "sel_netif_sid"}}
    earlier, kept = tmp_path / "first.tar.gz", tmp_path / "kept"
    earlier.write_bytes(first.data)
    patch = sample.cut_patch(
        lab_cache, sample.FCNTL.old, sample.FCNTL.new, ["security/selinux/avc.c"]
    )
    second = replace(request_, patches=(patch,), series=(earlier,), kid="second00", keep=kept)
    made = create(second)
    assert functions_of(made)["vmlinux"] >= functions_of(first)["vmlinux"]
    for folder in ("pre", "new"):
        obj = read_object((kept / folder / "security-selinux-hooks.o").read_bytes())
        (code,) = (f.section for f in obj.functions() if f.name == "selinux_inode_permission")
        assert code is not None
        assert (-errno.ENOTTY).to_bytes(4, "little", signed=True) in code.data
    # A third one in whose new code the caller would go back to the kernel's own form.
    later = tmp_path / "second.tar.gz"
    later.write_bytes(made.data)
    again = write_patch(tree, tmp_path / "again.patch", AGAIN, on=MENDED)
    third = replace(request_, patches=(again,), series=(earlier, later), kid="third000")
    with pytest.raises(UnsupportedChangeError, match=r"avc_has_perm_noaudit: update second00"):
        create(third)


# --- other inputs, and files that are no units --------------------------------------------------

INLINE = "static inline void sk_rx_queue_clear(struct sock *sk)\n{"
"""A function of net/sock.h with one user among 1,400 units."""


def romfs_patch(tree: Path, tmp_path: Path) -> Path:
    return edit(tree, tmp_path, "fs/romfs/super.c", "return -EINVAL;", "return -EIO;")


def functions_of(made: Created) -> dict[str, set[str]]:
    return {t.name: {f.name for f in t.functions} for t in made.manifest.targets}


def test_header_is_followed_to_the_unit_that_it_changes(
    request_: Request, tree: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "ksplice")
    patch = edit(tree, tmp_path, "include/net/sock.h", INLINE,
                 f"{INLINE}\n\tif (!sk)\n\t\treturn;")  # fmt: skip
    said: list[str] = []
    made = create(replace(request_, patches=(patch,)), said.append)
    units = {f.unit for t in made.manifest.targets for f in t.functions}
    assert len(units) == 1
    assert units <= made.files.keys()
    note = made.files["include/net/sock.h"]
    m = re.match(r"(\d+) units depend on it, the change can reach (\d+), and changes .* 1 ", note)
    assert m is not None, note
    assert int(m[1]) > 1000
    assert int(m[2]) < 10
    assert any(line.startswith("include/net/sock.h: ") for line in said)
    (unit,) = units
    assert "include/net/sock.h: units include it: they are looked for" in caplog.messages
    assert f"{unit}: in: the compiler makes other assembly after the change" in caplog.messages
    assert "net/socket.c: out: includes a changed header, but mentions nothing changed" in (
        caplog.messages
    )


def test_new_header(request_: Request, tree: Path, tmp_path: Path) -> None:
    text = sample.read_source(tree, "fs/romfs/super.c")
    after = text.replace("return -EINVAL;", "return ROMFS_ERROR;", 1)
    after = after.replace('#include "internal.h"', '#include "internal.h"\n#include "error.h"', 1)
    patch = edit(tree, tmp_path, "fs/romfs/super.c", text, after)
    with patch.open("a") as f:
        f.write("--- /dev/null\n+++ b/fs/romfs/error.h\n@@ -0,0 +1 @@\n")
        f.write("+#define ROMFS_ERROR -EIO\n")
    made = create(replace(request_, patches=(patch,)))
    assert functions_of(made) == {"romfs": {"romfs_fill_super"}}
    assert not (tree / "fs/romfs/error.h").exists()


def test_edited_copies(request_: Request, tree: Path, tmp_path: Path) -> None:
    copy = tree / "fs/romfs/super.c.ksplice-test"
    copy.write_text(sample.read_source(tree, "fs/romfs/super.c").replace("-EINVAL;", "-EIO;", 1))
    try:
        made = create(replace(request_, patches=(), extension=".ksplice-test"))
    finally:
        copy.unlink()
    assert functions_of(made) == {"romfs": {"romfs_fill_super"}}
    assert b"\n+++ b/fs/romfs/super.c\n" in bundle.unpack(made.data).files["patch"]


def test_update_on_top_of_an_earlier_one(
    lab_cache: Cache, request_: Request, first: Created, tree: Path, tmp_path: Path
) -> None:
    earlier = tmp_path / "first.tar.gz"
    earlier.write_bytes(first.data)
    copy = tmp_path / "copy"
    (copy / "fs").mkdir(parents=True)
    (copy / "fs/fcntl.c").write_text(sample.read_source(tree, "fs/fcntl.c"))
    for name in ("Kbuild", "Makefile"):
        (copy / name).touch()
    run(["patch", "-s", "-p1", "-i", fcntl_patch(lab_cache)], cwd=copy)
    patch = edit(copy, tmp_path, "fs/fcntl.c", "\tlong err = -EINVAL;", "\tlong err = -ENOTTY;")
    made = create(replace(request_, patches=(patch,), series=(earlier,), kid="second00"))
    assert made.manifest.depends == ("first000",)
    assert functions_of(made) == {"vmlinux": {"do_fcntl"}}


def test_only_some_targets(lab_cache: Cache, request_: Request, tree: Path, tmp_path: Path) -> None:
    patches = (romfs_patch(tree, tmp_path), fcntl_patch(lab_cache))
    wanted = TargetFilter.parse(["rom%"])
    made = create(replace(request_, patches=patches, targets=wanted))
    assert functions_of(made) == {"romfs": {"romfs_fill_super"}}
    assert made.files["fs/fcntl.c"] == "skipped: part of vmlinux, not of --only-targets"


def test_files_that_the_kernel_has_not_are_skipped_beside_others(
    request_: Request, tree: Path, tmp_path: Path
) -> None:
    patches = []
    for i, (path, old) in enumerate((("fs/bfs/dir.c", "return -ENOSPC;"),
                                     ("MAINTAINERS", "Maintainers List"),
                                     ("fs/romfs/super.c", "return -EINVAL;"))):  # fmt: skip
        (tmp_path / str(i)).mkdir()
        patches.append(edit(tree, tmp_path / str(i), path, old, "return -EIO;"))
    made = create(replace(request_, patches=tuple(patches)))
    assert "configured without" in made.files["fs/bfs/dir.c"]
    assert "not part of the running kernel" in made.files["MAINTAINERS"]
    assert made.files["fs/romfs/super.c"] == "replaces romfs_fill_super"


def test_file_that_only_others_include(request_: Request, tree: Path, tmp_path: Path) -> None:
    """kernel/sched/rt.c is part of build_policy.c."""
    patch = edit(tree, tmp_path, "kernel/sched/rt.c", "int sched_rr_timeslice",
                 "/* a comment */\nint sched_rr_timeslice")  # fmt: skip
    with pytest.raises(NoChangesError, match=r"kernel/sched/rt\.c: 1 units depend on it"):
        create(replace(request_, patches=(patch,)))


HOOKED = (
    Edit(
        "fs/romfs/super.c", "static int romfs_readdir(",
        "#include <ksplice-patch.h>\n"
        "static void told(void) { }\nksplice_post_apply(told);\nstatic int romfs_readdir(",
    ),
    Edit("fs/romfs/super.c", "inval:\n", 'inval:\n\tksplice_tripwire("", "not a romfs");\n'),
)  # fmt: skip


def test_whole_module_and_the_kernels_signature(
    request_: Request, tree: Path, tmp_path: Path
) -> None:
    pem = tmp_path / "key.pem"
    run(["openssl", "req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test",
         "-keyout", pem, "-out", tmp_path / "cert.pem"])  # fmt: skip
    pem.write_bytes(pem.read_bytes() + (tmp_path / "cert.pem").read_bytes())
    key = ModuleKey(key=pem, certificate=pem)
    patch = write_patch(tree, tmp_path / "whole.patch", *HOOKED)
    made = create(replace(request_, patches=(patch,), whole_modules=True, module_key=key))
    content = bundle.unpack(made.data)
    assert [(m.target, m.file) for m in content.modules] == [("romfs", "romfs.ko")]
    modules = {name: data for name, data in content.files.items() if name.endswith(".ko")}
    assert len(modules) == 4
    # include/linux/module_signature.h: MODULE_SIG_STRING
    assert all(d.endswith(b"~Module signature appended~\n") for d in modules.values())
    (tmp_path / "romfs.ko").write_bytes(modules["romfs.ko"])
    info = run(["/sbin/modinfo", tmp_path / "romfs.ko"]).decode()
    assert re.search(r"^vermagic: +6\.1\.0-50-cloud-amd64 ", info, re.MULTILINE)
    assert re.search(r"^signer: +test$", info, re.MULTILINE)
    assert b"tripwire_hit" in modules[f"ksplice_{made.manifest.kid}_new.ko"]
    assert b"tripwire" not in modules["romfs.ko"], "no core is there at the next boot"


def test_prebuild(request_: Request) -> None:
    said: list[str] = []
    targets = TargetFilter.parse(["romfs"])
    made = make_prebuilt(replace(request_, patches=(), targets=targets), said.append)
    assert (made.units, made.failed) == (2, {})
    assert said[-1] == "2 of 2 units are there"
    with pytest.raises(NoChangesError, match="no target of this kernel has such a name"):
        make_prebuilt(replace(request_, targets=TargetFilter.parse(["no_such_module"])))
