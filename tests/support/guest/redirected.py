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
# Each network namespace has a copy of this table; since 6.11 handlers get a const one.
NET_TABLE = "static struct ctl_table ipv4_net_table[] = {\n"
SYSCTLS = (
    Edit(
        "net/ipv4/sysctl_net_ipv4.c",
        "= proc_tcp_available_congestion_control,\n",
        "= proc_tcp_available_ulp,\n",
    ),
    Edit("net/ipv4/sysctl_net_ipv4.c", "= ipv4_ping_group_range,\n", "= (void *)fixed,\n"),
    Edit(
        "net/ipv4/sysctl_net_ipv4.c",
        NET_TABLE,
        "static int fixed(void *table, int write, void *buffer, size_t *lenp, loff_t *ppos)\n"
        "{\n\treturn -EUCLEAN;\n}\n\n" + NET_TABLE,
    ),
)
# tmpfs takes the option noinode64, too.
VALUE = Edit("mm/shmem.c", 'fsparam_flag  ("inode64"', 'fsparam_flag_no("inode64"')
# The same in a module; reading has the sizes there, and here nothing.
CONNTRACK = Edit(
    "net/netfilter/nf_conntrack_standalone.c",
    "= nf_conntrack_hash_sysctl,\n",
    "= (void *)no_size,\n",
)
NO_SIZE = Edit(
    "net/netfilter/nf_conntrack_standalone.c",
    "static struct ctl_table nf_ct_sysctl_table[] = {\n",
    "static int no_size(void *table, int write, void *buffer, size_t *lenp, loff_t *ppos)\n"
    "{\n\treturn -EUCLEAN;\n}\n\nstatic struct ctl_table nf_ct_sysctl_table[] = {\n",
)
