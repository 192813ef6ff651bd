"""The bundled demo networks, as a format like any other.

Knows their names. Does not know how they were trained (see `seamscope.demo`).
"""

from __future__ import annotations

from seamscope.errors import ModelError
from seamscope.models.formats.format import Format, no_code
from seamscope.models.formats.spec import Spec
from seamscope.models.model import Model


def demo_names() -> tuple[str, ...]:
    """Model strings of all demo networks."""
    from seamscope import demo

    return tuple(f"demo:{name}" for name in demo.NAMES)


def _load(spec: Spec) -> Model:
    from seamscope import demo

    name = spec.text.removeprefix("demo:")
    if name not in demo.NAMES:
        known = ", ".join(demo_names())
        raise ModelError(f"There is no demo network {name!r}: choose one of {known}.")
    return Model(
        demo.build(name),
        name=name,
        spec=spec.text,
        channel_names=demo.CHANNEL_NAMES,
        channel_colors=demo.CHANNEL_COLORS,
        normalize="zscore",
    )


DEMO = Format("demo network", lambda spec: spec.text.startswith("demo:"), no_code, _load)
