"""Exported programs: run at any size they allow, and checked before any of them is executed."""

from __future__ import annotations

import io
import json
import os
import warnings
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.export import Dim

import networks
from couplings import Unetr
from families import Windows
from seamscope.errors import ModelError, TrustError
from seamscope.models.formats import exported as exported_format
from seamscope.models.formats import format_of, load_model, would_run
from seamscope.models.speed.acceleration import choose

AUTO = Dim.AUTO


def network(**kwargs):
    torch.manual_seed(0)
    return networks.UNet(2, 1, **kwargs).eval()


def exported(path, net, shape=(2, 1, 64, 64), dynamic=(0, 2, 3)):
    shapes = (dict.fromkeys(dynamic, AUTO),) if dynamic else None
    with torch.no_grad():
        program = torch.export.export(net, (torch.randn(shape),), dynamic_shapes=shapes)
    torch.export.save(program, path)
    return path


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_a_dynamic_program_is_the_network_it_was_made_of(tmp_path, norm) -> None:
    net = network(norm=norm)
    path = exported(tmp_path / "net.pt2", net)
    assert would_run(path) == ()
    assert format_of(path) == "torch.export program"
    own, loaded = load_model(net), load_model(path)
    x = np.random.default_rng(0).normal(size=(3, 1, 96, 80)).astype(np.float32)
    assert np.abs(own.runner()(x) - loaded.runner()(x)).max() < 1e-5
    # torch refuses statistics of a single pixel in Python alone, so that smallest sizes differ
    one, other = (
        replace(m.facts, lattice=tuple(replace(a, smallest=1) for a in m.facts.lattice))
        for m in (own, loaded)
    )
    assert str(one) == str(other)
    assert loaded.reach == own.reach
    assert one.lattice == other.lattice
    kinds = [[(c.statistics, c.channels) for c in m.audit.layers] for m in (own, loaded)]
    assert kinds[0] == kinds[1]
    assert loaded.fingerprint == own.fingerprint


def test_what_couples_the_tile_is_said_in_words_where_no_layer_runs(tmp_path) -> None:
    path = exported(tmp_path / "net.pt2", Unetr().eval(), (1, 1, 64, 64), ())
    assert load_model(path).reach.couplings == ("attention",)


def test_windows_are_seen_in_a_program_of_one_size(tmp_path) -> None:
    last = torch.nn.Conv2d(1, 1, 3, padding=14, dilation=14)  # all depends on padding
    between = torch.nn.Conv2d(2, 1, 1), Windows(8, 1), torch.nn.Conv2d(2, 1, 1)
    net = torch.nn.Sequential(Windows(8, 1), *between, last).eval()
    own, loaded = load_model(net), load_model(exported(tmp_path / "n.pt2", net, (1, 1, 64, 64), ()))
    assert loaded.facts.period == own.facts.period == (8, 8)
    assert loaded.reach.halo == own.reach.halo


def test_a_dynamic_program_can_be_made_faster(tmp_path) -> None:
    path = exported(tmp_path / "net.pt2", network())
    x = torch.randn(1, 1, 96, 80)
    trials = {t.name: t for t in choose(load_model(path).module, x, repeats=1).trial}
    assert trials["fused"].refused is None
    assert trials["fused"].deviation < 2e-5


def test_a_fixed_program_fixes_the_tile(tmp_path) -> None:
    path = exported(tmp_path / "net.pt2", network(), (1, 1, 64, 96), ())
    model = load_model(path)
    assert [axis.fixed for axis in model.facts.lattice] == [64, 96]
    x = np.random.default_rng(0).normal(size=(3, 1, 64, 96)).astype(np.float32)
    # exported for one image: three are run one after another
    with torch.inference_mode():
        expected = network()(torch.from_numpy(x)).numpy()
    assert np.abs(model.runner()(x) - expected).max() < 1e-5


def test_a_fixed_batch_is_filled_up(tmp_path) -> None:
    path = exported(tmp_path / "net.pt2", network(), (2, 1, 64, 64), (2, 3))
    x = np.random.default_rng(0).normal(size=(3, 1, 80, 64)).astype(np.float32)
    with torch.inference_mode():
        expected = network()(torch.from_numpy(x)).numpy()
    assert np.abs(load_model(path).runner()(x) - expected).max() < 1e-5


