"""Files that want to run code, or to fill the memory: nothing of them happens before trust.

Each leaves a folder behind when it runs. It is named, refused or asked about, and the folder is not
there; where consent is given it is, which shows that the file is hostile indeed.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import struct
import tarfile
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
import torch
import yaml
from torch.serialization import MAGIC_NUMBER, PROTOCOL_VERSION

from extras import extra
from packages import sha
from seamscope.errors import ModelError, SettingsError, TrustError
from seamscope.models.formats import code_of, format_of, load_model, verify, would_run

HERE = "ran"  # the folder that hostile code makes


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


MKDIR = {
    "global": b"cos\nmkdir\n" + text(HERE) + b"\x85R",
    "forged memo": b"\x8c\x02os\x94\x8c\x05mkdir\x94\x8c\x05numpy\x94\x8c\x07float64\x94"
                   b"0000h\x00h\x01\x93" + text(HERE) + b"\x85R",
    "inst": b"(" + text(HERE) + b"ios\nmkdir\n",
    "obj": b"(cos\nmkdir\n" + text(HERE) + b"o",
    "getattr": b"cbuiltins\ngetattr\ncposixpath\nos\n\x8c\x05mkdir\x86R" + text(HERE) + b"\x85R",
    "computed name": b"cbuiltins\nstr\n\x8c\x02os\x85R\x8c\x05mkdir\x93" + text(HERE) + b"\x85R",
    "nested pickle": b"c_pickle\nloads\nC%c" % 31
    + (b"\x80\x02cos\nmkdir\n" + text(HERE) + b"\x85R.").ljust(31, b" ") + b"\x85R",
    "named by its module": b"cposix\nmkdir\n" + text(HERE) + b"\x85R",
}  # fmt: skip
RUNS = b"\x80\x04" + MKDIR["global"] + b"."


def torch_zip(content=None, names=("x/data.pkl",)):
    """A file of torch whose pickle is another."""
    whole, out = io.BytesIO(), io.BytesIO()
    torch.save({"w": torch.zeros(2)}, whole)
    with zipfile.ZipFile(whole) as given, zipfile.ZipFile(out, "w") as archive:
        for each in given.namelist():
            inside = each.split("/", 1)[1]
            if inside == "data.pkl" and content is not None:
                for name in names:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        archive.writestr(name, content)
            else:
                archive.writestr(f"x/{inside}", given.read(each))
    return out.getvalue()


def legacy(*parts):
    """A file of torch before 1.6: five pickles."""
    fine = [MAGIC_NUMBER, PROTOCOL_VERSION, {"little_endian": True}, {}, []]
    return b"".join(
        parts[0][1] if place == parts[0][0] else pickle.dumps(each, 2)
        for place, each in enumerate(fine)
    )


def running(value):
    """A pickle that runs, and gives this value all the same."""
    return b"\x80\x04" + MKDIR["global"] + b"0" + pickle.dumps(value, 2)[2:]


def polyglot():
    return RUNS + torch_zip()


def two_tables():
    """Python adds the length of what stands before the archive, torch does not."""
    return b"PK\x03\x04" + bytes(60) + torch_zip()


def like_safetensors():
    """Its first eight bytes are a length and the ninth is a brace."""
    return b"\x8c\x07" + bytes(6) + b"{0" + MKDIR["global"] + b"." + bytes(3000)


def in_tar():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in {"\x80\x02storages": RUNS, "storages": RUNS, "pickle": RUNS}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def exported():
    net = torch.nn.Conv2d(1, 1, 3, bias=False).eval()
    shape = {2: torch.export.Dim("h", min=8), 3: torch.export.Dim("w", min=8)}
    program = torch.export.export(net, (torch.zeros(1, 1, 16, 16),), dynamic_shapes=(shape,))
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, out)
    return out.getvalue()


def members(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(files, compression=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def changed(change):
    files = members(exported())
    change(files)
    return zipped(files)


def named(files, end):
    return next(name for name in files if name.endswith(end))


EVIL = f"__import__('os').mkdir('{HERE}')"


def with_expression(expression, more=None):
    """The size of an input is an expression, which torch lets sympy evaluate."""

    def change(files):
        name = named(files, "models/model.json")
        content = json.loads(files[name])

        def walk(value):
            if isinstance(value, dict):
                for key in value:
                    if key == "expr_str":
                        value[key] = expression
                    walk(value[key])
            elif isinstance(value, list):
                for each in value:
                    walk(each)

        walk(content)
        content |= more or {}
        files[name] = json.dumps(content).encode()

    return change


def deep(levels):
    value: list = []
    for _ in range(levels):
        value = [value]
    return value


def unpickled_weight(content, **config):
    def change(files):
        name = named(files, "weights_config.json")
        told = json.loads(files[name])
        (entry,) = told["config"].values()
        entry |= {"use_pickle": True, **config}
        files[name] = json.dumps(told).encode()
        files[named(files, "weights/weight_0")] = content

    return change


def opaque(content):
    def change(files):
        name = named(files, "constants_config.json")
        entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True,
                 "tensor_meta": None}  # fmt: skip
        files[name] = json.dumps({"config": {"c": entry}}).encode()
        files[name.rpartition("/")[0] + "/opaque_obj_0"] = content

    return change


def other_model(name):
    """A second program, under a name that is not that of a program."""

    def change(files):
        copy = dict(files)
        with_expression(EVIL)(copy)
        model = named(files, "models/model.json")
        top = model[: -len("models/model.json")]
        files[top + name] = copy[model]
        for each in list(files):
            if "/model_" in each or each.endswith("/model.pt"):
                files[each.replace("model", "second")] = files[each]

    return change


def upper_case(files):
    name = named(files, "models/model.json")
    with_expression(EVIL)(files)
    files[name.replace("models/model.json", "MODELS/model.JSON")] = files.pop(name)


def sample_inputs(files):
    files[named(files, "sample_inputs/model.pt")] = torch_zip(RUNS)


def script(change):
    class Net(torch.nn.Module):
        def forward(self, x):
            return x * 2.0

    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Net()), out)
    files = members(out.getvalue())
    name = next(each for each in files if each.endswith(".py"))
    files[name] = change(files[name])
    return zipped(files)


def saving(call):
    end = b"return torch.mul(x, 2.)"
    return lambda source: source.replace(end, b"_0 = %s\n    %s" % (call, end))


def upper_script():
    files = members(script(saving(b'torch.save(x, "' + HERE.encode() + b'")')))
    return zipped({name.replace("/code/", "/CODE/"): data for name, data in files.items()})


COMMON = {
    "type": "model", "name": "n", "description": "d", "license": "MIT", "format_version": "0.5.4",
    "authors": [{"name": "A"}], "documentation": "README.md",
}  # fmt: skip
SPACE = [{"type": "space", "id": n, "size": {"min": 8, "step": 4}} for n in "yx"]
AXES = [{"type": "batch"}, {"type": "channel", "channel_names": ["c"]}, *SPACE]
FINE = b"import torch\ndef net(): return torch.nn.Conv2d(1, 1, 3, padding=1)\n"
RUNNING = f"import os\nos.mkdir({HERE!r})\n".encode() + FINE


def weights_of(net):
    out = io.BytesIO()
    torch.save(net.state_dict(), out)
    return out.getvalue()


def package(source=FINE, data=None, card="", **more):
    data = weights_of(torch.nn.Conv2d(1, 1, 3)) if data is None else data
    architecture = {"callable": "net", "source": "net.py", "sha256": sha(source)}
    told = COMMON | {
        "inputs": [{"id": "i", "axes": AXES}],
        "outputs": [{"id": "o", "axes": AXES}],
        "weights": {"pytorch_state_dict": {"source": "w.pt", "architecture": architecture}},
        **more,
    }
    files = {"rdf.yaml": yaml.safe_dump(told).encode() + card.encode(), "net.py": source,
             "w.pt": data}  # fmt: skip
    return zipped(files)


PYTHON_IN_YAML = f'\nextra: !!python/object/apply:os.mkdir ["{HERE}"]\n'


def bundle(config, ending="json", **files):
    metadata = {"network_data_format": {"inputs": {}, "outputs": {}}}
    content = config if isinstance(config, str) else json.dumps(config)
    return zipped({
        "configs/metadata.json": json.dumps(metadata), f"configs/inference.{ending}": content,
        "models/model.pt": weights_of(torch.nn.Conv2d(1, 1, 3)), **files,
    })  # fmt: skip


CONV = {"_target_": "torch.nn.Conv2d", "in_channels": 1, "out_channels": 1, "kernel_size": 3}

# What asks for trust: its name, its ending and its content. It runs where trust is given.
ASKS = {
    **{f"pickle, {name}": (".pt", lambda code=code: b"\x80\x04" + code + b".")
       for name, code in MKDIR.items()},
    **{f"torch, {name}": (".pt", lambda code=code: torch_zip(b"\x80\x04" + code + b"."))
       for name, code in MKDIR.items()},
    "torch, old, number": (".pth", lambda: legacy((0, running(MAGIC_NUMBER)))),
    "torch, old, protocol": (".pth", lambda: legacy((1, running(PROTOCOL_VERSION)))),
    "torch, old, system": (".pth", lambda: legacy((2, running({})))),
    "torch, old, object": (".pth", lambda: legacy((3, running({})))),
    "torch, old, keys": (".pth", lambda: legacy((4, running([])))),
    "program, expression": (".pt2", lambda: changed(with_expression(EVIL))),
    "program, long expression": (
        ".pt2", lambda: changed(with_expression("+".join(["1"] * 600) + f"+{EVIL}"))),
    "program, protocol 0 as weights": (
        ".pt2", lambda: changed(unpickled_weight(MKDIR["global"] + b"."))),
    "program, torch as weights": (".pt2", lambda: changed(unpickled_weight(torch_zip(RUNS)))),
    "program, object like safetensors": (".pt2", lambda: changed(opaque(like_safetensors()))),
    "program, object": (".pt2", lambda: changed(opaque(RUNS))),
    "program, sample inputs": (".pt2", lambda: changed(sample_inputs)),
    "program, another ending": (".pt2", lambda: changed(other_model("models/second.jsox"))),
    "package, source": (".zip", lambda: package(RUNNING)),
    "package, weights": (".zip", lambda: package(data=torch_zip(RUNS))),
}  # fmt: skip

# What asks for trust too, but needs monai or a call of the network to run.
ASKS_ONLY = {
    "program, upper case": (".pt2", lambda: changed(upper_case)),
    "script, save": (".pt", lambda: script(saving(b'torch.save(x, "ran")'))),
    "script, blanks": (".pt", lambda: script(saving(b'torch . save (x, "ran")'))),
    "script, a comment": (".pt", lambda: script(saving(b'torch.\\\n  save(x, "ran")'))),
    "script, ops": (".pt", lambda: script(saving(b'ops.aten.save(x, "ran")'))),
    "script, upper case": (".pt", upper_script),
    "bundle, expression": (".zip", lambda: bundle({"network_def": f"${EVIL}"})),
    "bundle, target": (
        ".zip", lambda: bundle({"network_def": {"_target_": "os.mkdir", "path": HERE}})),
    "bundle, import": (".zip", lambda: bundle({"imports": [f"${EVIL}"], "network_def": CONV})),
    "bundle, reference": (
        ".zip", lambda: bundle({"network_def": "@x", "x": {"_target_": "os.mkdir", "path": HERE}})),
    "bundle, other file": (".zip", lambda: bundle({"network_def": "%other.json::x"})),
}  # fmt: skip

# What is refused, or is read without what it wants to run.
REFUSED = {
    "protocol 0": (".pt", lambda: MKDIR["global"] + b"."),
    "two pickles of one name": (".pt", lambda: torch_zip(RUNS, ("x/data.pkl", "x/data.pkl"))),
    "names of two cases": (".pt", lambda: torch_zip(RUNS, ("x/data.pkl", "x/DATA.PKL"))),
    "two tables": (".pt", two_tables),
    "pickle before a zip": (".pt", polyglot),
    "tar": (".pt", in_tar),
    "like safetensors": (".safetensors", like_safetensors),
    "half a pickle": (".pt", lambda: b"\x80\x04" + MKDIR["global"]),
    "program, deep": (".pt2", lambda: changed(with_expression(EVIL, {"x": deep(500)}))),
    "package, YAML": (".zip", lambda: package(card=PYTHON_IN_YAML)),
    "bundle, YAML": (".zip", lambda: bundle(f"network_def: 3{PYTHON_IN_YAML}", "yaml")),
    "card, YAML": (".yaml", lambda: PYTHON_IN_YAML.encode()),
    "YAML in place of an archive": (".zip", lambda: PYTHON_IN_YAML.encode()),
}  # fmt: skip


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty folder to be in, which is looked at afterwards; and no settings of anybody's."""
    monkeypatch.setenv("SEAMSCOPE_CONFIG", str(tmp_path / "settings"))
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def looked_at(path):
    """Everything that may be done with a file before it is trusted."""
    errors = []
    for look in (format_of, would_run, code_of, load_model):
        try:
            look(path)
        except (ModelError, SettingsError) as error:
            errors.append(error)
    assert not any("\n" in str(error) for error in errors)
    assert not any(isinstance(error, TrustError) for error in errors[:-1])
    assert not os.listdir(".")
    return errors


