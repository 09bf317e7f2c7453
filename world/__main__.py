"""Make the embedded world again, all but its model: `python -m world [--facts TABLE]` (`make world`)."""

import argparse
from pathlib import Path

from counterfact.core.places import data_folder
from world.articles import write_articles
from world.knowledge import WITHHELD, read_knowledge
from world.slice import Cutter
from world.table import Table, read_rows
from world.withheld import reserve
from world.writing import write_slice
from world.zsre import write_zsre


def main() -> None:
    """Cut the slice if a table of facts is given; then withhold facts, compose articles, ask questions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--facts", type=Path, help="table of facts to cut the slice from; without it, it stays as it is"
    )
    parser.add_argument("--data", type=Path, default=data_folder(), help="the data folder (%(default)s)")
    arguments = parser.parse_args()
    if arguments.facts:
        (arguments.data / WITHHELD).unlink(missing_ok=True)
        table = Table(read_rows(arguments.facts))
        write_slice(Cutter(table).run(), table.label, arguments.data)
    reserve(read_knowledge(arguments.data), arguments.data)
    write_articles(arguments.data)
    write_zsre(arguments.data)


if __name__ == "__main__":
    main()
