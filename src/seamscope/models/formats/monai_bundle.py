"""Bundles of MONAI: folder or zip.

Knows their layout, and what of their configuration builds the network. Does not know the rest of
the configuration.

A configuration is a program: ``_target_`` names anything that is then called, and texts that begin
with ``$`` are evaluated. TorchScript beside it needs none of that and is preferred. Otherwise
MONAI itself runs what the network's definition refers to, and nothing else. It is listed as code
and runs once it is trusted.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from torch import nn

from seamscope.errors import ModelError
from seamscope.models.formats.archive import Archive
from seamscope.models.formats.checkpoints import fill, pickled, read_checkpoint
from seamscope.models.formats.documents import LARGEST_JSON, LARGEST_YAML, read_json, read_yaml
from seamscope.models.formats.format import Code, Format, first_sentence, missing
from seamscope.models.formats.readable import one_line, python_text
from seamscope.models.formats.sources import Sources
from seamscope.models.formats.spec import Spec
from seamscope.models.formats.torchscript import is_script, load_script, refuse_gpu, script_code
from seamscope.models.input_search import Hints
from seamscope.models.model import Model

_METADATA = "configs/metadata.json"
_CONFIGS = tuple(
    f"configs/{stem}.{ending}"
    for stem in ("inference", "evaluate", "train")
    for ending in ("json", "yaml", "yml")
)
_NETWORKS = ("network_def", "network", "net", "model")
_SCRIPTS = ("models/model.ts", "models/model_script.ts")
_WEIGHTS = ("models/model.pt", "models/model.safetensors", "models/model.pth")


def _is_bundle(spec: Spec) -> bool:
    archive = Archive(spec.path)
    return _METADATA in archive and any(name in archive for name in (*_CONFIGS, *_SCRIPTS))


def _member(archive: Archive, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in archive), None)


# -- what loading would run


def _code(spec: Spec) -> tuple[Code, ...]:
    archive = Archive(spec.path)
    script = _member(archive, _SCRIPTS)
    if script is not None:
        members = Archive.of_bytes(archive.read(script), script)
        return script_code(members.read, members.names)
    weights = _member(archive, _WEIGHTS)
    found = () if weights is None else pickled(archive.read(weights), weights)
    return (*_config_code(archive), *found)


def _config_code(archive: Archive) -> tuple[Code, ...]:
    config, name = _config(archive)
    part = {key: config[key] for key in _needed(config, _network_key(config, name))}
    text = json.dumps(part, indent=1, default=str)
    lines = dict.fromkeys(_executed(part))
    # MONAI imports the bundle's own modules where a configuration names them
    own = [each for each in archive.names if PurePath(each).suffix in _CODE]
    sources = [archive.read(each) for each in own]
    texts = [
        python_text(data) for each, data in zip(own, sources, strict=True) if each[-3:] == ".py"
    ]
    modules = dict.fromkeys(_modules(part))
    local = Sources.of_modules(*modules, installed=False)
    if not lines:
        return ()
    whole = Code.of(
        "",
        text,
        *sources,
        *local.content,
        text="\n\n".join([text, *texts, local.text]).rstrip(),
        unknown=local.unknown,
    )
    return tuple(dataclasses.replace(whole, what=one_line(f"{line} in {name}")) for line in lines)


_CODE = (".py", ".pyc", ".so", ".pyd")


def _modules(part: Any) -> Iterator[str]:
    """Modules of the names that are called."""
    if isinstance(part, Mapping):
        if "_target_" in part:
            yield str(part["_target_"]).rpartition(".")[0]
        for value in part.values():
            yield from _modules(value)
    elif isinstance(part, list):
        for value in part:
            yield from _modules(value)


def _executed(part: Any) -> Iterator[str]:
    if isinstance(part, Mapping):
        if "_target_" in part:
            yield f"{part['_target_']}()"
        for value in part.values():
            yield from _executed(value)
    elif isinstance(part, list):
        for value in part:
            yield from _executed(value)
    elif isinstance(part, str) and part.lstrip().startswith("$"):
        yield f"the expression {part.strip()[:200]!r}"
    elif isinstance(part, str) and part.lstrip().startswith("%") and "::" in part:
        yield f"what {part.strip()[:200]!r} refers to"  # a part of another file


def _needed(config: Mapping[str, Any], key: str) -> list[str]:
    """Top-level entries that one of them refers to, through others too; itself last."""
    found: dict[str, None] = {}

    def visit(name: str) -> None:
        if name in config and name not in found:
            found[name] = None
            for other in re.findall(r"[@%]([\w]+)", json.dumps(config[name], default=str)):
                visit(other)

    visit("imports")
    visit(key)
    return [*(name for name in found if name != key), key]


def _config(archive: Archive) -> tuple[Mapping[str, Any], str]:
    name = _member(archive, _CONFIGS)
    if name is None:
        raise ModelError(f"{archive.path} is a MONAI bundle without a configuration: get it again.")
    shown = f"{name} of {archive.path}"
    if name.endswith(".json"):
        content = read_json(archive.read(name, limit=LARGEST_JSON), shown)
    else:
        content = read_yaml(archive.read(name, limit=LARGEST_YAML), shown)
    if not isinstance(content, Mapping):
        raise ModelError(f"{name} of {archive.path} is no configuration: get the bundle again.")
    return content, name


def _network_key(config: Mapping[str, Any], name: str) -> str:
    key = next((key for key in _NETWORKS if key in config), None)
    if key is None:
        raise ModelError(
            f"{name} defines none of {', '.join(_NETWORKS)}: say what builds the network, as in "
            "monai.networks.nets:UNet(...)@models/model.pt."
        )
    return key


# -- loading


def _load(spec: Spec) -> Model:
    archive = Archive(spec.path)
    script = _member(archive, _SCRIPTS)
    module = _network(archive) if script is None else _script(archive, script)
    content = _metadata(archive)
    shown = content.get("network_data_format", {})
    channels, spatial = _input(shown)
    return Model(
        module,
        name=str(content.get("name", spec.path.stem)),
        spec=spec.text,
        hints=Hints(spatial, channels),
        channel_names=_channel_names(shown),
        notes=tuple(_notes(archive)),
    )


def _script(archive: Archive, name: str) -> nn.Module:
    data = archive.read(name)
    members = Archive.of_bytes(data, name)
    if not is_script(members.names):
        raise ModelError(f"{name} of {archive.path} is no TorchScript: get the bundle again.")
    for each in members.names:
        if each.endswith(".py"):
            refuse_gpu(members.read(each).decode(errors="replace"), f"{name} of {archive.path}")
    return load_script(data, f"{name} of {archive.path}")


def _network(archive: Archive) -> nn.Module:
    try:
        from monai.bundle import ConfigParser
    except ImportError as error:
        raise missing("monai", f"{archive.path}, a MONAI bundle without TorchScript,") from error
    config, name = _config(archive)
    key = _network_key(config, name)
    part = {each: config[each] for each in _needed(config, key)}
    try:
        # a name of the network that moves it to a device is left out: it stays on the CPU
        built = ConfigParser({**part, "device": "cpu"}).get_parsed_content(key)
    except Exception as error:
        raise ModelError(
            f"{key} of {name} in {archive.path} cannot be built ({type(error).__name__}: "
            f"{first_sentence(error)})."
        ) from error
    if not isinstance(built, nn.Module):
        raise ModelError(f"{key} of {name} in {archive.path} is a {type(built).__name__}.")
    weights = _member(archive, _WEIGHTS)
    if weights is None:
        raise ModelError(
            f"{archive.path} has no weights ({', '.join(_WEIGHTS)}): download the whole bundle."
        )
    source = f"{weights} of {archive.path}"
    fill(built, read_checkpoint(archive.read(weights), source), source, key)
    return built


def _metadata(archive: Archive) -> Mapping[str, Any]:
    shown = f"{_METADATA} of {archive.path}"
    content = read_json(archive.read(_METADATA, limit=LARGEST_JSON), shown)
    return content if isinstance(content, Mapping) else {}


def _first(content: Any) -> Mapping[str, Any]:
    values = [each for each in content.values() if isinstance(each, Mapping)] if content else []
    return values[0] if values else {}


def _input(shown: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Return channels and number of spatial axes, where the metadata say them."""
    first = _first(shown.get("inputs"))
    channels, shape = first.get("num_channels"), first.get("spatial_shape")
    axes = len(shape) if isinstance(shape, list) and len(shape) in (2, 3) else None
    return (channels if isinstance(channels, int) else None), axes


def _channel_names(shown: Mapping[str, Any]) -> tuple[str, ...]:
    content = _first(shown.get("outputs")).get("channel_def")
    if not isinstance(content, Mapping) or not all(str(key).isdigit() for key in content):
        return ()
    return tuple(str(content[key]) for key in sorted(content, key=int))


def _notes(archive: Archive) -> Iterator[str]:
    if _member(archive, _CONFIGS) is None:
        return
    config, _ = _config(archive)
    transforms = config.get("preprocessing", {})
    found = [line for line in _executed(transforms) if "Compose" not in line]
    if found:
        names = ", ".join(line.rpartition(".")[2].removesuffix("()") for line in found[:8])
        yield (
            f"Its own preprocessing ({names}) is not run here: choose how intensities are "
            "normalized to do the same over the whole image."
        )


MONAI_BUNDLE = Format("MONAI bundle", _is_bundle, _code, _load)

__all__ = ["MONAI_BUNDLE"]
