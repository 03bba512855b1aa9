# SPDX-License-Identifier: GPL-2.0-only
"""Bad bundles, made on the fly and named by their fault; each is refused with file and field.

A fault is a function that returns the bytes of a bad bundle.  What is not the fault is right: the
archive is whole and the manifest has the digests of what is in it.
"""

import gzip
import hashlib
import json
import tarfile
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any, Final

import pytest

from ksplicd import bundle
from ksplicd.errors import BadBundleError
from tests.bundles import samples
from tests.bundles.samples import KID

FOLDER: Final = f"ksplice-{KID}"
CORE: Final = f"ksplice_{KID}.ko"
NEW: Final = f"ksplice_{KID}_new.ko"
OLD: Final = f"ksplice_{KID}_vmlinux_old.ko"
TAR: Final = gzip.decompress(samples.bundle())

FAULTS: dict[str, tuple[Callable[[], bytes], str]] = {}


def fault(message: str) -> Callable[[Callable[[], bytes]], Callable[[], bytes]]:
    """Note a bad bundle and what is to be said of it."""

    def note(make: Callable[[], bytes]) -> Callable[[], bytes]:
        FAULTS[make.__name__] = (make, message)
        return make

    return note


# --- what faults are made of --------------------------------------------------------------------


def good_files() -> dict[str, bytes]:
    """Return all files of a good bundle, the manifest too."""
    with tarfile.open(fileobj=BytesIO(TAR)) as tar:
        files = {}
        for member in tar:
            content = tar.extractfile(member)
            assert content is not None
            files[member.name.removeprefix(f"{FOLDER}/")] = content.read()
        return files


