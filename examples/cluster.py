"""Predict on a cluster: Slurm, several GPUs, or processes of this machine.

Image, network and result lie on a disk that all machines see under the same name. The script itself
needs little memory and no GPU: workers say which they have. It may end and be started again at any
moment, and goes on::

    python examples/cluster.py local image.zarr network.pt2 result.ome.zarr
    python examples/cluster.py slurm image.zarr network.pt2 result.ome.zarr
    python examples/cluster.py gpus  image.zarr network.pt2 result.ome.zarr

``slurm`` needs dask-jobqueue, ``gpus`` needs dask-cuda.
"""

from __future__ import annotations

import sys
from typing import Any

import seamscope


def slurm() -> Any:
    """Start a job of Slurm for each worker: one process that has all cores of its job."""
    from dask_jobqueue import SLURMCluster

    cluster = SLURMCluster(
        queue="gpu",
        cores=8,
        processes=1,
        memory="32GB",
        walltime="08:00:00",
        job_extra_directives=["--gres=gpu:1"],
        worker_extra_args=["--resources GPU=1"],
    )
    cluster.adapt(minimum_jobs=1, maximum_jobs=20)
    return cluster


def gpus() -> Any:
    """Start a worker for each GPU of this machine."""
    from dask_cuda import LocalCUDACluster

    return LocalCUDACluster(resources={"GPU": 1}, threads_per_worker=1)


def local() -> Any:
    """Start two processes on this machine; ``on=2`` does the same."""
    from distributed import LocalCluster

    return LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
    )


def predict(kind: str, image: str, network: str, result: str, **settings: Any) -> None:
    """Predict an image with the workers of a cluster; go on with an unfinished result."""
    from distributed import Client

    with {"slurm": slurm, "gpus": gpus, "local": local}[kind]() as cluster, Client(cluster) as on:
        seamscope.predict(image, network, result, resume=True, on=on, **settings)


if __name__ == "__main__":
    predict(*sys.argv[1:5])
