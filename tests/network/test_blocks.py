"""A network's affine blocks: what they are, and that each way to solve for them is the dense one."""

import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import lsq_linear
from torch import nn

from gatewise.errors import UnsupportedNetwork
from gatewise.network import view
from gatewise.network.blocks import minimise_in_box, minimise_in_set, split_network
from gatewise.network.blocks.conjugate_gradients import conjugate_gradients
from gatewise.network.blocks.dense import Dense
from gatewise.network.blocks.torus import Torus

DOUBLE = torch.float64


class Residual(nn.Module):
    """A stem, a block with a skip connection and batch norm, a stride, a head."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.first, self.second = (nn.Conv2d(a, 4, 3, padding=1) for a in (2, 4, 4))
        self.norm, self.down, self.head = nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, stride=2), nn.Linear(54, 3)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)
        self.eval().double()

    def forward(self, x):
        h = self.stem(x).relu()
        out = self.second(self.norm(self.first(h)).relu_())
        out += h
        return self.head(F.relu(self.down(F.relu(out, inplace=True)), inplace=True).flatten(1))


NETWORKS = {
    "dense": lambda: (
        nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 7), nn.LeakyReLU(0.2), nn.Linear(7, 3)), (6,)),
    "pooled": lambda: (
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 2), nn.MaxPool2d(2), nn.ReLU(),
                      nn.Flatten(), nn.Linear(5, 3)), (2, 10, 10)),
    "clamped": lambda: (nn.Sequential(nn.Linear(6, 5), nn.ReLU6(), nn.Dropout(), nn.Linear(5, 3)), (6,)),
    "residual": lambda: (Residual(), (2, 8, 8)),
}  # fmt: skip


def _split(name, rows=3):
    torch.manual_seed(0)
    module, shape = NETWORKS[name]()
    module = module.double().eval()
    x = torch.randn(rows, *shape, dtype=DOUBLE)
    return module, x, split_network(view(module), x)


@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_and_activations_put_together_are_the_network(name):
    module, x, split = _split(name)
    other = torch.randn_like(x)
    z, p = [other], list(split.preactivations)
    for i, activation in enumerate(split.activations):
        copies = [*z, *split.values[len(z) :]]
        split.refresh(i, copies, p)
        z.append(activation(p[i]))
    torch.testing.assert_close(z[-1], module(other))


def test_a_switch_and_a_pool_side_by_side_are_one_activation():
    *_, split = _split("pooled")
    assert [(a.slope, a.window) for a in split.activations] == [(0.0, (2, 2)), (0.0, (2, 2)), (1.0, ())]
    assert all(block.alone for block in split.blocks)


def test_a_pool_between_others_that_use_the_switch_stays_by_itself():
    class Both(nn.Module):
        def forward(self, x):
            h = x.relu()
            return F.max_pool2d(h, 2).flatten(1).sum(1, keepdim=True) + h.flatten(1).sum(1, keepdim=True)

    split = split_network(view(Both().eval()), torch.randn(2, 1, 4, 4))
    assert [(a.slope, a.window) for a in split.activations] == [(0.0, ()), (1.0, (2, 2)), (1.0, ())]


def test_what_each_copy_feeds_is_found_with_skip_connections():
    *_, split = _split("residual")
    assert [block.feeds for block in split.blocks] == [(0,), (1, 2), (2,), (3,), (4,)]
    assert [block.alone for block in split.blocks] == [True, False, False, True, True]


@pytest.mark.parametrize("name", NETWORKS)
def test_products_and_their_transposes_belong_together(name):
    _, _, split = _split(name)
    for i, block in enumerate(split.blocks):
        d = torch.randn_like(block.lift(split.values[i]))
        pushed = block.product(d)
        weights = [torch.randn_like(y) for y in pushed]
        forth = sum((w * y).sum() for w, y in zip(weights, pushed, strict=True))
        torch.testing.assert_close((block.transposed(weights) * d).sum(), forth)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_solve_is_the_dense_one(name):
    _, _, split = _split(name)
    for block, value in zip(split.blocks, split.values, strict=True):
        matrix = block.linear.matrix()
        right = torch.randn_like(value)
        system = torch.eye(matrix.shape[1], dtype=DOUBLE) + matrix.mT @ matrix
        expected = torch.linalg.solve(system, right.flatten(1).mT).mT.view_as(right)
        torch.testing.assert_close(block.solve(right, tolerance=1e-12, most=500)[0], expected, rtol=1e-9, atol=1e-9)
        # By conjugate gradients, which the larger networks need.
        solved = conjugate_gradients(lambda d, block=block: d + block.gram(d), right, tolerance=1e-12, most=500)
        torch.testing.assert_close(solved.solution, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("inputs", "outputs"), [(5, 9), (9, 5)])
def test_woodburys_side_gives_the_same(inputs, outputs):
    torch.manual_seed(0)
    matrix, right = torch.randn(outputs, inputs, dtype=DOUBLE), torch.randn(4, inputs, dtype=DOUBLE)
    gram = matrix.mT @ matrix
    eye = torch.eye(inputs, dtype=DOUBLE)
    torch.testing.assert_close(Dense(matrix).solve(right), torch.linalg.solve(eye + gram, right.mT).mT)
    shift = torch.tensor([0.1, 1.0, 10.0, 3.0], dtype=DOUBLE)
    expected = torch.stack([torch.linalg.solve(s * eye + gram, r) for s, r in zip(shift, right, strict=True)])
    torch.testing.assert_close(Dense(matrix).solve_shifted(right, shift), expected)


@pytest.mark.parametrize(
    ("inputs", "outputs", "kernel", "size"),
    [(3, 5, (3, 3), (8, 9)), (4, 2, (5, 1), (7, 6)), (2, 3, (4, 2), (6, 5))],
)
def test_the_fourier_solve_is_the_dense_solve_on_the_torus(inputs, outputs, kernel, size):
    torch.manual_seed(0)
    torus = Torus(torch.randn(outputs, inputs, *kernel), size)
    units = torch.eye(inputs * size[0] * size[1]).view(-1, inputs, *size)
    wrapped = F.pad(units, (0, kernel[1] - 1, 0, kernel[0] - 1), mode="circular")
    matrix = F.conv2d(wrapped, torus.kernel).flatten(1).mT.double()
    right = torch.randn(4, inputs, *size)
    system = torch.eye(len(units), dtype=DOUBLE) + matrix.mT @ matrix
    expected = torch.linalg.solve(system, right.flatten(1).double().mT).mT.view_as(right)
    found = torus.solve(right)
    assert found.dtype is torch.float32
    assert (found - expected).norm() <= 1e-5 * expected.norm()
    shift = torch.tensor([0.5, 1.0, 2.0, 4.0])
    for row in range(4):
        shifted = system + (shift[row] - 1) * torch.eye(len(units), dtype=DOUBLE)
        expected_row = torch.linalg.solve(shifted, right[row].flatten().double())
        assert (torus.solve_shifted(right, shift)[row].flatten() - expected_row).norm() <= 1e-4 * expected_row.norm()
    torch.testing.assert_close(torus.product(right).flatten(1).double(), _valid(right, torus).flatten(1).double())


def _valid(right, torus):
    wrapped = F.pad(right, (0, torus.kernel.shape[3] - 1, 0, torus.kernel.shape[2] - 1), mode="circular")
    height, width = (n - k + 1 for n, k in zip(torus.size, torus.kernel.shape[2:], strict=True))
    return F.conv2d(wrapped, torus.kernel)[..., :height, :width]


def _convolutions(padding):
    torch.manual_seed(0)
    front = [nn.Conv2d(2, 8, 3, padding=1), nn.ReLU()]
    norm = nn.BatchNorm2d(8)
    norm.running_var.uniform_(0.5, 2)
    norm.running_mean.normal_()
    module = nn.Sequential(*front, nn.Conv2d(8, 8, 3, padding=padding), norm, nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
    module(torch.rand(2, 2, 9, 9))
    return module.eval().requires_grad_(False)


@pytest.mark.parametrize("padding", [0, 1, 2])
def test_a_convolution_with_batch_norm_is_found_to_be_one_and_lives_on_the_padded_torus(padding):
    split = split_network(view(_convolutions(padding)), torch.rand(2, 2, 9, 9))
    block = split.blocks[1]
    assert block.torus is not None
    assert block.pad == (padding, padding)
    lifted = block.lift(split.values[1])
    assert lifted.shape[-2:] == block.torus.size == (9 + 2 * padding, 9 + 2 * padding)
    torch.testing.assert_close(block.crop(lifted), split.values[1])
    torch.testing.assert_close(block.affine(lifted)[0], split.preactivations[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("change", [
    {"stride": 2}, {"dilation": 2}, {"padding": 1, "padding_mode": "reflect"},
])  # fmt: skip
def test_other_convolutions_are_not_taken_for_one(change):
    torch.manual_seed(0)
    module = nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 3, **change), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    module(torch.rand(2, 4, 20, 20))
    block = split_network(view(module.eval()), torch.rand(2, 4, 20, 20)).blocks[1]
    assert block.torus is None


def test_a_network_that_treats_rows_differently_gets_no_stored_matrix():
    class ByRow(nn.Module):
        def forward(self, x):
            scale = torch.arange(1.0, len(x) + 1)[:, None]
            return (scale * x).relu() @ torch.ones(4, 2)

    split = split_network(view(ByRow().eval()), torch.rand(3, 4))
    assert split.blocks[0].dense is None
    right = torch.rand(3, 4)
    solved, _ = split.blocks[0].solve(right, tolerance=1e-7, most=50)
    torch.testing.assert_close(solved, right / (1 + torch.tensor([1.0, 4.0, 9.0])[:, None]))


class Smooth(nn.Module):
    def forward(self, x):
        return torch.sigmoid(x @ torch.eye(3)).relu()


class Product(nn.Module):
    def forward(self, x):
        return x.relu() * x


@pytest.mark.parametrize(("module", "said"), [
    (Smooth(), "applies sigmoid, which is no gate and not affine"),
    (Product(), "not a set of affine maps that can be run one by one"),
])  # fmt: skip
def test_what_is_not_affine_gets_a_sentence(module, said):
    with pytest.raises(UnsupportedNetwork, match=said):
        split_network(view(module.eval()), torch.rand(2, 3))


def test_conjugate_gradients_stop_row_by_row_and_alone_as_together():
    torch.manual_seed(0)
    root = torch.randn(12, 12, dtype=DOUBLE)
    matrix, right = root @ root.mT + torch.eye(12, dtype=DOUBLE), torch.randn(3, 12, dtype=DOUBLE)
    right[1] = matrix @ torch.eye(12, dtype=DOUBLE)[0] * 0
    solved = conjugate_gradients(lambda d: d @ matrix, right, tolerance=1e-3, most=50)
    assert solved.steps[1] == 0
    assert 0 < solved.steps[0] <= 50
    residual = (right - solved.solution @ matrix).norm(dim=1)
    assert (residual <= 1e-3 * right.norm(dim=1)).all()
    torch.testing.assert_close(solved.product, solved.solution @ matrix)
    alone = conjugate_gradients(lambda d: d @ matrix, right[2:], tolerance=1e-3, most=50)
    torch.testing.assert_close(alone.solution[0], solved.solution[2])
    few = conjugate_gradients(lambda d: d @ matrix, right, tolerance=1e-9, most=torch.tensor([1, 1, 3]))
    assert few.steps.tolist() == [1, 0, 3]


def _quadratic(rows=3, n=10):
    torch.manual_seed(1)
    root, target = torch.randn(8, n, dtype=DOUBLE), torch.randn(rows, 8, dtype=DOUBLE)
    hessian = root.mT @ root + 0.05 * torch.eye(n, dtype=DOUBLE)
    return root, target, hessian


@pytest.mark.parametrize("preconditioned", [False, True])
def test_a_box_quadratic_is_solved_as_by_a_reference_solver(preconditioned):
    root, target, hessian = _quadratic()
    lower, upper = torch.full((10,), -0.3, dtype=DOUBLE), torch.full((10,), 0.2, dtype=DOUBLE)
    z = torch.zeros(3, 10, dtype=DOUBLE)
    inverse = torch.linalg.inv(hessian)
    found, _ = minimise_in_box(
        lambda d: d @ hessian, -(target @ root), z, (lower, upper), tolerance=1e-10, most=400,
        precondition=(lambda r: r @ inverse) if preconditioned else (lambda r: r), majorised=preconditioned,
    )  # fmt: skip
    stacked = torch.cat([root, 0.05**0.5 * torch.eye(10, dtype=DOUBLE)]).numpy()
    for row in range(3):
        right = torch.cat([target[row], torch.zeros(10, dtype=DOUBLE)]).numpy()
        expected = lsq_linear(stacked, right, (lower.numpy(), upper.numpy()), tol=1e-14).x
        torch.testing.assert_close(found[row], torch.tensor(expected), rtol=0, atol=1e-6)
    assert (found >= lower).all()
    assert (found <= upper).all()


def test_a_quadratic_over_a_ball_is_solved_to_its_optimality_condition():
    root, target, hessian = _quadratic()
    largest = torch.linalg.eigvalsh(hessian).max().expand(3)

    def project(z):
        return z / z.norm(dim=1, keepdim=True).clamp_min(1.0)

    gradient = -(target @ root)
    found, taken = minimise_in_set(
        lambda d: d @ hessian, gradient, torch.zeros(3, 10, dtype=DOUBLE), project, largest, tolerance=1e-12, most=3000
    )
    slope = gradient + found @ hessian
    torch.testing.assert_close(project(found - slope), found, rtol=0, atol=1e-8)
    assert (taken <= 3000).all()
