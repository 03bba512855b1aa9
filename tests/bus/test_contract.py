# SPDX-License-Identifier: GPL-2.0-only
"""Code, interface XML, bus policy, activation, polkit actions, service and catalog agree."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from ksplicd.bus import names
from ksplicd.bus.interface import BusObject
from ksplicd.bus.job import Job
from ksplicd.bus.manager import Manager, _describe_event
from ksplicd.bus.objects import Objects
from ksplicd.bus.update import Update
from ksplicd.daemon import main
from ksplicd.errors import (
    ERROR_PREFIX,
    ApplyError,
    BundleError,
    ConfigFileError,
    HostError,
    KeyFileError,
    NoDaemonError,
    walk,
)
from ksplicd.host.report.journal import Outcome
from ksplicd.host.report.sentences import describe_update
from ksplicd.host.stages import Event, UpdateInfo
from ksplicd.model import Stage
from ksplicd.run import run_any
from tests.support.bundles import samples
from tests.support.needs import needs

UNITS = Path(__file__).parents[2] / "units"
INTERFACES = (Manager, Update, Job)
NEVER_SENT = {ConfigFileError, NoDaemonError}
"""A daemon with a bad configuration does not run, and the other one is the client's."""
EVENT = Event(time=0, boot_id="0" * 32, kid=samples.KID, stage=Stage.STAGED)
INFO = UpdateInfo(
    kid=samples.KID, stage=Stage.STAGED, abort_cause="", detail="", manifest=samples.manifest()
)


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
    expected = {
        names.Action.INSPECT: "yes",
        names.Action.STAGE: "auth_admin_keep",
        # polkit would keep the answer about one update for all others
        names.Action.APPLY: "auth_admin",
        names.Action.UNDO: "auth_admin",
        names.Action.CONFLICTS: "auth_admin",
    }
    policy = ET.parse(UNITS / "org.ksplice.ksplicd1.policy")
    for action in policy.iterfind("action"):
        defaults = {e.text for e in action.iterfind("defaults/*")}
        assert defaults == {expected[names.Action(str(action.get("id")))]}, action.get("id")


def test_catalog_explains_exactly_our_messages() -> None:
    ids = re.findall(r"^-- ([0-9a-f]{32})$", (UNITS / "ksplicd.catalog").read_text(), re.MULTILINE)
    assert sorted(ids) == sorted(Outcome)


def test_catalog_uses_only_fields_that_we_write() -> None:
    source = (Path(names.__file__).parents[1] / "host/report/journal.py").read_text()
    used = set(re.findall(r"@(\w+)@", (UNITS / "ksplicd.catalog").read_text()))
    assert used
    assert all(f'"{field}"' in source for field in used)


def test_internal_error_is_no_ksplice_error() -> None:
    assert names.INTERNAL_ERROR == ERROR_PREFIX + "Internal"


@needs("systemd-analyze")
@pytest.mark.parametrize("unit", ["ksplicd", "ksplicd-boot", "ksplicd-shutdown"])
def test_service_asks_for_little(unit: str) -> None:
    """``systemd-analyze security``: exposure from 0 to 100 here, 25 at most."""
    check = ["systemd-analyze", "security", "--offline=yes", "--threshold=25", "--no-pager"]
    status, out, _ = run_any([*check, UNITS / f"{unit}.service"])
    assert status == 0, out.decode().splitlines()[-1]


def test_updates_are_back_before_the_network() -> None:
    unit = (UNITS / "ksplicd-boot.service").read_text().splitlines()
    assert "Before=network-pre.target ksplicd.service" in unit
    assert "DefaultDependencies=no" in unit  # else it waits for what may wait for the network
    daemon = (UNITS / "ksplicd.service").read_text()
    assert re.search(r"^After=.*\bksplicd-boot\.service", daemon, re.MULTILINE)
    assert re.search(r"^Wants=.*\bksplicd-boot\.service", daemon, re.MULTILINE)


