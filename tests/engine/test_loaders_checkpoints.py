"""Checkpoints of all styles: the network's weights are found inside, whatever is around them."""

from __future__ import annotations

import copy
import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import networks
from seamscope.errors import ModelError, TrustError
from seamscope.models.formats import Consent, checkpoints, code_of, load_model, trust, would_run
from seamscope.models.formats.checkpoints import fill


def remember(spec):
    return load_model(spec, trust=Consent(remember=True))


FACTORY = f"{networks.__file__}:UNet(levels=1)"


def small(**kwargs):
    torch.manual_seed(0)
    return networks.UNet(2, 1, **kwargs).eval()


def prefixed(state, prefix):
    return {f"{prefix}{k}": v for k, v in state.items()}


STATE = small().state_dict()
OTHER = networks.UNet(2, 1, classes=7).state_dict()  # a loss network, say: it does not fit
STYLES = {
    "plain": STATE,
    "data parallel": prefixed(STATE, "module."),
    "compiled": prefixed(STATE, "_orig_mod."),
    "both": prefixed(STATE, "module._orig_mod."),
    "lightning": {
        "epoch": 3, "global_step": 7, "pytorch-lightning_version": "2.6.6",
        "state_dict": {**prefixed(OTHER, "criterion.net."), **prefixed(STATE, "model.")},
        "hyper_parameters": {"lr": 1e-3}, "optimizer_states": [{"state": {0: torch.zeros(1)}}],
    },
    "lightning, compiled": {"state_dict": prefixed(STATE, "net._orig_mod.")},
    "torch-em": {
        "model_state": STATE, "optimizer_state": {"state": {0: {"exp_avg": torch.zeros(3)}}},
        "epoch": 5, "best_metric": np.float64(0.1), "init": {"model_class": "UNet2d"},
    },
    "pytorch-3dunet": {"model_state_dict": STATE, "num_epochs": 2, "best": np.float32(1)},
    "nnU-Net": {
        "network_weights": STATE, "current_epoch": 1000, "_best_ema": np.float64(0.9),
        "logging": {"mean_fg_dice": [np.float64(0.5)], "lrs": np.arange(3.0)},
        "init_args": {"configuration": "2d", "fold": 0}, "trainer_name": "nnUNetTrainer",
    },
    "deep": {"a": {"b": {"c": {"weights": STATE}}}},
    "averaged": {"ema": {"decay": torch.tensor(0.9)}, "net": STATE},
}  # fmt: skip


@pytest.mark.parametrize("style", STYLES)
def test_the_networks_weights_are_found_in_every_style(tmp_path, style) -> None:
    torch.save(STYLES[style], tmp_path / "c.pth")
    spec = f"{FACTORY}@{tmp_path / 'c.pth'}"
    # numpy's numbers are no code: only the factory is asked for
    assert len(would_run(spec)) == 1
    loaded = load_model(spec, trust=True).module.state_dict()
    assert loaded.keys() == STATE.keys()
    assert all(torch.equal(loaded[k], STATE[k]) for k in STATE)


def test_what_does_not_fit_is_said_of_the_best_candidate(tmp_path) -> None:
    state = {k: v for k, v in STATE.items() if k != "last.bias"}
    torch.save({"state_dict": {**prefixed(state, "model."), "x": torch.zeros(2)}}, tmp_path / "c")
    with pytest.raises(ModelError, match=r"missing last\.bias\.") as caught:
        load_model(f"{FACTORY}@{tmp_path / 'c'}", trust=True)
    assert "unknown" not in str(caught.value)


def test_weights_alone_suggest_what_they_look_like(tmp_path) -> None:
    weights = {
        "conv_0.conv_0.conv.weight": torch.zeros(4, 3, 3, 3, 3),
        "final_conv.weight": torch.zeros(5, 4, 1, 1, 1),
    }
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(ModelError) as caught:
        load_model(tmp_path / "w.safetensors")
    likely = "monai.networks.nets:BasicUNet(spatial_dims=3, in_channels=3, out_channels=5)@w."
    assert likely in str(caught.value)


@pytest.mark.parametrize("first", [0x08, 0x09, 0xF8])
def test_weights_are_weights_however_long_their_header_is(tmp_path, first) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"conv.weight": torch.zeros(4, 1, 3, 3)}, path)
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    more = (first - size) % 256  # the header may end in spaces
    data = (size + more).to_bytes(8, "little") + data[8 : 8 + size] + b" " * more + data[8 + size :]
    path.write_bytes(data)
    assert data[0] == first  # ONNX begins with 0x08
    with pytest.raises(ModelError, match="weights") as said:
        load_model(path)
    assert "ONNX" not in str(said.value)


