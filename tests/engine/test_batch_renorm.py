"""Batch renormalization does what its paper says, and replaces other layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import networks
from seamscope.errors import SettingsError
from seamscope.models.model import as_model
from seamscope.normalization.audit import audit
from seamscope.normalization.batch_renorm import (
    BatchRenorm1d,
    BatchRenorm2d,
    BatchRenorm3d,
    Warmup,
    replace_normalization,
)

AT_ONCE = Warmup(0, 0, 0)


def _by_hand(x, mean, std, r_max, d_max, eps, momentum):
    """One training step after Ioffe 2017, algorithm 1, in numpy."""
    axes = (0, *range(2, x.ndim))
    batch_mean = x.mean(axes)
    batch_std = np.sqrt(x.var(axes) + eps)
    r = np.clip(batch_std / std, 1 / r_max, r_max)
    d = np.clip((batch_mean - mean) / std, -d_max, d_max)
    shape = (1, -1) + (1,) * (x.ndim - 2)
    y = (x - batch_mean.reshape(shape)) / batch_std.reshape(shape)
    y = y * r.reshape(shape) + d.reshape(shape)
    return y, mean + momentum * (batch_mean - mean), std + momentum * (batch_std - std)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (BatchRenorm1d, (3, 4, 50)),
        (BatchRenorm2d, (2, 4, 9, 7)),
        (BatchRenorm3d, (1, 4, 5, 6, 7)),
    ],
)
@pytest.mark.parametrize("limits", [(3.0, 5.0), (1.2, 0.3), (1.0, 0.0)])
def test_steps_of_training_are_the_papers(layer, shape, limits) -> None:
    rng = np.random.default_rng(0)
    r_max, d_max = limits
    net = layer(4, momentum=0.1, r_max=r_max, d_max=d_max, warmup=AT_ONCE)
    mean, std = np.zeros(4), np.full(4, np.sqrt(1 + net.eps))
    scale, shift = rng.normal(size=4), rng.normal(size=4)
    net.weight.data, net.bias.data = (torch.tensor(v, dtype=torch.float32) for v in (scale, shift))
    for _ in range(6):
        x = rng.normal(2, 3, shape) * rng.uniform(0.5, 2)
        y, mean, std = _by_hand(x, mean, std, r_max, d_max, net.eps, 0.1)
        view = (1, -1) + (1,) * (len(shape) - 2)
        expected = y * scale.reshape(view) + shift.reshape(view)
        got = net(torch.tensor(x, dtype=torch.float32)).detach().numpy()
        np.testing.assert_allclose(got, expected, atol=1e-4)
        np.testing.assert_allclose(net.running_mean.numpy(), mean, atol=1e-5)
        np.testing.assert_allclose((net.running_var + net.eps).sqrt().numpy(), std, atol=1e-5)
    net.eval()
    x = rng.normal(2, 3, shape)
    expected = (x - mean.reshape(view)) / std.reshape(view) * scale.reshape(view)
    got = net(torch.tensor(x, dtype=torch.float32)).detach().numpy()
    np.testing.assert_allclose(got, expected + shift.reshape(view), atol=1e-4)


def test_no_gradient_flows_through_the_correction() -> None:
    torch.manual_seed(0)
    net = BatchRenorm2d(3, r_max=1.5, d_max=0.5, warmup=AT_ONCE).double()
    net.running_mean += 0.3
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    mean, std = net.running_mean.clone(), (net.running_var + net.eps).sqrt()

    def with_constants(x):
        m = x.float().mean((0, 2, 3))
        s = (x.float().var((0, 2, 3), correction=0) + net.eps).sqrt()
        r = (s / std).clamp(1 / 1.5, 1.5).detach()
        d = ((m - mean) / std).clamp(-0.5, 0.5).detach()
        view = (1, -1, 1, 1)
        return (x - m.view(view)) / s.view(view) * r.view(view) + d.view(view)

    target = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    (own,) = torch.autograd.grad((net(x) * target).sum(), x)
    (expected,) = torch.autograd.grad((with_constants(x) * target).sum(), x)
    torch.testing.assert_close(own, expected, atol=1e-5, rtol=1e-4)


def test_at_first_it_is_batch_norm() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8) * 3 + 1
    renorm, plain = BatchRenorm2d(3), nn.BatchNorm2d(3)
    torch.testing.assert_close(renorm(x), plain(x))


def test_limits_widen_while_warming_up() -> None:
    warmup = Warmup(begin=100, r_end=300, d_end=200)
    expected = {
        0: (1, 0),
        100: (1, 0),
        150: (1.5, 2.5),
        200: (2, 5),
        250: (2.5, 5),
        300: (3, 5),
        9999: (3, 5),
    }
    assert {step: warmup.limits(step, 3.0, 5.0) for step in expected} == expected
    net = BatchRenorm2d(1, momentum=0.5, warmup=Warmup(1, 1, 1))
    x = torch.randn(1, 1, 8, 8) * 5 + 20
    first = net(x)
    assert abs(float(first.mean().detach())) < 1e-4  # step 0 is BatchNorm
    assert float(net(x).mean().detach()) > 1  # step 1 corrects


def test_it_learns_the_image_from_single_tiles() -> None:
    """With one tile per batch, training and evaluation agree in the end; BatchNorm's do not."""
    rng = np.random.default_rng(0)
    tiles = [
        torch.tensor(rng.normal(m, s, (1, 1, 16, 16)), dtype=torch.float32)
        for m, s in zip(rng.normal(0, 3, 40), rng.uniform(0.5, 2, 40), strict=True)
    ]

    def disagreement(net):
        for _ in range(30):
            for tile in tiles:
                net(tile)
        apart = []
        for tile in tiles:
            twin = [net.train()(tile), net.eval()(tile)]
            apart.append(float((twin[0] - twin[1]).abs().mean().detach()))
        return np.mean(apart)

    renorm = disagreement(BatchRenorm2d(1, warmup=Warmup(40, 400, 400)))
    plain = disagreement(nn.BatchNorm2d(1, momentum=0.01))
    assert renorm < 0.1 * plain


