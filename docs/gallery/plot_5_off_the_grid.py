"""
Off the grid: the halo is large, the seams stay
===============================================

**You see** seams with a halo far above the reach, in a network without InstanceNorm.

**Cause.** Pooling and strides make a prediction that follows shifts of the image by multiples
of the *period* only. Tiles that start elsewhere are pooled differently.

**Fix.** Tile starts on multiples of the period. Seamscope measures the period and puts tiles there;
other code often moves the last tile back to end with the image.
"""

# %%
# Code that starts its tiles at 0 and 196, with period 8: the halo of 90 pixels does not help.
import matplotlib.pyplot as plt
import numpy as np
import torch

import seamscope
from seamscope.demo import build, sample_image, zscore

image = zscore(sample_image("tissue2d")[0][:384, :384])
network = build("batchnorm")
off = seamscope.examine(network, image, tile=288, overlap=188, starts=((0, 92), (0, 92)))
print(off.verdict, off.max_dist)

# %%
# The same tiles on the grid.
on = seamscope.examine(network, image, tile=288, overlap=192, starts=((0, 96), (0, 96)))
print(on.verdict, on.max_dist)


# %%
# The picture: one tile predicted at 92 and at 96, against the whole image, 60 pixels and more from
# its borders.
def predict(pixels):
    with torch.inference_mode():
        return network(torch.from_numpy(np.ascontiguousarray(pixels))[None, None])[0].numpy()


whole = predict(image)
figure, axes = plt.subplots(1, 2, figsize=(8, 4), layout="constrained")
for start, ax in zip((92, 96), axes, strict=True):
    inner = slice(start + 60, start + 228)
    tile = predict(image[start : start + 288, start : start + 288])[:, 60:228, 60:228]
    shown = ax.imshow(abs(tile - whole[:, inner, inner]).max(axis=0), vmin=0, vmax=0.1)
    ax.set(title=f"tile at {start}", xlabel="x (pixels)", ylabel="y (pixels)")
figure.colorbar(shown, ax=axes, label="difference from untiled (0 to 1)")
