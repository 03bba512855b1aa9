# SPDX-License-Identifier: GPL-2.0-only
"""The guest's disk, initrd and kernel: a Debian with systemd and ksplicd's dependencies.

```
a suite's packages ─mmdebstrap▸ root.tar ─┐
kernel package     ─dpkg-deb▸ modules  ───┼─▸ tree ─mkfs.ext4▸ root.ext4
agent, units masked ──────────────────────┘    busybox + virtio modules ─cpio▸ initrd
```

The root archive does not depend on the kernel (``root_archive.py``), and the image not on ksplicd:
that is laid over a booted guest (``snapshot.py``).
"""

import lzma
import os
import secrets
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ksplicd.cache import digest_of, digest_of_file
from ksplicd.distro.mirror import read_mirror
from ksplicd.distro.packages import KernelPackages
from ksplicd.errors import LabError
from ksplicd.lab import agent
from ksplicd.lab.root_archive import PACKAGES, SUITE, RootArchive
from ksplicd.run import run

_IMAGE_VERSION: Final = 2
"""Raised when this module makes something else of the same parts."""

# One process tree, so that fakeroot can remember the owners when we are not root.  The disk has no
# journal and no checksums: it never survives a crash, and TCG computes slowly.
_MAKE_DISK: Final = """
set -eu
archive=$1 added=$2 release=$3 tree=$4 disk=$5
tar -x -p --numeric-owner -C "$tree" -f "$archive"
chmod -R u=rwX,go=rX "$added"
cp -a --no-preserve=ownership --remove-destination "$added/." "$tree/"
depmod -b "$tree" "$release"
mkfs.ext4 -q -F -O ^has_journal,^metadata_csum -E lazy_itable_init=0,root_owner=0:0 -m 0 \\
    -d "$tree" "$disk" 1200M
"""

# What a guest without network, screen and long life has no use for; it boots in half the time.
_MASKED_UNITS: Final = (
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "fstrim.timer"),
    *("e2scrub_all.timer", "e2scrub_reap.service", "systemd-tmpfiles-clean.timer"),
    *("systemd-pstore.service", "systemd-random-seed.service", "systemd-update-utmp.service"),
    *("systemd-update-utmp-runlevel.service", "systemd-firstboot.service"),
    *("systemd-machine-id-commit.service", "systemd-repart.service", "systemd-binfmt.service"),
    *("systemd-pcrphase.service", "systemd-pcrphase-sysinit.service"),
    *("systemd-ask-password-console.path", "systemd-ask-password-wall.path"),
    *("systemd-hwdb-update.service", "systemd-journal-flush.service"),
    *("systemd-boot-system-token.service", "systemd-network-generator.service"),
    *("proc-sys-fs-binfmt_misc.automount", "dev-hugepages.mount", "dev-mqueue.mount"),
    *("sys-kernel-config.mount", "sys-fs-fuse-connections.mount"),
    *("modprobe@drm.service", "modprobe@efi_pstore.service", "modprobe@fuse.service"),
    *("modprobe@configfs.service", "modprobe@loop.service", "modprobe@dm_mod.service"),
    *("getty@tty1.service", "getty-static.service", "serial-getty@ttyS0.service"),
    *("cryptsetup.target", "veritysetup.target", "integritysetup.target", "remote-fs.target"),
    *("rc-local.service", "systemd-sysusers.service", "systemd-modules-load.service"),
    *("systemd-remount-fs.service", "systemd-user-sessions.service"),
)
# They find units for disks, terminals and init scripts that the guest does not have, one program
# each, at each boot and each daemon-reload.
_MASKED_GENERATORS: Final = (
    *("cryptsetup", "debug", "fstab", "getty", "gpt-auto", "hibernate-resume", "integritysetup"),
    *("rc-local", "run", "system-update", "sysv", "veritysetup"),
)

