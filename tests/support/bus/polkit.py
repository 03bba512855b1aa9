# SPDX-License-Identifier: GPL-2.0-only
"""A polkit for a private bus: ``python -m tests.support.bus.polkit ADDRESS DIR``.

``DIR/answers.json`` maps an action to ``yes``, ``no``, ``challenge``, ``password``, which is yes
after a dialog, or ``fail``, an error (default: yes), and is read for each question; each question
is appended to ``DIR/asked.jsonl``.  While there is a ``DIR/hold``, no question is answered.
SIGUSR1 has it send ``Changed``.
"""

import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pydbus
from gi.repository import GLib
from pydbus import generic


class Authority:
    """
    <node>
      <interface name="org.freedesktop.PolicyKit1.Authority">
        <method name="CheckAuthorization">
          <arg type="(sa{sv})" direction="in"/>
          <arg type="s" direction="in"/>
          <arg type="a{ss}" direction="in"/>
          <arg type="u" direction="in"/>
          <arg type="s" direction="in"/>
          <arg type="(bba{ss})" direction="out"/>
        </method>
        <signal name="Changed"/>
      </interface>
    </node>
    """

    Changed = generic.signal()

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def CheckAuthorization(
        self,
        subject: tuple[str, dict[str, Any]],
        action: str,
        details: dict[str, str],
        flags: int,
        cancellation: str,
    ) -> tuple[bool, bool, dict[str, str]]:
        asked = {
            "subject": subject[0],
            "name": subject[1]["name"],
            "action": action,
            "details": details,
            "interactive": bool(flags & 1),
            "cancellation": cancellation,
        }
        with (self._folder / "asked.jsonl").open("a") as f:
            f.write(json.dumps(asked) + "\n")
        while (self._folder / "hold").exists():
            time.sleep(0.01)
        answers = self._folder / "answers.json"
        answer = json.loads(answers.read_text()).get(action, "yes") if answers.exists() else "yes"
        if answer == "fail":
            raise RuntimeError("polkit has a bad day")
        if answer == "password":
            answer = "yes" if asked["interactive"] else "challenge"
        return answer == "yes", answer == "challenge", {}


def main(address: str, folder: str) -> None:
    with pydbus.connect(address) as bus:
        authority = Authority(Path(folder))
        registration = bus.register_object("/org/freedesktop/PolicyKit1/Authority", authority, None)

        def send_changed() -> bool:
            authority.Changed()
            return True  # again

        GLib.unix_signal_add(GLib.PRIORITY_DEFAULT, signal.SIGUSR1, send_changed)
        with bus.request_name("org.freedesktop.PolicyKit1", allow_replacement=False):
            Path(folder, "ready").touch()
            GLib.MainLoop().run()
        registration.unregister()


if __name__ == "__main__":
    main(*sys.argv[1:])
