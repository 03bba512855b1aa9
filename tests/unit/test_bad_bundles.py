# SPDX-License-Identifier: GPL-2.0-only
"""Bad bundles, made on the fly; each is refused with file and field."""

import pytest

from ksplicd import bundle
from ksplicd.errors import BadBundleError
from tests.support.bundles import bad_archives, bad_files, bad_manifests, samples
from tests.support.bundles.faults import FAULTS, bundle_of, good_files, with_files, with_manifest
from tests.support.bundles.samples import KID

MODULES = (bad_archives, bad_manifests, bad_files)
"""Their faults are noted when they are imported."""


def test_what_is_no_fault_is_none() -> None:
    assert bundle.unpack(bundle_of(good_files())).manifest.kid == KID
    assert bundle.unpack(with_files({})) == bundle.unpack(samples.bundle())
    assert bundle.unpack(with_manifest(lambda m: None)) == bundle.unpack(samples.bundle())


@pytest.mark.parametrize("name", FAULTS)
def test_bad_bundle(name: str) -> None:
    make, message = FAULTS[name]
    with pytest.raises(BadBundleError, match=f"^(?:{message})"):
        bundle.unpack(make())
