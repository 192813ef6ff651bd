"""What a plan's result is written into, and its record: how it was made.

Knows which shape, axes and channels a plan's result has. Does not know file formats.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seamscope.images.channels import Channel, colour
from seamscope.images.image import Image
from seamscope.images.ngff import OmeZarr
from seamscope.images.results.create import create_output
from seamscope.images.results.output import Output
from seamscope.models.model import Model
from seamscope.planning.case import Case
from seamscope.planning.plan import Plan
from seamscope.planning.protocol import protocol_of
from seamscope.prediction.class_labels import label_numbers
from seamscope.serialization import plain


def open_output(
    case: Case,
    target: Any = None,
    *,
    overwrite: bool = False,
    task: Mapping[str, Any] | None = None,
    resume: bool = False,
    ome: OmeZarr = OmeZarr(),  # noqa: B008  (frozen)
) -> Output:
    """Create what a plan's result is written into (see `images.results.create.create_output`)."""
    plan = case.plan
    return create_output(
        target,
        plan.out_shape,
        plan.out_dtype,
        axes=plan.out_axes,
        scale=plan.scale,
        units=plan.units,
        origin=plan.origin,
        chunks=plan.out_chunks,
        overwrite=overwrite,
        metadata=record(case) | _of_task(task),
        source=case.image,
        task=task,
        resume=resume,
        labels=plan.settings.result == "labels",
        ome=ome,
    )


def _of_task(task: Mapping[str, Any] | None) -> dict[str, Any]:
    """What is compared before a whole result is left as it is (`prediction.folders`)."""
    return {} if task is None else {"task": {k: v for k, v in task.items() if k != "plan"}}


def record(case: Case) -> dict[str, Any]:
    """Return the record of a result: how it was made, as plain values."""
    plan, model, image = case.plan, case.model, case.image
    written: dict[str, Any] = {
        "plan": plan.to_json(),
        "model": {
            "name": model.name,
            "spec": model.spec,
            "fingerprint": model.fingerprint,
            "facts": str(plan.facts),
            "statistics": None if model.statistics is None else model.statistics.described,
        },
        "image": {
            "name": image.name,
            "source": image.source,
            "shape": list(image.shape),
            "channels": [plain(channel) for channel in image.channels],
        },
    }
    protocol = protocol_of(case)
    if protocol is not None:
        written["protocol"] = protocol
    if plan.facts.out_channels > 1:
        listed = _channels(plan, model, image)
        if plan.settings.result == "labels":
            numbers = label_numbers(len(listed), plan.settings.background).tolist()
            written["classes"] = [
                {"value": value, "color": colour(value), **each}
                for value, each in zip(numbers, listed, strict=True)
            ]
        else:
            written["channels"] = listed
    elif "c" in plan.layout.frames and image.channels and plan.settings.result != "labels":
        start, stop = plan.frame_ranges[plan.layout.frames.index("c")]
        written["channels"] = [_as_in(channel) for channel in image.channels[start:stop]]
    return written


def _as_in(channel: Channel) -> dict[str, Any]:
    """Name and colour of a channel of the image, for one of the result."""
    return {"name": channel.name} | ({"color": channel.color} if channel.color else {})


def _channels(plan: Plan, model: Model, image: Image) -> list[dict[str, Any]]:
    """Names of the predicted channels, and their colours where the model has them.

    A network that names none, and gives values, one channel for each of the image's, keeps those
    names; probabilities are of classes.
    """
    facts = plan.facts
    same = facts.in_channels == facts.out_channels == len(image.channels)
    if same and facts.kind != "probabilities" and len(model.channel_names) != facts.out_channels:
        return [_as_in(channel) for channel in image.channels]
    colors = model.channel_colors or (None,) * plan.facts.out_channels
    return [
        {"name": name} | ({"color": color.lstrip("#")} if color else {})
        for name, color in zip(model.channels_of(plan.facts), colors, strict=True)
    ]


__all__ = ["open_output", "record"]
