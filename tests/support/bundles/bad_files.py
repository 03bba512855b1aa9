# SPDX-License-Identifier: GPL-2.0-only
"""Bundles with a bad file other than the manifest, named by their fault."""

from tests.support.bundles import samples
from tests.support.bundles.faults import (
    CORE,
    NEW,
    OLD,
    bundle_of,
    fault,
    good_files,
    with_files,
    with_manifest,
)
from tests.support.bundles.samples import KID

# --- files and digests --------------------------------------------------------------------------


@fault(r"patch: does not match manifest\.json: files\.patch")
def altered_patch() -> bytes:
    return bundle_of({**good_files(), "patch": b"another"})


@fault(r"ksplice_8c4o6ucj_vmlinux_old\.ko: does not match manifest\.json: files\.ksplice_")
def altered_old_code() -> bytes:
    files = good_files()
    return bundle_of({**files, OLD: files[OLD][:-1] + b"!"})


@fault(r"extra: is not used by manifest\.json")
def unlisted_file() -> bytes:
    return bundle_of({**good_files(), "extra": b""})


@fault(r"extra\.ko: is not used by manifest\.json")
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