@pytest.mark.parametrize("norm", ["batch", "instance", "group"])
@pytest.mark.parametrize("to", ["BatchRenorm", "BatchNorm", "InstanceNorm", "GroupNorm"])
def test_replacing_keeps_what_was_learned(norm, to) -> None:
    torch.manual_seed(0)
    network = networks.UNet(2, 1, norm=norm)
    for part in network.modules():
        if isinstance(part, (nn.BatchNorm2d, nn.GroupNorm)):
            nn.init.normal_(part.weight)
    network(torch.randn(2, 1, 16, 16))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    changed = replace_normalization(network, to, axes=2)
    own = changed.state_dict()
    learned = [k for k in before if k in own and "running" not in k and "batches" not in k]
    assert all(torch.equal(own[k], before[k]) for k in learned)
    assert len(learned) >= 10
    found = audit(changed.eval(), torch.randn(1, 1, 16, 16))
    assert {layer.kind for layer in found.layers} == {to}
    assert len(found.layers) == 6
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert network.training


def test_renorm_predicts_as_batch_norm_and_is_local() -> None:
    torch.manual_seed(0)
    network = networks.UNet(2, 2, norm="batch")
    for _ in range(3):
        network(torch.randn(2, 1, 16, 16) * 2)
    network.eval()
    renorm = replace_normalization(network)
    x = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(renorm(x), network(x))
    back = replace_normalization(renorm, "BatchNorm")
    with torch.no_grad():
        torch.testing.assert_close(back(x), network(x))
    assert as_model(renorm).reach.halo == ((22, 22), (22, 22))
    scripted = replace_normalization(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).eval())
    assert len(audit(scripted, torch.zeros(1, 1, 8, 8)).tile_layers) == 0


def test_what_cannot_be_is_told() -> None:
    with pytest.raises(SettingsError, match="no InstanceNorm"):
        replace_normalization(nn.Conv2d(1, 1, 3))
    with pytest.raises(SettingsError, match="axes=2"):
        replace_normalization(nn.Sequential(nn.GroupNorm(1, 2)))
    with pytest.raises(SettingsError, match="choose BatchRenorm"):
        replace_normalization(nn.BatchNorm2d(1), "LayerNorm")
    with pytest.raises(SettingsError, match="r_max"):
        BatchRenorm2d(1, r_max=0.5)
    with pytest.raises(ValueError, match="4 dimensions"):
        BatchRenorm2d(1)(torch.zeros(1, 1, 4))


def test_one_layer_alone_can_be_replaced() -> None:
    assert isinstance(replace_normalization(nn.BatchNorm3d(2)), BatchRenorm3d)