# Drivers that udev would load for devices which nothing in the guest uses.
_BLOCKED_MODULES: Final = (
    *("kvm", "kvm_amd", "kvm_intel", "evdev", "serio_raw", "qemu_fw_cfg", "button", "psmouse"),
    *("pcspkr", "crct10dif_pclmul", "crc32_pclmul", "crc32c_intel", "ghash_clmulni_intel"),
    *("sha512_ssse3", "sha256_ssse3", "sha1_ssse3", "aesni_intel"),
)

# What the initrd needs to reach the disk, in the order of loading.
_DISK_MODULES: Final = (
    *("virtio", "virtio_ring", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci"),
    "virtio_blk",
    # built into the cloud flavour only
    *("crc16", "mbcache", "crc32c_generic", "jbd2", "ext4"),
)

_INIT: Final = """\
#!/bin/sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
for m in {modules}; do
    if [ -e /modules/$m.ko ]; then $b insmod /modules/$m.ko; fi
done
n=0
while [ ! -e /dev/vda ] && [ $n -lt 200 ]; do $b usleep 20000; n=$((n + 1)); done
$b mount -t ext4 -o noatime /dev/vda /new
for d in dev sys proc; do $b mount --move /$d /new/$d; done
init=/sbin/init
for word in $($b cat /new/proc/cmdline); do
    case $word in init=*) init=${{word#init=}};; esac
done
exec $b switch_root /new $init
"""

BARE_INIT: Final = "/usr/lib/ksplice-lab/init"
"""In place of systemd, when the kernel's argument ``init=`` says so."""
_BARE_INIT: Final = """\
#!/bin/sh
export PATH=/usr/sbin:/usr/bin HOME=/root LC_ALL=C.UTF-8
mount -t tmpfs tmpfs /run
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing
modprobe -a virtio_console virtio_rng
mkdir /dev/virtio-ports
for port in /sys/class/virtio-ports/*; do
    read -r name <$port/name && ln -s ../${port##*/} /dev/virtio-ports/$name
done
cd /root
/usr/bin/python3 -I -S /usr/lib/ksplice-lab/agent.py
"""

_AGENT_PATH: Final = "usr/lib/ksplice-lab/agent.py"
_AGENT_UNIT: Final = f"""\
[Unit]
Description=Agent of the ksplice lab
BindsTo=dev-virtio\\x2dports-{agent.PORT_NAME}.device
After=dev-virtio\\x2dports-{agent.PORT_NAME}.device

[Service]
ExecStart=/usr/bin/python3 -I -S /{_AGENT_PATH}
Environment=HOME=/root LC_ALL=C.UTF-8
WorkingDirectory=/root
OOMScoreAdjust=-1000
LimitNOFILE=65536
TasksMax=infinity

[Install]
WantedBy=multi-user.target
"""

# Two hundred other devices at boot are terminals, ACPI and the like, at the cost of a third of it.
_COLDPLUG: Final = """\
[Service]
ExecStart=
ExecStart=udevadm trigger --type=devices --action=add \\
    --subsystem-match=block --subsystem-match=virtio --subsystem-match=virtio-ports
"""

_FILES: Final = {
    "etc/hostname": "ksplice-lab\n",
    "etc/hosts": "127.0.0.1 localhost ksplice-lab\n",
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "etc/fstab": "",
    "etc/systemd/journald.conf.d/lab.conf": "[Journal]\nStorage=volatile\nRateLimitIntervalSec=0\n",
    "etc/systemd/system/ksplice-lab-agent.service": _AGENT_UNIT,
    "etc/systemd/system/systemd-udev-trigger.service.d/lab.conf": _COLDPLUG,
    "etc/modprobe.d/lab.conf": "".join(f"blacklist {m}\n" for m in _BLOCKED_MODULES),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What QEMU boots."""

    folder: Path
    release: str
    """The kernel's release."""

    @property
    def identity(self) -> str:
        """The name of this image alone: the same parts made again have other block addresses."""
        return (self.folder / "identity").read_text()

    @property
    def disk(self) -> Path:
        """The root file system, raw ext4; not to be written to."""
        return self.folder / "root.ext4"

    @property
    def kernel(self) -> Path:
        """The stock kernel."""
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """The initrd, which only mounts the disk."""
        return self.folder / "initrd"


def build_image(kernel: KernelPackages, *more: str, suite: str = SUITE) -> Image:
    """Return the image that boots ``kernel``, made on first use (4 s, and the root).

    All but the kernel is of ``suite``.  ``more`` are Debian packages that only this image has.
    """
    cache = kernel.cache
    root = RootArchive(suite=suite, packages=(*PACKAGES, *more), mirror=read_mirror())
    parts = [_IMAGE_VERSION, root.digest(), kernel.release, kernel.version]
    parts += [_MASKED_UNITS, _MASKED_GENERATORS, _DISK_MODULES, _INIT, _BARE_INIT, _FILES]
    parts += [_MAKE_DISK, digest_of_file(Path(agent.__file__))]

    def make(new: Path) -> None:
        archive, modules = root.made(cache), kernel.modules()
        cache.progress(f"making the guest's disk: {suite}, kernel {kernel.release}")
        (new / "identity").write_text(secrets.token_hex())
        shutil.copyfile(kernel.vmlinuz(), new / "vmlinuz")
        (new / "initrd").write_bytes(_make_initrd(modules))
        with tempfile.TemporaryDirectory(prefix=".tree-", dir=new) as scratch:
            tree, added = Path(scratch) / "tree", Path(scratch) / "added"
            tree.mkdir()
            _write_configuration(added)
            shutil.copytree(modules, added / "usr/lib/modules" / kernel.release, symlinks=True)
            fakeroot = [] if os.geteuid() == 0 else ["fakeroot"]
            bash = [*fakeroot, "bash", "-c", _MAKE_DISK, "make"]
            run([*bash, archive, added, kernel.release, tree, new / "root.ext4"])

    return Image(folder=cache.entry("image", digest_of(parts), make), release=kernel.release)


def _write_configuration(added: Path) -> None:
    """Write what makes a root boot quickly, keep its journal in memory and obey us."""
    for name, text in _FILES.items():
        path = added / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    script = added / _AGENT_PATH
    script.parent.mkdir(parents=True)
    shutil.copyfile(agent.__file__, script)
    init = added / BARE_INIT.lstrip("/")
    init.write_text(_BARE_INIT)
    init.chmod(0o755)
    units = added / "etc/systemd/system"
    for unit in _MASKED_UNITS:
        (units / unit).symlink_to("/dev/null")
    generators = added / "etc/systemd/system-generators"
    generators.mkdir()
    for name in _MASKED_GENERATORS:
        (generators / f"systemd-{name}-generator").symlink_to("/dev/null")
    (units / "default.target").symlink_to("/lib/systemd/system/multi-user.target")
    wants = units / "multi-user.target.wants"
    wants.mkdir()
    (wants / "ksplice-lab-agent.service").symlink_to("../ksplice-lab-agent.service")


def _make_initrd(modules: Path) -> bytes:
    """Return a cpio archive: busybox, the drivers of the disk, and a script.

    It is not compressed: an emulated processor takes longer to unpack it than QEMU to copy it.
    """
    busybox = shutil.which("busybox")
    if busybox is None:
        raise LabError("busybox: not found; install busybox-static")
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for name in ("bin", "modules", "proc", "sys", "dev", "new"):
            (root / name).mkdir()
        shutil.copy(busybox, root / "bin/busybox")
        (root / "bin/sh").symlink_to("busybox")
        for name in _DISK_MODULES:
            # built in where it is not found; compressed since Linux 6.12 of Debian
            for path in modules.rglob(f"{name}.ko*"):
                data = path.read_bytes()
                data = lzma.decompress(data) if path.suffix == ".xz" else data
                (root / "modules" / f"{name}.ko").write_bytes(data)
        init = root / "init"
        init.write_text(_INIT.format(modules=" ".join(_DISK_MODULES)))
        init.chmod(0o755)
        names = "\n".join(str(p.relative_to(root)) for p in sorted(root.rglob("*")))
        owner = ["-R", "0:0"]
        return run(["cpio", "-o", "-H", "newc", "--quiet", *owner], cwd=root, stdin=names.encode())
