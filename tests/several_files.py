"""OME-TIFF of several files: one plane each, as microscopes write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile


def write_planes(folder: Path, planes: np.ndarray) -> list[Path]:
    """Write ``(Z, Y, X)``, float32, each plane into a file of its own; return the files."""
    files = [folder / f"plane{z}.ome.tif" for z in range(len(planes))]
    _, height, width = planes.shape
    blocks = "".join(
        f'<TiffData FirstZ="{z}" IFD="0" PlaneCount="1"><UUID FileName="{file.name}">'
        f"urn:uuid:{z}</UUID></TiffData>"
        for z, file in enumerate(files)
    )
    for z, (file, plane) in enumerate(zip(files, planes, strict=True)):
        xml = (
            f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:{z}">'
            f'<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="float" '
            f'SizeX="{width}" SizeY="{height}" SizeZ="{len(planes)}" SizeC="1" SizeT="1">'
            f'<Channel ID="Channel:0:0" SamplesPerPixel="1"/>{blocks}</Pixels></Image></OME>'
        )
        tifffile.imwrite(file, plane, description=xml, metadata=None, rowsperstrip=8)
    return files
