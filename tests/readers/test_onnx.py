"""The ONNX importer beside ONNX Runtime, row by row, at a batch size that the file was not exported with."""

import sys
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from gatewise import zoo
from gatewise.errors import InvalidInput
from gatewise.network import Fixed, require_piecewise_linear, view
from gatewise.readers import read_onnx


def runtime(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options)


def assert_equals_runtime(path, rows=8, tolerance=1e-5, scale=1.0):
    """All rows at once here, one by one (or in the file's own batch) in ONNX Runtime."""
    network = read_onnx(path)
    assert not network.training
    session = runtime(path)
    name, stated = session.get_inputs()[0].name, session.get_inputs()[0].shape[0]
    x = scale * torch.randn(rows, *network.input_shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = network(x)
    pieces = x.split(stated if isinstance(stated, int) else 1)
    theirs = np.concatenate([session.run(None, {name: piece.numpy()})[0] for piece in pieces])
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=tolerance * max(1, np.abs(theirs).max()))
    return network


def exported(tmp_path, module, shape, dynamic=False, opset=17):
    path = tmp_path / "network.onnx"
    axes = {"dynamic_axes": {"x": {0: "n"}, "y": {0: "n"}}} if dynamic else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the TorchScript exporter says that it is the old one
        torch.onnx.export(
            module.eval(), (torch.rand(1, *shape),), path, dynamo=False, opset_version=opset,
            input_names=["x"], output_names=["y"], **axes,
        )  # fmt: skip
    return path


