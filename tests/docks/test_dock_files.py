"""The dock "Tiled prediction" and files behind layers: images, resolutions, no data, classes."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import zarr

pytest.importorskip("napari")

from dock_networks import measured, whole
from hands import PATIENCE, load, picture, press

from seamscope.docks.layers import image_of
from seamscope.images.intensity import measure_intensity

CLASSES = measured()
SINGLE = measured(classes=1)
COLOR = measured(channels=3)


@pytest.fixture
def dock(open_docks):
    return open_docks("prediction")


def run(qtbot, dock):
    press(qtbot, dock.panel.run)
    qtbot.waitUntil(lambda: not dock.busy, timeout=PATIENCE)
    assert dock.problem == ""


def shown(dock, control) -> bool:
    dock.more.expand(animate=False)
    return control.isVisibleTo(dock)


def test_only_what_can_be_chosen_is_shown(qtbot, viewer, dock) -> None:
    viewer.add_image(picture(48, 48))
    load(qtbot, dock, CLASSES)
    options = dock.options
    assert not shown(dock, options.series)
    assert not shown(dock, options.level)
    assert not shown(dock, options.background)
    assert shown(dock, options.nodata)
    options.result.set_value("labels")
    assert shown(dock, options.background)
    load(qtbot, dock, SINGLE)
    assert not shown(dock, options.background)
    for control in (options.series, options.level, options.background, options.nodata):
        assert control.toolTip()


def test_labels_with_a_background(qtbot, viewer, dock) -> None:
    image = picture(64, 64)
    viewer.add_image(image)
    load(qtbot, dock, CLASSES)
    dock.options.result.set_value("labels")
    dock.options.background.set_value(1)
    assert dock.options.background.currentText() == "1: channel 1"
    run(qtbot, dock)
    labels = dock.results.layers[0]
    expected = np.array([1, 0, 2])[whole(CLASSES, image).argmax(0)]
    np.testing.assert_array_equal(labels.data, expected)
    names = dict(zip(labels.features["index"], labels.features["class"], strict=True))
    assert [names[value] for value in (0, 1, 2)] == ["channel 1", "channel 0", "channel 2"]
    assert labels.colormap.map(0)[3] == 0  # transparent, as in other programs
    assert labels.colormap.map(1)[3] == 1
    dock.options.result.set_value("probabilities")
    assert dock.plan.settings.background is None


def test_another_image_of_a_file_is_opened_as_a_layer(qtbot, viewer, dock, tmp_path) -> None:
    images = picture(64, 64), picture(40, 56, seed=2)
    with tifffile.TiffWriter(tmp_path / "two.tif") as file:
        for image in images:
            file.write(image)
    viewer.open(tmp_path / "two.tif", plugin="napari")
    np.testing.assert_array_equal(viewer.layers[0].data, images[0])
    load(qtbot, dock, SINGLE)
    assert "holds 2 images; number 0" in dock.notes.text()
    assert shown(dock, dock.options.series)
    dock.options.series.set_value(1)
    assert dock.layer is viewer.layers[-1]
    assert dock.layer is not viewer.layers[0]
    assert "holds 2 images; number 1" in dock.notes.text()
    assert dock.options.series.value() == 1
    run(qtbot, dock)
    np.testing.assert_allclose(dock.results.array, whole(SINGLE, images[1])[0], atol=1e-6)
    dock.image_box.value = viewer.layers[0]
    assert dock.options.series.value() == 0


def test_another_resolution_lies_on_the_image(qtbot, viewer, dock) -> None:
    image = picture(64, 96)
    layer = viewer.add_image(
        [image, image[::2, ::2]], multiscale=True, scale=(0.5, 0.5), translate=(3, 4)
    )
    load(qtbot, dock, SINGLE)
    assert shown(dock, dock.options.level)
    dock.options.level.set_value(1)
    coarse = dock.layer
    np.testing.assert_array_equal(np.asarray(coarse.data), image[::2, ::2])
    np.testing.assert_allclose(coarse.scale, (1, 1))
    # the corner of the first pixel stays where it was
    corner = layer.data_to_world((-0.5, -0.5)), coarse.data_to_world((-0.5, -0.5))
    np.testing.assert_allclose(*corner)
    run(qtbot, dock)
    np.testing.assert_allclose(dock.results.array, whole(SINGLE, image[::2, ::2])[0], atol=1e-6)
    np.testing.assert_allclose(dock.results.layers[0].translate, coarse.translate)


def test_resolutions_of_ome_zarr(qtbot, viewer, dock, tmp_path) -> None:
    image = picture(64, 96)
    group = zarr.create_group(tmp_path / "a.zarr", zarr_format=2)
    datasets = []
    for level, values in enumerate((image, image[::2, ::2])):
        group.create_array(str(level), data=values, chunks=(32, 32))
        scale = {"type": "scale", "scale": [2.0**level] * 2}
        datasets.append({"path": str(level), "coordinateTransformations": [scale]})
    axes = [{"name": name, "type": "space"} for name in "yx"]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    viewer.add_image(image, metadata={"seamscope opened": (str(tmp_path / "a.zarr"), None)})
    load(qtbot, dock, SINGLE)
    assert [dock.options.level.itemText(i) for i in range(2)] == ["64 x 96", "32 x 48"]
    dock.options.level.set_value(1)
    np.testing.assert_array_equal(np.asarray(dock.layer.data), image[::2, ::2])
    np.testing.assert_allclose(dock.layer.scale, (2, 2))


def test_the_file_says_what_stands_for_no_data(qtbot, viewer, dock, tmp_path) -> None:
    image = picture(64, 64)
    image[:, 40:] = -9999
    tag = (42113, 2, 0, "-9999", True)
    tifffile.imwrite(tmp_path / "a.tif", image, extratags=[tag])
    viewer.open(tmp_path / "a.tif", plugin="napari")
    load(qtbot, dock, SINGLE)
    dock.options.normalize.set_value("zscore")
    assert dock.options.nodata.value() == -9999
    assert "intensity -9999 are without data" in dock.notes.text()
    run(qtbot, dock)
    valid = image[:, :40].astype(np.float64)
    normalized = np.zeros_like(image)
    normalized[:, :40] = (valid - valid.mean()) / (valid.std() + 1e-6)
    np.testing.assert_allclose(dock.results.array, whole(SINGLE, normalized)[0], atol=1e-5)

    dock.options.nodata.setText("")
    dock.options.nodata.editingFinished.emit()
    assert "without data" not in dock.notes.text()
    measured_again = measure_intensity(image_of(dock.layer), "zscore", channel_axis=None)
    assert measured_again.offset[0] == pytest.approx(image.mean(dtype=np.float64), rel=1e-6)


@pytest.mark.parametrize("kind", ["miniswhite", "palette"])
def test_what_napari_reads_otherwise_is_said_and_can_be_opened(
    kind, qtbot, viewer, dock, tmp_path
) -> None:
    """napari shows numbers of a palette, and white as dark."""
    values = np.random.default_rng(0).integers(0, 3, (48, 64)).astype(np.uint8)
    colours = np.zeros((3, 256), np.uint16)
    colours[:, :3] = np.array([[10, 20, 30], [200, 0, 0], [0, 0, 250]]).T * 257
    more = {"colormap": colours} if kind == "palette" else {}
    tifffile.imwrite(tmp_path / "a.tif", values, photometric=kind, **more)
    viewer.open(tmp_path / "a.tif", plugin="napari")
    np.testing.assert_array_equal(viewer.layers[0].data, values)
    load(qtbot, dock, COLOR if kind == "palette" else SINGLE)
    assert "otherwise than Seamscope" in dock.notes.text()
    press(qtbot, dock.panel.actions.buttons["Open with Seamscope"])
    assert dock.layer.name == "a · as read by Seamscope"
    assert "otherwise" not in dock.notes.text()
    run(qtbot, dock)
    if kind == "palette":
        expected = whole(COLOR, np.moveaxis((colours[:, :3].T >> 8)[values], -1, 0))
    else:
        expected = whole(SINGLE, np.invert(values))[0]
    np.testing.assert_allclose(dock.results.array, expected, atol=1e-4)
