# SPDX-License-Identifier: GPL-2.0-only
"""Bundles with a bad archive, named by their fault."""

import gzip
import tarfile

from tests.support.bundles import samples
from tests.support.bundles.faults import (
    FOLDER,
    TAR,
    bundle_of,
    fault,
    good_files,
    member,
    tar_of,
)


@fault(r"archive: not a \.tar\.gz file, or damaged: ")
def not_compressed() -> bytes:
    return TAR


@fault(r"archive: its end is missing")
def cut_short() -> bytes:
    return samples.bundle()[:-9]


@fault(r"archive: there is data behind its end")
def two_gzip_members() -> bytes:
    return samples.bundle() + gzip.compress(b"")


@fault(r"archive: over 64 MiB$")
def too_large() -> bytes:
    return bytes((64 << 20) + 1)


@fault(r"archive: over 128 MiB when unpacked")
def decompression_bomb() -> bytes:
    return gzip.compress(bytes((128 << 20) + 1), 1)


@fault(r"archive: empty")
def no_members() -> bytes:
    return tar_of()


@fault(r"archive: over 256 files")
def too_many_files() -> bytes:
    return tar_of(*(member(f"{FOLDER}/f{i}") for i in range(257)))


@fault(r"archive: 'ksplice-8c4o6ucj/?': is not a plain file \(type b'5'\)")
def folder_member() -> bytes:
    return tar_of(member(FOLDER, type=tarfile.DIRTYPE))


@fault(r"archive: 'ksplice-8c4o6ucj/patch': is not a plain file \(type b'2'\)")
def symbolic_link() -> bytes:
    return tar_of(member(f"{FOLDER}/patch", type=tarfile.SYMTYPE, linkname="/etc/shadow"))


@fault(r"archive: 'ksplice-8c4o6ucj/patch': is not a plain file \(type b'1'\)")
def hard_link() -> bytes:
    return tar_of(member(f"{FOLDER}/patch", type=tarfile.LNKTYPE, linkname="/etc/shadow"))


@fault(r"archive: 'ksplice-8c4o6ucj/patch': is not a plain file \(type b'3'\)")
def device() -> bytes:
    return tar_of(member(f"{FOLDER}/patch", type=tarfile.CHRTYPE))


@fault(r"archive: '\././@LongLink': is not a plain file \(type b'L'\)")
def gnu_long_name() -> bytes:
    return tar_of(member(f"{FOLDER}/{'x' * 120}"), form=tarfile.GNU_FORMAT)


@fault(r"archive: '\././@PaxHeader': is not a plain file \(type b'x'\)")
def pax_header() -> bytes:
    info, data = member(f"{FOLDER}/patch", b"x")
    info.pax_headers = {"path": "/etc/shadow"}
    return tar_of((info, data), form=tarfile.PAX_FORMAT)


@fault(r"archive: '/etc/passwd': is not in a folder ksplice-KID")
def absolute_path() -> bytes:
    return tar_of(member("/etc/passwd", b"x"))


@fault(r"archive: 'ksplice-8c4o6ucj/\.\./\.\./etc': not a name for a file of a bundle")
def path_that_climbs() -> bytes:
    return tar_of(member(f"{FOLDER}/../../etc", b"x"))


@fault(r"archive: 'ksplice-8c4o6ucj/a/b': not a name for a file of a bundle")
def folder_in_the_folder() -> bytes:
    return tar_of(member(f"{FOLDER}/a/b", b"x"))


@fault(r"archive: 'ksplice-8c4o6ucj/\.hidden': not a name for a file of a bundle")
def hidden_file() -> bytes:
    return tar_of(member(f"{FOLDER}/.hidden", b"x"))


@fault(r"archive: 'patch': is not in a folder ksplice-KID")
def no_folder() -> bytes:
    return tar_of(member("patch", b"x"))


@fault(r"archive: 'ksplice-UPPERCAS/patch': is not in a folder ksplice-KID")
def folder_without_a_kid() -> bytes:
    return tar_of(member("ksplice-UPPERCAS/patch", b"x"))


@fault(r"archive: ksplice-zzzz9999/patch: a second folder")
def two_folders() -> bytes:
    return bundle_of(good_files(), member("ksplice-zzzz9999/patch", b"x"))


@fault(r"archive: ksplice-8c4o6ucj/patch: occurs twice")
def the_same_file_twice() -> bytes:
    return bundle_of(good_files(), member(f"{FOLDER}/patch", b"x"))


@fault(r"archive: it does not end as a tar file does")
def no_end_of_the_tar() -> bytes:
    return gzip.compress(TAR.rstrip(b"\0") + bytes(512))


@fault(r"archive: no ustar header at offset \d+")
def another_tar_behind_the_end() -> bytes:
    end = TAR.rindex(b"ustar") - 257 + 1024  # the last header and its one block of data
    return gzip.compress(TAR[:end] + b"x" * 1024)


@fault(r"archive: it does not end as a tar file does")
def something_behind_the_end() -> bytes:
    return gzip.compress(TAR + bytes(512) + b"x")


@fault(r"archive: 'ksplice-8c4o6ucj/api-version': its header is damaged")
def damaged_header() -> bytes:
    return gzip.compress(TAR[:140] + b"1" + TAR[141:])


@fault(r"archive: 'ksplice-8c4o6ucj/api-version': there is data behind its end")
def something_in_the_padding() -> bytes:
    return gzip.compress(TAR[:600] + b"x" + TAR[601:])
