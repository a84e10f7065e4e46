import sys
import textwrap

import pytest
import torch
from torch import nn

from gatewise import zoo
from gatewise.errors import InvalidInput
from gatewise.readers import read_model


@pytest.fixture
def module(tmp_path, monkeypatch, request):
    """Writes a module into the current folder under a name of its own, and gives that name."""
    monkeypatch.chdir(tmp_path)
    name = "users_" + "".join(letter if letter.isalnum() else "_" for letter in request.node.name)

    def write(source, folder="."):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"{name}.py").write_text(textwrap.dedent(source))
        return name

    yield write
    sys.modules.pop(name, None)


def test_zoo_with_and_without_weights(tmp_path):
    state = {key: torch.zeros_like(value) for key, value in zoo.build("lenet-5").state_dict().items()}
    torch.save(state, tmp_path / "zeros.pt")
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(read_model("zoo:lenet-5")(x), zoo.build("lenet-5")(x))
    assert not read_model("zoo:lenet-5", str(tmp_path / "zeros.pt"))(x).any()
    with pytest.raises(InvalidInput, match="did you mean 'lenet-5'"):
        read_model("zoo:lenet")


SOURCE = """
    import torch
    def network():
        return torch.nn.Linear(2, 3)
    class Holder:
        network = network
    class Mine(torch.nn.Linear):
        def __init__(self):
            super().__init__(2, 3)
    made = network()
    number = 3
    def wants(more):
        return network()
    def breaks():
        raise RuntimeError("no such\\nfloor.")
    def leaves():
        raise SystemExit(3)
    def gives_a_number():
        return 3
"""


@pytest.mark.parametrize("name", ["network", "Holder.network", "Mine"])
def test_a_callable_of_the_current_folder(module, name):
    before = list(sys.path)
    network = read_model(f"{module(SOURCE)}:{name}")
    assert isinstance(network, nn.Linear)
    assert sys.path == before


def test_its_mode_is_left_alone(module):
    assert read_model(f"{module(SOURCE)}:network").training


def test_a_package_on_the_import_path(module, monkeypatch, tmp_path):
    name = module(SOURCE, folder="elsewhere")
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    assert isinstance(read_model(f"{name}:network"), nn.Linear)


def test_a_callable_may_import_its_neighbours_as_it_runs(module, tmp_path):
    (tmp_path / "users_neighbour.py").write_text("import torch\nnetwork = lambda: torch.nn.Linear(2, 3)\n")
    name = module("def network():\n    import users_neighbour\n    return users_neighbour.network()\n")
    assert isinstance(read_model(f"{name}:network"), nn.Linear)
    del sys.modules["users_neighbour"]


def test_a_callable_with_weights(module, tmp_path):
    torch.save({"weight": torch.ones(3, 2), "bias": torch.zeros(3)}, tmp_path / "ones.pt")
    torch.save({"weight": torch.ones(3, 2)}, tmp_path / "fewer.pt")
    name = module(SOURCE)
    assert read_model(f"{name}:network", "ones.pt")(torch.ones(1, 2)).tolist() == [[2, 2, 2]]
    with pytest.raises(InvalidInput, match=rf"not those of {name}:network: missing bias"):
        read_model(f"{name}:network", "fewer.pt")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing", "has no 'missing'"),
        ("Holder.missing", "has no 'Holder.missing'"),
        ("made", "is a Linear; name a function or class"),
        ("number", "is a int; name a function or class"),
        ("wants", "without arguments failed: TypeError: .*missing 1 required positional argument"),
        ("breaks", r":breaks without arguments failed: RuntimeError: no such floor\.$"),
        ("leaves", "failed: SystemExit: 3"),
        ("gives_a_number", r"must return a torch\.nn\.Module, got int"),
    ],
)
def test_callables_that_give_no_network(module, name, said):
    with pytest.raises(InvalidInput, match=said):
        read_model(f"{module(SOURCE)}:{name}")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import no_such_dependency", "failed: No module named 'no_such_dependency'"),
        ("1 / 0", "failed: ZeroDivisionError: division by zero"),
        ("def broken(:", "failed: SyntaxError"),
        ("import sys; sys.exit()", "failed: SystemExit"),
    ],
)
def test_modules_that_do_not_import(module, source, said):
    with pytest.raises(InvalidInput, match=said):
        read_model(f"{module(source)}:network")


def test_a_module_that_is_not_there():
    with pytest.raises(
        InvalidInput, match="no module 'users_absent' for users_absent:network; put it in the current folder"
    ):
        read_model("users_absent:network")
    with pytest.raises(InvalidInput, match=r"no module 'gatewise\.absent'"):
        read_model("gatewise.absent:network")


@pytest.mark.parametrize("name", ["lenet-5", "", "a b:c", ":network", "module:", "module:a:b"])
def test_names_that_mean_nothing(name):
    with pytest.raises(InvalidInput, match="is not a model; name one as zoo:NAME"):
        read_model(name)


@pytest.mark.parametrize("name", ["net.pt", "net.pth", "net.safetensors"])
def test_weights_given_as_the_model(name):
    with pytest.raises(InvalidInput, match=f"holds weights, not a network; .* --weights {name}"):
        read_model(name)


@pytest.mark.parametrize("name", ["net.onnx", "net.pt2"])
def test_files_bring_their_own_weights(name):
    with pytest.raises(InvalidInput, match="brings its own weights; leave out --weights"):
        read_model(name, "weights.pt")


def test_files_by_their_extension(tmp_path, data_folder):
    program = torch.export.export(nn.Linear(2, 3).eval(), (torch.rand(1, 2),))
    torch.export.save(program, tmp_path / "network.pt2")
    assert read_model(str(tmp_path / "network.pt2")).rows_per_run == 1
    assert read_model(str(data_folder / "vnncomp/mnistfc/mnist-net_256x2.onnx")).input_shape == (784, 1)
