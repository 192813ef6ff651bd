"""What a run may use of this machine: a device, and memory.

Knows how a device is found and free memory is read. Does not know networks, images or tiles. A
driver asks once and hands the answer to everything that plans, so that plans made of the same
settings are the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import psutil
import torch

from seamscope.models.runner import check_device

# Part of the free memory that one forward pass may use.
_CPU_SHARE, _GPU_SHARE = 0.2, 0.6
# A tile above this many bytes gains nothing measurable and makes cancelling slow.
_LARGEST_TILE_BYTES = 4 << 30
# Part of the free memory that the predictions of all tiles may take.
_KEPT_SHARE = 0.25


@dataclass(frozen=True)
class Resources:
    """A device, and what may be used of the memory.

    Attributes
    ----------
    device
        As torch names it, such as ``"cpu"`` or ``"cuda:0"``.
    memory
        Bytes that one forward pass may use there.
    kept
        Bytes of the host's memory that predictions of tiles may take while they are compared.
    used
        Bytes of the host's memory that the process takes before the run.
    """

    device: str
    memory: int
    kept: int
    used: int = 0

    @classmethod
    def of(cls, device: str = "auto") -> Resources:
        """Ask this machine, once for each run: free memory changes from moment to moment.

        Raises
        ------
        SettingsError
            Where the machine does not have the device.
        """
        found, free = check_device(device), psutil.virtual_memory().available
        memory = min(int(free * _CPU_SHARE), _LARGEST_TILE_BYTES)
        if found.startswith("cuda"):
            memory = int(torch.cuda.mem_get_info(torch.device(found))[0] * _GPU_SHARE)
        used = psutil.Process().memory_info().rss
        return cls(found, memory, int(free * _KEPT_SHARE), used)


__all__ = ["Resources"]
