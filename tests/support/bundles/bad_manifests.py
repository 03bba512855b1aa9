# SPDX-License-Identifier: GPL-2.0-only
"""Bundles with a bad manifest.json, named by their fault."""

from tests.support.bundles.faults import (
    CORE,
    OLD,
    bundle_of,
    fault,
    good_files,
    with_manifest,
    with_text,
)
from tests.support.bundles.samples import KID


@fault(r"manifest\.json: missing from the archive")
def no_manifest() -> bytes:
    files = good_files()
    del files["manifest.json"]
    return bundle_of(files)


@fault(r"manifest\.json: not valid JSON: ")
def manifest_is_not_json() -> bytes:
    return with_text(b"{")


@fault(r"manifest\.json: not valid JSON: .*utf-8")
def manifest_is_not_text() -> bytes:
    return with_text(b'{"schema": "\xff"}')


@fault(r"manifest\.json: not valid JSON: ")
def manifest_is_very_deep() -> bytes:
    return with_text(b"[" * 100_000)


@fault(r"manifest\.json: over 4 MiB$")
def manifest_is_a_book() -> bytes:
    return with_manifest(lambda m: m.update(description="a" * (4 << 20)))


@fault(r"manifest\.json: not valid JSON: field 'kid' occurs twice")
def manifest_field_twice() -> bytes:
    return with_text(b'{"kid": 1, "kid": 2}')


@fault(r"manifest\.json: not valid JSON: NaN is not JSON")
def manifest_with_nan() -> bytes:
    return with_text(b'{"schema": NaN}')


@fault(r"manifest\.json: \[\] is not an object")
def manifest_is_an_array() -> bytes:
    return with_text(b"[]")


@fault(r"manifest\.json: schema: 3 is not 1 or 2, which this version knows; update")
def unknown_schema() -> bytes:
    return with_manifest(lambda m: m.update(schema=3))


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


@fault(r"manifest\.json: targets\[1\]\.name: vmlinux occurs twice")
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


@fault(r"manifest\.json: built-on: other002 is not among depends")
def built_on_what_is_not_needed() -> bytes:
    return with_manifest(lambda m: m.update({"built-on": {"other002": "12" * 20}}))


@fault(r"manifest\.json: built-on\.\S+: 'no' is not a build id")
def built_on_no_build_id() -> bytes:
    return with_manifest(lambda m: m.update({"built-on": {"other002": "no"}}))


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
