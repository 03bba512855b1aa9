# SPDX-License-Identifier: GPL-2.0-only
"""Changes that livepatch cannot redirect."""

from tests.support.guest.hand import Edit

# No function of lib/ has fentry; this one is called from everywhere.
BOOL = Edit("lib/kstrtox.c", "\tcase 'y':\n", "\tcase 'x':\n\tcase 'y':\n")
EXIT = Edit(
    "fs/romfs/super.c",
    "static void __exit exit_romfs_fs(void)\n{\n",
    'static void __exit exit_romfs_fs(void)\n{\n\tprintk("romfs: the new way out\\n");\n',
)
# Pipes have no fsync; here they get one, which waits as long as kernel.overflowgid is 7777.
TABLE = "const struct file_operations pipefifo_fops = {\n"
POINTER = Edit(
    "fs/pipe.c",
    TABLE,
    "#include <linux/delay.h>\n#include <linux/highuid.h>\n"
    "static int pipe_fsync(struct file *file, loff_t start, loff_t end, int datasync)\n"
    f"{{\n\twhile (overflowgid == 7777)\n\t\tmsleep(50);\n\treturn -EUCLEAN;\n}}\n{TABLE}"
    "\t.fsync = pipe_fsync,\n",
)
