"""The command line: a dict from name to application, and flags built from its `Config`. No logic lives here."""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from rich.console import Console
from rich.table import Table

from gatewise.applications import (
    action_refinement,
    adversarial_training,
    classifier_attack,
    dynamics,
    inversion,
    landscape,
    nearest_points,
    policy_attack,
)
from gatewise.catalogue import lines, settings
from gatewise.errors import GatewiseError

APPLICATIONS: dict[str, tuple[type[Any], Callable[[Any], object], str]] = {
    "attack": (classifier_attack.Config, classifier_attack.run, "attack a classifier in a ball around each image"),
    "dynamics": (dynamics.Config, dynamics.run, "follow projected gradient in an l2 ball, and find where it can end"),
    "landscape": (landscape.Config, landscape.run, "draw linear regions, objective and ways of methods in a plane"),
    "invert": (inversion.Config, inversion.run, "find inputs whose output, features or class match a target"),
    "attack-policy": (policy_attack.Config, policy_attack.run, "attack a policy while it plays"),
    "nearest": (nearest_points.Config, nearest_points.run, "find the nearest point of another class to each image"),
    "refine": (action_refinement.Config, action_refinement.run, "train an agent plain and with refined actions"),
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
    listing = commands.add_parser("methods", help="list the methods, or the settings of one")
    listing.add_argument("name", nargs="?", metavar="NAME", help="a method, to see its settings and presets")
    usual = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"gatewise: {message}\n"
    try:
        given = vars(parser.parse_args(_joined(sys.argv[1:] if arguments is None else arguments)))
        command = given.pop("command")
        if command == "methods":
            _list_methods(given["name"])
        else:
            config, run, _ = APPLICATIONS[command]
            run(config(**given))
    except GatewiseError as error:
        print(f"gatewise: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    finally:
        warnings.formatwarning = usual
    return 0


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, as everything else here does."""

    def error(self, message: str) -> NoReturn:
        raise GatewiseError(f"{message}; see {self.prog} --help")


def _add_flags(parser: argparse.ArgumentParser, config: type[Any]) -> None:
    for field in sorted(dataclasses.fields(config), key=lambda field: field.default is not dataclasses.MISSING):
        says = field.metadata
        name = field.name.rstrip("_")  # class_, whose flag is --class
        options: dict[str, Any] = {
            "dest": field.name,
            "help": says["help"] + _default_in_words(field),
            "required": field.default is dataclasses.MISSING,
            "default": argparse.SUPPRESS,
        }
        if field.default is False:
            options["action"] = "store_true"
        else:
            options |= {"type": _typed(says.get("parse", str)), "action": "append" if says.get("repeat") else "store"}
            options |= {"choices": says["choices"]} if "choices" in says else {"metavar": name.upper()}
        parser.add_argument(f"--{name.replace('_', '-')}", **options)


def _default_in_words(field: dataclasses.Field[Any]) -> str:
    """What the help adds, where there is a default worth telling that the text does not tell itself."""
    default = field.default
    if default is dataclasses.MISSING or default in (None, False) or "default" in field.metadata["help"]:
        return ""
    return f" (default {','.join(map(str, default)) if isinstance(default, tuple) else default})"


def _joined(arguments: Sequence[str]) -> list[str]:
    """The arguments with a value that begins with a minus joined to its flag: `--bounds -1,1` is no two flags."""
    joined: list[str] = []
    for entry in arguments:
        if joined and joined[-1].startswith("--") and "=" not in joined[-1] and re.match(r"-\.?\d", entry):
            joined[-1] += f"={entry}"
        else:
            joined.append(entry)
    return joined


def _typed(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        try:
            return parse(text)
        except (ValueError, ZeroDivisionError):
            raise argparse.ArgumentTypeError(f"{text!r} cannot be read as its value") from None

    return convert


def _list_methods(name: str | None) -> None:
    table = Table(box=None, show_header=False)
    if name is None:
        for method, line in lines().items():
            table.add_row(method, line)
    else:
        for setting, default, line in settings(name):
            table.add_row(setting, default, line)
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
