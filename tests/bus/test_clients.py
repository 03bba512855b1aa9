# SPDX-License-Identifier: GPL-2.0-only
"""Two hundred clients at once, which call, read, watch and apply."""

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

import pytest
from gi.repository import Gio, GLib

from ksplicd.bus import names
from ksplicd.bus.calls_under_way import CALLS_PER_USER
from ksplicd.host.stages import Event
from ksplicd.host.store.history import write_event
from ksplicd.model import Stage
from tests.support.bundles import samples
from tests.support.bus.host import USERS, Host, wait_for_bus
from tests.support.needs import have_root
from tests.support.waiting import PATIENCE

CLIENTS: Final = 200
ROUNDS: Final = 4
"""Questions of each client, one after the other."""
UPDATES: Final = 100
APPLIED: Final = 10
EVENTS: Final = 5000
LONGEST: Final = 0.1
"""Seconds for which the loop may be held."""

KIDS: Final = [f"kid{number:05}" for number in range(UPDATES)]


def stock(host: Host, kids: Sequence[str], events: int) -> None:
    """Put updates into the store and ``events`` into the history, as if they had been staged."""
    updates = host.store / "updates"
    updates.mkdir(parents=True, mode=0o700)
    for kid in kids:
        data = samples.bundle(kid)
        folder = updates / kid
        folder.mkdir()
        (folder / f"ksplice-{kid}.tar.gz").write_bytes(data)
        (folder / f"ksplice-{kid}.tar.gz.minisig").write_bytes(samples.signature(data))
    with (host.store / "history.jsonl").open("wb") as f:
        for number in range(events):
            event = Event(
                time=1.7e9 + number, boot_id="f" * 32, kid=kids[number % len(kids)],
                stage=Stage.STAGED, detail="a line of the history that is not too short",
            )  # fmt: skip
            f.write(write_event(event))


@pytest.fixture
def busy_host(bare_host: Host) -> Host:
    """A host with many updates and a long history."""
    stock(bare_host, KIDS, EVENTS)
    bare_host.start_polkit()
    bare_host.start(KSPLICE_LOOP_METER="yes")
    return bare_host


class Crowd:
    """Clients, each with a connection of its own, on one loop."""

    def __init__(self, host: Host, clients: int = CLIENTS, users: Sequence[int] = ()) -> None:
        self.loop = GLib.MainLoop()
        self.answers: Counter[str] = Counter()
        self.errors: list[str] = []
        self.signals: Counter[str] = Counter()
        self.jobs: list[tuple[str, int]] = []
        self.replies: list[int] = []
        """Jobs in the order of the replies."""
        self.open = 0
        connect: list[Callable[[], Gio.DBusConnection]] = [
            *(partial(host.connect_user, uid) for uid in users)
        ] or [host.connect]
        self.clients = [connect[n % len(connect)]() for n in range(clients)]
        for client in self.clients:
            client.signal_subscribe(
                names.BUS_NAME, None, None, None, None, Gio.DBusSignalFlags.NONE, self._on_signal
            )
            wait_for_bus(client)

    def _on_signal(
        self, client: Any, _sender: str, _path: str, _interface: str, name: str, args: Any
    ) -> None:
        self.signals[name] += 1
        if client is self.clients[0] and name in {"JobNew", "JobRemoved"}:
            self.jobs.append((name, args.unpack()[0]))

    def call(
        self, client: Any, path: str, interface: str, method: str, args: Any, then: Any
    ) -> None:
        self.open += 1

        def answered(_source: Any, result: Any) -> None:
            self.open -= 1
            self.answers[method] += 1
            try:
                then(client.call_finish(result).unpack())
            except GLib.Error as e:
                self.errors.append(e.message)
                then(None)

        client.call(
            names.BUS_NAME, path, interface, method, args, None,
            Gio.DBusCallFlags.NONE, 120_000, None, answered,
        )  # fmt: skip

    def ask(self, client: Any, questions: Iterator[tuple[str, str, str, Any]]) -> None:
        """Have a client ask one question after the other."""
        question = next(questions, None)
        if question is not None:
            self.call(client, *question, then=lambda _: self.ask(client, questions))

    def run(self) -> None:
        """Run until every call is answered."""
        seconds = GLib.timeout_add_seconds(round(PATIENCE) * 6, self.loop.quit)

        def is_done() -> bool:
            if not self.open:
                self.loop.quit()
            return bool(self.open)

        GLib.timeout_add(20, is_done)
        self.loop.run()
        assert not self.open, "some calls were not answered in time"
        GLib.source_remove(seconds)


