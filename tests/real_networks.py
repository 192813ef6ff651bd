"""The shared real networks, rebuilt so that their tensors load strictly (see their README).

A factory file as a user would write it: ``real_networks.py:nuclei_broad@state_dict.safetensors``.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812


def _up(x):
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class NucleiBroad(nn.Module):
    """No normalization."""

    def __init__(self):
        super().__init__()

        def block(i, o):
            return nn.Sequential(
                nn.Conv2d(i, o, 3, padding=1), nn.Conv2d(o, o, 3, padding=1), nn.ReLU()
            )

        self.encoders = nn.ModuleList([block(1, 16), block(16, 32), block(32, 64)])
        self.base = block(64, 128)
        self.upsamplers = nn.ModuleList(
            nn.Sequential(nn.Identity(), nn.Conv2d(i, o, 1))
            for i, o in [(128, 64), (64, 32), (32, 16)]
        )
        self.decoders = nn.ModuleList([block(128, 64), block(64, 32), block(32, 16)])
        self.output = nn.Conv2d(16, 1, 1)

    def forward(self, x):
        skips = []
        for encoder in self.encoders:
            x = encoder(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.base(x)
        for up, decoder in zip(self.upsamplers, self.decoders, strict=True):
            x = decoder(torch.cat([skips.pop(), up(_up(x))], 1))
        return self.output(x)


class _NormedBlock(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.block = nn.Sequential(
            nn.InstanceNorm2d(i),
            nn.Conv2d(i, o, 3, padding=1),
            nn.ReLU(),
            nn.InstanceNorm2d(o),
            nn.Conv2d(o, o, 3, padding=1),
            nn.ReLU(),
        )

    def forward(self, x):
        return self.block(x)


class _Sampler(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.conv = nn.Conv2d(i, o, 1)

    def forward(self, x):
        return self.conv(_up(x))


class _Part(nn.Module):
    def __init__(self, blocks, samplers=()):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.samplers = nn.ModuleList(samplers)


class CovidInstanceNorm(nn.Module):
    """14 x InstanceNorm2d."""

    def __init__(self):
        super().__init__()
        self.encoder = _Part([_NormedBlock(1, 16), _NormedBlock(16, 32), _NormedBlock(32, 64)])
        self.base = _NormedBlock(64, 128)
        self.decoder = _Part(
            [_NormedBlock(128, 64), _NormedBlock(64, 32), _NormedBlock(32, 16)],
            [_Sampler(128, 64), _Sampler(64, 32), _Sampler(32, 16)],
        )
        self.out_conv = nn.Conv2d(16, 1, 1)

    def forward(self, x):
        skips = []
        for block in self.encoder.blocks:
            x = block(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.base(x)
        for sampler, block in zip(self.decoder.samplers, self.decoder.blocks, strict=True):
            x = block(torch.cat([sampler(x), skips.pop()], 1))
        return self.out_conv(x)


class _ConvBlock(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.Conv2d(i, o, 3, padding=1),
            nn.ReLU(),
            nn.BatchNorm2d(o),
            nn.Conv2d(o, o, 3, padding=1),
            nn.ReLU(),
            nn.BatchNorm2d(o),
        )

    def forward(self, x):
        return self.conv_block(x)


class _Encode(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.conv = _ConvBlock(i, o)

    def forward(self, x):
        return self.conv(x)


class _Decode(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.conv = _ConvBlock(i, o)
        self.conv_t = nn.ConvTranspose2d(o, o, 3, stride=2, padding=1, output_padding=1)

    def forward(self, x):
        return self.conv_t(self.conv(x))


class NucleiBatchNorm(nn.Module):
    """16 x BatchNorm2d, skips are added."""

    def __init__(self):
        super().__init__()
        f = [1, 8, 16, 32, 64]
        for k in range(1, 5):
            setattr(self, f"encode_{k}", _Encode(f[k - 1], f[k]))
            setattr(self, f"decode_{k}", _Decode(2 * f[k], f[k]))
        self.bridge = nn.Conv2d(64, 128, 3, padding=1)
        self.segment = nn.Conv2d(8, 1, 1)

    def forward(self, x):
        s1 = self.encode_1(x)
        s2 = self.encode_2(F.max_pool2d(s1, 2))
        s3 = self.encode_3(F.max_pool2d(s2, 2))
        s4 = self.encode_4(F.max_pool2d(s3, 2))
        x = self.bridge(F.max_pool2d(s4, 2))
        x = self.decode_4(x) + s4
        x = self.decode_3(x) + s3
        x = self.decode_2(x) + s2
        x = self.decode_1(x) + s1
        return torch.sigmoid(self.segment(x))


def nuclei_broad():
    return NucleiBroad()


def covid_instancenorm():
    return CovidInstanceNorm()


def nuclei_batchnorm():
    return NucleiBatchNorm()