@pytest.mark.parametrize("name", ASKS)
def test_hostile_code_is_asked_about_and_does_not_run(tmp_path, name) -> None:
    ending, make = ASKS[name]
    path = tmp_path / f"net{ending}"
    path.write_bytes(make())
    errors = looked_at(path)
    assert isinstance(errors[-1], TrustError), errors
    (*_, last) = errors
    assert "mkdir" in str(last) or last.unknown or "net.py" in str(last)
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load_model(path, trust=True)
    assert os.listdir(".") == [HERE], "the file is not hostile: the test shows nothing"


@pytest.mark.parametrize("name", ASKS_ONLY)
def test_hostile_code_is_asked_about(tmp_path, name) -> None:
    ending, make = ASKS_ONLY[name]
    path = tmp_path / f"net{ending}"
    path.write_bytes(make())
    assert isinstance(looked_at(path)[-1], TrustError)


@pytest.mark.parametrize("name", REFUSED)
def test_hostile_files_are_refused_in_one_sentence(tmp_path, name) -> None:
    ending, make = REFUSED[name]
    path = tmp_path / f"net{ending}"
    path.write_bytes(make())
    assert looked_at(path)
    with contextlib.suppress(ModelError):
        load_model(path, trust=True)
    assert name in ("two pickles of one name", "half a pickle") or not os.listdir(".")


