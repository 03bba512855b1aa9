# SPDX-License-Identifier: GPL-2.0-only
"""pack and unpack; bad bundles are in test_bad_bundles.py."""

import contextlib
import gzip
import hashlib
import random
import tarfile
from dataclasses import replace
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksplicd import bundle
from ksplicd.errors import BadBundleError
from ksplicd.manifest import read_manifest, write_manifest
from ksplicd.model import FileDigest, Kernel, Ledger, Manifest, PatchedFunction, Target
from tests.support.bundles import samples
from tests.support.bundles.samples import KID

PACKED = samples.bundle()
TEXT = write_manifest(bundle.unpack(PACKED).manifest)


def test_round_trip() -> None:
    manifest = samples.manifest(targets=("vmlinux", "nf-tables"))
    files = samples.files(manifest)
    unpacked = bundle.unpack(bundle.pack(manifest, files))
    assert replace(unpacked.manifest, files={}) == manifest
    assert {name: unpacked.files[name] for name in files} == files
    assert unpacked.core == bundle.Core(module=f"ksplice_{KID}", file=f"ksplice_{KID}.ko")
    assert unpacked.changes[1] == bundle.Change(
        target="nf-tables",
        new_module=f"ksplice_{KID}_new",
        new_file=f"ksplice_{KID}_new.ko",
        old_module=f"ksplice_{KID}_nf_tables_old",
        old_file=f"ksplice_{KID}_nf-tables_old.ko".replace("-", "_"),
    )
    digest = unpacked.manifest.files["patch"]
    assert digest == FileDigest(
        size=len(files["patch"]), sha256=hashlib.sha256(files["patch"]).hexdigest()
    )


def test_packing_what_was_unpacked_gives_the_same_bytes() -> None:
    unpacked = bundle.unpack(PACKED)
    assert bundle.pack(unpacked.manifest, unpacked.files) == PACKED


def test_the_same_input_gives_the_same_bytes_in_any_order() -> None:
    manifest = samples.manifest()
    backwards = dict(reversed(samples.files(manifest).items()))
    assert bundle.pack(manifest, backwards) == PACKED
    # The tar, not what this version of zlib makes of it.  A change is a change of the format.
    assert hashlib.sha256(gzip.decompress(PACKED)).hexdigest() == (
        "e77309c6c8792888cce6e5ffbe1b0ffab46afe9fa5531667e5e137779cfc587b"
    )


def test_whole_modules_are_listed_and_checked() -> None:
    manifest = samples.manifest(targets=("nf-tables",))
    target = replace(manifest.targets[0], module_file="nf-tables.ko")
    manifest = replace(manifest, targets=(target,))
    files = samples.files(manifest) | {"nf-tables.ko": samples.module_elf("nf-tables")}
    unpacked = bundle.unpack(bundle.pack(manifest, files))
    assert unpacked.modules == (bundle.WholeModule(target="nf-tables", file="nf-tables.ko"),)
    assert unpacked.files["contents"].endswith(b"\nmodule nf-tables nf-tables.ko\n")
    files["nf-tables.ko"] = samples.module_elf("other")
    with pytest.raises(BadBundleError, match=r"nf-tables\.ko: .* says 'other', not nf-tables"):
        bundle.pack(manifest, files)


def test_tar_reads_it() -> None:
    with tarfile.open(fileobj=BytesIO(PACKED)) as tar:
        members = {member.name: member for member in tar.getmembers()}
        contents = tar.extractfile(f"ksplice-{KID}/contents")
        assert contents is not None
        assert (
            contents.read()
            == (
                f"core ksplice_{KID} ksplice_{KID}.ko\n"
                f"change vmlinux ksplice_{KID}_new ksplice_{KID}_new.ko "
                f"ksplice_{KID}_vmlinux_old ksplice_{KID}_vmlinux_old.ko\n"
            ).encode()
        )
    assert {m.mtime for m in members.values()} == {1700000000}
    assert {(m.uid, m.gid, m.mode) for m in members.values()} == {(0, 0, 0o644)}
    assert list(members) == sorted(members)


def test_we_read_what_tar_and_gzip_make() -> None:
    unpacked = bundle.unpack(PACKED)
    out = BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in {**unpacked.files, "manifest.json": TEXT}.items():
            member = tarfile.TarInfo(f"ksplice-{KID}/{name}")
            member.size = len(data)
            tar.addfile(member, BytesIO(data))
    assert bundle.unpack(gzip.compress(out.getvalue())).files == unpacked.files


