# SPDX-License-Identifier: GPL-2.0-only
"""A patch that adds a function and a variable to one file, and uses them in another."""

from pathlib import Path

import pytest

from ksplicd.cache import Cache
from ksplicd.distro.packages import KernelPackages
from ksplicd.lab.guest import Guest
from tests.support.guest.hand import Edit, Update, is_clean, make_bundle, write_patch

pytestmark = pytest.mark.usefixtures("golden_log")

SHOW = "static int version_proc_show("
ADDED = Edit(
    "fs/proc/version.c",
    SHOW,
    "int proc_times_told = 40;\n"
    "void proc_tell(struct seq_file *m);\n"
    "void proc_tell(struct seq_file *m)\n"
    '{\n\tseq_printf(m, "told %d times by %s\\n", ++proc_times_told, __func__);\n}\n\n' + SHOW,
)
SHOW_LINE = "static int cmdline_proc_show("
USED = (
    Edit(
        "fs/proc/cmdline.c",
        SHOW_LINE,
        f"extern int proc_times_told;\nvoid proc_tell(struct seq_file *m);\n\n{SHOW_LINE}",
    ),
    Edit(
        "fs/proc/cmdline.c",
        "\tseq_puts(m, saved_command_line);\n",
        "\tproc_times_told++;\n\tproc_tell(m);\n\tseq_puts(m, saved_command_line);\n",
    ),
)


def test_files_share_their_new_code(
    guest: Guest, lab_cache: Cache, kernel: KernelPackages, tree: Path, tmp_path: Path
) -> None:
    patch = write_patch(tree, tmp_path / "shared.patch", ADDED, *USED)
    bundle = make_bundle(lab_cache, kernel, "several1", [patch])
    (target,) = bundle.manifest.targets
    assert [(f.name, f.unit) for f in target.functions] == [
        ("cmdline_proc_show", "fs/proc/cmdline.c")
    ]
    update = Update(guest, bundle)
    before = guest.run("cat /proc/cmdline").out
    for _ in range(2):
        update.apply()
        assert guest.run("cat /proc/cmdline").out == f"told 42 times by proc_tell\n{before}"
        assert guest.run("cat /proc/cmdline").out == f"told 44 times by proc_tell\n{before}"
        update.undo()
        assert guest.run("cat /proc/cmdline").out == before
    assert is_clean(guest)
