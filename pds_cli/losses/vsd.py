"""Variational Score Distillation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pds_cli.backbones.base import Backbone
from pds_cli.backbones.lora import adapter_parameters, add_lora
from pds_cli.errors import UserError, check_choice
from pds_cli.losses.base import Branch, Branches, Inputs, Loss, inner_generator
from pds_cli.options.losses import PARTICLES
from pds_cli.runs.checkpoint import check_state

ADAPTER = "vsd"


@dataclass(kw_only=True)
class VSD(Loss):
    """Gradient w(t) (ε̂_y(x_t) − ε̂_φ(x_t)): towards the prompt, away from what renders are now.

    φ is the backbone with a LoRA on its attention that learns to denoise the present renders, an
    inner optimisation: after each gradient φ takes `lora_steps` steps of Adam on
    ‖ε̂_φ(x_t, y) − ε‖² at new t and ε. It knows no camera. `particles=source` has no φ: the
    backbone under the source prompt stands for what renders are, as an edit begins there.

    Attributes:
        particles: `lora` or `source`.
        rank: of the LoRA.
        lora_lr: Adam's step size for it.
        lora_steps: its steps for each gradient.

    Raises:
        UserError: an option out of its range, or `lora` with a backbone that is no UNet.

    Source: Wang et al., ProlificDreamer, NeurIPS 2023, arXiv 2305.16213, eq. 9 and algorithm 1.
    """

    weighting: str = "sigma2"
    particles: str = "lora"
    rank: int = 4
    lora_lr: float = 1e-4
    lora_steps: int = 1

    uses_source: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("loss.particles", self.particles, PARTICLES)
        if self.rank < 1 or self.lora_steps < 0 or not self.lora_lr > 0:
            raise UserError("loss.rank must be at least 1, loss.lora_lr > 0, loss.lora_steps >= 0")
        self._unet: Any = None
        self._optimizer: torch.optim.Adam | None = None

    def begin(
        self,
        backbone: Backbone,
        *,
        prompt: str | Sequence[str] = "",
        source: str | Sequence[str] = "",
        negative: str = "",
    ) -> None:
        """Encodes the prompts, and adds a LoRA that changes nothing yet to the UNet."""
        super().begin(backbone, prompt=prompt, source=source, negative=negative)
        if self.particles != "lora":
            return
        unet = backbone.denoiser()
        if unet is None:
            raise UserError(
                "loss=vsd trains a LoRA of a UNet, and this backbone has none; give "
                "loss.particles=source, or another backbone"
            )
        if ADAPTER in getattr(unet, "peft_config", {}):
            unet.delete_adapters(ADAPTER)
        add_lora(unet, ADAPTER, self.rank)
        unet.disable_adapters()
        self._unet = unet
        self._optimizer = torch.optim.Adam(self._parameters().values(), lr=self.lora_lr)

    def idle(self) -> dict[str, str | None]:
        """Without a LoRA its options count for nothing."""
        off = self.particles == "source"
        unused = ("rank", "lora_lr", "lora_steps") if off else ()
        return super().idle() | dict.fromkeys(unused, "particles")

    def prompts(self, prompt: str, source: str) -> dict[str, str]:
        """The source prompt, where it stands for φ."""
        return {"source": source} if self.particles == "source" else {}

    def branches(self) -> dict[str, Branch]:
        """ε̂_y and, where it stands for φ, the prediction under the source prompt."""
        found = {"tgt": Branch("tgt", "tgt", self._omega())}
        if self.particles == "source":
            found["now"] = Branch("tgt", "source", 1.0)
        return found

    def gradient(self, branches: Branches) -> tuple[Tensor, dict[str, float]]:
        """ε̂_y − ε̂_φ; then φ learns."""
        found = dict(branches.predictions)
        if self.particles == "source":
            return found["tgt"] - found["now"], {}
        if self._unet is None:
            raise UserError("loss=vsd needs Loss.begin before its first gradient")
        inputs = branches.inputs
        with self._adapted():
            now = self._phi(inputs, branches.noisy["tgt"], inputs.t)
            learnt = [self._learn(inputs, generator) for generator in self._generators(inputs)]
        logs = {"lora_loss": sum(learnt) / len(learnt)} if learnt else {}
        return found["tgt"] - now, logs

    def _phi(self, inputs: Inputs, x_t: Tensor, t: Tensor) -> Tensor:
        """ε̂_φ [B,C,h,w] under the target prompt; the adapter must be on."""
        return inputs.backbone.predict_noise(x_t, t, inputs.texts["tgt"], 1.0).to(x_t)

    def _learn(self, inputs: Inputs, generator: torch.Generator) -> float:
        """One step of φ on the present renders; returns its squared error."""
        assert self._optimizer is not None
        x0, steps = inputs.images["tgt"], inputs.backbone.schedule.num_train_timesteps
        t = torch.randint(1, steps, (len(x0),), generator=generator).to(x0.device)
        eps = torch.randn(x0.shape, generator=generator, dtype=torch.float32).to(x0)
        with torch.enable_grad():
            found = self._phi(inputs, inputs.backbone.add_noise(x0, t, eps), t)
            error = (found - eps).float().square().mean()
            self._optimizer.zero_grad(set_to_none=True)
            error.backward()
        self._optimizer.step()
        return float(error.detach())

    def _generators(self, inputs: Inputs) -> Iterator[torch.Generator]:
        """Random numbers for each step of φ, fixed by the gradient's own ε."""
        generator = inner_generator(inputs.eps)
        for _ in range(self.lora_steps):
            yield generator

    @contextmanager
    def _adapted(self) -> Iterator[None]:
        """The backbone with its LoRA; outside, it is as it was."""
        self._unet.enable_adapters()
        try:
            yield
        finally:
            self._unet.disable_adapters()

    def _parameters(self) -> dict[str, torch.nn.Parameter]:
        """The LoRA's parameters by name."""
        return adapter_parameters(self._unet, ADAPTER)

    def state_dict(self) -> dict[str, Tensor]:
        """The LoRA and Adam's moments."""
        if self._optimizer is None:
            return {}
        found = {f"lora.{k}": p.detach() for k, p in self._parameters().items()}
        for index, entry in self._optimizer.state_dict()["state"].items():
            found |= {f"adam.{index}.{k}": torch.as_tensor(v) for k, v in entry.items()}
        return found

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state_dict`, after `begin`."""
        if self._optimizer is None:
            return
        parameters = self._parameters()
        check_state(state, {f"lora.{name}": value for name, value in parameters.items()})
        for name, parameter in parameters.items():
            parameter.copy_(state[f"lora.{name}"])
        whole = self._optimizer.state_dict()
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in state.items():
            kind, _, rest = key.partition(".")
            if kind == "adam":
                index, _, name = rest.partition(".")
                moments.setdefault(int(index), {})[name] = value
                if value.ndim and value.shape != list(parameters.values())[int(index)].shape:
                    raise ValueError(f"its {key} has another shape than its parameter")
        self._optimizer.load_state_dict({**whole, "state": moments})