def test_clean_shutdown_is_marked_whatever_failed() -> None:
    """The boot's unit fails when something is missing, and a failed unit has no ExecStop=."""
    assert "ExecStop" not in (UNITS / "ksplicd-boot.service").read_text()
    unit = (UNITS / "ksplicd-shutdown.service").read_text().splitlines()
    assert "Before=ksplicd-boot.service ksplicd.service" in unit  # stopped after them
    assert "ExecStop=/usr/libexec/ksplicd/ksplicd --shutdown" in unit
    assert not [line for line in unit if line.startswith("ExecStart=")]
    for user in ("ksplicd.service", "ksplicd-boot.service"):
        wants = re.findall(r"^Wants=(.*)$", (UNITS / user).read_text(), re.MULTILINE)
        assert "ksplicd-shutdown.service" in " ".join(wants).split()
    daemon = (UNITS / "ksplicd.service").read_text()
    assert "Also=ksplicd-boot.service ksplicd-shutdown.service" in daemon.splitlines()


# --- the manual ---------------------------------------------------------------------------------

PAGE = UNITS.parent / "docs/man/org.ksplice.Ksplicd1.5"
SECTIONS = {Manager: "THE MANAGER OBJECT", Update: "UPDATE OBJECTS", Job: "JOB OBJECTS"}


def page_of(section: str) -> str:
    """A section of the manual page, without the markup that is in the way."""
    text = re.sub(r"\\f[A-Z]", "", PAGE.read_text().replace(r"\-", "-"))
    return text.partition(f".SH {section}\n")[2].partition("\n.SH ")[0]


def signatures(cls: type[BusObject]) -> set[str]:
    """The members of an interface, as the manual writes them."""

    def write(args: list[ET.Element]) -> str:
        return ", ".join(f"{arg.get('type')} {arg.get('name')}" for arg in args)

    found = set()
    (interface,) = ET.fromstring(cls.xml())
    for member in interface:
        args, name = list(member), member.get("name")
        if member.tag == "property":
            found.add(f"{name} ({member.get('type')})")
        elif member.tag == "signal":
            found.add(f"{name}({write(args)})")
        else:
            ins = [arg for arg in args if arg.get("direction") == "in"]
            outs = [arg for arg in args if arg.get("direction") == "out"]
            found.add(f"{name}({write(ins)}) -> ({write(outs)})")
    return found


@pytest.mark.parametrize("cls", INTERFACES)
def test_manual_has_exactly_the_members_of_the_interface(cls: type[BusObject]) -> None:
    tags = re.findall(r"^\.T[PQ]\n([A-Z]\w+ ?\(.*)$", page_of(SECTIONS[cls]), re.MULTILINE)
    assert sorted(tags) == sorted(signatures(cls))


def test_manual_has_exactly_the_errors_that_may_come() -> None:
    kinds = (BundleError, HostError, ApplyError)
    leaves = {cls for kind in kinds for cls in walk(kind)} - {*kinds, *NEVER_SENT} | {KeyFileError}
    sent = {cls.dbus_name() for cls in leaves} | {names.INTERNAL_ERROR}
    listed = re.findall(r"^\.TP\n\.B (\w+)$", page_of("ERRORS"), re.MULTILINE)
    assert sorted(f"{ERROR_PREFIX}{name}" for name in listed) == sorted(sent)


def test_manual_has_exactly_the_polkit_actions() -> None:
    listed = re.findall(r"^\.TP\n\.B (\S+)$", page_of("AUTHORIZATION"), re.MULTILINE)
    assert sorted(listed) == sorted(names.Action)


def test_manual_has_what_describe_and_the_history_tell() -> None:
    told = {**describe_update(INFO, None, []), **_describe_event(EVENT)}
    page = page_of("THE MANAGER OBJECT") + page_of("UPDATE OBJECTS")
    assert not [key for key in told if not re.search(rf"\b{key}\b", page)]
