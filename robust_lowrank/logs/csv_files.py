"""A CSV file has a row an example, with its name and whether it is right."""

import csv
from collections.abc import Iterator
from pathlib import Path

from robust_lowrank.errors import UserError, brief, first_line, shown
from robust_lowrank.logs.scores import CORRECT, METRICS, Row
from robust_lowrank.logs.texts import lines

EXAMPLE = ("example", "id")  # what the column of names is called
REPEAT = ("seed", "run", "epoch", "repeat")
DELIMITERS = (",", ";", "\t")


def rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a CSV file with columns `example` (or `id`) and `correct`; any other column of numbers is a metric too.

    A column `seed`, `run`, `epoch` or `repeat` tells repetitions apart. Commas, semicolons or tabs stand between the columns.

    Raises:
        UserError: it is no such file.
    """
    where = shown(path)
    texts = lines(path)
    _, first = next(texts, (1, ""))
    delimiter = max(DELIMITERS, key=first.count)
    try:
        titles = [title.strip() for title in next(csv.reader([first], delimiter=delimiter, strict=True), [])]
        known = [title.lower() for title in titles]
        places = [known.index(name) for name in EXAMPLE if name in known]
        if not places or len(titles) > METRICS or len(set(known)) < len(known) or len(titles) < 2:
            raise UserError(
                f"{where} is none of the logs that are known, and no CSV file with the columns example (or id) and correct, each "
                f"once: its first line is {brief(first.strip())}"
            )
        repeat = next((known.index(name) for name in REPEAT if name in known), None)
        metrics = {place: CORRECT if known[place] == CORRECT else titles[place] for place in range(len(titles))}
        metrics = {place: name for place, name in metrics.items() if place not in (places[0], repeat)}
        reader = csv.reader((text for _, text in texts), delimiter=delimiter, strict=True)
        for cells in reader:
            if len(cells) != len(titles):
                raise UserError(
                    f"{where}: the row of {brief(cells[0])} has {len(cells):,} cells, and the first line {len(titles)} titles: "
                    "quote texts that hold what separates cells"
                )
            scores = {name: cells[place].strip() for place, name in metrics.items()}
            yield Row(cells[places[0]].strip(), scores, "" if repeat is None else cells[repeat].strip())
    except csv.Error as error:
        raise UserError(f"{where} is no CSV file: {first_line(error)}") from error
