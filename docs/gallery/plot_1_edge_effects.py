"""
Edge effects: squares with soft borders
=======================================

**You see** errors near tile borders, strongest at the border, gone some pixels inside.

**Cause.** Near a tile's border, the network reads padding instead of the image. How far this
reaches into the tile is the network's *reach*.

**Fix.** A halo of at least the reach, with tile starts on multiples of the network's period.
"""

# %%
# The demo network reaches 46 pixels and has period 8. With a halo of 8 pixels, neighbouring tiles
# disagree.
import matplotlib.pyplot as plt

import seamscope
from seamscope.demo import sample_image

image = sample_image("tissue2d")[0][:256, :256]
model = seamscope.load_model("demo:batchnorm")
print(model.describe())
print(seamscope.measure_seams(image, model, tile=160, halo=8).sentence())

# %%
# *Explain* names the cause and the halo that is enough.
found = seamscope.diagnose(image, model, tile=160, halo=8)
print(found.verdict, found.suggested_halo)

# %%
# With that halo the seams are gone: tiled and untiled predictions are equal.
report = seamscope.measure_seams(image, model, tile=160, halo=46)
print(report.sentence())

# %%
# The picture: difference from the untiled prediction, without a halo and with the right one.
untiled = seamscope.predict(image, model, tile=256, halo=0)
figure, axes = plt.subplots(1, 2, figsize=(8, 4), layout="constrained")
for tile, halo, ax in zip((64, 160), (0, 46), axes, strict=True):
    tiled = seamscope.predict(image, model, tile=tile, halo=halo)
    shown = ax.imshow(abs(tiled - untiled).max(axis=0), vmin=0, vmax=0.1)
    ax.set(title=f"tile {tile}, halo {halo}", xlabel="x (pixels)", ylabel="y (pixels)")
figure.colorbar(shown, ax=axes, label="difference from untiled (0 to 1)")
