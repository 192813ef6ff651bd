"""
Postprocessing: objects made tile by tile
=========================================

**You see** straight cuts through objects, although the probabilities have no seams.

**Cause.** Labels, thresholds or scalings are made in each tile.

**Fix.** Stitch the probabilities first. Then make the labels of the whole:
`seamscope.segment` gives the same objects for any block size.
"""

# %%
# Labels made in tiles of 96 pixels cut the objects. The test needs no ground truth.
import matplotlib.pyplot as plt
import numpy as np
from scipy import ndimage

import seamscope
from seamscope.demo import sample_image

image = sample_image("tissue2d")[0][:384, :384]
cells = seamscope.predict(image, "demo:batchnorm")[0] > 0.5
cut = np.zeros(cells.shape, np.int32)
for y in range(0, 384, 96):
    for x in range(0, 384, 96):
        labels, count = ndimage.label(cells[y : y + 96, x : x + 96])
        cut[y : y + 96, x : x + 96] = np.where(labels, labels + cut.max(), 0)
report = seamscope.find_splits(cut, tile=96)
print(f"p = {report.test.p:.4f}, {len(report.candidates)} pairs of labels may be one object")

# %%
# Objects of the whole prediction.
whole = seamscope.segment(cells.astype(np.float32), kind="components", threshold=0.5)
labels = np.asarray(whole.labels)
print(f"p = {seamscope.find_splits(labels, tile=96).test.p:.4f}, {whole.count} objects")

# %%
# The picture: before and after.
figure, axes = plt.subplots(1, 2, figsize=(8, 4), layout="constrained")
for ax, shown, name in zip(axes, (cut, labels), ("each tile", "the whole image"), strict=True):
    ax.imshow(np.ma.masked_equal(shown % 19 + (shown > 0), 0), cmap="tab20", interpolation="none")
    ax.set(title=f"labels of {name}", xlabel="x (pixels)", ylabel="y (pixels)")