def test_foreign_files_are_named(tmp_path) -> None:
    (tmp_path / "m.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(ModelError, match="Keras or HDF5"):
        load_model(tmp_path / "m.h5")


# -- trust


class Bomb:
    def __reduce__(self):
        return (print, ("ran",))


def test_what_seemed_harmless_is_read_as_harmless(tmp_path, monkeypatch, capsys) -> None:
    """A file that changes between the question and its reading, or fools the question."""
    torch.save({"w": torch.zeros(1), "x": Bomb()}, tmp_path / "bomb.pth")
    monkeypatch.setattr(checkpoints, "pickled", lambda *_: ())
    with pytest.raises(ModelError):
        checkpoints.read_checkpoint(tmp_path / "bomb.pth", "bomb.pth")
    assert capsys.readouterr().out == ""


def test_what_was_trusted_is_remembered_by_content(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SEAMSCOPE_CONFIG", str(tmp_path / "settings"))
    path = tmp_path / "whole.pth"
    torch.save(small(), path)
    with pytest.raises(TrustError):
        load_model(path)
    load_model(path, trust=True)
    with pytest.raises(TrustError):  # trusted for that call alone
        load_model(path)
    remember(path)
    assert (tmp_path / "settings" / "trusted.json").is_file()
    load_model(path)
    moved = tmp_path / "elsewhere.pth"
    moved.write_bytes(path.read_bytes())
    load_model(moved)
    # other content is asked for anew
    changed = small()
    changed.last.bias.data += 1
    torch.save(changed, path)
    with pytest.raises(TrustError):
        load_model(path)
    trust.forget(code.digest for code in code_of(moved))
    with pytest.raises(TrustError):
        load_model(moved)


def test_a_factory_is_trusted_with_its_arguments_and_its_source(tmp_path) -> None:
    source = tmp_path / "net.py"
    source.write_text("import torch\ndef net(n=1): return torch.nn.Conv2d(1, n, 1)\n")
    remember(f"{source}:net(n=2)")
    load_model(f"{source}:net(n=2)")
    for other in (f"{source}:net(n=3)", f"{source}:net"):
        with pytest.raises(TrustError):
            load_model(other)
    with source.open("a") as file:
        file.write("# changed\n")
    with pytest.raises(TrustError):
        load_model(f"{source}:net(n=2)")


def test_the_source_can_be_read_first(tmp_path) -> None:
    source = tmp_path / "net.py"
    source.write_text("raise SystemExit  # runs when imported\n")
    (code,) = code_of(f"{source}:net")
    assert code.text == source.read_text()
    (code,) = code_of("torch.nn.modules.conv:Conv2d(in_channels=1)")
    assert "class Conv2d" in code.text
    torch.save({"w": torch.zeros(1), "x": Bomb()}, tmp_path / "bomb.pth")
    (code,) = code_of(tmp_path / "bomb.pth")
    assert "builtins.print" in code.text
    with open(tmp_path / "old.pth", "wb") as file:
        pickle.dump(Bomb(), file)
    (code,) = code_of(tmp_path / "old.pth")
    assert "builtins.print" in code.text


def test_a_settings_folder_that_cannot_be_written_is_no_failure(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SEAMSCOPE_CONFIG", str(tmp_path / "file" / "below"))
    (note,) = remember("torch.nn:Identity").notes
    assert "not remembered" in note
    with pytest.raises(TrustError):
        load_model("torch.nn:Identity")


def test_the_settings_folder_follows_the_system(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("SEAMSCOPE_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert trust.config_folder() == tmp_path / "seamscope"


def test_torchscript_that_touches_files_is_told(tmp_path, recwarn) -> None:
    class Writer(torch.nn.Module):
        def __init__(self, name: str):
            super().__init__()
            self.name = name

        def forward(self, x):
            torch.save(x, self.name)
            return x

    trace = tmp_path / "ran"
    torch.jit.script(Writer(str(trace))).save(tmp_path / "s.pt")
    (line,) = would_run(tmp_path / "s.pt")
    assert "torch.save" in line
    with pytest.raises(TrustError):
        load_model(tmp_path / "s.pt")
    assert not trace.exists()
    load_model(tmp_path / "s.pt", trust=True).runner()(np.zeros((1, 1, 8, 8), np.float32))
    assert trace.exists()


def test_torchscript_made_on_a_gpu_is_one_sentence(tmp_path, recwarn) -> None:
    class OnGpu(torch.nn.Module):
        def forward(self, x):
            return x + torch.zeros(1, device=torch.device("cuda:0"))

    torch.jit.script(OnGpu()).save(tmp_path / "s.pt")
    with pytest.raises(ModelError, match="names cuda:0"):
        load_model(tmp_path / "s.pt")


def test_the_fingerprint_is_the_same_in_every_format(tmp_path, recwarn) -> None:
    net = small()
    torch.jit.trace(net, torch.zeros(1, 1, 32, 32)).save(tmp_path / "t.pt")
    torch.save(copy.deepcopy(net), tmp_path / "w.pth")
    prints = {
        load_model(each, trust=True).fingerprint
        for each in (net, tmp_path / "t.pt", tmp_path / "w.pth")
    }
    assert len(prints) == 1


def test_half_a_zip_is_told_as_such(tmp_path, recwarn) -> None:
    """Also where a whole archive lies within the half."""
    inner = tmp_path / "inner.pt"
    torch.save({"w": torch.zeros(2000)}, inner)
    whole = tmp_path / "whole.zip"
    with zipfile.ZipFile(whole, "w") as archive:
        archive.write(inner)
        archive.writestr("rdf.yaml", "a: 1")
    size = whole.stat().st_size
    for part in (size - 10, size - 250, size // 2):
        path = tmp_path / "half.zip"
        path.write_bytes(whole.read_bytes()[:part])
        with pytest.raises(
            ModelError, match=r"bytes\) begins as a zip archive, and its end"
        ) as told:
            load_model(path, trust=True)
        assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("net.pt", b"hello world", "begins with b'hello world', as no file of PyTorch does"),
        ("net.zip", b"PK\x05\x06" + bytes(18), "is a zip archive without a network"),
        ("rdf.yaml", b"a: 1", "no model card of bioimage.io"),
        ("cells.tif", b"II*\x00" + bytes(64), "is an image .TIFF., and a network is expected"),
        ("cells.png", b"\x89PNG\r\n\x1a\n" + bytes(64), "is an image .PNG., and a network"),
    ],
)
def test_files_of_something_else_are_one_sentence(tmp_path, name, content, words) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=words) as told:
        load_model(tmp_path / name, trust=True)
    assert "\n" not in str(told.value)


def test_the_networks_in_a_python_file_are_named_and_not_run(tmp_path) -> None:
    path = tmp_path / "unet.py"
    path.write_text(
        "raise SystemExit('this ran')\n"
        "class Block(nn.Module): pass\n"
        "class Options: pass\n"
        "class UNet(Block):\n"
        "    def __init__(self, depth, width=8, *, classes, norm=None): pass\n"
    )
    with pytest.raises(ModelError) as caught:
        load_model(path, trust=True)
    named = f"as in {path}:UNet(depth=..., classes=...) or {path}:Block, and its weights"
    assert named in str(caught.value)
    path.write_text(
        "class Net(nn.Module):\n    def __init__(self, depth): pass\n"
        "def small(depth=2):\n    net = Net(depth)\n    net.eval()\n    return net\n"
        "def plain(): return torch.nn.Sequential(Net(1))\n"
        "def said() -> 'torch.nn.Module': ...\n"
        "def sized(depth): return Net(depth)\n"
        "def weights(): return load('weights.pt')\n"
        "def noise(x=None): return nn.functional.relu(x)\n"
        "def number() -> int: return Net(1)\n"
    )
    with pytest.raises(ModelError) as caught:
        load_model(path, trust=True)
    named = [f"{path}:{each}" for each in ("said", "plain", "small")]
    assert f"as in {' or '.join(named)}, and its weights" in str(caught.value)
    path.write_text("def broken(:")
    with pytest.raises(ModelError, match=r"unet.py:Net\(depth=3\), and its weights"):
        load_model(path, trust=True)


def test_addresses_are_never_fetched() -> None:
    for spec in ("https://bioimage.io/#/?id=some-model", "http://example.org/net.pt"):
        with pytest.raises(ModelError, match="nothing is ever downloaded here"):
            load_model(spec, trust=True)


def test_several_sets_of_weights_that_fit_are_told(tmp_path) -> None:
    net = networks.UNet(2, 1).eval()
    own = net.state_dict()
    average = {f"module.{k}": v * 0.5 for k, v in own.items()}
    spec = f"{networks.__file__}:UNet(levels=1)@{tmp_path / 'net.pt'}"
    torch.save({"model": own, "ema": average}, tmp_path / "net.pt")
    model = load_model(spec, trust=True)
    (note,) = model.notes
    assert "2 sets of weights that fit, and model is used. To use ema instead, save it" in note
    assert torch.equal(model.module.last.weight, net.last.weight)
    torch.save({"model": own, "same": dict(own)}, tmp_path / "net.pt")
    assert load_model(spec, trust=True).notes == ()


def _small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sequential(nn.Conv2d(4, 2, 1)))


@pytest.mark.parametrize(
    "renamed",
    [
        lambda name: name.replace("1.0.", "1._orig_mod.0."),
        lambda name: f"_orig_mod.{name}",
        lambda name: f"model.{name.replace('1.0.', '1._checkpoint_wrapped_module.0.')}",
        lambda name: name.replace("1.0.", "1.module.0."),
        lambda name: f"net.module.{name.replace('1.0.', '1._orig_mod.module.0.')}",
    ],
    ids=["inside", "outside", "inside and a prefix", "parallel inside", "twice"],
)
def test_wrappers_in_names_and_profilers_counters_are_no_obstacle(renamed) -> None:
    own = {name: tensor + 1 for name, tensor in _small().state_dict().items()}
    given = {renamed(name): tensor for name, tensor in own.items()}
    counters = {renamed("1.0.total_ops"): torch.zeros(1), "total_params": torch.zeros(1)}
    network = _small()
    assert fill(network, given | counters, "w.pt", "small") == ()
    assert all(torch.equal(value, own[name]) for name, value in network.state_dict().items())


def test_extra_tensors_are_named_and_left_out_on_request() -> None:
    given = _small().state_dict() | {"aux_head.weight": torch.zeros(3)}
    with pytest.raises(ModelError, match=r"unknown aux_head\.weight.*`ignore_extra=True`"):
        fill(_small(), given, "w.pt", "small")
    (note,) = fill(_small(), given, "w.pt", "small", ignore_extra=True)
    assert "aux_head.weight" in note
    del given["0.weight"]
    with pytest.raises(ModelError, match=r"missing 0\.weight"):
        fill(_small(), given, "w.pt", "small", ignore_extra=True)


def test_a_network_may_have_the_name_of_a_wrapper_itself() -> None:
    network = nn.Sequential()
    network.module = _small()
    own = {name: tensor + 1 for name, tensor in _small().state_dict().items()}
    averaged = {f"module.{name}": tensor for name, tensor in own.items()}
    for given in (own, averaged, averaged | {"n_averaged": torch.tensor(3)}):
        assert fill(network, given, "w.pt", "net") == ()
        loaded = network.state_dict()
        assert all(torch.equal(loaded[f"module.{name}"], own[name]) for name in own)
        for tensor in loaded.values():
            tensor.zero_()


def _layers(axes: int, change=None) -> nn.Module:
    torch.manual_seed(1)
    convolution, transposed = {
        2: (nn.Conv2d, nn.ConvTranspose2d),
        3: (nn.Conv3d, nn.ConvTranspose3d),
    }[axes]
    network = nn.Sequential(
        convolution(1, 4, 3, padding=1), transposed(4, 4, 2, stride=2), convolution(4, 2, 1)
    )
    for layer in network if change else ():
        change(layer)
    for parameter in network.parameters():
        parameter.data.mul_(1.3)  # no length is that of its weight
    with torch.no_grad():
        network.train()(torch.randn(1, 1, *(4,) * axes))  # steps of power iteration
    return network.eval()


COMPUTED = {
    "weight norm, old": nn.utils.weight_norm,
    "weight norm along inputs, old": lambda layer: nn.utils.weight_norm(layer, dim=1),
    "weight norm": nn.utils.parametrizations.weight_norm,
    "one length": lambda layer: nn.utils.parametrizations.weight_norm(layer, dim=None),
    "of a bias": lambda layer: nn.utils.parametrizations.weight_norm(layer, "bias"),
    "spectral norm, old": nn.utils.spectral_norm,
    "spectral norm": nn.utils.parametrizations.spectral_norm,
    "pruned": lambda layer: nn.utils.prune.random_unstructured(layer, "weight", 0.5),
    "pruned weight norm": lambda layer: nn.utils.prune.random_unstructured(
        nn.utils.weight_norm(layer), "weight_v", 0.2
    ),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("style", COMPUTED)
def test_weights_are_computed_from_their_parts(style, axes) -> None:
    x = torch.randn(1, 1, *(4,) * axes, generator=torch.Generator().manual_seed(2))
    trained = _layers(axes, COMPUTED[style])
    given = {f"model.{name}": tensor for name, tensor in trained.state_dict().items()}
    for other in (None, nn.utils.spectral_norm, nn.utils.parametrizations.weight_norm):
        network = _layers(axes, other)
        notes = fill(network, given, "w.pt", "net")
        expected = trained(x)
        assert (network(x) - expected).abs().max() < 1e-5 * expected.std()
        assert all("computed once" in note for note in notes)
    plain = _layers(axes).state_dict()
    fill(trained, plain, "w.pt", "net")  # a network with parts, and a file without
    assert torch.equal(trained(x), _layers(axes)(x))


def test_parts_from_which_no_weight_can_be_computed_are_named() -> None:
    def twice(layer: nn.Module) -> None:
        for change in ("weight_norm", "spectral_norm"):
            getattr(nn.utils.parametrizations, change)(layer)

    for change in (nn.utils.parametrizations.orthogonal, twice):
        with pytest.raises(ModelError, match=r"parametrizations of 0\.weight, 1\.weight") as caught:
            fill(_layers(2), _layers(2, change).state_dict(), "w.pt", "net", ignore_extra=True)
        assert "remove_parametrizations" in str(caught.value)
