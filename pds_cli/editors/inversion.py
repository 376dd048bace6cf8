"""What editors that invert share: their dials, and that they need a source prompt."""

from __future__ import annotations

from dataclasses import dataclass

from pds_cli.backbones.base import Text
from pds_cli.editors.base import Editor, checked
from pds_cli.errors import UserError


@dataclass(kw_only=True)
class Inversion(Editor):
    """An editor that inverts under the source prompt, and samples under the target's.

    Attributes:
        steps: network calls of the whole walk, each way.
        guidance: ω of the target prompt.
        source_guidance: ω of the source prompt.
        strength: how far to go, in [0, 1]; 0 changes nothing.

    Raises:
        UserError: an option out of its range.
    """

    steps: int
    guidance: float
    source_guidance: float
    strength: float

    def __post_init__(self) -> None:
        checked(
            steps=self.steps,
            guidance=self.guidance,
            source_guidance=self.source_guidance,
            strength=self.strength,
        )

    def source_text(self, text_src: Text | None, batch: int) -> Text:
        """The source prompt, `batch` times.

        Raises:
            UserError: there is none.
        """
        if text_src is None:
            name = type(self).__module__.rpartition(".")[2]
            raise UserError(f"editor={name} needs a source prompt: give source=…")
        return text_src.expand(batch)
