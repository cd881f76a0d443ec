"""Train on a Ray cluster: ``ray_train.py RUN YAML``; ``ray_train.py look RUN`` says what the cluster has, as JSON.

Axolotl's own ``use_ray`` (0.19) asks Ray for GPUs even for a training on the CPU, and gives its workers no environment,
which is where our plugin comes from; so its ``ray_train_func`` is handed to Ray's TorchTrainer here.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

REACH_S = 5.0


def address(plan: dict[str, Any]) -> str:
    """Where the head of the cluster is: as the run was told, as RAY_ADDRESS says, or on this machine."""
    return str(plan["cluster"]["address"] or os.environ.get("RAY_ADDRESS") or "auto")


def workers(plan: dict[str, Any]) -> int:
    """How many processes train."""
    return int(plan["cluster"]["nodes"]) * max(1, int(plan["gpus"]))


def connect(plan: dict[str, Any], environment: dict[str, str]) -> Any:
    """Join the cluster.

    :raises OSError: its head does not answer.
    """
    place = address(plan)
    host, _, port = place.removeprefix("ray://").rpartition(":")
    if port.isdigit():  # Ray itself asks for minutes
        socket.create_connection((host, int(port)), REACH_S).close()
    import ray

    ray.init(address=place, runtime_env={"env_vars": environment}, logging_level="ERROR", log_to_driver=True)
    return ray


def look(plan: dict[str, Any], paths: list[str]) -> dict[str, Any]:
    """What the cluster has, and what each of its machines is and does not see."""
    try:
        ray = connect(plan, {})
    except (OSError, ConnectionError) as error:
        return {"error": f"{address(plan)} does not answer: {error}"}
    import node  # type: ignore[import-not-found]  # beside us
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as At

    ray.cloudpickle.register_pickle_by_value(node)  # the other machines may have no such file
    alive = [each for each in ray.nodes() if each["Alive"]]
    ask = ray.remote(num_cpus=0)(node.look)
    seen = ray.get([ask.options(scheduling_strategy=At(each["NodeID"], soft=False)).remote(paths) for each in alive])
    hosts = [
        {"host": each["NodeManagerHostname"], "cpus": each["Resources"].get("CPU", 0), **told}
        | {"gpus": each["Resources"].get("GPU", 0)}
        for each, told in zip(alive, seen, strict=True)
    ]
    return {"hosts": hosts, "versions": node.look([])["versions"]}


def train(run: Path, plan: dict[str, Any], config: str) -> None:
    """Train one process to a GPU, or one to a CPU."""
    stage = next(stage for stage in plan["stages"] if stage["name"] == "train")
    environment = {**stage["environment"], "AX_RECIPE_RUN": str(run)}
    os.environ.pop("AX_RECIPE_EVENTS", None)  # rank 0 tells them, not we
    ray = connect(plan, environment)
    from axolotl.cli.args import TrainerCliArgs
    from axolotl.cli.config import load_cfg
    from axolotl.cli.train import ray_train_func
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    on_gpu = bool(plan["gpus"])
    trainer = TorchTrainer(
        ray_train_func,
        train_loop_config={"cfg": load_cfg(config, use_ray=True).to_dict(), "cli_args": TrainerCliArgs()},
        torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers(plan),
            use_gpu=on_gpu,
            resources_per_worker={"GPU": 1} if on_gpu else {"CPU": 1},
            placement_strategy="PACK" if on_gpu else "SPREAD",
        ),
        run_config=RunConfig(name=run.name, storage_path=str(run / "ray")),
    )
    trainer.fit()
    ray.shutdown()


def main() -> None:
    """Look, or train."""
    if sys.argv[1] == "look":
        plan, *paths = json.loads(sys.argv[2])
        print(json.dumps(look(plan, paths)))
        return
    run = Path(sys.argv[1])
    train(run, json.loads((run / "plan.json").read_text()), sys.argv[2])


if __name__ == "__main__":
    main()
