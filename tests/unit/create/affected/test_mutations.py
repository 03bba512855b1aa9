# SPDX-License-Identifier: GPL-2.0-only
"""Mutations of small headers, each against brute force; ``make mutate-source`` takes a kernel's."""

import random
from pathlib import Path
from typing import Final

import pytest

from ksplicd.create.affected.by_mention import find_affected
from ksplicd.create.affected.include_graph import IncludeGraph
from ksplicd.create.build.fingerprint import number_names
from ksplicd.create.build.units import EnabledUnit
from ksplicd.create.patch.change import ChangedFile
from ksplicd.errors import ToolError
from ksplicd.run import run
from tests.mutate.mutations import mutate

HEADER: Final = """\
#ifndef QUEUE_H
#define QUEUE_H
#include "limits.h"
#include "names.h"

#define QUEUE_MAX 16
#define QUEUE_NAME "queue 1.2"
#define queue_op(op) queue_##op
#define queue_each(q, i) for (i = 0; i < (q)->used; i++)

enum queue_state {
	QUEUE_IDLE,
	QUEUE_BUSY,
	QUEUE_GONE,
};

struct queue {
	int used;
	enum queue_state state;
	int items[QUEUE_MAX];
};

static const int queue_weights[] = {
	[QUEUE_IDLE] = 1,
	[QUEUE_BUSY] = 2,
	[QUEUE_GONE] = 4,
};

static inline int queue_full(const struct queue *q)
{
	return q->used >= QUEUE_MAX && q->state != QUEUE_GONE;
}

static inline int queue_weight(const struct queue *q)
{
	return queue_weights[q->state] + LIMIT;
}

static inline int queue_sum(const struct queue *q)
{
	static int calls;
	int i, sum = 0;

	queue_each(q, i)
		sum += q->items[i];
	return sum + calls++;
}

NAME(queue_made, 3)
#endif
"""

TREE: Final = {
    "queue.h": HEADER,
    "limits.h": "#ifndef LIMIT\n#define LIMIT 7\n#endif\n",
    "names.h": "#ifndef NAME\n#define NAME(n, v) static inline int n(void) { return v; }\n#endif\n",
    "plain.c": '#include "queue.h"\nint plain;\n',
    "full.c": '#include "queue.h"\nint f(struct queue *q) { return queue_op(full)(q); }\n',
    "weight.c": '#include "queue.h"\nint g(struct queue *q) { return queue_weight(q); }\n',
    "own.c": '#define NAME(n, v) int n##_own = v;\n#include "queue.h"\n',
    "name.c": '#include "queue.h"\nconst char *h(void) { return QUEUE_NAME; }\n',
    "sum.c": '#include "queue.h"\nint i(struct queue *q) { return queue_sum(q); }\n',
    "size.c": '#include "queue.h"\nint s = sizeof(struct queue);\n',
    "made.c": '#include "queue.h"\nint m(void) { return queue_made(); }\n',
}


def assembly(root: Path) -> dict[str, bytes]:
    return {
        unit: number_names(run(["gcc", "-O2", "-w", "-S", "-g0", "-o", "-", root / unit]))
        for unit in TREE
        if unit.endswith(".c")
    }


def test_no_unit_is_missed(tmp_path: Path) -> None:
    for path, text in TREE.items():
        (tmp_path / path).write_text(text)
    before = assembly(tmp_path)
    units = [EnabledUnit(source=u, object=u, module="", command=f"gcc -c {u}") for u in before]
    tried = 0
    for number in range(60):
        mutated = mutate(HEADER, random.Random(number))
        assert mutated is not None
        kind, text = mutated
        file = ChangedFile(path=Path("queue.h"), before=HEADER.encode(), after=text.encode())
        found = find_affected(
            IncludeGraph(tmp_path, tmp_path / "out", units), [file], before, few=0
        )
        (tmp_path / "queue.h").write_text(text)
        try:
            after = assembly(tmp_path)
        except ToolError:
            continue
        finally:
            (tmp_path / "queue.h").write_text(HEADER)
        tried += 1
        differ = {unit for unit in before if before[unit] != after[unit]}
        assert differ <= found.units, (number, kind)
    assert tried > 30


@pytest.mark.parametrize("seed", range(12))
def test_a_mutation_is_a_change_and_the_same_again(seed: int) -> None:
    first, again = (mutate(HEADER, random.Random(seed)) for _ in range(2))
    assert first is not None
    assert first == again
    assert first[1] != HEADER
