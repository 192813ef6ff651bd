"""The wheel, the sdist and the editable install each bring the plugin and its resources.

Each is built and installed into an environment of its own, which sees the dependencies of the
environment that runs the tests but no other Seamscope: that is checked before every install, so a
copy installed elsewhere cannot answer in its place.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.packaging

ROOT = Path(__file__).resolve().parents[2]

# Run inside the environment under test; everything that the tests ask about, as JSON.
QUESTIONS = """
import importlib.metadata, importlib.resources, json, os, sys
import npe2, seamscope
from npe2.manifest.utils import import_python_name

def files(folder, prefix=""):
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from files(entry, f"{prefix}{entry.name}/")
        elif entry.is_file():
            yield f"{prefix}{entry.name}", len(entry.read_bytes())

plugins = npe2.PluginManager()
plugins.discover()
manifest = npe2.PluginManifest.from_distribution("seamscope")
commands = manifest.contributions.commands or []
json.dump({
    "imported_from": os.path.realpath(seamscope.__file__),
    "version": seamscope.__version__,
    "distribution_version": importlib.metadata.version("seamscope"),
    "distributions": sum(d.name == "seamscope" for d in importlib.metadata.distributions()),
    "registered": [m.name for m in plugins.iter_manifests()],
    "manifest": [manifest.name, manifest.display_name],
    "commands": {c.id: callable(import_python_name(c.python_name)) for c in commands},
    "resources": dict(files(importlib.resources.files("seamscope") / "resources")),
}, sys.stdout)
"""


@dataclass(frozen=True)
class Environment:
    """A fresh virtual environment that sees every dependency and nothing named Seamscope."""

    folder: Path

    @classmethod
    def create(cls, folder: Path) -> Environment:
        venv.create(folder, with_pip=False, symlinks=True)
        dependencies = folder / "dependencies"
        dependencies.mkdir()
        for site in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
            for entry in Path(site).iterdir():
                # *.pth files are how an editable install makes itself seen
                if "seamscope" not in entry.name.lower() and entry.suffix != ".pth":
                    (dependencies / entry.name).symlink_to(entry)
        environment = cls(folder)
        (environment.site_packages / "dependencies.pth").write_text(f"{dependencies}\n")
        absent = environment.python("-c", "import seamscope", check=False)
        assert "No module named 'seamscope'" in absent.stderr
        return environment

    @property
    def site_packages(self) -> Path:
        return next(self.folder.glob("lib/python*/site-packages"))

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program of this environment, away from the source tree."""
        done = subprocess.run(
            [str(self.folder / "bin" / command[0]), *command[1:]],
            cwd=self.folder,
            env={k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL"))},
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def python(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run("python", *arguments, check=check)

    def install(self, *requirement: str) -> None:
        """Install without network: neither dependencies nor a build environment is fetched."""
        quiet = ("--quiet", "--disable-pip-version-check", "--no-warn-script-location")
        offline = ("--no-deps", "--no-index", "--no-build-isolation")
        self.python("-m", "pip", "install", *quiet, *offline, *requirement)


@dataclass(frozen=True)
class Installed:
    environment: Environment
    expected_at: Path
    source: Path
    answers: dict[str, Any]


def build(source: Path, out: Path) -> tuple[Path, Path]:
    """Build the sdist of ``source``, and from that sdist the wheel; return (wheel, sdist)."""
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)],
        check=True,
        capture_output=True,
        text=True,
    )
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return build(ROOT, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def without_symlinks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout as on Windows, where git writes a symbolic link as a small text file."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so there is nothing to check out without symbolic links")
    checkout = tmp_path_factory.mktemp("checkout") / "seamscope"
    subprocess.run(
        ["git", "clone", "--quiet", "--config", "core.symlinks=false", str(ROOT), str(checkout)],
        check=True,
        capture_output=True,
    )
    for name in ("napari.yaml", "resources"):
        assert (checkout / name).is_file()
        assert not (checkout / name).is_symlink()
    return checkout


def install_wheel(environment: Environment, request: pytest.FixtureRequest) -> Path:
    environment.install(str(request.getfixturevalue("built")[0]))
    return environment.site_packages


def install_sdist(environment: Environment, request: pytest.FixtureRequest) -> Path:
    environment.install(str(request.getfixturevalue("built")[1]))
    return environment.site_packages


def install_editable(environment: Environment, request: pytest.FixtureRequest) -> Path:
    environment.install("--editable", str(ROOT))
    return ROOT / "src"


def install_without_symlinks(environment: Environment, request: pytest.FixtureRequest) -> Path:
    checkout: Path = request.getfixturevalue("without_symlinks")
    environment.install("--editable", str(checkout))
    return checkout / "src"


@pytest.fixture(
    scope="module",
    params=[install_wheel, install_sdist, install_editable, install_without_symlinks],
    ids=lambda way: way.__name__.removeprefix("install_"),
)
def installed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Installed:
    way: Callable[[Environment, pytest.FixtureRequest], Path] = request.param
    environment = Environment.create(tmp_path_factory.mktemp("environment"))
    expected_at = way(environment, request).resolve()
    source = ROOT / "src" if environment.folder.resolve() in expected_at.parents else expected_at
    answers = json.loads(environment.python("-c", QUESTIONS).stdout)
    return Installed(environment, expected_at, source, answers)


def package_files(source: Path) -> dict[str, int]:
    """All files of the package in a source tree, and their sizes in bytes."""
    return {
        str(file.relative_to(source)): file.stat().st_size
        for file in (source / "seamscope").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }


def resource_files(source: Path) -> dict[str, int]:
    inside = "seamscope/resources/"
    files = package_files(source)
    return {name[len(inside) :]: files[name] for name in files if name.startswith(inside)}


def test_the_copy_under_test_is_the_one_installed(installed: Installed) -> None:
    assert installed.answers["imported_from"] == str(
        installed.expected_at / "seamscope/__init__.py"
    )
    assert installed.answers["distributions"] == 1


def test_npe2_registers_the_plugin(installed: Installed) -> None:
    assert "seamscope" in installed.answers["registered"]
    assert installed.answers["manifest"] == ["seamscope", "Seamscope"]


def test_every_command_of_the_manifest_can_be_imported(installed: Installed) -> None:
    assert all(installed.answers["commands"].values()), installed.answers["commands"]


def test_every_resource_is_found(installed: Installed) -> None:
    expected = resource_files(installed.source)
    assert expected
    assert installed.answers["resources"] == expected


def test_the_command_tells_its_version(installed: Installed) -> None:
    version = installed.answers["version"]
    assert installed.answers["distribution_version"] == version
    assert version in installed.environment.run("seamscope", "--version").stdout


def test_wheel_holds_every_file_of_the_package(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[0]) as wheel:
        packed = {entry.filename: entry.file_size for entry in wheel.infolist()}
    own = {name: size for name, size in packed.items() if ".dist-info/" not in name}
    assert own == package_files(ROOT / "src")
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in packed)


def test_sdist_can_be_tested_and_carries_nothing_foreign(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[1]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"Makefile", "constraints.txt", "LICENSE", "README.md", "CHANGELOG.md"} <= names
    assert {f"src/{name}" for name in package_files(ROOT / "src")} <= names
    assert "tests/project/test_packaging.py" in names
    assert not [name for name in names if name.startswith((".venv", ".git/", "out/"))]


def test_checkout_without_symlinks_builds(without_symlinks: Path, tmp_path: Path) -> None:
    wheel, _ = build(without_symlinks, tmp_path)
    with zipfile.ZipFile(wheel) as packed:
        assert set(package_files(without_symlinks / "src")) <= set(packed.namelist())
