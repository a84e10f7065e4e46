"""A method that is exported has a row in this suite and a line in the page that helps to choose."""

from pathlib import Path

import pytest
from tests.reference.attackers import attackers

from gatewise import combinators, methods
from gatewise.methods import Method

from .cases import METHODS

EXPORTED = [
    kind
    for room in (methods, combinators)
    for kind in (getattr(room, name) for name in room.__all__)
    if isinstance(kind, type) and issubclass(kind, Method) and kind is not Method
]
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("kind", EXPORTED, ids=lambda kind: kind.__name__)
def test_every_exported_method_has_a_row_in_the_suite(kind):
    assert any(type(row.method) is kind for row in METHODS.values())


@pytest.mark.parametrize("kind", EXPORTED, ids=lambda kind: kind.__name__)
def test_every_exported_method_has_a_line_in_how_to_choose(kind):
    assert f"`{kind.name}`" in (ROOT / "docs" / "how-to-choose.md").read_text()


@pytest.mark.parametrize("kind", EXPORTED, ids=lambda kind: kind.__name__)
def test_every_exported_method_is_held_to_exact_answers(kind):
    assert kind.name in attackers(1.0)


def test_names_are_unique():
    names = [kind.name for kind in EXPORTED]
    assert len(set(names)) == len(names)
