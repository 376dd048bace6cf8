"""The keys of optimisers and loggers."""

from __future__ import annotations

from dataclasses import dataclass

from pds_cli.options.option import option
from pds_cli.options.ranges import BELOW_ONE, NOT_NEGATIVE, POSITIVE, whole
from pds_cli.options.target import Target

WANDB_MODES = ("offline", "online", "disabled")


@dataclass
class AdamConf(Target):
    """Adam, with or without decoupled weight decay."""

    betas: list[float] = option(
        "decays of the averages of gradients and of their squares",
        range=BELOW_ONE,
        example=(0.9, 0.999),
    )
    eps: float = option("added to the root of the squares' average", range=POSITIVE)
    weight_decay: float = option("pull of the parameters towards zero", range=NOT_NEGATIVE)


@dataclass
class SGDConf(Target):
    """Stochastic gradient descent."""

    momentum: float = option("share of the last step that goes into the next", range=NOT_NEGATIVE)
    nesterov: bool = option("Nesterov's momentum")
    weight_decay: float = option("pull of the parameters towards zero", range=NOT_NEGATIVE)


@dataclass
class TensorBoardConf(Target):
    """TensorBoard."""

    flush_secs: int = option(
        "seconds after which buffered numbers are written", range=whole(1, 86_400)
    )


@dataclass
class WandbConf(Target):
    """Weights & Biases."""

    project: str = option("project of the run", text=True)
    name: str | None = option("name of the run; null: one is invented", text=True)
    entity: str | None = option("user or team; null: the one logged in", text=True)
    tags: list[str] = option("tags of the run")
    mode: str = option("offline: upload later with wandb sync", choices=WANDB_MODES)
