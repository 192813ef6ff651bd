"""
Tile statistics: whole squares differ
=====================================

**You see** whole tiles that are brighter or darker, with sharp borders, whatever the overlap.

**Cause.** InstanceNorm and GroupNorm layers use the mean and the standard deviation of each tile.
Two tiles with different content normalize the same pixel differently.

**Fix.** Fixed statistics of the whole image, without retraining.
"""

# %%
# No halo removes these seams.
import matplotlib.pyplot as plt

import seamscope
from seamscope.demo import sample_image

image = sample_image("tissue2d")[0][:256, :256]
model = seamscope.load_model("demo:instancenorm")
before = seamscope.measure_seams(image, model, tile=160, halo=46)
print(before.sentence())
print("smallest seamless halo:", before.smallest_seamless_halo)

# %%
# *Explain* names the cause.
found = seamscope.diagnose(image, model, tile=96, halo=16)
print(found.verdict, round(found.share("tile statistics"), 2))

# %%
# The statistics of the whole image, measured tile by tile. All tiles then use them.
statistics = seamscope.freeze_statistics(image, model)
fixed = model.with_statistics(statistics)
print(seamscope.measure_seams(image, fixed, tile=160, halo=46).sentence())

# %%
# The picture: difference from the untiled prediction, before and after.
untiled = seamscope.predict(image, model, tile=256, halo=0)
figure, axes = plt.subplots(1, 2, figsize=(8, 4), layout="constrained")
for network, name, ax in zip((model, fixed), ("per-tile", "fixed"), axes, strict=True):
    tiled = seamscope.predict(image, network, tile=160, halo=46)
    shown = ax.imshow(abs(tiled - untiled).max(axis=0), vmin=0, vmax=0.3)
    ax.set(title=f"{name} statistics", xlabel="x (pixels)", ylabel="y (pixels)")
figure.colorbar(shown, ax=axes, label="difference from untiled (0 to 1)")
