"""Every architecture with its published weights does what its publisher measured."""

import math

import pytest
import torch

from gatewise import zoo
from gatewise.readers import read_images, read_weights

IMAGES = 400


def accuracy(name, weights, data, count=IMAGES):
    rows = read_images(data, count=count)
    with torch.no_grad():
        return (zoo.build(name, read_weights(weights))(rows.images).argmax(1) == rows.labels).float().mean().item()


@pytest.mark.parametrize(
    ("name", "file", "data", "published"),
    [
        ("adr-mnist-cnn", "adr_gd_mnist/mnist_clean.pt", "mnist:test", 0.9871),
        ("adr-mnist-cnn", "adr_gd_mnist/mnist_pgd.pt", "mnist:test", 0.9894),
        ("mnist-cnn-a", "mnist_cnn_a_adv/mnist_cnn_a_adv.pt", "mnist:test", 0.9633),
        ("mnist-mlp", "mnist_mlp/n1.safetensors", "mnist:test", 0.9742),
        ("mnist-mlp", "mnist_mlp/5x1024.safetensors", "mnist:test", 0.9841),
        ("cifar10-cnn-a", "cifar10_cnn_a_adv/cnn_a_adv.pt", "cifar10:test", 0.661),
        ("cifar10-resnet20", "cifar10_resnet20/resnet20.pt", "cifar10:test", 0.916),
    ],
)
def test_accuracy_is_the_published_one(data_folder, name, file, data, published):
    deviation = math.sqrt(published * (1 - published) / IMAGES)
    assert accuracy(name, data_folder / "models" / file, data) == pytest.approx(published, abs=4 * deviation)


def test_cifar10_normalisation_is_the_trained_one(data_folder):
    # On all 2,000 images the table's figures are exact, so that a wrong constant shows.
    assert accuracy(
        "cifar10-cnn-a", data_folder / "models/cifar10_cnn_a_adv/cnn_a_adv.pt", "cifar10:test", 2000
    ) == pytest.approx(0.661, abs=6e-4)


def test_the_generator_draws_digits(data_folder):
    generator = zoo.build("mnist-dcgan", read_weights(data_folder / "models/mnist_dcgan/generator.pt"))
    classifier = zoo.build("adr-mnist-cnn", read_weights(data_folder / "models/adr_gd_mnist/mnist_clean.pt"))
    with torch.no_grad():
        images = generator(torch.randn(300, 64, 1, 1, generator=torch.Generator().manual_seed(0)))
        confidence, classes = classifier((images + 1) / 2).softmax(1).max(1)
    assert images.shape == (300, 1, 28, 28)
    assert images.min() >= -1
    assert images.max() <= 1
    assert confidence.mean() == pytest.approx(0.94, abs=0.03)
    assert len(classes.unique()) == 10


def test_the_decoder_decodes_what_its_encoder_means(data_folder):
    weights = read_weights(data_folder / "models/mnist_vae/vae.pt")
    decoder = zoo.build("mnist-vae-decoder", weights)
    images = read_images("mnist:test", count=400).images
    with torch.no_grad():
        hidden = torch.relu(images.flatten(1) @ weights["fc1.weight"].T + weights["fc1.bias"])
        decoded = decoder(hidden @ weights["fc21.weight"].T + weights["fc21.bias"])
    assert decoded.shape == images.shape
    assert (decoded - images).square().mean().item() == pytest.approx(0.0087, abs=0.0008)
