"""Trust in a factory is trust in all files that it runs: any that changes is asked for again."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import py_compile
import shutil
import sys

import pytest
import torch

from seamscope.errors import TrustError
from seamscope.models.formats import Consent, code_of, load_model
from seamscope.models.formats.sources import Sources


def remember(spec):
    load_model(spec, trust=Consent(remember=True))


NET = "import torch\ndef net(): return torch.nn.Conv2d(1, 2, 3)\n"


@pytest.fixture(autouse=True)
def own_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("SEAMSCOPE_CONFIG", str(tmp_path / "settings"))
    before, path = set(sys.modules), list(sys.meta_path)
    yield
    sys.meta_path[:] = path
    for name in sys.modules.keys() - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def project(folder):
    """A factory with a module, a package and a compiled module beside it."""
    folder.mkdir()
    (folder / "net.py").write_text(
        "import torch\nfrom layers import block\n"
        "def net():\n    import parts.deep as deep\n"
        "    return torch.nn.Sequential(block(), deep.head())\n"
    )
    (folder / "layers.py").write_text(
        "import torch\nfrom settings_of_net import WIDTH\n"
        "def block(): return torch.nn.Conv2d(1, WIDTH, 3)\n"
    )
    (folder / "settings_of_net.py").write_text("WIDTH = 2\n")
    (folder / "parts").mkdir()
    (folder / "parts" / "__init__.py").write_text("from . import common\n")
    (folder / "parts" / "common.py").write_text("WIDTH = 2\n")
    (folder / "parts" / "deep.py").write_text(
        "import torch\nfrom .common import WIDTH\ndef head(): return torch.nn.Conv2d(WIDTH, 1, 1)\n"
    )
    (folder / "unrelated.py").write_text("raise SystemExit\n")
    return f"{folder / 'net.py'}:net"


FILES = ("net.py", "layers.py", "settings_of_net.py", "parts/__init__.py", "parts/common.py",
         "parts/deep.py")  # fmt: skip


def test_modules_beside_a_factory_are_imported_and_listed(tmp_path) -> None:
    spec = project(tmp_path / "a")
    (code,) = code_of(spec)
    assert all(name.rpartition("/")[2] in code.what for name in FILES)
    assert "WIDTH = 2" in code.text
    assert "unrelated" not in code.what + code.text
    assert load_model(spec, trust=True).facts.out_channels == 1
    assert not list(tmp_path.rglob("__pycache__"))


def test_another_folder_has_modules_of_its_own(tmp_path) -> None:
    first, second = project(tmp_path / "a"), project(tmp_path / "b")
    (tmp_path / "b" / "settings_of_net.py").write_text("WIDTH = 5\n")
    (tmp_path / "b" / "parts" / "common.py").write_text("WIDTH = 5\n")
    assert load_model(first, trust=True).module[0].out_channels == 2
    assert load_model(second, trust=True).module[0].out_channels == 5
    assert load_model(first, trust=True).module[0].out_channels == 2


@pytest.mark.parametrize("name", FILES)
def test_each_file_that_runs_is_asked_for_again_when_it_changes(tmp_path, name) -> None:
    spec = project(tmp_path / "a")
    remember(spec)
    load_model(spec)
    (tmp_path / "a" / "unrelated.py").write_text("raise SystemError\n")
    load_model(spec)
    with (tmp_path / "a" / name).open("a") as file:
        file.write("\n")
    with pytest.raises(TrustError):
        load_model(spec)


def test_what_takes_a_modules_place_is_asked_for(tmp_path) -> None:
    """A compiled module is preferred to its source, a package to a module."""
    for place in (
        f"layers{importlib.machinery.EXTENSION_SUFFIXES[0]}", "layers.pyc", "layers/__init__.py",
        "parts/common.abi3.so",
    ):  # fmt: skip
        folder = tmp_path / place.replace("/", "_").replace(".", "_")
        spec = project(folder)
        remember(spec)
        load_model(spec)
        (folder / place).parent.mkdir(exist_ok=True)
        (folder / place).write_bytes(b"\x7fELF")
        with pytest.raises(TrustError, match=place.rpartition("/")[2]):
            load_model(spec)


def test_a_module_without_source_runs_and_is_hashed(tmp_path) -> None:
    spec = project(tmp_path / "a")
    compiled = tmp_path / "a" / "settings_of_net.pyc"
    py_compile.compile(str(compiled.with_suffix(".py")), cfile=str(compiled))
    compiled.with_suffix(".py").unlink()
    remember(spec)
    load_model(spec)
    (code,) = code_of(spec)
    assert "compiled code" in code.text
    compiled.write_bytes(compiled.read_bytes() + b"\x00")
    with pytest.raises(TrustError):
        load_model(spec)


def test_the_cache_beside_a_source_never_runs(tmp_path) -> None:
    """Python would run the cached code, which says that it belongs to this source."""
    spec = project(tmp_path / "a")
    source = tmp_path / "a" / "layers.py"
    text, times = source.read_text(), source.stat()
    evil = "raise SystemExit('ran')\n"
    source.write_text(evil + "#" * (len(text) - len(evil)))
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
    py_compile.compile(str(source))
    source.write_text(text)
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert list(tmp_path.rglob("layers*.pyc"))
    with pytest.raises(SystemExit, match="ran"):  # as Python itself would do
        importlib.util.spec_from_file_location("layers", source).loader.exec_module(
            type(sys)("layers")
        )
    load_model(spec, trust=True)


def test_symbolic_links_are_their_targets(tmp_path) -> None:
    project(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "net.py").symlink_to(tmp_path / "a" / "net.py")
    spec = f"{tmp_path / 'b' / 'net.py'}:net"
    remember(spec)
    load_model(spec)
    (code,) = code_of(spec)
    assert f"-> {tmp_path / 'a' / 'net.py'}" in code.text
    with (tmp_path / "a" / "parts" / "deep.py").open("a") as file:
        file.write("\n")
    with pytest.raises(TrustError):
        load_model(spec)
    remember(spec)
    (tmp_path / "c.py").write_text(NET)
    (tmp_path / "b" / "net.py").unlink()
    (tmp_path / "b" / "net.py").symlink_to(tmp_path / "c.py")
    with pytest.raises(TrustError):
        load_model(spec)


def test_bytes_count_and_not_their_text(tmp_path) -> None:
    """Sources that are not UTF-8 were shown as nothing, and hashed as nothing."""
    source = tmp_path / "net.py"
    source.write_bytes(b"# -*- coding: latin-1 -*-\n# \xe9\n" + NET.encode())
    spec = f"{source}:net"
    remember(spec)
    load_model(spec)
    (code,) = code_of(spec)
    assert "é" in code.text
    assert code.text.startswith("# Decoded as iso-8859-1")
    source.write_bytes(source.read_bytes().replace(b"\xe9", b"\xe8"))
    with pytest.raises(TrustError):
        load_model(spec)
    source.write_bytes(b"# \xff\xfe\n" + NET.encode())
    (code,) = code_of(spec)
    assert code.text.startswith("# Not UTF-8")
    assert r"\xff\xfe" in code.text
    assert "def net()" in code.text


def test_a_comment_in_another_encoding_is_shown_as_the_code_it_is(tmp_path) -> None:
    source = tmp_path / "net.py"
    source.write_bytes(b"# coding: utf-7\n" + NET.encode() + b"# harmless +AAo-raise SystemExit\n")
    (code,) = code_of(f"{source}:net")
    assert "utf-7" in code.text
    assert "\nraise SystemExit" in code.text


def test_nothing_hides_in_a_source(tmp_path) -> None:
    source = tmp_path / "net.py"
    text = NET + "x = 1" + " " * 300 + ";import os\n" + "\n" * 200 + "y = '\u202e\x1b[2K\u200b'\n"
    source.write_text(text)
    (code,) = code_of(f"{source}:net")
    assert "«300 spaces» ;import os" in code.text
    assert "empty lines»" in code.text
    assert r"y = '\u202e\x1b[2K\u200b'" in code.text


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("exec(open('x').read())", "exec()"),
        ("import importlib; importlib.import_module('a' + 'b')", "import_module()"),
        ("import sys; sys.path.insert(0, '/x')", "sys.path makes importable"),
        ("import ctypes; ctypes.CDLL('x.so')", "CDLL()"),
        ("torch.ops.load_library('x.so')", "load_library()"),
    ],
)
def test_what_only_running_shows_is_said_to_be_unknown(tmp_path, line, why) -> None:
    source = tmp_path / "net.py"
    source.write_text(f"{NET}def other():\n    {line}\n")
    (code,) = code_of(f"{source}:net")
    assert code.unknown == (f"net.py, line 4: what {why} runs is not known",)


def test_ordinary_factories_have_nothing_unknown(tmp_path) -> None:
    source = tmp_path / "net.py"
    source.write_text(f"{NET}import re\nre.compile('x')\nnet().eval()\n")
    (code,) = code_of(f"{source}:net")
    assert code.unknown == ()


def test_names_that_are_written_out_are_followed_however_they_are_imported(tmp_path) -> None:
    for name in "abcd":
        (tmp_path / f"{name}_net.py").write_text("")
    (tmp_path / "net.py").write_text(
        "import importlib\nimportlib.import_module('a_net')\n__import__('b_net')\n"
        "try:\n    import c_net\nexcept ImportError:\n    from . import d_net\n"
    )
    found = Sources.of_file(tmp_path / "net.py")
    assert {path.stem for path in found.files} == {"net", "a_net", "b_net", "c_net", "d_net"}


def test_modules_of_ones_own_by_dotted_name_are_followed(tmp_path, monkeypatch) -> None:
    project(tmp_path / "a")
    monkeypatch.syspath_prepend(tmp_path / "a")
    spec = "parts.deep:head"
    remember(spec)
    load_model(spec)
    with (tmp_path / "a" / "parts" / "common.py").open("a") as file:
        file.write("\n")
    with pytest.raises(TrustError):
        load_model(spec)


def test_classes_of_ones_own_in_a_pickle_are_hashed_too(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "a"
    project(folder)
    (folder / "own_net.py").write_text(
        "import torch\nimport settings_of_net\nclass Net(torch.nn.Conv2d): pass\n"
    )
    monkeypatch.syspath_prepend(folder)
    import own_net

    torch.save(own_net.Net(1, 2, 3), tmp_path / "net.pth")
    (code,) = code_of(tmp_path / "net.pth")
    assert "class Net" in code.text
    remember(tmp_path / "net.pth")
    load_model(tmp_path / "net.pth")
    (folder / "settings_of_net.py").write_text("WIDTH = 3\n")
    with pytest.raises(TrustError):
        load_model(tmp_path / "net.pth")


def test_python_itself_is_never_replaced_from_beside(tmp_path) -> None:
    (tmp_path / "statistics.py").write_text("raise SystemExit\n")
    (tmp_path / "net.py").write_text(f"{NET}import statistics\nstatistics.mean([1])\n")
    sys.modules.pop("statistics", None)
    load_model(f"{tmp_path / 'net.py'}:net", trust=True)


def test_a_moved_package_is_asked_for_again(tmp_path) -> None:
    spec = project(tmp_path / "a")
    remember(spec)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    with pytest.raises(TrustError):
        load_model(spec.replace("/a/", "/b/"))
