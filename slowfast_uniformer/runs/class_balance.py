"""class_balance.csv of a run: training videos of each class, how often an epoch draws them, weight in the loss."""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from slowfast_uniformer.errors import UserError
from slowfast_uniformer.paths import atomic_write
from slowfast_uniformer.runs.files import read_text

FILE = "class_balance.csv"
SHOWN = 20  # classes that the log and the report have: the rarest and the most frequent


class ClassBalance(NamedTuple):
    """A class in training.

    Attributes:
        label: its number.
        name: its name, or its number where names are not known.
        videos: of the train list.
        draws: how often an epoch draws a video that has the label, in the mean over epochs.
        weight: in the loss; 1 without SOLVER.CLASS_WEIGHTS.
    """

    label: int
    name: str
    videos: int
    draws: float
    weight: float


def write_class_balance(output_dir: str, rows: Sequence[ClassBalance]) -> None:
    """Write the file. Raises OSError."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(ClassBalance._fields)
    writer.writerows([*row[:3], f"{row.draws:.2f}", f"{row.weight:.4g}"] for row in rows)
    atomic_write(os.path.join(output_dir, FILE), text.getvalue())


def remove_class_balance(output_dir: str) -> None:
    """Remove the file, if there is one."""
    with suppress(OSError):
        os.remove(os.path.join(output_dir, FILE))


def read_class_balance(output_dir: str) -> list[ClassBalance]:
    """The rows of a run's file, in label order; none where the run treats all classes alike.

    Raises:
        UserError: naming file and line of what is damaged.
    """
    path = os.path.join(output_dir, FILE)
    if not os.path.isfile(path):
        return []
    reader = csv.reader(io.StringIO(read_text(path), newline=""))
    found = []
    try:
        if tuple(next(reader, ())) != ClassBalance._fields:
            raise ValueError(f"expected the columns {', '.join(ClassBalance._fields)}")
        for label, name, videos, draws, weight in reader:
            found.append(ClassBalance(int(label), name, int(videos), float(draws), float(weight)))
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}. Remove the file") from None
    return found


def shown(rows: Sequence[ClassBalance]) -> tuple[list[ClassBalance], int]:
    """The classes to show, those of fewest videos first, and how many others there are: of many classes the rarest
    and the most frequent, as many of each."""
    ranked = sorted(rows, key=lambda row: (row.videos, row.label))
    if len(ranked) <= SHOWN:
        return ranked, 0
    return ranked[: SHOWN // 2] + ranked[-(SHOWN // 2) :], len(ranked) - SHOWN


def table_lines(rows: Sequence[ClassBalance]) -> Iterator[str]:
    """Lines for the log: a head, and a line for each class that is shown."""
    chosen, others = shown(rows)
    yield f"{'videos':>8} {'draws':>9} {'weight':>7}  class"
    for number, row in enumerate(chosen):
        if others and number == SHOWN // 2:
            yield f"{'...':>8} {others:,} more in {FILE}"
        yield f"{row.videos:>8,} {row.draws:>9,.1f} {row.weight:>7.3g}  {row.name}"
