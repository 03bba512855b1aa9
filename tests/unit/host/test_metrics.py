# SPDX-License-Identifier: GPL-2.0-only
"""The file for Prometheus, read back by the rules of its format."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksplicd.errors import NoMatchError, StoreError
from ksplicd.host.report.metrics import Figures, format_metrics, write_metrics
from ksplicd.model import Kernel, Ledger
from tests.support.bundles import samples
from tests.support.bundles.samples import KID
from tests.support.host.host import ALICE, Host
from tests.support.host.simulator import NO_MATCH

_LABEL = r'[a-z_]+="(?:[^"\\\n]|\\[\\"n])*"'
_SAMPLE = re.compile(rf"([a-z_]+)(?:{{({_LABEL}(?:,{_LABEL})*)}})? ([0-9.e+-]+)")


def read(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Parse the exposition format; a line that breaks it is an error."""
    families: dict[str, list[tuple[dict[str, str], float]]] = {}
    assert text.endswith("\n")
    for line in text[:-1].split("\n"):
        if line.startswith(("# HELP ", "# TYPE ")):
            families.setdefault(line.split()[2], [])
            continue
        found = _SAMPLE.fullmatch(line)
        assert found, line
        labels = dict(re.findall(r'([a-z_]+)="((?:[^"\\]|\\.)*)"', found[2] or ""))
        families[found[1]].append((labels, float(found[3])))
    return families


@pytest.fixture
def measured(host: Host, tmp_path: Path) -> Host:
    host.engine.doors.settings = replace(host.settings, metrics_file=tmp_path / "ksplice.prom")
    return host


def metrics_of(host: Host) -> dict[str, list[tuple[dict[str, str], float]]]:
    host.engine.write_metrics()
    assert host.engine.doors.settings.metrics_file is not None
    return read(host.engine.doors.settings.metrics_file.read_text())


def test_applied(measured: Host) -> None:
    measured.stage()
    transition = measured.engine.start_apply(KID, ALICE)
    measured.kernel.complete()
    measured.clock.now += 1.25
    measured.engine.finish(transition)
    found = metrics_of(measured)
    counts = {labels["stage"]: value for labels, value in found["ksplice_updates"]}
    assert counts["applied"] == 1
    assert sum(counts.values()) == 1
    ((kernel, _),) = found["ksplice_kernel_info"]
    assert kernel["applied"] == KID
    assert kernel["cves"] == "CVE-2026-12345"
    assert kernel["build_id"] == samples.KERNEL.build_id
    assert found["ksplice_transition_seconds"] == [({"kid": KID, "direction": "apply"}, 1.25)]
    assert found["ksplice_last_error_timestamp_seconds"] == [({}, 0)]
    sizes = {labels["part"]: value for labels, value in found["ksplice_store_bytes"]}
    assert sizes["updates"] > len(samples.bundle())
    assert sizes["history"] == (measured.root / "history.jsonl").stat().st_size


def test_series_to_compare(measured: Host) -> None:
    """One a CVE, and what is wanted against what is applied."""
    found = metrics_of(measured)
    assert found["ksplice_cve_fixed"] == []
    measured.stage()
    measured.apply()
    found = metrics_of(measured)
    assert found["ksplice_cve_fixed"] == [({"cve": "CVE-2026-12345"}, 1)]
    both = [({"kid": KID}, 1)]
    assert found["ksplice_update_wanted"] == found["ksplice_update_applied"] == both
    measured.engine.soak.mark_clean()
    measured.kernel.reboot()
    measured.engine.reconcile()
    found = metrics_of(measured)
    assert found["ksplice_cve_fixed"] == []
    assert found["ksplice_update_wanted"] == [({"kid": KID}, 1)]
    assert found["ksplice_update_applied"] == [({"kid": KID}, 0)]


def test_heartbeat(measured: Host) -> None:
    measured.engine.check()
    first = measured.clock.time()
    measured.clock.now += 300
    assert metrics_of(measured)["ksplice_heartbeat_timestamp_seconds"] == [({}, first)]
    measured.engine.check()
    assert metrics_of(measured)["ksplice_heartbeat_timestamp_seconds"] == [({}, first + 300)]