def test_timestamp_and_utsname_have_defaults() -> None:
    manifest = samples.manifest()
    files = {k: v for k, v in samples.files(manifest).items() if k != "timestamp"}
    unpacked = bundle.unpack(bundle.pack(manifest, files))
    assert unpacked.files["timestamp"] == b"0\n"
    assert unpacked.files["utsname"].startswith(b"Linux 6.1.0-50-cloud-amd64 #1 SMP PREEMPT")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kid": "UPPER123"}, "manifest.json: kid: 'UPPER123' is not an update id"),
        ({"core_file": "../core.ko"}, "manifest.json: core-file: .* is not a file name"),
        ({"targets": ()}, "manifest.json: targets: empty"),
        ({"cves": ("2026-1",)}, r"manifest.json: cves\[0\]: '2026-1' is not a CVE id"),
        ({"description": "\x1b[2J"}, "manifest.json: description: .* is not plain text"),
        ({"kernel": Kernel(release="6 1", build_id="00" * 20)}, "manifest.json: kernel.release: "),
        ({"core_file": "other.ko"}, "other.ko: missing from the archive"),
    ],
)
def test_pack_refuses_what_unpack_would(change: dict[str, object], message: str) -> None:
    manifest = samples.manifest()
    with pytest.raises(BadBundleError, match=message):
        bundle.pack(replace(manifest, **change), samples.files(manifest))  # type: ignore[arg-type]


def test_module_name_that_is_too_long() -> None:
    manifest = samples.manifest(targets=("a" * 56,))
    with pytest.raises(BadBundleError, match=r"targets\[0\]\.name: 'a+' is not vmlinux or a"):
        bundle.pack(manifest, samples.files(manifest))


def test_old_code_of_the_longest_name() -> None:
    """The kernel's module names have at most 55 characters."""
    manifest = samples.manifest(targets=("processor_thermal_device_pci_legacy",))
    content = bundle.unpack(bundle.pack(manifest, samples.files(manifest)))
    (change,) = content.changes
    assert change.target == "processor_thermal_device_pci_legacy"
    assert change.old_module == f"ksplice_{manifest.kid}_processor_thermal_device_pci_legac_old"
    assert len(change.old_module) == 55


# --- hypothesis ---------------------------------------------------------------------------------

words = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=20)
manifests = st.builds(
    Manifest,
    kid=st.from_regex(r"[a-z0-9]{8}", fullmatch=True),
    kernel=st.builds(Kernel, release=words, build_id=st.just("ab" * 20), version=words),
    core_file=words.map(lambda word: f"core-{word}.ko"),
    targets=st.lists(
        st.builds(
            Target,
            name=words,
            new_file=st.just("new.ko"),
            old_file=words.map(lambda word: f"old-{word}.ko"),
            functions=st.lists(
                st.builds(PatchedFunction, name=words, sympos=st.integers(0, 99), unit=words),
                max_size=3,
            ).map(tuple),
        ),
        min_size=1,
        max_size=3,
        unique_by=lambda target: target.name,
    ).map(tuple),
    description=st.text(st.characters(exclude_categories=["C"])),
    cves=st.sampled_from([(), ("CVE-2026-1234",), ("CVE-2026-1234", "CVE-2025-99999")]),
    tool=words,
    ledger=st.none() | st.builds(Ledger, hunks=st.just(samples.INCOMPLETE.hunks[::2])),
    compiler=words,
    files=st.dictionaries(words, st.builds(FileDigest, size=st.just(1), sha256=st.just("0" * 64))),
)


@given(manifests)
def test_manifest_round_trip(manifest: Manifest) -> None:
    assert read_manifest(write_manifest(manifest)) == manifest


@given(
    st.binary() | st.recursive(st.none() | st.integers(), st.lists).map(lambda v: str(v).encode())
)
def test_any_manifest_is_read_or_refused(data: bytes) -> None:
    with pytest.raises(BadBundleError, match=r"^manifest\.json: "):
        read_manifest(data)


@given(st.integers(0, len(TEXT) - 1), st.binary(max_size=3))
def test_damaged_manifest_is_read_or_refused(at: int, junk: bytes) -> None:
    with contextlib.suppress(BadBundleError):
        read = read_manifest(TEXT[:at] + junk + TEXT[at + len(junk) :])
        assert read_manifest(write_manifest(read)) == read


@given(st.binary())
def test_any_contents_is_read_or_refused(data: bytes) -> None:
    with pytest.raises(BadBundleError, match=r"^contents:"):
        bundle.read_contents(data)


@given(st.binary())
def test_any_file_is_refused(data: bytes) -> None:
    with pytest.raises(BadBundleError, match=r"^archive: "):
        bundle.unpack(data)


@given(st.binary(max_size=2048))
def test_any_tar_is_refused(data: bytes) -> None:
    with pytest.raises(BadBundleError, match=r"^(archive|manifest\.json): "):
        bundle.unpack(gzip.compress(data))


@settings(max_examples=300)
@given(st.data())
def test_no_changed_byte_of_the_tar_changes_a_file_unseen(data: st.DataObject) -> None:
    tar = bytearray(gzip.decompress(PACKED))
    at = data.draw(st.integers(0, len(tar) - 1))
    tar[at] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(BadBundleError):
        assert bundle.unpack(gzip.compress(tar)).files == bundle.unpack(PACKED).files


def test_every_truncation_is_refused() -> None:
    cuts = random.Random(1).sample(range(len(PACKED)), 200)
    for cut in cuts:
        with pytest.raises(BadBundleError, match=r"^archive: "):
            bundle.unpack(PACKED[:cut])
