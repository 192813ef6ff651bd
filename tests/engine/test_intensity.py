"""Whole-image intensities equal numpy on the whole array, for every way an image can be stored."""

from __future__ import annotations

import json
import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from seamscope.errors import ImageError, SettingsError
from seamscope.images import intensity, passes
from seamscope.images.image import Image, open_image
from seamscope.images.intensity import EPS, Intensity, measure_intensity
from seamscope.serialization import restore
from watching import Seen

TYPES = ("?", "u1", "i1", "u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "f8", ">u2", ">f4")

finite = {"allow_nan": False, "allow_infinity": False}


@st.composite
def arrays(draw: st.DrawFn, types: tuple[str, ...] = TYPES) -> np.ndarray:
    dtype = np.dtype(draw(st.sampled_from(types)))
    shape = draw(nps.array_shapes(min_dims=2, max_dims=4, max_side=8))
    if dtype.kind == "f":
        bound = {2: 1e3, 4: 1e6, 8: 1e6}[dtype.itemsize]
        bound = float(np.dtype(dtype).type(bound))
        elements = st.floats(-bound, bound, width=8 * dtype.itemsize, **finite)
        return draw(nps.arrays(dtype, shape, elements=elements))
    return draw(nps.arrays(dtype, shape))


class Chunked:
    """What zarr looks like from outside, without its time for each of many tiny chunks."""

    def __init__(self, data: np.ndarray, chunks: tuple[int, ...]) -> None:
        self._data, self.chunks, self.shape, self.dtype = data, chunks, data.shape, data.dtype

    def __getitem__(self, index: Any) -> np.ndarray:
        return self._data[index]


def stored(data: np.ndarray, draw: Any) -> Image:
    """The same image in one piece, or in some chunks."""
    if draw(st.booleans()):
        return open_image(data)
    chunks = tuple(draw(st.integers(1, n)) for n in data.shape)
    return open_image(Chunked(data, chunks))


def channels_first(data: np.ndarray, axis: int | None) -> np.ndarray:
    moved = data[np.newaxis] if axis is None else np.moveaxis(data, axis, 0)
    return moved.reshape(len(moved), -1).astype(np.float64)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small images must be cut into many pieces, too, or nothing would be merged."""
    monkeypatch.setattr(passes, "_PIECE", 7)
    monkeypatch.setattr(passes, "_BLOCK", 200)
    monkeypatch.setattr(passes, "STRETCHES", 5)


# --------------------------------------------------------------------------------------------------
# Equal to numpy
# --------------------------------------------------------------------------------------------------


@given(arrays(), st.data())
def test_zscore_is_numpys(data: np.ndarray, more: st.DataObject) -> None:
    axis = more.draw(st.none() | st.integers(0, data.ndim - 1))
    found = measure_intensity(stored(data, more.draw), "zscore", channel_axis=axis)
    flat = channels_first(data, axis)
    size = np.abs(flat).max(axis=1) + 1e-300
    np.testing.assert_allclose(found.offset / size, flat.mean(axis=1) / size, atol=1e-14)
    constant = flat.std(axis=1) == 0
    wanted = np.where(constant, 1, flat.std(axis=1) + EPS)
    exact = [len(set(channel)) > 1 for channel in flat.tolist()]
    np.testing.assert_allclose(
        np.array(found.divisor)[exact], wanted[exact], rtol=1e-12, atol=float(1e-13 * size.max())
    )
    np.testing.assert_array_equal(np.array(found.divisor)[~np.array(exact)], 1)


@given(arrays(), st.data())
def test_minmax_is_numpys(data: np.ndarray, more: st.DataObject) -> None:
    axis = more.draw(st.none() | st.integers(0, data.ndim - 1))
    found = measure_intensity(stored(data, more.draw), "minmax", channel_axis=axis)
    flat = channels_first(data, axis)
    low, high = flat.min(axis=1), flat.max(axis=1)
    np.testing.assert_array_equal(found.offset, low)
    np.testing.assert_array_equal(found.divisor, np.where(high > low, high - low + EPS, 1))


@given(arrays(), st.data())
def test_percentiles_are_numpys_to_the_last_bit(data: np.ndarray, more: st.DataObject) -> None:
    axis = more.draw(st.none() | st.integers(0, data.ndim - 1))
    ends = sorted(
        more.draw(st.lists(st.floats(0, 100), min_size=2, max_size=2, unique=True))
        if more.draw(st.booleans())
        else (1.0, 99.8)
    )
    found = measure_intensity(
        stored(data, more.draw), "percentile", channel_axis=axis, percentiles=(ends[0], ends[1])
    )
    flat = channels_first(data, axis)
    low, high = np.percentile(flat, ends, axis=1)
    np.testing.assert_array_equal(found.offset, low)
    np.testing.assert_array_equal(found.divisor, np.where(high > low, high - low + EPS, 1))


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["f2", "f4", "f8"]))
def test_keys_keep_floats_and_their_order(value: float, dtype: str) -> None:
    with np.errstate(over="ignore"):
        values = np.unique(np.array([value, -value, 0, 1e-7, -3, 6e4, -6e4]).astype(dtype))
    values = values[np.isfinite(values)]
    keys = intensity._keys(values)
    assert (np.diff(keys.astype(object)) > 0).all()
    assert [intensity._value(int(k), values.dtype) for k in keys] == values.tolist()


def test_large_offsets_do_not_spoil_the_variance() -> None:
    """The textbook formula E[x²] - E[x]² gives 0 or a negative variance here."""
    data = 1e9 + np.random.default_rng(0).normal(size=(100, 100))
    found = measure_intensity(open_image(data), "zscore", channel_axis=None)
    assert found.divisor[0] == pytest.approx(data.std() + EPS, rel=1e-6)


@pytest.mark.parametrize("method", ["zscore", "minmax", "percentile"])
@pytest.mark.parametrize("dtype", TYPES)
def test_constant_image_becomes_zero(method: Any, dtype: str) -> None:
    data = np.full((1, 8, 9), 100, dtype)
    found = measure_intensity(open_image(data), method, channel_axis=0)
    assert found.divisor == (1.0,)
    out = np.empty(data.shape, np.float32)
    found.apply(data, out)
    assert not out.any()


def test_none_reads_nothing() -> None:
    class Unreadable:
        shape, dtype = (4, 4), np.dtype("f4")

        def __getitem__(self, index: Any) -> Any:
            raise AssertionError

    found = measure_intensity(open_image(Unreadable()), "none", channel_axis=None)
    assert found == Intensity("none")


# --------------------------------------------------------------------------------------------------
# What is refused
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["zscore", "minmax", "percentile"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("axis", [None, 0, 2])
def test_values_that_are_not_finite_are_counted_and_located(
    method: Any, bad: float, axis: int | None
) -> None:
    data = np.zeros((3, 20, 30), np.float32)
    data[1, 12, 3] = bad
    data[1, 11, 29] = data[2, 0, 0] = -bad
    image = open_image(zarr.create_array({}, data=data, chunks=(3, 8, 8)), axes="cyx")
    with pytest.raises(ImageError, match=r"3 value\(s\).* first at \(1, 11, 29\) \(cyx\)"):
        measure_intensity(image, method, channel_axis=axis)


def test_huge_finite_values_are_fine() -> None:
    data = np.full((20, 30), 3e38, np.float32)
    assert measure_intensity(open_image(data), "minmax", channel_axis=None).divisor == (1.0,)


@pytest.mark.parametrize("ends", [(99.0, 1.0), (5.0, 5.0), (-1.0, 50.0), (1.0, 101.0)])
def test_percentiles_that_make_no_sense(ends: tuple[float, float]) -> None:
    with pytest.raises(SettingsError, match="low < high"):
        measure_intensity(
            open_image(np.zeros((4, 4))), "percentile", channel_axis=None, percentiles=ends
        )


def test_unknown_method() -> None:
    with pytest.raises(SettingsError, match="none, zscore, minmax, percentile"):
        measure_intensity(open_image(np.zeros((4, 4))), "mean", channel_axis=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("offset", "divisor"),
    [
        ((1.0,), (1.0, 2.0)),
        ((), ()),
        ((1.0,), (0.0,)),
        ((math.nan,), (1.0,)),
        ((0.0,), (math.inf,)),
    ],
)
def test_intensity_that_cannot_be_applied(
    offset: tuple[float, ...], divisor: tuple[float, ...]
) -> None:
    with pytest.raises(SettingsError, match="measure them again"):
        Intensity("zscore", offset, divisor)


def test_wrong_number_of_channels() -> None:
    out = np.empty((3, 4, 4), np.float32)
    with pytest.raises(SettingsError, match="2 channels, and the image has 3"):
        Intensity("zscore", (1.0, 2.0), (1.0, 2.0)).apply(np.zeros((3, 4, 4)), out)


# --------------------------------------------------------------------------------------------------
# Applying
# --------------------------------------------------------------------------------------------------


@given(arrays(), st.data())
def test_applying_equals_float64(data: np.ndarray, more: st.DataObject) -> None:
    number = len(data) if more.draw(st.booleans()) else 1
    values = st.floats(-1000, 1000, **finite)
    offset = tuple(more.draw(values) for _ in range(number))
    divisor = tuple(abs(more.draw(values)) + 0.5 for _ in range(number))
    out = np.full(data.shape, np.nan, np.float32)
    Intensity("zscore", offset, divisor).apply(data, out)
    column = (-1,) + (1,) * (data.ndim - 1)
    difference = data.astype(np.float64) - np.reshape(offset, column)
    wanted = difference / np.reshape(divisor, column)
    # float32: three roundings, of an offset that may be as large as what it is taken from
    size = np.abs(difference) + np.abs(np.reshape(offset, column))
    error = np.abs(out - wanted) * np.reshape(divisor, column)
    float32 = np.finfo(np.float32)
    least = float32.smallest_subnormal * (1 + np.reshape(divisor, column))
    assert (error <= 4 * float32.eps * size + 2 * least).all()


def test_none_only_converts() -> None:
    data = np.arange(12, dtype=">u2").reshape(1, 3, 4)
    out = np.empty(data.shape, np.float32)
    Intensity("none").apply(data, out)
    np.testing.assert_array_equal(out, data)


def test_wide_types_lose_nothing_before_the_subtraction() -> None:
    data = np.array([[[2**31 + 1, 2**31 + 2]]], np.uint32)
    out = np.empty(data.shape, np.float32)
    Intensity("zscore", (2.0**31,), (1.0,)).apply(data, out)
    assert out.tolist() == [[[1.0, 2.0]]]


def test_applying_copies_nothing() -> None:
    """Narrow types are computed inside the result: nothing of a tile's size is allocated."""
    for dtype in ("u1", "u2", "f4"):
        data = np.ones((1, 256, 256), dtype)
        out = np.empty(data.shape, np.float32)
        found = Intensity("zscore", (3.0,), (7.0,))
        found.apply(data, out)
        tracemalloc.start()
        found.apply(data, out)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < out.nbytes / 4, dtype


# --------------------------------------------------------------------------------------------------
# Saved, told, cancelled, bounded
# --------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(**finite), st.floats(1e-9, 1e9)), min_size=1, max_size=4))
def test_json_round_trip(numbers: list[tuple[float, float]]) -> None:
    offset, divisor = zip(*numbers, strict=True)
    found = Intensity("percentile", offset, divisor)
    assert restore(Intensity, json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize(
    "told", [{}, {"method": "zscore", "offset": 3, "divisor": [1]}, {"method": "x"}, {"offset": []}]
)
def test_json_of_something_else(told: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="Cannot read a saved Intensity"):
        restore(Intensity, told)


@pytest.mark.parametrize("dtype", ["u1", "f4", "f8"])
def test_progress_ends_at_one(dtype: str) -> None:
    work = Seen()
    data = np.random.default_rng(0).random((3, 20, 30)).astype(dtype)
    measure_intensity(open_image(data), "percentile", channel_axis=0, work=work)
    told = [done / total for done, total in work.steps]
    assert told == sorted(told)
    assert len(told) > 5
    assert told[-1] == 1.0
    assert told[0] < 0.2


def test_cancelled() -> None:
    work = Seen(until=lambda seen: seen.asked == 3)
    with pytest.raises(InterruptedError):
        measure_intensity(open_image(np.zeros((50, 50))), "zscore", channel_axis=None, work=work)
    assert work.asked == 3


def own_memory() -> int:
    """Anonymous memory of this process in bytes; page cache does not count."""
    return int(psutil.Process().memory_full_info().uss) if not STATUS.exists() else rss_anon()


STATUS = Path("/proc/self/status")


def rss_anon() -> int:
    line = next(s for s in STATUS.read_text().splitlines() if s.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize("method", ["zscore", "percentile"])
def test_memory_stays_bounded(method: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image of 256 MB of float32 on disk is measured within 64 MB."""
    monkeypatch.undo()
    big = zarr.create_array(
        tmp_path / "big.zarr", shape=(64, 1024, 1024), chunks=(1, 512, 512), dtype="f4"
    )
    plane = np.random.default_rng(0).random((1, 1024, 1024), np.float32)
    for z in range(64):
        big[z : z + 1] = plane + z
    image = open_image(tmp_path / "big.zarr")
    measure_intensity(open_image(plane[0]), method, channel_axis=None)  # warmed up
    before, most = own_memory(), 0

    def watch(_: Seen) -> bool:
        nonlocal most
        most = max(most, own_memory() - before)
        return False

    found = measure_intensity(image, method, channel_axis=None, work=Seen(until=watch))
    assert most < 64 * 2**20
    if method == "zscore":
        assert found.offset[0] == pytest.approx(plane.mean(dtype=np.float64) + 31.5, rel=1e-6)