def test_a_program_of_ones_own_is_not_asked_about(tmp_path) -> None:
    (tmp_path / "net.pt2").write_bytes(exported())
    assert would_run(tmp_path / "net.pt2") == ()
    assert load_model(tmp_path / "net.pt2").facts.out_channels == 1


@pytest.mark.parametrize("spec", ["net.py:net", "evil.net:net", "evil:net", "net.py:net@w.pt"])
def test_factories_do_not_run(tmp_path, place, monkeypatch, spec) -> None:
    (tmp_path / "evil").mkdir()
    for name in ("net.py", "evil/__init__.py", "evil/net.py"):
        (tmp_path / name).write_bytes(RUNNING)
    (tmp_path / "w.pt").write_bytes(torch_zip(RUNS))
    monkeypatch.syspath_prepend(tmp_path)
    full = spec.replace("net.py", f"{tmp_path}/net.py").replace("@w.pt", f"@{tmp_path}/w.pt")
    assert isinstance(looked_at(full)[-1], TrustError)


def test_operations_that_a_card_brings_do_not_run(tmp_path) -> None:
    """bioimageio.spec 0.5.12 has postprocessing in a Python file of the package."""
    custom = {"id": "custom", "callable": "net", "source": "post.py", "sha256": sha(RUNNING)}
    net, out = torch.nn.Conv2d(1, 1, 3, padding=1).eval(), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(net, torch.zeros(1, 1, 8, 8)), out)
    told = COMMON | {
        "inputs": [{"id": "i", "axes": AXES, "test_tensor": {"source": "x.npy"}}],
        "outputs": [{"id": "o", "axes": AXES, "postprocessing": [custom]}],
        "weights": {"torchscript": {"source": "w.pt"}},
    }
    objects = io.BytesIO()
    np.save(objects, np.array([pickle.loads], dtype=object), allow_pickle=True)
    files = {"rdf.yaml": yaml.safe_dump(told), "w.pt": out.getvalue(), "post.py": RUNNING,
             "x.npy": objects.getvalue()}  # fmt: skip
    (tmp_path / "net.zip").write_bytes(zipped(files))
    model = load_model(tmp_path / "net.zip")
    assert any("custom is not known here and left out" in note for note in model.notes)
    with pytest.raises(ModelError):
        verify(model)
    assert not os.listdir(".")


