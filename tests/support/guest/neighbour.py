# SPDX-License-Identifier: GPL-2.0-only
"""Another user of a function's text; runs in the guest alone, on Debian's Python.

    neighbour.py bpf-kprobe|bpf-kprobe+OFFSET|bpf-fentry|bpf-fexit|perf-kprobe FUNCTION
    neighbour.py perf-sample ANYTHING

Holds a probe until it is killed.  Writes how often it was hit to /run/KIND.hits, five times a
second.

System calls and structures: include/uapi/linux/bpf.h, perf_event.h, btf.h.
"""

import ctypes
import itertools
import mmap
import os
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

SYS_PERF_EVENT_OPEN, SYS_BPF = 298, 321
MAP_CREATE, MAP_LOOKUP_ELEM, PROG_LOAD, RAW_TRACEPOINT_OPEN = 0, 1, 5, 17
MAP_TYPE_ARRAY, PROG_TYPE_KPROBE, PROG_TYPE_TRACING = 2, 2, 26
TRACE_FENTRY, TRACE_FEXIT = 24, 25
PERF_TYPE_SOFTWARE, PERF_COUNT_SW_CPU_CLOCK, PERF_SAMPLE_IP, PERF_SAMPLE_CALLCHAIN = 1, 0, 1, 32
IOC_ENABLE, IOC_SET_BPF = 0x2400, 0x40042408
FREQ = 1 << 10
"""Of the flags in struct perf_event_attr: sample_freq, not a period."""
HEAD_AT = 1024
"""Of data_head in struct perf_event_mmap_page."""
KIND_FUNC = 12
EXTRA = {1: 4, 3: 12, 14: 4, 17: 4}
PER_MEMBER = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}
"""Bytes behind struct btf_type, by kind: at all, and for each member."""

libc = ctypes.CDLL(None, use_errno=True)
keep: list[object] = []


def call(number: int, *args: object) -> int:
    result: int = libc.syscall(number, *args)
    if result < 0:
        sys.exit(f"system call {number}: {os.strerror(ctypes.get_errno())}")
    return result


def bpf(command: int, attributes: bytes) -> int:
    buffer = ctypes.create_string_buffer(attributes, 128)
    return call(SYS_BPF, command, buffer, len(buffer))


def address(data: bytes) -> int:
    """Return where a copy of ``data`` is, for as long as we live."""
    buffer = ctypes.create_string_buffer(data, len(data) + 1)
    keep.append(buffer)
    return ctypes.addressof(buffer)


def counter() -> int:
    """Return a map with one number."""
    return bpf(MAP_CREATE, struct.pack("<IIII", MAP_TYPE_ARRAY, 4, 8, 1))


def read_counter(fd: int) -> int:
    value = ctypes.create_string_buffer(8)
    key = address(bytes(4))
    bpf(MAP_LOOKUP_ELEM, struct.pack("<IIQQQ", fd, 0, key, ctypes.addressof(value), 0))
    return int.from_bytes(value.raw, "little")


def counting_program(map_fd: int) -> bytes:
    instructions = [
        (0x62, 10, 0, -4, 0),  # *(u32 *)(r10 - 4) = 0
        (0xBF, 2, 10, 0, 0),  # r2 = r10
        (0x07, 2, 0, 0, -4),  # r2 += -4
        (0x18, 1, 1, 0, map_fd),  # r1 = map
        (0x00, 0, 0, 0, 0),
        (0x85, 0, 0, 0, 1),  # r0 = bpf_map_lookup_elem(r1, r2)
        (0x15, 0, 0, 2, 0),  # if r0 == 0: goto end
        (0xB7, 1, 0, 0, 1),  # r1 = 1
        (0xDB, 0, 1, 0, 0),  # atomic *(u64 *)r0 += r1
        (0xB7, 0, 0, 0, 0),  # end: r0 = 0
        (0x95, 0, 0, 0, 0),  # exit
    ]
    return b"".join(
        struct.pack("<BBhi", code, dst | src << 4, off, imm)
        for code, dst, src, off, imm in instructions
    )


