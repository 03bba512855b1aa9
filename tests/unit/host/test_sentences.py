# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's answers as sentences."""

from ksplicd.host.report.sentences import explain, read_mismatch


def test_mismatch_in_words() -> None:
    pairs = read_mismatch("target=vmlinux function=f.cold offset=0x0 kind=lock expected= found= x")
    assert pairs["expected"] == ""
    assert "x" not in pairs
    assert explain("no_match", pairs).startswith(
        "vmlinux: f.cold+0x0: expected other code, found nothing (lock): this is not the code"
    )
    assert explain("call_failed", {}) == "livepatch or a hook of the update refused; see dmesg"