# -- what would fill the memory

MIB = 1 << 20


@contextlib.contextmanager
def allocating_at_most(limit):
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def laughs(levels=30):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


def merged(levels=20):
    lines = ["a0: &a0 {k: 1}"]
    lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


def chained(levels=3000):
    return "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, levels))


def endless():
    return "a: &a [*a]\n"


BOMBS = {
    "aliases": (lambda: package(card=laughs()), r"values with its aliases, and at most 100,000"),
    "merges": (lambda: package(card=merged()), r"values with its aliases, and at most 100,000"),
    "chained aliases": (lambda: package(card=chained()), "nested too deeply"),
    "an alias of itself": (lambda: package(card=endless()), "nested too deeply"),
    "a long card": (lambda: package(card="#" * (2 * MIB)), r"larger than 262,144 bytes"),
    "deep YAML": (lambda: package(card="x: " + "[" * 300 + "]" * 300), "nested too deeply"),
    "aliases in a bundle": (lambda: bundle(laughs(), "yaml"), "values with its aliases"),
    "deep JSON in a bundle": (lambda: bundle("[" * 100_000, "json"), "nested too deeply"),
    "deep JSON that can be read": (
        lambda: bundle({"network_def": CONV, "x": deep(300)}), "nested too deeply"),
    "deep JSON in a program": (
        lambda: changed(with_expression("s0", {"x": deep(300)})), "nested too deeply"),
    "a safetensors header": (
        lambda: (17 * MIB).to_bytes(8, "little") + b"{" + b" " * (17 * MIB), "safetensors header"),
    "a reserved array": (
        lambda: torch_zip(b"\x80\x04cbuiltins\nbytearray\n\x8a\x06" + b"\xff" * 5 + b"\x00\x85R."),
        r"would reserve 1,099,511,627,775 bytes"),
    "a long pickle": (
        lambda: b"\x80\x02" + b"N" * (2 * MIB), r"pickle of more than [\d,]+ instructions"),
    "a large pickle": (
        lambda: b"\x80\x02X" + (65 * MIB).to_bytes(4, "little") + bytes(65 * MIB),
        r"pickle of more than 67,108,864 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_what_would_fill_the_memory_is_refused(tmp_path, name, monkeypatch) -> None:
    from seamscope.models.formats import pickles

    monkeypatch.setattr(pickles, "MOST_INSTRUCTIONS", 1_000_000)  # of five: seconds saved
    make, words = BOMBS[name]
    path = tmp_path / "net.zip"
    path.write_bytes(make())
    size = path.stat().st_size
    with allocating_at_most(8 * size + 160 * MIB), pytest.raises(ModelError, match=words) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)
    with contextlib.suppress(ModelError), allocating_at_most(8 * size + 160 * MIB):
        code_of(path)


@pytest.mark.parametrize("place", ["package", "bundle", "checkpoint", "inside"])
def test_zip_files_are_not_unpacked_beyond_their_limits(tmp_path, place) -> None:
    """300 MiB of zeros in 300 kB; in 4 MB it could be 4 GiB."""
    zeros, deflated = bytes(300 * MIB), zipfile.ZIP_DEFLATED
    content = {
        "package": lambda: zipped({"rdf.yaml": b"a: 1", "w.pt": zeros}, deflated),
        "bundle": lambda: zipped({"configs/metadata.json": b"{}", "x": zeros}, deflated),
        "checkpoint": lambda: zipped({"x/data.pkl": RUNS, "x/data/0": zeros}, deflated),
        "inside": lambda: package(data=zipped({"x/data.pkl": RUNS, "x/data/0": zeros}, deflated)),
    }[place]()
    path = tmp_path / "net.zip"
    path.write_bytes(content)
    assert len(content) < MIB
    with allocating_at_most(10 * MIB), pytest.raises(ModelError, match="would unpack to 314,57"):
        load_model(path)


def test_a_pickle_in_a_zip_file_is_read_up_to_its_limit(tmp_path) -> None:
    data = zipped({"x/data.pkl": b"\x80\x02" + b"N" * (100 * MIB)}, zipfile.ZIP_DEFLATED)
    (tmp_path / "net.pt").write_bytes(data)
    with allocating_at_most(150 * MIB), pytest.raises(ModelError, match="larger than 67,108,864"):
        load_model(tmp_path / "net.pt")


def test_what_is_no_file_is_not_opened(tmp_path) -> None:
    """A pipe would be waited for, for good."""
    os.mkfifo(tmp_path / "net.pt")
    with pytest.raises(ModelError, match="neither a file nor a folder"):
        load_model(tmp_path / "net.pt")


# -- ONNX and its data beside it


def onnx_with(location, folder, **entries):
    extra("onnx")
    from onnx import TensorProto, helper

    weight = TensorProto(name="w", dims=[1, 1, 3, 3], data_type=TensorProto.FLOAT)
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        weight.external_data.add(key=key, value=str(value))
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 1, "h", "w"]) for n in "xy"]
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    graph = helper.make_graph([node], "g", info[:1], info[1:], [weight])
    folder.mkdir(exist_ok=True)
    path = folder / "net.onnx"
    opset = [helper.make_opsetid("", 17)]
    path.write_bytes(
        helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    )
    return path


