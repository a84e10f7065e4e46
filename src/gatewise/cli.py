"""The command line: a dict from name to application, and flags built from its `Config`. No logic lives here."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from rich.console import Console
from rich.table import Table

from gatewise.applications import adversarial_training, classifier_attack
from gatewise.catalogue import METHODS, summary
from gatewise.errors import GatewiseError

APPLICATIONS: dict[str, tuple[type[Any], Callable[[Any], object], str]] = {
    "attack": (classifier_attack.Config, classifier_attack.run, "attack a classifier in a ball around each image"),
    "train": (adversarial_training.Config, adversarial_training.run, "train a classifier, normally or adversarially"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0, or 2 for input that cannot be used, with one sentence on standard
    error.
    """
    parser = _Parser(prog="gatewise", description="Input optimisation of piecewise-linear networks.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    for name, (config, _, help_text) in APPLICATIONS.items():
        _add_flags(commands.add_parser(name, help=help_text, description=help_text), config)
    commands.add_parser("methods", help="list the methods")
    try:
        given = vars(parser.parse_args(arguments))
        command = given.pop("command")
        if command == "methods":
            _list_methods()
        else:
            config, run, _ = APPLICATIONS[command]
            run(config(**{key: value for key, value in given.items() if value is not None}))
    except GatewiseError as error:
        print(f"gatewise: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, as everything else here does."""

    def error(self, message: str) -> NoReturn:
        raise GatewiseError(f"{message}; see {self.prog} --help")


def _add_flags(parser: argparse.ArgumentParser, config: type[Any]) -> None:
    for field in dataclasses.fields(config):
        says = field.metadata
        options: dict[str, Any] = {
            "help": says["help"],
            "required": field.default is dataclasses.MISSING,
            "default": None,
        }
        if field.default is False:
            options["action"] = "store_true"
        else:
            options |= {
                "type": _typed(says.get("parse", str)),
                "choices": says.get("choices"),
                "metavar": field.name.upper(),
            }
            options["action"] = "append" if says.get("repeat") else "store"
        parser.add_argument(f"--{field.name.replace('_', '-')}", **options)


def _typed(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        try:
            return parse(text)
        except (ValueError, ZeroDivisionError):
            raise argparse.ArgumentTypeError(f"{text!r} cannot be read as its value") from None

    return convert


def _list_methods() -> None:
    table = Table(box=None, show_header=False)
    for name, kind in sorted(METHODS.items()):
        table.add_row(name, summary(kind))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
