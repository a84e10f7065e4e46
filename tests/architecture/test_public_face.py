"""What the package shows: its public names, its docstrings, and that it opens without the optional packages."""

import importlib
import inspect
import pkgutil
import subprocess
import sys
import types

import pytest

import gatewise

ROOMS = ["methods", "domains", "objectives", "network", "combinators"]


def _modules(room):
    package = importlib.import_module(f"gatewise.{room}")
    names = [name for _, name, _ in pkgutil.iter_modules(package.__path__, f"gatewise.{room}.")]
    return [package, *map(importlib.import_module, names)]


def _defined(module):
    """Public classes and functions that this module itself defines."""
    return {
        name: thing
        for name, thing in vars(module).items()
        if not name.startswith("_") and inspect.isroutine(thing) | inspect.isclass(thing)
        if thing.__module__ == module.__name__
    }


def test_the_public_face_is_sorted_and_holds_what_is_public():
    public = {
        name
        for name, thing in vars(gatewise).items()
        if not name.startswith("_") and (not isinstance(thing, types.ModuleType) or name in gatewise.__all__)
    }
    assert gatewise.__all__ == sorted(gatewise.__all__)
    assert set(gatewise.__all__) == public


@pytest.mark.parametrize("room", ROOMS)
def test_each_rooms_face_is_sorted_and_holds_what_is_public(room):
    package = importlib.import_module(f"gatewise.{room}")
    public = {
        name
        for name, thing in vars(package).items()
        if not name.startswith("_") and not isinstance(thing, types.ModuleType)
    }
    assert package.__all__ == sorted(package.__all__)
    assert set(package.__all__) == public


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_class_function_and_method_has_a_docstring(room):
    for module in _modules(room):
        assert module.__doc__, module.__name__
        for name, thing in _defined(module).items():
            assert thing.__doc__, f"{module.__name__}.{name}"
            if inspect.isclass(thing):
                own = {n: m for n, m in vars(thing).items() if not n.startswith("_") and inspect.isfunction(m)}
                for method in own:
                    assert inspect.getdoc(getattr(thing, method)), f"{module.__name__}.{name}.{method}"


BLOCKED = ("onnx", "onnxruntime", "matplotlib", "sklearn", "PIL", "scipy", "pandas")
OPEN = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
import gatewise
for name in gatewise.__all__:
    getattr(gatewise, name)
assert not [name for name in sys.modules if name.split(".")[0] in {blocked!r}]
"""


@pytest.mark.parametrize("module", ["gatewise", "gatewise.cli"])
def test_it_opens_without_the_optional_packages(module):
    code = OPEN.format(blocked=BLOCKED).replace("import gatewise\n", f"import gatewise\nimport {module}\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