@pytest.mark.parametrize(
    ("ledger", "complete"), [(None, "unknown"), (samples.LEDGER, "yes"), (samples.INCOMPLETE, "no")]
)
def test_completeness(measured: Host, ledger: Ledger | None, complete: str) -> None:
    data = samples.bundle(ledger=ledger)
    measured.engine.stage(data, samples.signature(data), ALICE)
    found = metrics_of(measured)
    assert found["ksplice_incomplete_updates"] == [({}, 0)]
    ((labels, _),) = found["ksplice_update_info"]
    assert labels["complete"] == complete
    measured.apply()
    assert metrics_of(measured)["ksplice_incomplete_updates"] == [({}, complete == "no")]


def test_last_error(measured: Host) -> None:
    measured.stage()
    measured.kernel.mismatches["vmlinux"] = ("no_match", NO_MATCH)
    with pytest.raises(NoMatchError, match="do_fcntl"):
        measured.apply()
    expected = [({"kid": KID, "cause": "no_match"}, measured.clock.now)]
    assert metrics_of(measured)["ksplice_last_error_timestamp_seconds"] == expected
    settings = measured.engine.doors.settings
    measured.engine = measured.new_engine()
    measured.engine.doors.settings = settings
    measured.engine.reconcile()  # what the history knows is known after a restart, too
    assert metrics_of(measured)["ksplice_last_error_timestamp_seconds"] == expected


def test_none_is_written_by_default(host: Host, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    host.engine.write_metrics()
    assert sorted(tmp_path.rglob("*")) == before


def test_no_file_stays_with_what_was_so_once(measured: Host, tmp_path: Path) -> None:
    measured.engine.write_metrics()
    moved = tmp_path / "moved.prom"
    measured.engine.doors.settings = replace(measured.settings, metrics_file=moved)
    measured.engine.write_metrics()
    assert [path.name for path in tmp_path.glob("*.prom")] == ["moved.prom"]
    measured.engine.doors.settings = replace(measured.settings, metrics_file=None)
    for _ in range(2):
        measured.engine.write_metrics()
    assert list(tmp_path.glob("*.prom")) == []


@pytest.mark.parametrize("name", ["moved.prom", None])
def test_no_file_stays_when_the_configuration_changed_while_we_were_away(
    measured: Host, tmp_path: Path, name: str | None
) -> None:
    measured.engine.write_metrics()
    engine = measured.new_engine()
    engine.doors.settings = replace(
        measured.settings, metrics_file=tmp_path / name if name else None
    )
    engine.reconcile()
    engine.write_metrics()
    assert [path.name for path in tmp_path.glob("*.prom")] == ([name] if name else [])
    link = measured.root / "metrics-file"
    assert link.is_symlink() == bool(name)
    assert measured.engine.doors.store.sizes()["dropped"] == 0


def test_file_that_cannot_be_deleted_is_told_of_once(measured: Host, tmp_path: Path) -> None:
    stuck, path = tmp_path / "stuck.prom", tmp_path / "ksplice.prom"
    stuck.mkdir()
    (measured.root / "metrics-file").symlink_to(stuck)
    with pytest.raises(StoreError, match=r"stuck\.prom: Is a directory"):
        measured.engine.write_metrics()
    measured.engine.write_metrics()
    assert path.exists()


def test_replaced_in_one_step_for_all_to_read(tmp_path: Path) -> None:
    path = tmp_path / "k.prom"
    write_metrics(path, "a 1\n")
    held = path.open()
    (tmp_path / ".k.prom.new").symlink_to(tmp_path / "elsewhere")
    write_metrics(path, "a 2\n")
    with held:
        assert held.read() == "a 1\n"
    assert path.read_text() == "a 2\n"
    assert path.stat().st_mode & 0o777 == 0o644
    assert [p.name for p in tmp_path.iterdir()] == ["k.prom"]


NOTHING = Figures(
    kernel=Kernel(release="", build_id=""),
    updates=(),
    missing={},
    transition_seconds={},
    last_error=None,
    sizes={},
    limits={},
)


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"k\.prom"):
        write_metrics(tmp_path / "none/k.prom", "")


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_no_text_breaks_the_format(version: str) -> None:
    kernel = Kernel(release="6.1", build_id="00", version=version)
    found = read(format_metrics(replace(NOTHING, kernel=kernel)))
    assert len(found["ksplice_kernel_info"]) == 1