def written(tmp_path, nodes, input_shape, constants=None, opset=17, output="y", kind=TensorProto.FLOAT):
    """A file with nodes written by hand; `constants` by name."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", kind, input_shape)],
        [helper.make_tensor_value_info(output, kind, None)],
        [numpy_helper.from_array(np.asarray(value), key) for key, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    path = tmp_path / "written.onnx"
    onnx.save(model, path)
    return path


def node(operation, inputs, output="y", **attributes):
    return helper.make_node(operation, inputs, [output], **attributes)


def random(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


# Published networks


@pytest.mark.parametrize("name", ["1_1", "1_9", "2_4", "3_3", "4_7", "5_9"])
def test_acas_xu(data_folder, name):
    path = data_folder / f"vnncomp/acasxu/ACASXU_run2a_{name}_batch_2000.onnx"
    assert assert_equals_runtime(path).input_shape == (1, 1, 5)


@pytest.mark.parametrize("layers", [2, 4, 6])
def test_mnistfc(data_folder, layers):
    network = assert_equals_runtime(data_folder / f"vnncomp/mnistfc/mnist-net_256x{layers}.onnx")
    assert network.input_shape == (784, 1)
    images = torch.rand(3, 1, 28, 28)
    assert torch.equal(network(images), network(images.reshape(3, 784, 1)))


# Exported from PyTorch


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.branch = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.LeakyReLU(0.1), nn.Conv2d(8, 8, 1))
        self.head = nn.Linear(24, 5)
        nn.init.normal_(self.bn.running_mean)
        nn.init.uniform_(self.bn.running_var, 0.5, 2)

    def forward(self, x):
        h = F.relu(self.bn(self.stem(x)))
        h = F.relu6(h + self.branch(h))
        h = torch.cat([F.max_pool2d(h, 3, 2, 1), F.avg_pool2d(h, 3, 2, 1), F.adaptive_avg_pool2d(h, 4)], 1)
        return self.head(F.dropout(h.mean((2, 3)), training=self.training))


class SizeInForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(1, 2, 3), nn.Linear(2 * 6 * 6, 4)

    def forward(self, x):
        h = self.conv(x).relu()
        return self.linear(h.view(h.size(0), -1)) * 0.5 - 1


class Odds(nn.Module):
    def __init__(self):
        super().__init__()
        self.prelu = nn.PReLU(4, init=0.3)
        self.conv = nn.Conv2d(1, 4, 3, dilation=2, stride=2)
        self.up = nn.ConvTranspose2d(4, 2, 3, stride=2, padding=1, output_padding=1, groups=2)

    def forward(self, x):
        h = self.prelu(self.conv(F.pad(x, (1, 2, 0, 1), mode="reflect")))
        h = self.up(h).clamp(-0.3, 0.4).abs()
        h = torch.maximum(h, -h.flip(3)) + F.pad(h[:, :, 1:, :-1], (0, 1, 1, 0), value=0.1)
        return torch.softmax(h.transpose(1, 2).flatten(1).unsqueeze(1).squeeze(1), -1)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(
    ("make", "shape", "opset"),
    [(Residual, (3, 8, 8), opset) for opset in (9, 11, 13, 17)]
    + [(SizeInForward, (1, 8, 8), opset) for opset in (9, 11, 13, 17)]
    + [(Odds, (1, 9, 9), opset) for opset in (11, 13, 17)],  # some of it cannot be exported to opset 9
)
def test_exported_networks(tmp_path, make, shape, opset, dynamic):
    torch.manual_seed(0)
    network = assert_equals_runtime(exported(tmp_path, make(), shape, dynamic, opset))
    assert network.input_shape == shape


@pytest.mark.parametrize(
    "name",
    ["adr-mnist-cnn", "cifar10-cnn-a", "cifar10-resnet20", "lenet-5", "vgg-11", "mnist-dcgan", "mnist-vae-decoder"],
)
@pytest.mark.parametrize("dynamic", [False, True])
def test_exported_zoo(tmp_path, name, dynamic):
    module = zoo.build(name)
    path = exported(tmp_path, module, module.input_shape, dynamic)
    network = assert_equals_runtime(path, rows=3)
    x = torch.rand(3, *module.input_shape)
    torch.testing.assert_close(network(x), module(x), rtol=1e-4, atol=1e-4)


def test_gates_are_met_as_in_the_module(tmp_path):
    module = Residual().eval()
    network = read_onnx(exported(tmp_path, module, (3, 8, 8)))
    x = torch.rand(4, 3, 8, 8)
    ours, theirs = view(network).trace(x), view(module).trace(x)
    assert len(ours.gates) == len(theirs.gates)
    assert [gate.pool is None for gate in ours.gates] == [gate.pool is None for gate in theirs.gates]
    require_piecewise_linear(view(network), x)
    held = view(network).trace(x, Fixed(ours.pattern()))
    torch.testing.assert_close(held.output, ours.output)


def test_gradients_and_double(tmp_path):
    module = Residual().eval()
    network = read_onnx(exported(tmp_path, module, (3, 8, 8))).double()
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    (ours,) = torch.autograd.grad(network(x).sum(), x)
    (theirs,) = torch.autograd.grad(module.double()(x).sum(), x)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)  # the exporter folds batch norm in float32


# Written by hand: what exporters other than PyTorch's write


@pytest.mark.parametrize("operation", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_pools_with_uneven_padding(tmp_path, operation, auto_pad, stride):
    pool = node(operation, ["x"], kernel_shape=[4, 3], strides=[stride, stride], auto_pad=auto_pad)
    assert_equals_runtime(written(tmp_path, [pool], [1, 2, 9, 10]))


@pytest.mark.parametrize("include", [0, 1])
@pytest.mark.parametrize("ceil", [0, 1])
@pytest.mark.parametrize("pads", [[0, 1, 1, 2], [1, 1, 1, 1], [2, 2, 2, 2]])
def test_average_pool_counts_padding_as_asked(tmp_path, include, ceil, pads):
    pool = node(
        "AveragePool", ["x"], kernel_shape=[3, 3], strides=[2, 2], pads=pads, ceil_mode=ceil, count_include_pad=include
    )
    assert_equals_runtime(written(tmp_path, [pool], [1, 2, 8, 10], opset=19))


@pytest.mark.parametrize("pads", [[0, 1, 1, 2], [2, 2, 2, 2], [0, 0, 0, 0]])
@pytest.mark.parametrize("ceil", [0, 1])
def test_max_pool_pads_without_infinities(tmp_path, pads, ceil):
    pool = node("MaxPool", ["x"], kernel_shape=[3, 3], strides=[2, 2], pads=pads, ceil_mode=ceil)
    network = assert_equals_runtime(written(tmp_path, [pool], [1, 2, 8, 10]))
    assert torch.isfinite(view(network).trace(torch.rand(2, 2, 8, 10)).preactivations[0]).all()


@pytest.mark.parametrize(("axes", "auto_pad"), [(1, "SAME_UPPER"), (2, "SAME_LOWER"), (3, "NOTSET")])
def test_convolutions_of_every_dimension(tmp_path, axes, auto_pad):
    pads = {"pads": [0] * axes + [1] * axes} if auto_pad == "NOTSET" else {}
    conv = node("Conv", ["x", "w", "b"], strides=[2] * axes, auto_pad=auto_pad, **pads)
    constants = {"w": random(4, 2, *[4] * axes), "b": random(4)}
    assert_equals_runtime(written(tmp_path, [conv], [1, 2, *[9, 8, 7][:axes]], constants))


def test_transposed_convolution_with_uneven_padding(tmp_path):
    up = node("ConvTranspose", ["x", "w"], strides=[2, 2], pads=[0, 1, 1, 0])
    assert_equals_runtime(written(tmp_path, [up], [1, 3, 5, 4], {"w": random(3, 2, 4, 3)}))


@pytest.mark.parametrize(
    ("shape", "input_shape"),
    [([1, -1], [1, 2, 3, 4]), ([0, 6, 4], [1, 2, 3, 4]), ([-1, 24], ["n", 2, 3, 4]), ([4, 3, -1], [4, 2, 3, 4]),
     ([1, 1, 24], [1, 24]), ([0, -1], ["n", 2, 3])],
)  # fmt: skip
def test_reshapes_keep_the_batch(tmp_path, shape, input_shape):
    path = written(tmp_path, [node("Reshape", ["x", "s"])], input_shape, {"s": np.array(shape, dtype=np.int64)})
    assert assert_equals_runtime(path, rows=8)(torch.rand(5, *input_shape[1:])).shape[0] == 5


@pytest.mark.parametrize(("axis", "input_shape"), [(1, [1, 2, 3]), (0, [1, 2, 3]), (2, [1, 1, 6]), (-2, [1, 2, 3])])
def test_flattens_keep_the_batch(tmp_path, axis, input_shape):
    assert_equals_runtime(written(tmp_path, [node("Flatten", ["x"], axis=axis)], input_shape, opset=13))


def test_axes_are_added_and_dropped(tmp_path):
    nodes = [
        node("Unsqueeze", ["x", "front"], "a"),
        node("Squeeze", ["a", "second"], "b"),
        node("Unsqueeze", ["b", "last"], "c"),
        node("Squeeze", ["c", "last"], "y"),
    ]
    axes = {"front": [0], "second": [1], "last": [-1]}
    assert_equals_runtime(written(tmp_path, nodes, [1, 6], {key: np.array(v) for key, v in axes.items()}))


def test_squeeze_without_axes_keeps_an_open_batch(tmp_path):
    network = read_onnx(written(tmp_path, [node("Squeeze", ["x"])], ["n", 4, 1]))
    assert network(torch.rand(1, 4, 1)).shape == (1, 4)


def test_shape_arithmetic_for_a_flatten(tmp_path):
    nodes = [
        node("Shape", ["x"], "shape"),
        node("Gather", ["shape", "zero"], "rows", axis=0),
        node("Unsqueeze", ["rows", "front"], "rows1"),
        node("Concat", ["rows1", "rest"], "target", axis=0),
        node("Reshape", ["x", "target"]),
    ]
    constants = {"zero": np.array(0), "front": np.array([0]), "rest": np.array([-1])}
    for rows in (1, "n"):
        assert_equals_runtime(written(tmp_path, nodes, [rows, 2, 3], constants))


def test_channels_last_networks(tmp_path):
    nodes = [
        node("Transpose", ["x"], "chw", perm=[0, 3, 1, 2]),
        node("Conv", ["chw", "w"], "h"),
        node("Transpose", ["h"], "hwc", perm=[0, 2, 3, 1]),
        node("PRelu", ["hwc", "slope"], "g"),
        node("Reshape", ["g", "flat"], "f"),
        node("MatMul", ["f", "m"], "o"),
        node("Add", ["o", "b"]),
    ]
    constants = {
        "w": random(4, 3, 3, 3), "slope": random(3, 3, 4), "flat": np.array([1, -1]), "m": random(36, 2),
        "b": random(1, 2),
    }  # fmt: skip
    assert_equals_runtime(written(tmp_path, nodes, [1, 5, 5, 3], constants))


@pytest.mark.parametrize("kind", ["scalar", "row", "matrix", "deeper", "data"])
def test_arithmetic_broadcasts_with_the_batch_in_front(tmp_path, kind):
    constant = {
        "scalar": random(),
        "row": random(3),
        "matrix": random(1, 3),
        "deeper": random(1, 4, 3),
        "data": random(1),
    }
    nodes = [node("Unsqueeze", ["x", "one"], "deep"), node("Mul", ["deep", "x"], "p"), node("Sub", ["p", "x"])]
    if kind != "data":
        nodes = [node("Div", ["x", "c"], "a"), node("Sub", ["c", "a"], "b"), node("Sum", ["a", "b", "c"])]
    path = written(tmp_path, nodes, [1, 3], {"c": constant[kind], "one": np.array([1])})
    assert_equals_runtime(path, tolerance=1e-4)


def test_matrix_products_on_both_sides(tmp_path):
    nodes = [node("MatMul", ["w", "x"], "a"), node("MatMul", ["a", "v"], "b"), node("MatMul", ["stack", "b"], "y")]
    constants = {"w": random(4, 3), "v": random(1, 5, 2), "stack": random(1, 6, 4)}
    assert_equals_runtime(written(tmp_path, nodes, [1, 3, 5], constants))


@pytest.mark.parametrize("trans", [0, 1])
def test_gemm_with_factors(tmp_path, trans):
    gemm = node("Gemm", ["x", "w", "c"], transB=trans, alpha=0.5, beta=2.0)
    weight = random(4, 3) if trans else random(3, 4)
    assert_equals_runtime(written(tmp_path, [gemm], [1, 3], {"w": weight, "c": random(1, 4)}))


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("operation", ["Softmax", "LogSoftmax"])
def test_softmax_runs_over_the_axes_of_its_opset(tmp_path, opset, operation):
    assert_equals_runtime(written(tmp_path, [node(operation, ["x"], axis=1)], [1, 3, 4], opset=opset))


def test_reductions(tmp_path):
    nodes = [node("ReduceMean", ["x"], "m", axes=[2, -1], keepdims=0), node("ReduceSum", ["m", "one"], "y")]
    assert_equals_runtime(written(tmp_path, nodes, [1, 3, 4, 5], {"one": np.array([1])}))


def test_expanding(tmp_path):
    nodes = [node("Expand", ["x", "s"], "e"), node("Relu", ["e"])]
    assert_equals_runtime(written(tmp_path, nodes, [1, 3, 1], {"s": np.array([1, 1, 4])}))


def test_constants_made_for_an_open_batch(tmp_path):
    nodes = [
        node("Shape", ["x"], "s"),
        node("ConstantOfShape", ["s"], "z"),
        node("Concat", ["x", "z"], "c", axis=1),
        node("Add", ["z", "x"], "a"),
        node("Concat", ["c", "a"], axis=1),
    ]
    for rows in (1, "n"):
        assert_equals_runtime(written(tmp_path, nodes, [rows, 2, 3]))


def test_slices_and_gathers(tmp_path):
    nodes = [
        node("Slice", ["x", "starts", "ends", "axes", "steps"], "s"),
        node("Gather", ["s", "picked"], "g", axis=1),
        node("Gather", ["g", "last"], "y", axis=-1),
    ]
    constants = {
        "starts": np.array([0, 1, -1]), "ends": np.array([2**62, -1, -(2**62)]), "axes": np.array([0, 2, 3]),
        "steps": np.array([1, 2, -2]), "picked": np.array([[2, -3], [0, 1]]), "last": np.array(-1),
    }  # fmt: skip
    assert_equals_runtime(written(tmp_path, nodes, [1, 3, 6, 5], constants))


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_padding_modes(tmp_path, mode):
    pads = {"pads": np.array([0, 0, 1, 2, 0, 0, 2, 1]), "value": random()}
    assert_equals_runtime(written(tmp_path, [node("Pad", ["x", "pads", "value"], mode=mode)], [1, 2, 4, 5], pads))


def test_constants_joined_to_every_row(tmp_path):
    nodes = [
        node("Constant", [], "c", value=numpy_helper.from_array(random(1, 2))),
        node("ConstantOfShape", ["s"], "z", value=numpy_helper.from_array(np.array([0.5], dtype=np.float32))),
        node("Concat", ["x", "c", "z"], axis=1),
    ]
    assert_equals_runtime(written(tmp_path, nodes, [1, 3], {"s": np.array([1, 4])}))


def test_old_clip_without_an_upper_bound_is_one_gate(tmp_path):
    clip = node("Clip", ["x"], min=0.0, max=float(np.finfo(np.float32).max))
    network = assert_equals_runtime(written(tmp_path, [clip], [1, 4], opset=10))
    assert len(view(network).trace(torch.rand(2, 4)).gates) == 1


def test_float64_networks(tmp_path):
    path = written(tmp_path, [node("MatMul", ["x", "w"])], [1, 3], {"w": np.eye(3)}, kind=TensorProto.DOUBLE)
    assert read_onnx(path)(torch.rand(4, 3, dtype=torch.float64)).dtype == torch.float64


def test_cast_leaves_the_dtype_of_the_rows_to_the_caller(tmp_path):
    path = written(tmp_path, [node("Cast", ["x"], to=TensorProto.FLOAT)], [1, 3])
    assert read_onnx(path).double()(torch.rand(2, 3, dtype=torch.float64)).dtype == torch.float64


# What cannot be run says so


@pytest.mark.parametrize(
    ("nodes", "constants", "said"),
    [
        ([node("Transpose", ["x"], perm=[1, 0, 2])], {}, "moves the batch away from axis 0"),
        ([node("Reshape", ["x", "s"])], {"s": np.array([-1])}, r"turns \(1, 3, 4\) into \(12,\)"),
        ([node("Reshape", ["x", "s"])], {"s": np.array([3, 4])}, "axis 0 is no longer the batch"),
        ([node("Concat", ["x", "x"], axis=0)], {}, "along the batch axis"),
        ([node("Add", ["x", "c"])], {"c": random(2, 3, 4)}, "its own entry for each"),
        ([node("Expand", ["x", "s"])], {"s": np.array([2, 3, 4])}, "repeats along the batch axis"),
        ([node("Softmax", ["x"], axis=0)], {}, "rows would influence each other"),
        ([node("ReduceMean", ["x"])], {}, "rows would influence each other"),
        ([node("Gather", ["x", "i"])], {"i": np.array([0])}, "rows would influence each other"),
        ([node("Reshape", ["x", "s"], "r"), node("MatMul", ["w", "r"])], {"s": np.array([1, 12]), "w": random(2, 1)},
         "multiplies along the batch axis"),
        ([node("MatMul", ["x", "w"])], {"w": random(5, 4, 2)}, "multiplies along the batch axis"),
        ([node("MatMul", ["x", "w"])], {"w": random(5, 2)}, "in the ONNX MatMul node 'y'"),
        ([node("Conv", ["x", "x"])], {}, "from the network's input"),
        ([node("Cast", ["x"], to=TensorProto.INT64)], {}, "rounds the rows"),
        ([node("Elu", ["x"])], {}, "uses Elu node 'y', an operation that gatewise does not run"),
        ([node("Relu", ["lost"])], {}, "takes 'lost', which no node before it gives"),
        ([node("Relu", ["x"], "z")], {}, "gives no 'y'"),
        ([node("Relu", ["c"])], {"c": random(2)}, "does not depend on its input"),
        ([node("Slice", ["x", "a", "b"])], {"a": np.array([0]), "b": np.array([0])}, "takes some rows"),
        ([node("BatchNormalization", ["x", "c", "c", "c", "c"], training_mode=1)], {"c": random(3)}, "training mode"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_named(tmp_path, nodes, constants, said):
    with pytest.raises(InvalidInput, match=said):
        read_onnx(written(tmp_path, nodes, [1, 3, 4], constants))


def test_open_batch_that_a_reshape_swallows(tmp_path):
    with pytest.raises(InvalidInput, match="axis 0 is no longer the batch"):
        read_onnx(written(tmp_path, [node("Reshape", ["x", "s"])], ["n", 4], {"s": np.array([1, -1])}))


def test_an_operation_of_another_domain_is_named(tmp_path):
    with pytest.raises(InvalidInput, match="Relu node"):
        read_onnx(written(tmp_path, [node("Relu", ["x"], domain="com.example")], [1, 3]))


def test_old_opsets_are_told_how_to_convert(tmp_path):
    with pytest.raises(InvalidInput, match="opset 6: gatewise reads 7 and newer; convert it"):
        read_onnx(written(tmp_path, [node("Relu", ["x"])], [1, 3], opset=6))


@pytest.mark.parametrize(("shape", "kind", "said"), [([3], 1, "1 axes"), ([1, 3], TensorProto.INT64, "INT64 numbers")])
def test_inputs_that_are_no_batch_of_numbers(tmp_path, shape, kind, said):
    with pytest.raises(InvalidInput, match=said):
        read_onnx(written(tmp_path, [node("Relu", ["x"])], shape, kind=kind))


def test_a_wrong_input_shape_is_one_sentence(tmp_path):
    network = read_onnx(written(tmp_path, [node("Relu", ["x"])], ["n", 3, 4, 5]))
    with pytest.raises(InvalidInput, match=r"shape \(N, 3, 4, 5\), got \(2, 4, 5, 3\)"):
        network(torch.rand(2, 4, 5, 3))


@pytest.mark.parametrize("kept", [0.999, 0.5, 0.1, 0.0])
def test_truncated_files(tmp_path, kept):
    path = exported(tmp_path, SizeInForward(), (1, 8, 8))
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(InvalidInput, match="truncated"):
        read_onnx(path)


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(InvalidInput, match="does not exist"):
        read_onnx(tmp_path / "no.onnx")
    with pytest.raises(InvalidInput, match="is a folder"):
        read_onnx(tmp_path)
    (tmp_path / "text.onnx").write_text("a network, once")
    with pytest.raises(InvalidInput, match="not an ONNX file"):
        read_onnx(tmp_path / "text.onnx")


def test_without_the_onnx_package_it_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InvalidInput, match=r'pip install "gatewise\[onnx\]"'):
        read_onnx("network.onnx")
