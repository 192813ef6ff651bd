"""
Preprocessing: each tile is scaled by itself
============================================

**You see** tiles that differ as a whole, although the network has no InstanceNorm.

**Cause.** The pipeline scales the intensities of each tile to its own mean and standard deviation
(or its own percentiles) before the network.

**Fix.** Scale with numbers of the whole image. Seamscope's own *Intensities* always do.
"""

# %%
# A pipeline of your own is examined as it is: three functions, here with a scaling of each tile.
import matplotlib.pyplot as plt
import numpy as np

import seamscope
from seamscope.demo import build, sample_image

image = sample_image("tissue2d")[0][:256, :256].astype(np.float32)


def scale_tile(tile):
    return (tile - tile.mean()) / tile.std()


pipeline = seamscope.Pipeline(build("batchnorm"), preprocess=scale_tile)
found = seamscope.examine(pipeline, image, tile=160, overlap=96)
print(found.verdict, round(found.share("preprocessing"), 2))

# %%
# The same with numbers of the whole image.
mean, std = image.mean(), image.std()
pipeline = seamscope.Pipeline(build("batchnorm"), preprocess=lambda tile: (tile - mean) / std)
print(seamscope.examine(pipeline, image, tile=160, overlap=96).verdict)

# %%
# The picture: what the network reads, stitched. If this has seams, the prediction has them.
tiles = [
    scale_tile(image[y : y + 64, x : x + 64]) for y in range(0, 256, 64) for x in range(0, 256, 64)
]
stitched = np.block([tiles[row : row + 4] for row in range(0, 16, 4)])
figure, axes = plt.subplots(1, 2, figsize=(8, 4), layout="constrained")
for ax, pixels, name in zip(
    axes, (stitched, (image - mean) / std), ("each tile", "whole image"), strict=True
):
    shown = ax.imshow(pixels, cmap="gray", vmin=-2, vmax=3)
    ax.set(title=f"scaled with {name}", xlabel="x (pixels)", ylabel="y (pixels)")
figure.colorbar(shown, ax=axes, label="intensity (standard deviations)")
