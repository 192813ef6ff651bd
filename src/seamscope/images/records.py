"""Records: what a run notes with its result, and where that lies.

Knows that zarr keeps a record among its attributes and every other kind in ``NAME.json`` beside it.
Does not know what a record holds.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seamscope.files import current_record, write_file
from seamscope.images.addresses import Address, is_address

UNFINISHED = "Seamscope: unfinished"
"""What an unfinished TIFF or PNG names as its software."""


def read_record(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return what a run has noted with its result: plan, model, figures, and if it ``finished``.

    Parameters
    ----------
    path
        A result that `create_output` made, or its ``NAME.partial`` as long as it is unfinished.

    Returns
    -------
    dict or None
        The record, None when there is none.
    """
    with contextlib.suppress(Exception):
        if is_address(path):
            from seamscope.images.results.object_store import remote_record

            return remote_record(Address.parse(path)) or None
        target = Path(path)
        if target.is_dir():
            import zarr

            return record_in(zarr.open(str(target), mode="r").attrs) or None
        return record_in(json.loads(current_record(target).read_text(encoding="utf-8"))) or None
    return None


def unfinished(name: str) -> str:
    """Return what to say of a result that is opened although it is unfinished."""
    return f"{name} is unfinished: its run was interrupted, and pixels not yet predicted are 0."


def record_in(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record out of zarr attributes or of a file beside a result, {} if none."""
    record = attributes.get("seamscope")
    return dict(record) if isinstance(record, Mapping) else {}


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Store a record in a file of its own, in one step."""
    text = json.dumps({"seamscope": record}, indent=1, ensure_ascii=False)
    write_file(path, f"{text}\n".encode())
