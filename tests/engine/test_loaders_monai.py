"""MONAI: its networks by name with one line, and its bundles."""

from __future__ import annotations

import json
import sys
import warnings
import zipfile

import numpy as np
import pytest
import torch

from extras import extra
from seamscope.errors import ModelError, TrustError
from seamscope.models.formats import code_of, format_of, load_model, would_run

X = np.random.default_rng(0).normal(size=(1, 1, 64, 64)).astype(np.float32)
ARGUMENTS = {
    "spatial_dims": 2, "in_channels": 1, "out_channels": 2, "channels": [4, 8], "strides": [2],
}  # fmt: skip
METADATA = {
    "name": "Cells",
    "network_data_format": {
        "inputs": {"image": {"num_channels": 1, "spatial_shape": ["16*n", "16*n"]}},
        "outputs": {"pred": {"channel_def": {"0": "background", "1": "cell"}}},
    },
}


@pytest.fixture(scope="module")
def unet():
    extra("monai")
    from monai.networks.nets import UNet

    torch.manual_seed(0)
    return UNet(**ARGUMENTS).eval()


def predicted(net):
    with torch.inference_mode():
        return net(torch.from_numpy(X)).numpy()


def bundle(folder, net, definition=None, script=False, **config):
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    config = {
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": definition or {"_target_": "UNet", **ARGUMENTS},
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose", "transforms": [{"_target_": "ScaleIntensityd", "keys": "image"}]
        },
        "evaluator": {"_target_": "SupervisedEvaluator", "device": "@device"},
        **config,
    }  # fmt: skip
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    (folder / "configs" / "metadata.json").write_text(json.dumps(METADATA))
    if script:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.trace(net, torch.from_numpy(X)).save(folder / "models" / "model.ts")
    torch.save(net.state_dict(), folder / "models" / "model.pt")
    return folder


def test_one_line_builds_an_architecture_around_its_weights(tmp_path, unet) -> None:
    torch.save(
        {"state_dict": {f"net.{k}": v for k, v in unet.state_dict().items()}}, tmp_path / "w"
    )
    written = ", ".join(f"{k}={v!r}" for k, v in ARGUMENTS.items())
    model = load_model(f"monai.networks.nets:UNet({written})@{tmp_path / 'w'}", trust=True)
    assert np.array_equal(model.runner()(X), predicted(unet))


def test_segmentation_models_by_name(tmp_path) -> None:
    smp = extra("segmentation_models_pytorch")
    torch.manual_seed(0)
    arguments = {"encoder_name": "resnet18", "encoder_weights": None, "in_channels": 1}
    net = smp.Unet(**arguments).eval()
    torch.save(net.state_dict(), tmp_path / "w.pth")
    written = ", ".join(f"{k}={v!r}" for k, v in arguments.items())
    spec = f"segmentation_models_pytorch:Unet({written})@{tmp_path / 'w.pth'}"
    assert np.array_equal(load_model(spec, trust=True).runner()(X), predicted(net))


def test_a_bundle_with_torchscript_needs_no_trust_and_no_monai(tmp_path, unet, monkeypatch) -> None:
    folder = bundle(tmp_path / "b", unet, script=True)
    monkeypatch.setitem(sys.modules, "monai", None)
    assert format_of(folder) == "MONAI bundle"
    assert would_run(folder) == ()
    model = load_model(folder)
    assert np.abs(model.runner()(X) - predicted(unet)).max() < 1e-6
    assert model.channels == ("background", "cell")
    assert model.name == "Cells"
    assert "ScaleIntensityd" in model.notes[0]


@pytest.mark.parametrize("zipped", [False, True])
def test_a_bundles_definition_is_run_once_trusted(tmp_path, unet, zipped) -> None:
    path = bundle(tmp_path / "b", unet)
    if zipped:
        with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
            for file in path.rglob("*.*"):
                archive.write(file, f"cells/{file.relative_to(path)}")
        path = tmp_path / "b.zip"
    lines = would_run(path)
    # only what the network's definition needs: no evaluator, no transforms
    assert [line.partition(" in configs")[0] for line in lines] == ["UNet()"]
    assert '"channels"' in code_of(path)[0].text
    with pytest.raises(TrustError):
        load_model(path)
    assert np.array_equal(load_model(path, trust=True).runner()(X), predicted(unet))


@pytest.mark.parametrize("kind", ["target", "expression", "reference", "macro"])
def test_nothing_of_a_bundle_runs_before_trust(tmp_path, unet, kind) -> None:
    trace = tmp_path / "ran"
    make = f"$__import__('os').mkdir({str(trace)!r})"
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"net": {"_target_": "os.mkdir", "path": str(trace)}}))
    changes = {
        "target": {"definition": {"_target_": "os.mkdir", "path": str(trace)}},
        "expression": {"definition": {"_target_": "UNet", **ARGUMENTS, "act": make}},
        "reference": {"definition": {"_target_": "UNet", **ARGUMENTS, "act": "@x"}, "x": make},
        "macro": {"definition": f"%{other}::net"},
    }[kind]
    folder = bundle(tmp_path / "b", unet, **changes)
    assert would_run(folder)
    with pytest.raises(TrustError):
        load_model(folder)
    assert not trace.exists()
    with pytest.raises(ModelError):  # real, but no network
        load_model(folder, trust=True)
    assert trace.exists()


def test_without_monai_one_sentence_says_what_to_install(tmp_path, unet, monkeypatch) -> None:
    folder = bundle(tmp_path / "b", unet)
    for name in [name for name in sys.modules if name.split(".")[0] == "monai"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "monai", None)
    for spec in (folder, "monai.networks.nets:UNet(spatial_dims=2)"):
        with pytest.raises(ModelError, match=r'pip install "seamscope\[monai\]"') as caught:
            load_model(spec, trust=True)
        assert "\n" not in str(caught.value)
