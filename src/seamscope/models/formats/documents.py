"""YAML and JSON of foreign files, read with limits.

Knows how large such a text may become. Does not know what it says.

A YAML text of a few hundred bytes can stand for billions of values, since an alias may stand for a
list of aliases. So the values are counted, aliases followed, before any is built. Model cards have
some hundred values, configurations some thousand.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import yaml

from seamscope.errors import ModelError
from seamscope.models.formats.format import first_sentence

LARGEST_YAML: Final = 256 << 10
LARGEST_JSON: Final = 64 << 20
MOST_VALUES: Final = 100_000
DEEPEST: Final = 100


def read_yaml(data: bytes, name: str) -> Any:
    """Read YAML as numbers, texts, lists and mappings.

    Parameters
    ----------
    data
        The text.
    name
        What to call it.

    Raises
    ------
    ModelError
        When it is no YAML, or stands for more than the limits of this module.
    """
    if len(data) > LARGEST_YAML:
        raise _too_much(name, f"{len(data):,} bytes", f"{LARGEST_YAML:,} bytes")
    try:
        loader = _Loader(data)
        node = loader.get_single_node()
        if node is None:
            return None
        values = _values(node, name)
        if values > MOST_VALUES:
            raise _too_much(name, f"{values:,} values with its aliases", f"{MOST_VALUES:,} values")
        return loader.construct_document(node)
    except RecursionError as error:
        raise _too_much(name, "values nested too deeply", f"{DEEPEST} levels") from error
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise ModelError(
            f"{name} is no valid YAML ({first_sentence(error)}): get the package again."
        ) from error


class _Loader(yaml.SafeLoader):
    """Stops at the first value that is nested too deeply; PyYAML's time grows with its square."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node, one level further down."""
        self.depth += 1
        if self.depth > DEEPEST:
            raise RecursionError
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def read_json(data: bytes, name: str) -> Any:
    """Read JSON; parameters and errors as of `read_yaml`."""
    if len(data) > LARGEST_JSON:
        raise _too_much(name, f"{len(data):,} bytes", f"{LARGEST_JSON:,} bytes")
    try:
        content = json.loads(data)
    except RecursionError as error:
        raise _too_much(name, "values nested too deeply", f"{DEEPEST} levels") from error
    except ValueError as error:
        raise ModelError(
            f"{name} is no valid JSON ({first_sentence(error)}): get the package again."
        ) from error
    level = [content]
    for _ in range(DEEPEST):
        level = [each for value in level for each in _inside(value)]
        if not level:
            return content
    raise _too_much(name, "values nested too deeply", f"{DEEPEST} levels")


def _inside(value: Any) -> Iterator[Any]:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (each for each in items if isinstance(each, (dict, list)))


def _too_much(name: str, found: str, limit: str) -> ModelError:
    return ModelError(
        f"{name} has {found}, and at most {limit} are read: it is damaged, or made to fill the "
        "memory; get the package again, or ask its maker for a smaller file."
    )


def _values(root: yaml.Node, name: str) -> int:
    """Count the values that a node stands for, with its aliases."""
    known: dict[int, tuple[int, int]] = {}  # values and levels of each node

    def visit(node: yaml.Node, depth: int) -> tuple[int, int]:
        count, height = known.get(id(node), (0, 0))
        if depth + height > DEEPEST:
            raise _too_much(name, "values nested too deeply", f"{DEEPEST} levels")
        if count:
            return count, height
        children: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            children = node.value
        elif isinstance(node, yaml.MappingNode):
            children = [each for pair in node.value for each in pair]
        found = [visit(each, depth + 1) for each in children]
        known[id(node)] = (
            1 + sum(values for values, _ in found),
            1 + max((levels for _, levels in found), default=0),
        )
        return known[id(node)]

    return visit(root, 0)[0]


__all__ = ["DEEPEST", "LARGEST_JSON", "LARGEST_YAML", "MOST_VALUES", "read_json", "read_yaml"]
