import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from gatewise.errors import InvalidInput
from gatewise.readers import read_weights

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.zeros(2)}


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ("it-ran",)


@pytest.mark.parametrize("name", ["state.pt", "state.pth", "state.safetensors", "STATE.PT"])
def test_reads_what_was_saved(tmp_path, name):
    (save_file if name.endswith("safetensors") else torch.save)(STATE, tmp_path / name)
    read = read_weights(tmp_path / name)
    assert read.keys() == STATE.keys()
    assert all(torch.equal(read[key], STATE[key]) for key in STATE)


def test_parameters_come_back_as_plain_tensors(tmp_path):
    torch.save(torch.nn.Linear(2, 3).state_dict(keep_vars=True), tmp_path / "state.pt")
    assert not any(tensor.requires_grad for tensor in read_weights(tmp_path / "state.pt").values())


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_code_in_a_pickle_is_refused_and_does_not_run(tmp_path, monkeypatch, save):
    monkeypatch.chdir(tmp_path)
    save({"a": RunsCode()}, tmp_path / "state.pt")
    with pytest.raises(InvalidInput, match=r"could run code and are not read; save the state dict alone"):
        read_weights("state.pt")
    assert not (tmp_path / "it-ran").exists()


def test_a_whole_module_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(InvalidInput, match="Python objects besides tensors"):
        read_weights(tmp_path / "module.pt")


@pytest.mark.parametrize("name", ["state.pt", "old.pt", "state.safetensors"])
@pytest.mark.parametrize("kept", [0.9, 0.5, 0.05, 0.0])
def test_truncated_files(tmp_path, name, kept):
    path = tmp_path / name
    state = {"a": torch.rand(300)}
    if name == "old.pt":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    else:
        (save_file if name.endswith("safetensors") else torch.save)(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(InvalidInput, match="truncated"):
        read_weights(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            {"state_dict": STATE, "epoch": 3},
            r"holds a dictionary at 'state_dict'; .* torch.save\(checkpoint\['state_dict'\]",
        ),
        ({"a": STATE["a.bias"], "epoch": 3}, "holds a int at 'epoch'"),
        ({3: STATE["a.bias"]}, "holds a Tensor at 3"),
        ([STATE["a.bias"]], "holds a list, not a state dict"),
        (STATE["a.bias"], "holds a Tensor, not a state dict"),
        ({}, "holds nothing"),
    ],
)
def test_anything_but_a_flat_state_dict_says_how_to_save_one(tmp_path, content, said):
    torch.save(content, tmp_path / "state.pt")
    with pytest.raises(InvalidInput, match=said):
        read_weights(tmp_path / "state.pt")


def test_missing_folders_and_other_extensions(tmp_path):
    with pytest.raises(InvalidInput, match=r"weights file .*no\.pt does not exist"):
        read_weights(tmp_path / "no.pt")
    with pytest.raises(InvalidInput, match="is a folder"):
        read_weights(tmp_path)
    (tmp_path / "state.bin").write_bytes(b"")
    with pytest.raises(InvalidInput, match=r"must end in \.pt, \.pth or \.safetensors"):
        read_weights(tmp_path / "state.bin")
    (tmp_path / "text.pt").write_text("hello world")
    with pytest.raises(InvalidInput, match="not a PyTorch file"):
        read_weights(tmp_path / "text.pt")
