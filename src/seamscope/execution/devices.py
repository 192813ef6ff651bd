"""The device of a run, where workers have one that this machine lacks.

Knows what workers say before a run is planned. Does not know who does what.
"""

from __future__ import annotations

import dataclasses

import torch

from seamscope.errors import SettingsError
from seamscope.execution.pool import Dask, On, check_on, open_pool
from seamscope.models.runner import is_here
from seamscope.planning.case import Case
from seamscope.planning.resources import Resources
from seamscope.progress import QUIET, Work
from seamscope.text import bytes_text


def resources_on(on: On, device: str, work: Work = QUIET) -> Resources | None:
    """Return device and memory of workers with GPUs, where this machine has none.

    Parameters
    ----------
    on
        Who computes, as for `seamscope.execution.pool.open_pool`.
    device
        As chosen: ``"auto"`` for the workers' GPUs where they offer them.
    work
        Asked whether to stop, and given notes.

    Returns
    -------
    Resources or None
        The least memory of all GPUs that answer; None where the run is planned for this machine.

    Raises
    ------
    SettingsError
        When dask is missing, no scheduler or worker answers, or no GPU that is offered works.
    """
    check_on(on)
    if on is None or isinstance(on, int) or torch.cuda.is_available():
        return None
    if device != "auto" and not device.startswith("cuda"):
        return None
    with open_pool(on, gpu=None if device == "auto" else True, work=work) as (pool, _):
        assert isinstance(pool, Dask)
        if not pool.offers_gpu:
            return None
        answers = pool.ask_gpus(gpu_memory)
    working = [memory for memory in answers.values() if isinstance(memory, int)]
    if not working:
        raise SettingsError(
            f"The workers offer GPUs ({', '.join(answers)}), and none of them works. Start them on "
            "machines with a GPU, or choose the CPU (`device='cpu'`)."
        )
    least = min(working)
    work.note(
        f"The workers' GPUs are used, {bytes_text(least)} of memory each. Results of GPUs equal "
        "those of a CPU except for rounding."
    )
    return dataclasses.replace(Resources.of("cpu"), device="cuda", memory=least)


def on_workers(case: Case, on: On, work: Work = QUIET, device: str | None = None) -> Case:
    """Return a case with a plan for the GPUs of workers, where this machine has none.

    Parameters
    ----------
    case
        As it was wanted; returned as it is where it is planned for this machine.
    on, work
        As for `resources_on`.
    device
        As chosen; None for what the case says.

    Raises
    ------
    SettingsError
        As for `resources_on`.
    """
    if on is None:
        return case
    wanted = case.asked or case.settings
    wanted = wanted if device is None else wanted.but(device=device)
    resources = resources_on(on, wanted.device, work)
    if resources is None:
        return case
    if wanted.memory == case.resources.memory:  # of this machine: not chosen
        wanted = wanted.but(memory=None)
    return dataclasses.replace(case, settings=wanted, resources=resources, asked=None)


def on_this_machine(case: Case, work: Work = QUIET) -> Case:
    """Return a planned case as it is computed here: on the CPU where only workers have its GPU."""
    plan = case.plan
    if is_here(plan.settings.device):
        return case
    work.note("Only the workers have a GPU: the rest is computed on the CPU of this machine.")
    here = dataclasses.replace(plan, settings=plan.settings.but(device="cpu"))
    return dataclasses.replace(case, resources=Resources.of("cpu")).at(here)


def gpu_memory() -> int | None:
    """Return how many bytes a forward pass may use of this process's GPU; None without one."""
    return Resources.of("cuda").memory if torch.cuda.is_available() else None


__all__ = ["gpu_memory", "on_this_machine", "on_workers", "resources_on"]
