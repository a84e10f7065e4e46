import logging
import zipfile

import pytest
import torch
from torch import nn
from torch.export import Dim

from gatewise.errors import InvalidInput
from gatewise.network import Fixed, require_piecewise_linear, view
from gatewise.readers import read_exported


def small_network():
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Dropout()
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 3)).eval()


def saved(path, module, rows=4, batch=None, shape=(1, 8, 8)):
    shapes = None if batch is None else ({0: batch},)
    program = torch.export.export(module, (torch.rand(rows, *shape),), dynamic_shapes=shapes)
    torch.export.save(program, path)
    return path


@pytest.mark.parametrize("batch", [Dim("n"), Dim.AUTO], ids=["named", "auto"])
def test_a_dynamic_batch_takes_any_rows(tmp_path, batch):
    module = small_network()
    network = read_exported(saved(tmp_path / "network.pt2", module, batch=batch))
    assert network.rows_per_run is None
    assert network.input_shape == (1, 8, 8)
    for rows in (1, 2, 7):
        x = torch.rand(rows, 1, 8, 8)
        torch.testing.assert_close(network(x), module(x))


@pytest.mark.parametrize("rows", [1, 4])
def test_a_fixed_batch_is_told(tmp_path, rows):
    module = small_network()
    network = read_exported(saved(tmp_path / "network.pt2", module, rows))
    assert network.rows_per_run == rows
    x = torch.rand(6, 1, 8, 8)
    torch.testing.assert_close(network(x[:rows]), module(x[:rows]))
    torch.testing.assert_close(view(network)(x), module(x))  # the view runs it in pieces


@pytest.mark.parametrize(("batch", "rows_per_run"), [(Dim("n", max=16), 16), (Dim("n", min=4), 4)])
def test_a_batch_with_bounds_is_run_within_them(tmp_path, batch, rows_per_run):
    module = small_network()
    network = read_exported(saved(tmp_path / "network.pt2", module, batch=batch))
    assert network.rows_per_run == rows_per_run
    x = torch.rand(18, 1, 8, 8)
    torch.testing.assert_close(view(network)(x), module(x))


def test_it_counts_as_in_evaluation_mode(tmp_path):
    network = read_exported(saved(tmp_path / "network.pt2", small_network()))
    assert not network.training
    assert network.train() is network
    assert network.eval() is network
    assert not any(part.training for part in network.modules())


def test_its_gates_are_met(tmp_path):
    network = read_exported(saved(tmp_path / "network.pt2", small_network(), batch=Dim("n")))
    x = torch.rand(5, 1, 8, 8)
    trace = view(network).trace(x)
    assert [gate.pool is None for gate in trace.gates] == [True, False]
    require_piecewise_linear(view(network), x)
    torch.testing.assert_close(view(network).trace(x, Fixed(trace.pattern())).output, trace.output)


def test_rows_are_flattened_for_a_vector_network(tmp_path):
    module = nn.Linear(64, 3).eval()
    network = read_exported(saved(tmp_path / "network.pt2", module, batch=Dim("n"), shape=(64,)))
    x = torch.rand(5, 1, 8, 8)
    torch.testing.assert_close(network(x), module(x.flatten(1)))
    with pytest.raises(InvalidInput, match=r"shape \(N, 64\), got \(5, 1, 8, 9\)"):
        network(torch.rand(5, 1, 8, 9))


def test_programs_in_training_mode_are_refused(tmp_path):
    with pytest.raises(InvalidInput, match=r"exported in training mode .* export module\.eval\(\)"):
        read_exported(saved(tmp_path / "network.pt2", small_network().train()))


class TwoOutputs(nn.Module):
    def forward(self, x):
        return x, x + 1


class Total(nn.Module):
    def forward(self, x):
        return x.sum()


class TwoInputs(nn.Module):
    def forward(self, x, y):
        return x + y


@pytest.mark.parametrize("module", [TwoOutputs(), Total()])
def test_programs_that_give_no_rows_are_refused(tmp_path, module):
    with pytest.raises(InvalidInput, match="must return one tensor with one row for each row"):
        read_exported(saved(tmp_path / "network.pt2", module))


def test_programs_with_two_inputs_are_refused(tmp_path):
    program = torch.export.export(TwoInputs(), (torch.rand(2, 3), torch.rand(2, 3)))
    torch.export.save(program, tmp_path / "network.pt2")
    with pytest.raises(InvalidInput, match="takes 2 inputs"):
        read_exported(tmp_path / "network.pt2")


def test_whole_numbers_are_refused(tmp_path):
    program = torch.export.export(nn.Embedding(4, 2), (torch.zeros(2, 3, dtype=torch.int64),))
    torch.export.save(program, tmp_path / "network.pt2")
    with pytest.raises(InvalidInput, match="floating-point tensor with a batch axis"):
        read_exported(tmp_path / "network.pt2")


def broken_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/b", "c")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-200]),
        lambda path: path.write_bytes(path.read_bytes()[:1000]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("a network, once"),
        lambda path: torch.save({"a": torch.ones(2)}, path),
        broken_zip,
    ],
)
def test_broken_files_are_one_quiet_sentence(tmp_path, spoil, caplog, capfd):
    path = saved(tmp_path / "network.pt2", small_network())
    spoil(path)
    with caplog.at_level(logging.DEBUG), pytest.raises(InvalidInput, match="is truncated, or not one that torch"):
        read_exported(path)
    assert capfd.readouterr().err == ""
    assert not logging.getLogger("torch.export").disabled


def test_missing_files(tmp_path):
    with pytest.raises(InvalidInput, match=r"exported program .*no\.pt2 does not exist"):
        read_exported(tmp_path / "no.pt2")
