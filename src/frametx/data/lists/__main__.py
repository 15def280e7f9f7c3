"""Command line: `python -m frametx.data.lists development output=my_list.json [seed=0]`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from frametx.data.lists import write_list
from frametx.data.lists.drawing import draw_list

USAGE = """\
usage: python -m frametx.data.lists benchmark|development output=FILE [root=FOLDER] [seed=NUMBER]

Draw a list of mixtures from what `make data` has built, to be read by
`python -m frametx.evaluate data=benchmark data.test.mixtures=FILE`. The same files and the same
seed give the same list; the lists that ship were drawn with seed 0.

  benchmark      60 mixtures of the validation split
  development    24 mixtures of the development split
  output=FILE    where the list is written; an older file is replaced
  root=FOLDER    what `make data` has built (data/corpora)
  seed=NUMBER    another seed draws other mixtures (0)
"""
EXIT_REFUSED = 2


@dataclass(frozen=True)
class Plan:
    """From which split, and how many of each kind."""

    split: str
    per_kind: int


PLANS = {"benchmark": Plan("validation", 20), "development": Plan("development", 8)}


def main(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit status."""
    if {"-h", "--help", "help"} & set(arguments):
        sys.stdout.write(USAGE)
        return 0
    try:
        name, values = parse(arguments)
        plan = PLANS[name]
        drawn = draw_list(
            Path(values["root"]).expanduser(),
            split=plan.split,
            per_kind=plan.per_kind,
            seed=int(values["seed"]),
            about=f"{name}: {3 * plan.per_kind} mixtures of the {plan.split} split of make data",
        )
        output = Path(values["output"]).expanduser()
        output.parent.mkdir(parents=True, exist_ok=True)
        write_list(drawn, output)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_REFUSED
    print(f"written: {output}, {len(drawn.mixtures)} mixtures of {len(drawn.files)} files")
    return 0


def parse(arguments: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The name of a list, and `key=value` arguments.

    Raises:
        ValueError: if one is unknown, wrong or missing.
    """
    names = [argument for argument in arguments if argument in PLANS]
    values = {"output": "", "root": "data/corpora", "seed": "0"}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and key in values and value:
            values[key] = value
        elif argument not in PLANS:
            raise ValueError(
                f"{argument}: not understood; give benchmark or development, and output=, root= or "
                "seed= with a value"
            )
    if len(names) != 1 or not values["output"]:
        raise ValueError("give benchmark or development, and output=FILE")
    if not values["seed"].isdecimal():
        raise ValueError(f"seed={values['seed']} must be a whole number, 0 or more")
    return names[0], values


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
