"""Shards on the machines of a Ray cluster, through Ray Data (extra ``scale``).

Every machine must see the model, the images and the output under the same paths. An actor opens the model
once and takes shard after shard; if it or its machine dies, Ray starts another and gives it the shard again,
which replaces whatever had been written of it. The output is the same as without Ray.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from typing import Any

from foveate.deploy.archive.streaming import Runner, predict_shard
from foveate.deploy.archive.work import ArchiveJob, Done
from foveate.deploy.engines.opening import open_engine
from foveate.errors import MissingExtra, RunFailed

RETRIES = 5  # of a shard whose actor died


class ShardPredictor:
    """An actor of ``Dataset.map_batches``: a batch is one shard's number.

    Args:
        job: says where everything lies.
    """

    def __init__(self, job: ArchiveJob) -> None:
        self.job = job
        self.engine = open_engine(job.model, job.engine)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Predict the shard; what is returned only says that it is done."""
        shards = [int(shard) for shard in batch["shard"]]
        for shard in shards:
            predict_shard(self.engine, self.job, shard)
        return {"shard": shards}


def on_cluster(workers: int, cores: float = 1) -> Runner:
    """Predict shards on the cluster that ``RAY_ADDRESS`` names, else on one that is started here.

    Args:
        workers: most actors at once.
        cores: of each.

    Raises:
        MissingExtra: Ray is not installed.
    """
    ray, data = _ray()

    def run(job: ArchiveJob, shards: Sequence[int]) -> Iterator[Done]:
        if not shards:
            return
        if not ray.is_initialized():
            ray.init(log_to_driver=False, logging_level="ERROR")
        data.DataContext.get_current().enable_progress_bars = False
        numbers = data.from_items([{"shard": shard} for shard in shards], override_num_blocks=len(shards))
        finished = numbers.map_batches(
            ShardPredictor,
            fn_constructor_args=(job,),
            batch_size=1,
            compute=data.ActorPoolStrategy(min_size=1, max_size=workers),
            num_cpus=cores,
            max_restarts=-1,
            max_task_retries=RETRIES,
        )
        try:
            for row in finished.iter_rows():
                yield job.outcome(int(row["shard"])) or Done()
        except ray.exceptions.RayError as error:
            raise RunFailed(
                f"Ray could not go on: {error}",
                where=str(job.base),
                fix="give the same command again: it goes on where it stopped; without --ray, a file that "
                "kills every process that reads it is found and refused",
            ) from error

    return run


def _ray() -> tuple[Any, Any]:
    try:
        return importlib.import_module("ray"), importlib.import_module("ray.data")
    except ImportError:
        raise MissingExtra("scale") from None
