# SPDX-License-Identifier: GPL-2.0-only
"""Code, interface XML, bus policy, activation, polkit actions, service and catalog say the same."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from ksplicd.bus import names
from ksplicd.bus.interface import BusObject
from ksplicd.bus.job import Job
from ksplicd.bus.manager import Manager
from ksplicd.bus.objects import Objects
from ksplicd.bus.update import Update
from ksplicd.daemon import main
from ksplicd.errors import ERROR_PREFIX
from ksplicd.host.journal import Outcome
from ksplicd.run import has, run_any

UNITS = Path(__file__).parents[2] / "units"
INTERFACES = (Manager, Update, Job)


@pytest.mark.parametrize("cls", INTERFACES)
def test_xml_is_what_the_daemon_prints(
    cls: type[BusObject], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--bus-introspect", cls.interface]) == 0
    assert capsys.readouterr().out == (UNITS / f"{cls.interface}.xml").read_text()


def test_no_xml_is_left_over() -> None:
    assert {p.stem for p in UNITS.glob("*.xml")} == {cls.interface for cls in INTERFACES}


def test_bus_policy_lets_exactly_our_interfaces_through() -> None:
    policy = ET.parse(UNITS / f"{names.BUS_NAME}.conf")
    allowed = {
        rule.get("send_interface")
        for rule in policy.iterfind("policy[@context='default']/allow")
        if rule.get("send_destination") == names.BUS_NAME
    }
    standard = {names.PROPERTIES, Objects.interface, "org.freedesktop.DBus.Introspectable"}
    assert allowed == {c.interface for c in INTERFACES} | standard | {"org.freedesktop.DBus.Peer"}


def test_only_root_owns_the_name() -> None:
    policy = ET.parse(UNITS / f"{names.BUS_NAME}.conf")
    owners = [p.get("user") for p in policy.iterfind("policy") if p.find("allow[@own]") is not None]
    assert owners == ["root"]


def test_activation_and_service_name_the_bus_name() -> None:
    activation = (UNITS / f"{names.BUS_NAME}.service").read_text().splitlines()
    assert f"Name={names.BUS_NAME}" in activation
    assert "SystemdService=ksplicd.service" in activation
    assert f"BusName={names.BUS_NAME}" in (UNITS / "ksplicd.service").read_text().splitlines()


def test_polkit_knows_exactly_our_actions() -> None:
    policy = ET.parse(UNITS / "org.ksplice.ksplicd1.policy")
    assert {a.get("id") for a in policy.iterfind("action")} == set(names.Action)


def test_everyone_may_look_and_an_administrator_may_act() -> None:
    policy = ET.parse(UNITS / "org.ksplice.ksplicd1.policy")
    for action in policy.iterfind("action"):
        defaults = {e.text for e in action.iterfind("defaults/*")}
        expected = "yes" if action.get("id") == names.Action.INSPECT else "auth_admin_keep"
        assert defaults == {expected}, action.get("id")


def test_catalog_explains_exactly_our_messages() -> None:
    ids = re.findall(r"^-- ([0-9a-f]{32})$", (UNITS / "ksplicd.catalog").read_text(), re.MULTILINE)
    assert sorted(ids) == sorted(Outcome)


def test_catalog_uses_only_fields_that_we_write() -> None:
    source = (Path(names.__file__).parents[1] / "host/journal.py").read_text()
    used = set(re.findall(r"@(\w+)@", (UNITS / "ksplicd.catalog").read_text()))
    assert used
    assert all(f'"{field}"' in source for field in used)


def test_internal_error_is_no_ksplice_error() -> None:
    assert names.INTERNAL_ERROR == ERROR_PREFIX + "Internal"


@pytest.mark.skipif(not has("systemd-analyze"), reason="systemd-analyze is not installed")
@pytest.mark.parametrize("unit", ["ksplicd.service", "ksplicd-boot.service"])
def test_service_asks_for_little(unit: str) -> None:
    """``systemd-analyze security``: exposure from 0 to 100 here, 25 at most."""
    check = ["systemd-analyze", "security", "--offline=yes", "--threshold=25", "--no-pager"]
    status, out, _ = run_any([*check, UNITS / unit])
    assert status == 0, out.decode().splitlines()[-1]


def test_updates_are_back_before_the_network() -> None:
    unit = (UNITS / "ksplicd-boot.service").read_text().splitlines()
    assert "Before=network-pre.target ksplicd.service" in unit
    assert "DefaultDependencies=no" in unit  # else it waits for what may wait for the network
    daemon = (UNITS / "ksplicd.service").read_text()
    assert re.search(r"^After=.*\bksplicd-boot\.service", daemon, re.MULTILINE)
    assert re.search(r"^Wants=.*\bksplicd-boot\.service", daemon, re.MULTILINE)
