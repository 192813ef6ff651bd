"""Networks of public libraries, small ones: what is measured, against tiles cut by hand.

Right by construction: a tile on the reported grid, without its reported halo, equals the untiled
prediction with the same statistics; off the grid it does not.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from extras import extra
from families import Windows
from seamscope.models.model import Model, as_model
from seamscope.normalization.audit import FixedStatistics


class Logits(nn.Module):
    """The image among the outputs of a network of transformers."""

    def __init__(self, inner, name):
        super().__init__()
        self.inner, self.name = inner, name

    def forward(self, x):
        return getattr(self.inner(pixel_values=x), self.name)


def swin2sr() -> nn.Module:
    library = extra("transformers")
    config = library.Swin2SRConfig(
        image_size=64, embed_dim=12, depths=[2], num_heads=[2], window_size=8, num_channels=1
    )
    return Logits(library.Swin2SRForImageSuperResolution(config), "reconstruction")


def segformer() -> nn.Module:
    library = extra("transformers")
    config = library.SegformerConfig(
        num_labels=3, depths=[1] * 4, hidden_sizes=[8, 16, 24, 32], decoder_hidden_size=16,
        num_attention_heads=[1, 2, 2, 4],
    )  # fmt: skip
    return Logits(library.SegformerForSemanticSegmentation(config), "logits")


def windows_twice() -> nn.Module:
    """As in a SwinUNETR: NaN goes round the ends of the tile and on through all of it."""
    first, second = Windows(7, 32), Windows(7, 32)
    last = nn.Conv2d(2, 2, 3, padding=64, dilation=64)
    return nn.Sequential(first, nn.Conv2d(2, 1, 1), second, last)


def monai(name: str, **settings) -> nn.Module:
    return getattr(extra("monai").networks.nets, name)(**settings)


def decoder(name: str, **settings) -> nn.Module:
    library = extra("segmentation_models_pytorch")
    settings = {"encoder_name": "resnet18", "encoder_depth": 3} | settings
    return getattr(library, name)(encoder_weights=None, in_channels=1, classes=2, **settings)


def measured(make) -> Model:
    torch.manual_seed(0)
    return as_model(make().eval())


def difference(model: Model, off: int = 0) -> float:
    """Max difference of a tile and the whole along x, in standard deviations."""
    facts, axis = model.facts, model.facts.lattice[-1]
    assert model.reach.convolutional is not None
    before, after = model.reach.convolutional[-1]
    start = -(-(before + 64) // axis.pitch) * axis.pitch
    size = axis.size_at_least(before + after + 2 * axis.pitch + 32)
    whole = axis.size_at_least(start + size + after + 2 * axis.pitch)
    beside = [
        each.size_at_least(n) for each, n in zip(facts.lattice[:-1], facts.narrow, strict=False)
    ]
    x = torch.randn(
        1, facts.in_channels, *beside, whole, generator=torch.Generator().manual_seed(1)
    )
    forward = FixedStatistics(model.forward) if facts.statistics else model.forward
    with torch.no_grad():
        full = forward(x)
        tile = forward(x[..., start + off : start + off + size])
    scale = int(axis.scale)
    low, high = before * scale, tile.shape[-1] - after * scale
    origin = (start + off) * scale
    apart = tile[..., low:high] - full[..., origin + low : origin + high]
    return float(apart.abs().max() / full.std())


BOUNDED = {
    "windows twice": (windows_twice, 224),
    "Swin2SR": (swin2sr, 8),
    "SegResNetVAE": (
        lambda: monai(
            "SegResNetVAE", input_image_size=(16, 16), spatial_dims=2, init_filters=8,
            out_channels=2,
        ),
        8,
    ),
    "DynUNet": (
        lambda: monai(
            "DynUNet", spatial_dims=2, in_channels=1, out_channels=2, kernel_size=[3, 3, 3],
            strides=[1, 2, 2], upsample_kernel_size=[2, 2],
        ),
        4,
    ),
    "UnetPlusPlus": (lambda: decoder("UnetPlusPlus", decoder_channels=(16, 8, 8)), 8),
    "Linknet": (lambda: decoder("Linknet"), 8),
}  # fmt: skip


@pytest.mark.parametrize("name", BOUNDED)
def test_a_tile_on_the_reported_grid_equals_the_whole(name) -> None:
    make, period = BOUNDED[name]
    model = measured(make)
    assert set(model.facts.period) == {period}
    assert model.reach.agrees(model.facts)
    assert difference(model) < 1e-4
    assert difference(model, off=period // 2) > 1e-3


def test_segformer_is_a_quarter_as_large_and_its_attention_is_named() -> None:
    model = measured(segformer)
    assert [float(scale) for scale in model.facts.scale] == [0.25, 0.25]
    assert set(model.facts.period) == {32}
    assert not model.reach.bounded
    assert all("attention" in name for name in model.reach.couplings)
    assert model.reach.rest is not None


def test_the_one_size_of_unetr_is_found() -> None:
    extra("einops")  # which MONAI's transformers need
    model = measured(
        lambda: monai(
            "UNETR", in_channels=1, out_channels=2, img_size=(96, 96), feature_size=4,
            hidden_size=24, mlp_dim=32, num_heads=2, spatial_dims=2,
        )
    )  # fmt: skip
    assert [axis.fixed for axis in model.facts.lattice] == [96, 96]
    assert set(model.facts.period) == {16}
    assert "vit.blocks.0.attn" in model.reach.couplings


def test_a_pyramid_of_poolings_of_the_whole_tile_is_said_to_be_one() -> None:
    model = measured(lambda: decoder("PSPNet"))
    assert not model.reach.bounded
    assert set(model.facts.period) == {8}
    assert "Overlap cannot remove the seams" in model.describe()