def load(map_fd: int, kind: int, attach_type: int = 0, btf_id: int = 0) -> int:
    code = counting_program(map_fd)
    attributes = struct.pack(
        "<IIQQIIQII16sIIIIQIIQII",
        *(kind, len(code) // 8, address(code), address(b"GPL"), 0, 0, 0, 0, 0, b"neighbour"),
        *(0, attach_type, 0, 0, 0, 0, 0, 0, 0, btf_id),
    )
    return bpf(PROG_LOAD, attributes)


def btf_id(function: str) -> int:
    """Return the number of a function in the kernel's types."""
    data = Path("/sys/kernel/btf/vmlinux").read_bytes()
    header, types, length, strings = struct.unpack_from("<4xIIII", data)
    name_at = data.index(b"\0" + function.encode() + b"\0", header + strings) + 1
    wanted = name_at - header - strings
    at, end = header + types, header + types + length
    for number in itertools.count(1):
        if at >= end:
            break
        name, info = struct.unpack_from("<II", data, at)
        kind = info >> 24 & 0x1F
        if kind == KIND_FUNC and name == wanted:
            return number
        at += 12 + EXTRA.get(kind, 0) + PER_MEMBER.get(kind, 0) * (info & 0xFFFF)
    sys.exit(f"{function}: not in the kernel's types")


def perf_event(attributes: bytes, pid: int, cpu: int) -> int:
    size = struct.pack("<I", 112)
    buffer = ctypes.create_string_buffer(attributes[:4] + size + attributes[8:], 112)
    return call(SYS_PERF_EVENT_OPEN, buffer, pid, cpu, -1, 0)


def perf_kprobe(function: str, offset: int = 0) -> list[int]:
    """Return events of the perf kprobe on a function, one per processor."""
    kind = int(Path("/sys/bus/event_source/devices/kprobe/type").read_text())
    name = address(function.encode())
    attributes = struct.pack("<I4xQQQQQIIQQ", kind, 0, 1, 0, 0, 0, 0, 0, name, offset)
    return [perf_event(attributes, -1, cpu) for cpu in range(os.cpu_count() or 1)]


def enable(fds: list[int]) -> None:
    for fd in fds:
        if libc.ioctl(fd, IOC_ENABLE, 0):
            sys.exit(f"PERF_EVENT_IOC_ENABLE: {os.strerror(ctypes.get_errno())}")


def start_bpf_kprobe(function: str, offset: int) -> Callable[[], int]:
    map_fd = counter()
    program = load(map_fd, PROG_TYPE_KPROBE)
    fd = perf_kprobe(function, offset)[0]  # the program is called on every processor
    if libc.ioctl(fd, IOC_SET_BPF, program):
        sys.exit(f"PERF_EVENT_IOC_SET_BPF: {os.strerror(ctypes.get_errno())}")
    enable([fd])
    return lambda: read_counter(map_fd)


def start_bpf_trampoline(function: str, attach_type: int) -> Callable[[], int]:
    map_fd = counter()
    program = load(map_fd, PROG_TYPE_TRACING, attach_type, btf_id(function))
    keep.append(bpf(RAW_TRACEPOINT_OPEN, struct.pack("<QI4x", 0, program)))
    return lambda: read_counter(map_fd)


def start_perf_kprobe(function: str) -> Callable[[], int]:
    fds = perf_kprobe(function)
    enable(fds)
    return lambda: sum(int.from_bytes(os.read(fd, 8), "little") for fd in fds)


def start_perf_sample() -> Callable[[], int]:
    """Sample stacks of all processors a thousand times a second."""
    attributes = struct.pack(
        "<I4xQQQQQIIQQ", PERF_TYPE_SOFTWARE, PERF_COUNT_SW_CPU_CLOCK, 1000,
        PERF_SAMPLE_IP | PERF_SAMPLE_CALLCHAIN, 0, FREQ, 0, 0, 0, 0,
    )  # fmt: skip
    fds = [perf_event(attributes, -1, cpu) for cpu in range(os.cpu_count() or 1)]
    rings = [mmap.mmap(fd, 9 * mmap.PAGESIZE) for fd in fds]

    def read() -> int:
        """Return the bytes that were written, and make place for more."""
        total = 0
        for ring in rings:
            head = ring[HEAD_AT : HEAD_AT + 8]
            ring[HEAD_AT + 8 : HEAD_AT + 16] = head
            total += int.from_bytes(head, "little")
        return total

    enable(fds)
    return read


def main(kind: str, function: str) -> None:
    file = Path(f"/run/{kind}.hits")
    name, _, offset = kind.partition("+")
    match name:
        case "bpf-kprobe":
            hits = start_bpf_kprobe(function, int(offset or "0", 16))
        case "bpf-fentry":
            hits = start_bpf_trampoline(function, TRACE_FENTRY)
        case "bpf-fexit":
            hits = start_bpf_trampoline(function, TRACE_FEXIT)
        case "perf-kprobe":
            hits = start_perf_kprobe(function)
        case "perf-sample":
            hits = start_perf_sample()
        case _:
            sys.exit(f"{kind}: no such neighbour")
    while True:
        new = file.with_suffix(".new")
        new.write_text(str(hits()))
        new.rename(file)
        time.sleep(0.2)


if __name__ == "__main__":
    main(*sys.argv[1:])