def member(name: str, data: bytes = b"", **attributes: Any) -> tuple[tarfile.TarInfo, bytes]:
    """Return a member of a tar file."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, data


def tar_of(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.USTAR_FORMAT) -> bytes:
    """Return a compressed tar file."""
    out = BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for info, data in members:
            tar.addfile(info, BytesIO(data))
    return gzip.compress(out.getvalue(), mtime=0)


def bundle_of(files: Mapping[str, bytes], *more: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """Return an archive of ``files`` as they are, and ``more``."""
    return tar_of(*(member(f"{FOLDER}/{name}", data) for name, data in files.items()), *more)


def with_files(change: Mapping[str, bytes | None]) -> bytes:
    """Return a good bundle with files changed or (None) taken out, also in the manifest."""
    files = good_files()
    manifest = json.loads(files["manifest.json"])
    for name, data in change.items():
        if data is None:
            del files[name], manifest["files"][name]
        else:
            files[name] = data
            digest = hashlib.sha256(data).hexdigest()
            manifest["files"][name] = {"size": len(data), "sha256": digest}
    return bundle_of({**files, "manifest.json": json.dumps(manifest).encode()})


def with_manifest(edit: Callable[[dict[str, Any]], object]) -> bytes:
    """Return a good bundle with its manifest edited."""
    files = good_files()
    manifest = json.loads(files["manifest.json"])
    edit(manifest)
    return bundle_of({**files, "manifest.json": json.dumps(manifest).encode()})


def with_text(text: bytes) -> bytes:
    """Return a good bundle with another manifest.json."""
    return bundle_of({**good_files(), "manifest.json": text})


# --- the archive --------------------------------------------------------------------------------


@fault(r"archive: not a \.tar\.gz file, or damaged: ")
def not_compressed() -> bytes:
    return TAR


@fault(r"archive: its end is missing")
def cut_short() -> bytes:
    return samples.bundle()[:-9]


@fault(r"archive: something follows its end")
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


@fault(r"archive: ksplice-8c4o6ucj/patch: is there twice")
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


@fault(r"archive: 'ksplice-8c4o6ucj/api-version': something is hidden behind it")
def something_in_the_padding() -> bytes:
    return gzip.compress(TAR[:600] + b"x" + TAR[601:])


# --- manifest.json ------------------------------------------------------------------------------


@fault(r"manifest\.json: missing from the archive")
def no_manifest() -> bytes:
    files = good_files()
    del files["manifest.json"]
    return bundle_of(files)


@fault(r"manifest\.json: not the JSON that belongs here: ")
def manifest_is_not_json() -> bytes:
    return with_text(b"{")


@fault(r"manifest\.json: not the JSON that belongs here: .*utf-8")
def manifest_is_not_text() -> bytes:
    return with_text(b'{"schema": "\xff"}')


@fault(r"manifest\.json: not the JSON that belongs here: ")
def manifest_is_very_deep() -> bytes:
    return with_text(b"[" * 100_000)


@fault(r"manifest\.json: not the JSON that belongs here: field 'kid' occurs twice")
def manifest_field_twice() -> bytes:
    return with_text(b'{"kid": 1, "kid": 2}')


@fault(r"manifest\.json: not the JSON that belongs here: NaN is not JSON")
def manifest_with_nan() -> bytes:
    return with_text(b'{"schema": NaN}')


@fault(r"manifest\.json: \[\] is not an object")
def manifest_is_an_array() -> bytes:
    return with_text(b"[]")


@fault(r"manifest\.json: schema: 2 is not 1, the one that this version knows")
def unknown_schema() -> bytes:
    return with_manifest(lambda m: m.update(schema=2))


@fault(r"manifest\.json: schema: True is not a whole number from 0")
def schema_is_a_boolean() -> bytes:
    return with_manifest(lambda m: m.update(schema=True))


@fault(r"manifest\.json: cves: missing")
def no_cves() -> bytes:
    return with_manifest(lambda m: m.pop("cves"))


@fault(r"manifest\.json: extra: unknown field")
def unknown_field() -> bytes:
    return with_manifest(lambda m: m.update(extra=1))


@fault(r"manifest\.json: kernel\.release: None is not a kernel release")
def kernel_release_is_null() -> bytes:
    return with_manifest(lambda m: m["kernel"].update(release=None))


@fault(r"manifest\.json: kernel\.build-id: 'ABCD' is not a build id in lower-case hex")
def build_id_in_upper_case() -> bytes:
    return with_manifest(lambda m: m["kernel"].update({"build-id": "ABCD"}))


@fault(r"manifest\.json: targets\[0\]\.functions\[0\]\.sympos: -1 is not a whole number")
def negative_symbol_position() -> bytes:
    return with_manifest(lambda m: m["targets"][0]["functions"][0].update(sympos=-1))


@fault(r"manifest\.json: targets\[0\]\.functions: 'do_fcntl' is not an array")
def functions_are_no_array() -> bytes:
    return with_manifest(lambda m: m["targets"][0].update(functions="do_fcntl"))


@fault(r"manifest\.json: targets\[1\]\.name: vmlinux is there twice")
def a_target_twice() -> bytes:
    return with_manifest(lambda m: m["targets"].append(m["targets"][0]))


@fault(r"manifest\.json: targets\[1\]\.new-file: not ksplice_8c4o6ucj_new\.ko: one new code")
def two_new_codes() -> bytes:
    target = {
        "name": "loop", "new-file": OLD, "old-file": OLD, "module-file": "", "late": True,
        "functions": [], "pointers": [],
    }  # fmt: skip
    return with_manifest(lambda m: m["targets"].append(target))


@fault(r"manifest\.json: targets: ksplice_8c4o6ucj\.ko cannot serve as ksplice_8c4o6ucj_new too")
def one_file_as_core_and_new_code() -> bytes:
    return with_manifest(lambda m: m["targets"][0].update({"new-file": CORE}))


@fault(r"manifest\.json: kid: zzzz9999, but the folder is ksplice-8c4o6ucj")
def another_kid_than_the_folder() -> bytes:
    return with_manifest(lambda m: m.update(kid="zzzz9999"))


@fault(r"manifest\.json: depends: the update names itself")
def depends_on_itself() -> bytes:
    return with_manifest(lambda m: m.update(depends=[KID]))


@fault(r"manifest\.json: excludes: the update names itself")
def excludes_itself() -> bytes:
    return with_manifest(lambda m: m.update(excludes=[KID]))


@fault(r"manifest\.json: depends: zzzz9999 is needed, and must not be applied")
def depends_on_what_it_replaces() -> bytes:
    return with_manifest(lambda m: m.update(depends=["zzzz9999"], replaces=["zzzz9999"]))


@fault(r"manifest\.json: depends: the same entry twice")
def depends_twice() -> bytes:
    return with_manifest(lambda m: m.update(depends=["zzzz9999", "zzzz9999"]))


@fault(r"manifest\.json: files\.'\.\./x': is not the name of a file to list")
def manifest_lists_a_path() -> bytes:
    return with_manifest(lambda m: m["files"].update({"../x": {"size": 0, "sha256": "0" * 64}}))


@fault(r"manifest\.json: files\.more: missing from the archive")
def manifest_lists_a_file_that_is_not_there() -> bytes:
    return with_manifest(lambda m: m["files"].update(more={"size": 0, "sha256": "0" * 64}))


# --- files and digests --------------------------------------------------------------------------


@fault(r"patch: is not the file of manifest\.json: files\.patch")
def altered_patch() -> bytes:
    return bundle_of({**good_files(), "patch": b"another"})


@fault(r"ksplice_8c4o6ucj_vmlinux_old\.ko: is not the file of manifest\.json: files\.ksplice_")
def altered_old_code() -> bytes:
    files = good_files()
    return bundle_of({**files, OLD: files[OLD][:-1] + b"!"})


@fault(r"extra: a file that manifest\.json has no use for")
def unlisted_file() -> bytes:
    return bundle_of({**good_files(), "extra": b""})


@fault(r"extra\.ko: a file that manifest\.json has no use for")
def module_without_a_use() -> bytes:
    return with_files({"extra.ko": samples.module_elf("extra")})


@fault(r"contents: missing from the archive")
def no_contents() -> bytes:
    return with_files({"contents": None})


@fault(r"ksplice_8c4o6ucj_new\.ko: missing from the archive")
def no_new_code() -> bytes:
    return with_files({NEW: None})


@fault(r"utsname: missing from the archive")
def no_utsname() -> bytes:
    return with_files({"utsname": None})


# --- contents and the other texts ---------------------------------------------------------------


@fault(r"contents: not UTF-8 text")
def contents_is_not_text() -> bytes:
    return with_files({"contents": b"\xff"})


@fault(r"contents:3: unknown line 'remove vmlinux'")
def unknown_line_in_contents() -> bytes:
    return with_files({"contents": good_files()["contents"] + b"remove vmlinux\n"})


@fault(r"contents:3: a second core line")
def two_core_lines() -> bytes:
    return with_files({"contents": good_files()["contents"] + b"core a b\n"})


@fault(r"contents:2: wrong number of words on a change line")
def short_change_line() -> bytes:
    return with_files({"contents": b"core a b\nchange vmlinux a b\n"})


@fault(r"contents:3: wrong number of words on a module line")
def short_module_line() -> bytes:
    return with_files({"contents": good_files()["contents"] + b"module loop\n"})


@fault(r"contents: does not agree with manifest\.json: core-file, targets")
def contents_names_a_whole_module() -> bytes:
    return with_files({"contents": good_files()["contents"] + b"module loop loop.ko\n"})


@fault(r"manifest\.json: targets\[0\]\.module-file: vmlinux is no module")
def whole_module_of_vmlinux() -> bytes:
    return with_manifest(lambda m: m["targets"][0].update({"module-file": CORE}))


@fault(r"contents: no core line")
def empty_contents() -> bytes:
    return with_files({"contents": b""})


@fault(r"contents: does not agree with manifest\.json: core-file, targets")
def contents_names_another_core() -> bytes:
    contents = good_files()["contents"].replace(CORE.encode(), b"other.ko")
    return with_files({"contents": contents})


@fault(r"contents: does not agree with manifest\.json: core-file, targets")
def contents_lacks_a_target() -> bytes:
    return with_files({"contents": good_files()["contents"].splitlines(keepends=True)[0]})


@fault(r"api-version: '2\\n' is not 1, the one that this version knows")
def unknown_api_version() -> bytes:
    return with_files({"api-version": b"2\n"})


@fault(r"description: does not agree with manifest\.json: description")
def another_description() -> bytes:
    return with_files({"description": b"harmless\n"})


@fault(r"utsname: does not agree with manifest\.json: kernel\.release")
def utsname_of_another_kernel() -> bytes:
    return with_files({"utsname": b"Linux 6.1.0-51-amd64 #1 x86_64\n"})


@fault(r"timestamp: not a number of seconds since 1970")
def timestamp_in_words() -> bytes:
    return with_files({"timestamp": b"yesterday\n"})


# --- modules ------------------------------------------------------------------------------------


@fault(r"ksplice_8c4o6ucj_new\.ko: not an x86_64 kernel module: its ELF header is of another kind")
def module_for_another_machine() -> bytes:
    return with_files({NEW: samples.elf({".modinfo": b"name=x\0"}, machine=183)})


@fault(r"ksplice_8c4o6ucj_new\.ko: not an x86_64 kernel module: unpack_from requires")
def module_is_no_elf() -> bytes:
    return with_files({NEW: b"\x7fELF"})


@fault(r"ksplice_8c4o6ucj_new\.ko: not an x86_64 kernel module: ")
def module_cut_short() -> bytes:
    return with_files({NEW: samples.module_elf(f"ksplice_{KID}_new")[:-70]})


@fault(r"ksplice_8c4o6ucj_new\.ko: not a kernel module: it has no section \.modinfo")
def object_file_instead_of_a_module() -> bytes:
    return with_files({NEW: samples.elf({".text": b""})})


@fault(r"ksplice_8c4o6ucj_new\.ko: \.modinfo name= says 'ext4', not ksplice_8c4o6ucj_new")
def module_of_another_name() -> bytes:
    return with_files({NEW: samples.module_elf("ext4")})


@fault(r"ksplice_8c4o6ucj\.ko: \.gnu\.linkonce\.this_module says 'ext4', not ksplice_8c4o6ucj")
def module_with_two_names() -> bytes:
    return with_files({CORE: samples.module_elf(f"ksplice_{KID}", "ext4")})


@fault(r"ksplice_8c4o6ucj\.ko: \.modinfo has 2 entries name=, not one")
def module_that_says_its_name_twice() -> bytes:
    modinfo = f"name=ksplice_{KID}\0name=ext4\0".encode()
    sections = {".modinfo": modinfo, ".gnu.linkonce.this_module": bytes(100)}
    return with_files({CORE: samples.elf(sections)})


# --- all of them --------------------------------------------------------------------------------


def test_what_is_no_fault_is_none() -> None:
    assert bundle.unpack(bundle_of(good_files())).manifest.kid == KID
    assert bundle.unpack(with_files({})) == bundle.unpack(samples.bundle())
    assert bundle.unpack(with_manifest(lambda m: None)) == bundle.unpack(samples.bundle())


@pytest.mark.parametrize("name", FAULTS)
def test_bad_bundle(name: str) -> None:
    make, message = FAULTS[name]
    with pytest.raises(BadBundleError, match=f"^(?:{message})"):
        bundle.unpack(make())
