# SPDX-License-Identifier: GPL-2.0-only
"""Throwaway virtual machines that boot stock kernels, in which updates are tried.

```
apt ◂ debian (the kernel's packages) ◂ image (disk, initrd) ◂ qemu (a process)
qemu, agent (inside) ◂ running_guest ◂ snapshot ◂ guest ◂ trial (an update, applied and undone)
```

It builds no updates, ``trial`` is given bundles; of a guest nothing stays but what the cache keeps.
"""
