"""From a name to a method: what the command line understands."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import itertools
import re
import textwrap
import types
import typing
from fractions import Fraction
from typing import Any, Literal

from gatewise import combinators, methods
from gatewise.errors import InvalidInput
from gatewise.methods.base import Method

METHODS: dict[str, type[Method]] = {
    kind.name: kind
    for room in (methods, combinators)
    for kind in vars(room).values()
    if isinstance(kind, type) and issubclass(kind, Method) and kind is not Method
}
"""Every method and combinator by its command-line name."""

ALIASES = {"fgsm": "pgd:preset=fgsm"}
"""Names that the field uses for a setting of another method."""


def method_named(text: str) -> Method:
    """The method that `NAME[:key=value,…]` describes, such as `pgd`, `adr-gd:preset=mnist,slope=200`,
    `restarts:member=apgd`, `restarts:member=(pgd:step_size=0.5,schedule=constant),times=3`.

    Raises:
        InvalidInput: an unknown name (the nearest one is suggested), an unknown setting, or a value of the wrong kind.
    """
    name, _, said = text.partition(":")
    if name in ALIASES:
        return method_named(ALIASES[name] + ("," + said if said else ""))
    kind = _kind(name)
    given = {key.strip().replace("-", "_"): value.strip() for key, _, value in _entries(said)}
    preset = given.pop("preset", None)
    values = {key: _value(kind, key, value) for key, value in given.items()}
    try:
        return kind(**values) if preset is None else kind.preset(preset, **values)
    except TypeError:
        missing = [f.name for f in dataclasses.fields(kind) if _required(f) and f.name not in values]
        raise InvalidInput(f"{name} needs {', '.join(missing)}; say {name}:{missing[0]}=….") from None


def _entries(said: str) -> list[tuple[str, str, str]]:
    """The settings, each as `str.partition` gives it. A comma may stand inside a value (gates=0,2) or in brackets: only
    one before the next key, outside brackets, separates.
    """
    commas = [found.start() for found in re.finditer(r",(?=\s*[\w-]+\s*=)", said)]
    cuts = [-1, *(at for at in commas if said.count("(", 0, at) == said.count(")", 0, at)), len(said)]
    return [said[first + 1 : last].partition("=") for first, last in itertools.pairwise(cuts)] if said else []


def lines() -> dict[str, str]:
    """Every name that `method_named` knows, with one line each."""
    told = {name: (kind.__doc__ or "").strip().splitlines()[0] for name, kind in METHODS.items()}
    return dict(sorted((told | {name: f"Short for {text}." for name, text in ALIASES.items()}).items()))


def settings(name: str) -> list[tuple[str, str, str]]:
    """A method's settings: name, default, and what it is; and last its presets.

    Raises:
        InvalidInput: there is no such method.
    """
    kind = _kind(ALIASES.get(name, name).partition(":")[0])
    says = _attribute_docstrings(kind)
    told = [
        (field.name, "needed" if _required(field) else str(field.default), says.get(field.name, ""))
        for field in dataclasses.fields(kind)
    ]
    return told + ([("preset", "", "one of " + ", ".join(kind.presets))] if kind.presets else [])


def _kind(name: str) -> type[Method]:
    if name not in METHODS:
        raise InvalidInput(f"There is no method {name!r}{_nearest(name, [*METHODS, *ALIASES])}")
    return METHODS[name]


def _attribute_docstrings(kind: type[Method]) -> dict[str, str]:
    """The string under each setting: Python keeps none, so they are read from the source."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    return {
        entry.target.id: " ".join(str(text.value.value).split())
        for entry, text in itertools.pairwise(body.body)
        if isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _nearest(name: str, names: list[str]) -> str:
    found = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    return f"; did you mean {found[0]!r}?" if found else f"; there are {', '.join(names)}."


def _value(kind: type[Method], key: str, text: str) -> object:
    hints = typing.get_type_hints(kind)
    keys = [field.name for field in dataclasses.fields(kind)]
    if key not in keys:
        raise InvalidInput(f"{kind.name} has no setting {key!r}{_nearest(key, keys)}")
    try:
        return _convert(hints[key], text)
    except (ValueError, ZeroDivisionError):
        raise InvalidInput(f"{kind.name}: {key}={text!r} is not {_in_words(hints[key])}.") from None


def _convert(wanted: Any, text: str) -> object:
    if typing.get_origin(wanted) in (types.UnionType, typing.Union):
        if text.lower() == "none":
            return None
        (wanted,) = (option for option in typing.get_args(wanted) if option is not types.NoneType)
    if typing.get_origin(wanted) is Literal:
        if text not in typing.get_args(wanted):
            raise ValueError
        return text
    if wanted is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError
        return text.lower() == "true"
    if wanted is float:
        return float(Fraction(text)) if "/" in text else float(text)
    if wanted is Method:
        return method_named(text[1:-1] if text.startswith("(") and text.endswith(")") else text)
    return wanted(text)


def _in_words(wanted: Any) -> str:
    options = [option for option in typing.get_args(wanted) if option is not types.NoneType] or [wanted]
    names = {bool: "true or false", int: "a whole number", float: "a number"}
    return " or ".join(names.get(option, str(option)) for option in options)