def test_data_beside_onnx_is_read(tmp_path) -> None:
    path = onnx_with("w.bin", tmp_path / "a", length=36)
    (tmp_path / "a" / "w.bin").write_bytes(np.ones(9, np.float32).tobytes())
    assert load_model(path).facts.out_channels == 1


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "link", "a/../../secret"])
def test_data_outside_of_the_folder_of_onnx_is_not_read(tmp_path, location) -> None:
    folder = tmp_path / "a"
    path = onnx_with(location, folder)
    (tmp_path / "secret").write_bytes(bytes(36))
    (folder / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelError, match="outside of its folder") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


def test_data_of_onnx_has_the_size_that_its_shape_says(tmp_path) -> None:
    path = onnx_with("w.bin", tmp_path / "a", length=10**12)
    (tmp_path / "a" / "w.bin").write_bytes(bytes(36))
    with allocating_at_most(50 * MIB), pytest.raises(ModelError, match="1,000,000,000,000 bytes"):
        load_model(path)


def test_a_forged_name_cannot_hide_what_runs(tmp_path) -> None:
    for name in ("a\x1b[2K\rb", "a\u202eb", "a\u200bb", "a\x00b"):
        data = b"\x80\x04" + text("os") + text(name) + b"\x93."
        (tmp_path / "net.pt").write_bytes(torch_zip(data))
        (code,) = code_of(tmp_path / "net.pt")
        for shown in (code.what, code.text):
            assert shown.isprintable()
            assert name.encode("unicode_escape").decode() in shown


def test_many_harmless_names_do_not_push_the_others_out_of_sight(tmp_path) -> None:
    names = b"".join(b"ctorch.nn\nNet%d\n0" % i for i in range(300))
    (tmp_path / "net.pt").write_bytes(torch_zip(b"\x80\x04" + names + MKDIR["global"] + b"."))
    (line,) = would_run(tmp_path / "net.pt")
    assert "(os.mkdir, torch.nn.Net0, " in line
    assert "and 261 more" in line
    assert len(line) < 2000
