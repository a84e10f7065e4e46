import pytest
import torch

from gatewise import zoo
from gatewise.errors import InvalidInput

BUILDABLE = [name for name in zoo.NAMES if name != "mnist-mlp"]
FAST = [name for name in BUILDABLE if name != "wide-resnet-50-2"]


@pytest.mark.parametrize("name", FAST)
def test_without_weights_it_is_random_and_always_the_same(name):
    before = torch.random.get_rng_state()
    one, two = zoo.build(name), zoo.build(name)
    assert torch.equal(before, torch.random.get_rng_state())
    assert not any(part.training for part in one.modules())
    x = torch.rand(3, *one.input_shape)
    with torch.no_grad():
        assert torch.equal(one(x), two(x))
        assert one(x).std() > 1e-3


@pytest.mark.parametrize("name", FAST)
def test_its_own_state_dict_loads_back(name):
    network = zoo.build(name)
    changed = {key: value + 1 if value.is_floating_point() else value for key, value in network.state_dict().items()}
    again = zoo.build(name, changed)
    assert all(torch.equal(again.state_dict()[key], value) for key, value in changed.items())


@pytest.mark.parametrize("name", FAST)
def test_it_moves_to_double_as_a_whole(name):
    network = zoo.build(name).double()
    assert network(torch.rand(2, *network.input_shape, dtype=torch.float64)).dtype == torch.float64


def test_gates_and_layers_are_those_of_the_papers():
    def count(name, kind):
        return sum(isinstance(part, kind) for part in zoo.build(name).modules())

    for depth in (11, 16, 19):
        assert count(f"vgg-{depth}", torch.nn.Conv2d) + 3 == depth  # the original has three linear layers, not one
        assert count(f"vgg-{depth}", torch.nn.MaxPool2d) == 5
    assert sum(p.numel() for p in zoo.build("adr-mnist-cnn").parameters()) == 163_902
    assert sum(p.numel() for p in zoo.build("lenet-5").parameters()) == 62_006
    assert sum(p.numel() for p in zoo.build("cifar10-resnet20").parameters()) == 269_722


def test_wide_resnet_has_torchvisions_layout():
    network = zoo.build("wide-resnet-50-2")
    state = network.state_dict()
    # The figures of torchvision's documentation for wide_resnet50_2.
    assert sum(parameter.numel() for parameter in network.parameters()) == 68_883_240
    assert len(state) == 320
    assert state["layer1.0.downsample.0.weight"].shape == (256, 64, 1, 1)
    assert state["layer4.2.conv2.weight"].shape == (1024, 1024, 3, 3)
    assert state["layer2.0.downsample.1.running_mean"].shape == (512,)
    assert state["fc.weight"].shape == (1000, 2048)
    assert {key.split(".")[0] for key in state} == {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"}
    with torch.no_grad():
        logits = network(torch.rand(1, 3, 64, 64))
    assert logits.shape == (1, 1000)
    assert 0.1 < logits.std() < 100


def test_shortcut_keeps_every_second_pixel_and_adds_zero_channels_on_both_sides():
    block = zoo.build("cifar10-resnet20").layer2[0]
    x = torch.rand(2, 16, 8, 8)
    shortcut = block._shortcut(x)
    assert torch.equal(shortcut[:, 8:24], x[:, :, ::2, ::2])
    assert not shortcut[:, :8].any()
    assert not shortcut[:, 24:].any()


def test_mlp_reads_its_sizes_from_its_weights():
    state = zoo.MnistMlp((784, 7, 5, 10)).state_dict()
    network = zoo.build("mnist-mlp", state)
    assert [part.out_features for part in network if isinstance(part, torch.nn.Linear)] == [7, 5, 10]
    images = torch.rand(2, 1, 28, 28)
    assert torch.equal(network(images), network(images.flatten(1)))


def test_mlp_without_weights_says_that_it_needs_them():
    with pytest.raises(InvalidInput, match="needs --weights"):
        zoo.build("mnist-mlp")


@pytest.mark.parametrize(
    "weights",
    [
        {},
        {"fc.weight": torch.zeros(3, 784)},
        {"0.weight": torch.zeros(3, 700), "0.bias": torch.zeros(3)},
        {"0.weight": torch.zeros(3, 784), "2.weight": torch.zeros(10, 4)},
        {"0.weight": torch.zeros(())},
    ],
)
def test_mlp_with_other_weights_says_what_they_must_be(weights):
    with pytest.raises(InvalidInput, match=r"0\.weight \(width, 784\)"):
        zoo.build("mnist-mlp", weights)


def test_unknown_name_gets_the_nearest_one():
    with pytest.raises(InvalidInput, match="did you mean 'vgg-16'"):
        zoo.build("vgg16")


def test_vae_leaves_out_the_encoder_and_nothing_else():
    state = zoo.build("mnist-vae-decoder").state_dict()
    encoder = {key: torch.zeros(1) for key in ("fc1.weight", "fc1.bias", "fc21.weight", "fc22.bias")}
    zoo.build("mnist-vae-decoder", state | encoder)
    with pytest.raises(InvalidInput, match=r"unexpected fc5\.weight"):
        zoo.build("mnist-vae-decoder", state | {"fc5.weight": torch.zeros(1)})


def test_wrong_keys_are_listed():
    state = zoo.build("lenet-5").state_dict()
    with pytest.raises(InvalidInput, match=r"zoo:lenet-5: missing conv1\.weight; unexpected stem\.weight;"):
        zoo.build("lenet-5", {key.replace("conv1.weight", "stem.weight"): value for key, value in state.items()})
    with pytest.raises(InvalidInput, match=r"missing conv1\.weight, .* and 6 more"):
        zoo.build("lenet-5", {})


def test_batch_norm_counters_may_be_missing():
    state = zoo.build("cifar10-resnet20").state_dict()
    zoo.build("cifar10-resnet20", {key: v for key, v in state.items() if not key.endswith("num_batches_tracked")})


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (torch.zeros(3), r"fc3\.bias has shape \(3,\) where the network has \(10,\)"),
        (torch.full((10,), torch.nan), "NaN or an infinity"),
        (torch.zeros(10, dtype=torch.int64), r"torch\.int64 at fc3\.bias"),
        ([0.0] * 10, "hold a list at fc3.bias"),
    ],
)
def test_unusable_tensors_are_named(bad, said):
    with pytest.raises(InvalidInput, match=said):
        zoo.build("lenet-5", zoo.build("lenet-5").state_dict() | {"fc3.bias": bad})


def test_weights_must_be_a_state_dict():
    with pytest.raises(InvalidInput, match="must be a state dict"):
        zoo.build("lenet-5", "weights.pt")  # type: ignore[arg-type]
