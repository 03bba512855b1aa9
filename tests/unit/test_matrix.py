# SPDX-License-Identifier: GPL-2.0-only
"""The choice of machines for ``make test-matrix``."""

import itertools

from tests.matrix.machines import ARGUMENTS, CPUS, KERNELS, SMP, all_places, enough_places, select


def test_every_pair_of_values_is_among_the_chosen() -> None:
    columns = (KERNELS, CPUS, ARGUMENTS, SMP)
    chosen = enough_places()
    assert len(chosen) == len(set(chosen)) == 16
    for i, j in itertools.combinations(range(len(columns)), 2):
        wanted = set(itertools.product(columns[i], columns[j]))
        assert {(place[i], place[j]) for place in chosen} == wanted


def test_chosen_are_of_the_product() -> None:
    assert set(enough_places()) < set(all_places())
    assert len(set(all_places())) == 128


def test_selected_by_words() -> None:
    found = select(all_places(), ["6.12-cloud", "mitigations=off"])
    assert len(found) == 8
    assert {p.kernel for p in found} == {"6.12-cloud"}
    assert select(all_places(), ["6.12"]) == []
    assert select(all_places(), []) == all_places()