def test_the_content_counts_and_not_the_suffix(tmp_path) -> None:
    exported(tmp_path / "net.pt2", network()).rename(tmp_path / "net.zip")
    assert load_model(tmp_path / "net.zip").facts.in_channels == 1


def test_a_program_made_on_a_gpu_runs_here(tmp_path) -> None:
    def on_gpu(name, data):
        cpu, gpu = b'{"type": "cpu", "index": null}', b'{"type": "cuda", "index": 0}'
        return data.replace(cpu, gpu) if name.endswith(".json") else data

    clean = exported(tmp_path / "net.pt2", network())
    path = rewritten(clean, tmp_path / "gpu.pt2", on_gpu)
    assert path.read_bytes().count(b'"cuda"') > 10
    x = np.random.default_rng(0).normal(size=(1, 1, 64, 64)).astype(np.float32)
    assert np.array_equal(load_model(path).runner()(x), load_model(clean).runner()(x))


def test_several_outputs_are_chosen_by_number(tmp_path) -> None:
    class Two(torch.nn.Module):
        def forward(self, x):
            return x + 1, x * 2

    path = exported(tmp_path / "two.pt2", Two())
    first = load_model(path)
    assert first.outputs == ("0", "1")
    assert "#1" in first.notes[0]
    x = np.ones((1, 1, 64, 64), np.float32) * 5
    for spec in (f"{path}#0", path):
        assert (load_model(spec).runner()(x) == 6).all()
    assert (load_model(f"{path}#-1").runner()(x) == 10).all()
    with pytest.raises(ModelError, match="no output '2'"):
        load_model(f"{path}#2")


# -- what loading would run


class Bomb:
    """Pickled, it makes a folder when it is loaded."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return (os.mkdir, (self.trace,))


def rewritten(path, out, change):
    """Copy an archive, with members changed by ``change(name, bytes) -> bytes``."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as target:
        for info in source.infolist():
            target.writestr(info.filename, change(info.filename, source.read(info.filename)))
    return out


def with_program(change):
    def apply(name, data):
        if not name.endswith("models/model.json"):
            return data
        told = json.loads(data)
        change(told)
        return json.dumps(told).encode()

    return apply


def with_pickle(trace):
    buffer = io.BytesIO()
    torch.save(((Bomb(trace),), {}), buffer)
    return lambda name, data: buffer.getvalue() if "sample_inputs" in name else data


def with_guard(trace):
    def change(told):
        told["guards_code"].append(f"__import__('os').mkdir({str(trace)!r}) is None")

    return with_program(change)


def with_size(trace):
    def change(told):
        values = told["graph_module"]["graph"]["tensor_values"]
        evil = f"__import__('os').mkdir({str(trace)!r}) or 4"
        values["x"]["sizes"][2] = {"as_expr": {"expr_str": evil, "hint": {"as_int": 64}}}

    return with_program(change)


@pytest.mark.parametrize("bomb", [with_pickle, with_guard, with_size])
def test_nothing_of_a_program_runs_before_trust(tmp_path, bomb) -> None:
    trace = tmp_path / "ran"
    clean = exported(tmp_path / "net.pt2", network())
    path = rewritten(clean, tmp_path / "bomb.pt2", bomb(trace))
    lines = would_run(path)
    assert lines
    assert not trace.exists()
    with pytest.raises(TrustError):
        load_model(path)
    assert not trace.exists()
    # the bomb is real: with trust it goes off, on loading or on the first run
    try:
        model = load_model(path, trust=True)
        model.runner()(np.zeros((1, 1, 64, 64), np.float32))
    except Exception:
        pass
    assert trace.exists()


