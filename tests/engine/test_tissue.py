"""Synthetic tissue: what the demo models need it to be."""

import numpy as np
import pytest
from scipy import ndimage

from seamscope.demo.tissue import BACKGROUND, BOUNDARY, EXTRACELLULAR, FOREGROUND, tissue
from seamscope.errors import SettingsError

PICTURES = [((768, 768), 10_101), ((768, 768), 10_102), ((64, 160, 160), 10_103)]


@pytest.fixture(scope="module", params=PICTURES, ids=str)
def picture(request):
    return tissue(*request.param)


@pytest.mark.parametrize("shape", [(200, 150), (20, 90, 70), (1, 60, 60), (3, 50)], ids=str)
def test_shape_dtype_and_seed(shape):
    image, labels = tissue(shape, 5)
    assert image.shape == labels.shape == shape
    assert image.dtype == labels.dtype == np.uint8
    again, labels_again = tissue(shape, 5)
    assert np.array_equal(image, again)
    assert np.array_equal(labels, labels_again)
    assert not np.array_equal(image, tissue(shape, 6)[0])


@pytest.mark.parametrize("shape", [(64,), (2, 2, 2, 2)], ids=str)
def test_other_numbers_of_axes_are_refused(shape):
    with pytest.raises(SettingsError, match=rf"{len(shape)} axes.*\(z, y, x\)"):
        tissue(shape, 0)


def test_every_class_takes_its_share(picture):
    share = np.bincount(picture[1].ravel(), minlength=4) / picture[1].size
    low = {FOREGROUND: 0.3, BOUNDARY: 0.03, EXTRACELLULAR: 0.01, BACKGROUND: 0.08}
    high = {FOREGROUND: 0.8, BOUNDARY: 0.2, EXTRACELLULAR: 0.3, BACKGROUND: 0.5}
    assert len(share) == 4
    for kind in range(4):
        assert low[kind] < share[kind] < high[kind]


def test_membranes_enclose_every_cell(picture):
    labels = picture[1]
    outside = (labels == EXTRACELLULAR) | (labels == BACKGROUND)
    touching = ndimage.binary_dilation(labels == FOREGROUND) & outside
    assert touching.sum() < 1e-4 * labels.size
    cells, count = ndimage.label(labels == FOREGROUND)
    sizes = np.bincount(cells.ravel())[1:]
    assert count >= 20
    # were membranes open, most of the foreground would hang together
    assert sizes.max() < 0.3 * sizes.sum()


def test_intensity_alone_does_not_tell_the_classes_apart(picture):
    image, labels = picture
    mean = [image[labels == kind].mean() for kind in range(4)]
    assert mean[BACKGROUND] < 20 < mean[BOUNDARY] < 80 < mean[FOREGROUND] < mean[EXTRACELLULAR]
    inside = image[labels == FOREGROUND]
    as_black_as_nothing = (inside <= np.percentile(image[labels == BACKGROUND], 90)).mean()
    assert as_black_as_nothing > 0.001  # lipid droplets
    assert (inside < mean[BOUNDARY]).mean() > 0.005
    assert (inside > np.percentile(image[labels == EXTRACELLULAR], 25)).mean() > 0.01


def test_tiles_differ_strongly(picture):
    labels = picture[1]
    edge = 64 if labels.ndim == 2 else 24
    inner = tuple(slice(0, n // edge * edge) for n in labels.shape)
    blocks = np.stack(
        [
            labels[tuple(slice(i * edge, (i + 1) * edge) for i in index)]
            for index in np.ndindex(*(s.stop // edge for s in inner))
        ]
    )
    share = np.stack([(blocks == k).reshape(len(blocks), -1).mean(1) for k in range(4)])
    assert share[BACKGROUND].max() == 1
    assert share[FOREGROUND].max() > 0.95
    assert share[BACKGROUND].min() == 0
    assert share[EXTRACELLULAR].max() > 0.4


def test_volumes_look_alike_along_every_axis():
    labels = tissue((96, 96, 96), 10_104)[1]
    change = [(np.diff(labels, axis=axis) != 0).mean() for axis in range(3)]
    assert max(change) < 1.5 * min(change)