def questions_of(number: int) -> Iterator[tuple[str, str, str, Any]]:
    """Yield (path, interface, method, arguments) of a client."""
    root = names.ROOT_PATH
    kid = KIDS[number % UPDATES]
    all_of_them = [
        (root, names.MANAGER, "ListUpdates", GLib.Variant("(t)", (0,))),
        (names.update_path(kid), names.PROPERTIES, "GetAll", GLib.Variant("(s)", (names.UPDATE,))),
        (root, names.MANAGER, "Describe", GLib.Variant("(s)", (kid,))),
        (root, names.MANAGER, "ListHistory", GLib.Variant("(tu)", (0, 0 if number == 7 else 20))),
        (root, names.OBJECT_MANAGER, "GetManagedObjects", None),
    ]
    for turn in range(ROUNDS):
        yield all_of_them[(number + turn) % len(all_of_them)]


@have_root
def test_more_questions_than_the_bus_lets_us_wait_for(busy_host: Host) -> None:
    """The bus refuses a connection's 129th open call, and a user has few at a time."""
    hold = busy_host.folder / "hold"
    hold.touch()
    crowd = Crowd(busy_host, users=USERS)
    for client in crowd.clients:
        crowd.ask(client, itertools.islice(questions_of(0), 1))
    GLib.timeout_add(1000, hold.unlink)
    crowd.run()
    assert crowd.open == 0
    assert crowd.answers.total() == CLIENTS
    refused = [error for error in crowd.errors if "calls under way" in error]
    assert crowd.errors == refused
    assert len(refused) == CLIENTS - CALLS_PER_USER * len(USERS)


def test_a_thousand_updates_do_not_hold_the_loop(bare_host: Host) -> None:
    kids = [f"kid{number:05}" for number in range(1000)]
    stock(bare_host, kids, len(kids))
    bare_host.start_polkit()
    bare_host.start(KSPLICE_LOOP_METER="yes")
    crowd = Crowd(bare_host, clients=1)
    found: list[int] = []
    crowd.call(
        crowd.clients[0], names.ROOT_PATH, names.OBJECT_MANAGER, "GetManagedObjects", None,
        then=lambda reply: found.append(len(reply[0]) if reply else 0),
    )  # fmt: skip
    crowd.run()
    assert (crowd.errors, found) == ([], [1000])
    times = json.loads((bare_host.folder / "loop.json").read_text())
    assert times["held"] < LONGEST, times


def test_two_hundred_clients(busy_host: Host) -> None:
    crowd = Crowd(busy_host)
    manager = (names.ROOT_PATH, names.MANAGER)
    for kid in KIDS[:APPLIED]:
        args = GLib.Variant("(st)", (kid, 0))
        crowd.call(
            crowd.clients[0], *manager, "Apply", args,
            then=lambda reply: crowd.replies.append(reply[0] if reply else 0),
        )  # fmt: skip
    for number, client in enumerate(crowd.clients):
        crowd.ask(client, questions_of(number))
    crowd.run()
    assert (crowd.open, crowd.errors) == (0, [])
    assert crowd.answers.total() == CLIENTS * ROUNDS + APPLIED
    assert crowd.answers["Apply"] == APPLIED

    # one at a time, in the order of asking
    assert crowd.replies == list(range(1, APPLIED + 1))
    ways = [(name, job) for job in range(1, APPLIED + 1) for name in ("JobNew", "JobRemoved")]
    assert crowd.jobs[: len(ways) - 1] == ways[: len(crowd.jobs)][: len(ways) - 1]
    with busy_host.kernel.open() as kernel:
        new = [call for call in kernel.calls if call.endswith("_new")]
    assert new == [f"load ksplice_{kid}_new" for kid in KIDS[:APPLIED]]

    # everybody hears everything
    assert crowd.signals["JobNew"] >= CLIENTS * (APPLIED - 1)
    assert crowd.signals["PropertiesChanged"] >= CLIENTS * APPLIED

    times = json.loads((busy_host.folder / "loop.json").read_text())
    assert times["held"] < LONGEST, times