@pytest.mark.parametrize(
    "name",
    ["torch.os.mkdir", "torch.ops.load_library", "_operator.call", "torch.ops.aten.from_file.out"],
)
def test_functions_beyond_tensors_are_told(tmp_path, name) -> None:
    def change(told):
        told["graph_module"]["graph"]["nodes"][0]["target"] = name

    clean = exported(tmp_path / "net.pt2", network())
    path = rewritten(clean, tmp_path / "bomb.pt2", with_program(change))
    (line,) = would_run(path)
    assert name in line


@pytest.mark.parametrize(
    ("text", "harmless"),
    [
        ("(2*(L['x'].size()[2] // 4)) == (L['x'].size()[2] // 2)", True),
        ("Mul(Integer(4), Symbol('s0', positive=True, integer=True), Float('0.5'))", True),
        ("math.trunc(0.5*torch.sym_float(L['x'].size()[2])) >= 2", True),
        ("s0 // 2 if s0 else 3", False),
        ("().__class__.__base__", False),
        ("L['x'].__class__", False),
        ("L['__import__']('os')", False),
        ("torch.load('x')", False),
        ("math.__loader__.size()", False),
        ("Mul(open('x'))", False),
        ("Symbol(__import__('os').getcwd())", False),
        ("[x for x in (1,)]", False),
        ("lambda: 1", False),
        ("(y := 3)", False),
        ("f'{s0}'", False),
        ("getattr(s0, 'size')()", False),
        ("1)\n  import os\n  (1", False),
    ],
)
def test_expressions_may_only_compute_sizes(text, harmless) -> None:
    assert exported_format._is_arithmetic(text) == harmless


@pytest.mark.parametrize("second", ["net/models/model.json", "net/Models/model.json"])
def test_members_of_one_name_are_refused(tmp_path, second) -> None:
    """What is checked must be what torch reads."""
    trace = tmp_path / "ran"
    clean = exported(tmp_path / "net.pt2", network())
    evil = rewritten(clean, tmp_path / "evil.pt2", with_guard(trace))
    path = tmp_path / "both.pt2"
    with (
        zipfile.ZipFile(clean) as a,
        zipfile.ZipFile(evil) as b,
        zipfile.ZipFile(path, "w") as out,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # of the name that is there already
        out.writestr(second, b.read("net/models/model.json"))
        for name in a.namelist():
            out.writestr(name, a.read(name))
    with pytest.raises(ModelError, match="several members called"):
        load_model(path)
    assert not trace.exists()


def test_harmless_programs_of_every_kind_need_no_trust(tmp_path) -> None:
    class Odd(torch.nn.Module):
        def forward(self, x):
            y = torch.nn.functional.interpolate(x, scale_factor=0.5, mode="bilinear")
            y = torch.nn.functional.pad(y, (1, 1, 1, 1), mode="reflect")[..., 1:-1, 1:-1]
            y = torch.where(y > 0, y, y.mean((2, 3), keepdim=True))
            return torch.nn.functional.interpolate(y, size=x.shape[2:], mode="nearest")

    valid = networks.ValidUNet().eval()
    for i, (net, shape) in enumerate([
        (Odd(), (2, 1, 64, 64)),
        (network(up="bilinear", norm="group"), (2, 1, 64, 64)),
        (networks.UNet(3, 1).eval(), (2, 1, 16, 16, 16)),
        (valid, (2, 1, 140, 140)),
        (torch.nn.MultiheadAttention(4, 2), None),
    ]):  # fmt: skip
        if shape is None:
            continue
        path = exported(tmp_path / f"{i}.pt2", net, shape, (0, *range(2, len(shape))))
        assert would_run(path) == (), net


@pytest.mark.parametrize("part", [0.5, 0.9])
def test_a_truncated_program_is_one_sentence(tmp_path, part) -> None:
    data = exported(tmp_path / "net.pt2", network()).read_bytes()
    path = tmp_path / "half.pt2"
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(ModelError, match="its end is missing") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


def test_a_damaged_program_is_one_sentence(tmp_path) -> None:
    def broken(name, data):
        return b"{}" if name.endswith("models/model.json") else data

    path = rewritten(exported(tmp_path / "n.pt2", network()), tmp_path / "broken.pt2", broken)
    with pytest.raises(ModelError, match="exported program") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)
