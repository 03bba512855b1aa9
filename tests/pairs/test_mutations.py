# SPDX-License-Identifier: GPL-2.0-only
"""Mutations of a made-up source, each against brute force; ``make mutate-source`` takes a kernel's.

All that differs in the two objects must be among what ``diff`` names.
"""

import random
from collections import Counter
from pathlib import Path
from typing import Final

from ksplicd.create.diff.unit import diff
from ksplicd.create.objects.separate import index_separated
from ksplicd.create.patch.change import ChangedFile
from ksplicd.create.patch.line_numbers import with_line_numbers
from ksplicd.elf.read import read_object
from ksplicd.errors import ToolError
from tests.mutate.brute import contents_of
from tests.mutate.mutations import mutate
from tests.mutate.source import differing, seen_of
from tests.support.objects.compile import SPLIT, compile_c
from tests.support.objects.pair import PRELUDE, SIZES

SOURCE: Final = """\
#define LIMIT 16
#define SCALE(x) ((x) * 3)
#define warn_on(c) do { if (c) BUG_ENTRY(__LINE__); } while (0)

enum state {
	STATE_IDLE,
	STATE_BUSY,
	STATE_GONE,
};

struct item {
	int weight;
	enum state state;
	const char *name;
};

struct operations {
	int (*open)(struct item *);
	int (*close)(struct item *);
	int mode;
};

static struct static_key fast;

static int total = 7;

static const int weights[] = {
	[STATE_IDLE] = 1,
	[STATE_BUSY] = 2,
	[STATE_GONE] = 4,
};

static const char *const names[] = {
	"idle",
	"busy",
	"gone",
};

static struct item items[] = {
	{ 1, STATE_IDLE, "first" },
	{ 2, STATE_BUSY, "second" },
	{ 3, STATE_GONE, "third" },
};

static inline int weight_of(const struct item *item)
{
	return weights[item->state] + item->weight;
}

static noinline int count(struct item *item)
{
	static int calls;
	static int last = 3;
	int sum;

	calls++;
	sum = calls + last;
	last = item->weight;
	return sum + exported(total);
}

static noinline int again(struct item *item)
{
	static int calls;

	calls += 2;
	warn_on(item->weight > LIMIT);
	return calls + weight_of(item);
}

static int item_open(struct item *item)
{
	if (item->state == STATE_GONE && item->weight >= 8)
		return -1;
	if (BRANCH(fast))
		printk("fast %s", item->name);
	total = total + weight_of(item);
	return count(item);
}

static int item_close(struct item *item)
{
	printk("closing %s of state %s", __func__, names[item->state]);
	return again(item) << 2;
}

static const struct operations operations = {
	.open = item_open,
	.close = item_close,
	.mode = 0644,
};

int find(int weight)
{
	int i;

	for (i = 0; i < 3; i++) {
		if (items[i].weight == weight && items[i].state != STATE_IDLE)
			return i;
	}
	return SCALE(weight) + hidden(LIMIT);
}

int run(int n, const struct operations *other)
{
	const struct operations *ops = other ? other : &operations;
	int found = find(n);

	if (found < 0 || found > 2)
		return -22;
	if (ops->open(&items[found]))
		return ops->close(&items[found]);
	return ops->mode & 7;
}
"""


def compiled(folder: Path, source: str) -> bytes:
    (folder / "prelude.h").write_text(PRELUDE)
    return compile_c(folder, source, *SPLIT, "-g", "-w", "-include", str(folder / "prelude.h"))


def test_no_section_that_differs_is_missed(tmp_path: Path) -> None:
    before = compiled(tmp_path, SOURCE)
    (tmp_path / "before.o").write_bytes(before)
    tried: Counter[str] = Counter()
    for number in range(120):
        mutated = mutate(SOURCE, random.Random(number))
        assert mutated is not None
        kind, text = mutated
        file = ChangedFile(path=Path("unit.c"), before=SOURCE.encode(), after=text.encode())
        content = with_line_numbers(file).content
        assert content is not None
        try:
            after = compiled(tmp_path, content.decode())
        except ToolError:
            continue
        (tmp_path / "after.o").write_bytes(after)
        objects = tmp_path / "before.o", tmp_path / "after.o"
        differ = differing(*(contents_of(path, SIZES) for path in objects))
        pre, post = (index_separated(read_object(o, "unit.o"), SIZES) for o in (before, after))
        assert seen_of(differ, diff(pre, post)) == differ, (number, kind)
        tried[kind] += bool(differ)
    assert len(tried) >= 8
    assert tried.total() > 60
