"""The range of every number in a config: one table, by a key's name or by the end of its path.

A number whose key stands nowhere here, as in a group from outside, must be finite all the same.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pds_cli.errors import UserError

MILLION = 1_000_000


@dataclass(frozen=True)
class Range:
    """From `low` to `high`, both allowed unless `above` or `below` leaves them out.

    whole: integers only. Nothing that is not finite lies in a range, and no integer of more than
    64 bits.
    """

    low: float | None = None
    high: float | None = None
    whole: bool = False
    above: bool = False
    below: bool = False

    def holds(self, value: int | float) -> bool:
        """Whether a number lies here."""
        # Comparisons of Python's take integers of any length, where float() would overflow.
        if not abs(value) <= (2**63 - 1 if isinstance(value, int) else sys.float_info.max):
            return False
        if self.whole and not isinstance(value, int):
            return False
        if self.low is not None and (value < self.low or (self.above and value == self.low)):
            return False
        return self.high is None or value < self.high or (value == self.high and not self.below)

    def __str__(self) -> str:
        closed = self.low is not None and self.high is not None and not (self.above or self.below)
        if closed and not self.whole:
            return f"a finite number {self.span}"
        ends = []
        if self.low is not None:
            ends.append(f"{'above' if self.above else 'at least'} {_number(self.low)}")
        if self.high is not None:
            ends.append(f"{'below' if self.below else 'at most'} {_number(self.high)}")
        kind = "a whole number" if self.whole else "a finite number"
        joint = " of " if ends and ends[0].startswith("at") else " "
        return kind + (joint + " and ".join(ends) if ends else "")

    @property
    def span(self) -> str:
        """`from 0 to 1`, of a range with two ends."""
        assert self.low is not None and self.high is not None
        return f"from {_number(self.low)} to {_number(self.high)}"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def whole(low: int, high: int) -> Range:
    """Integers from `low` to `high`."""
    return Range(low, high, whole=True)


FINITE = Range()
SHARE = Range(0, 1)
POSITIVE = Range(0, above=True)
NOT_NEGATIVE = Range(0)
TURN = Range(-360_000, 360_000)  # degrees
STEPS = whole(1, 100 * MILLION)
EVERY = whole(0, 100 * MILLION)  # steps; 0: never
PIXELS = whole(1, 16_384)

# By the last parts of a key's path, the longest that fits; else by the name of what holds it
# (a list, or a table such as `guidance: {sds: 3}`). Upper ends that no maths asks for keep a slip
# of the finger from taking all memory, or the rest of the year.
RANGES: dict[str, Range] = {
    "seed": whole(0, 2**63 - 1),
    # budgets
    **dict.fromkeys(("steps", "every", "hold_view", "update_every", "log_every"), STEPS),
    **dict.fromkeys(("checkpoint_every", "render_every", "animation", "warmup", "patience"), EVERY),
    "min_delta": NOT_NEGATIVE,
    **dict.fromkeys(("batch_size", "views_per_step"), whole(1, 65_536)),
    **dict.fromkeys(("rays", "chunk"), whole(1, 2**26)),
    "flush_secs": whole(1, 86_400),
    # optimisers
    **dict.fromkeys(("lr", "lora_lr", "eps", "clip_norm", "clip_value"), POSITIVE),
    **dict.fromkeys(("point_lr", "color_lr", "opacity_lr", "gradient_lr"), NOT_NEGATIVE),
    **dict.fromkeys(("network_lr", "weight_decay", "momentum"), NOT_NEGATIVE),
    "betas": Range(0, 1, below=True),
    # losses and editors
    **dict.fromkeys(("guidance", "source_guidance", "image_guidance"), FINITE),
    **dict.fromkeys(("inversion_guidance", "psi", "chi"), FINITE),
    **dict.fromkeys(("identity", "delta", "gamma", "scale", "contrast"), NOT_NEGATIVE),
    **dict.fromkeys(("source_weight", "prior_weight"), NOT_NEGATIVE),
    **dict.fromkeys(("timesteps", "strength", "eta", "inversion_eta"), SHARE),
    "num_inference_steps": whole(2, MILLION),
    "inversion_steps": whole(1, 100_000),
    **dict.fromkeys(("delta_t", "delta_s"), whole(1, 100_000)),
    **dict.fromkeys(("iterations", "fixed_point", "lora_steps"), whole(0, 100_000)),
    "source_bank": whole(0, MILLION),
    "patches": whole(2, MILLION),
    "patch_sizes": whole(1, 1024),
    "rank": whole(1, MILLION),
    # sizes and counts
    **dict.fromkeys(("size", "raster"), PIXELS),
    **dict.fromkeys(("max_size", "resolution"), whole(1, 100_000)),
    "render_size": whole(8, 16_384),
    "downscale": whole(1, 1024),
    "n": whole(1, 100_000),
    "points": whole(1, 1000 * MILLION),
    **dict.fromkeys(("count", "frames", "class_images", "overlap"), whole(1, 100_000)),
    "components": whole(1, MILLION),
    "images": whole(1, 100 * MILLION),
    "per_drawing": whole(1, 100_000),
    **dict.fromkeys(("turntable", "held_out"), whole(0, 10_000)),
    "eval_interval": whole(0, MILLION),
    "eval_every": whole(1, MILLION),
    "columns": whole(1, 1000),
    # benchmarks
    **dict.fromkeys(("cameras", "samples", "seeds"), whole(1, 10_000)),
    **dict.fromkeys(("edits", "figures"), whole(1, 1000)),
    "tuning_figures": whole(0, 1000),
    # cameras, films and colours
    "fps": Range(0, 1000, above=True),
    **dict.fromkeys(("start", "sweep", "azimuth"), TURN),
    "edit_azimuth": Range(0, 360),
    "elevation": Range(-89, 89),
    "distance": Range(0, 1000, above=True),
    "background": SHARE,
    "opacity": SHARE,
    # 3D
    **dict.fromkeys(("extent", "threshold", "radius"), POSITIVE),
    "levels": whole(1, 32),
    "features": whole(1, 8),
    "log2_table": whole(8, 24),
    "base_resolution": whole(2, 512),
    "growth": Range(1, 4),
    "hidden": whole(1, 4096),
    "sh_degree": whole(-1, 3),
    "density_bias": Range(-50, 50),
    "step": Range(1e-4, 10),
    "occupancy": whole(2, 1024),
    "explore": SHARE,
    **dict.fromkeys(("density_growth", "distortion", "fit_distortion"), NOT_NEGATIVE),
    # drawings and points
    "max_move": POSITIVE,
    **dict.fromkeys(("symmetry", "xing", "noise", "std"), NOT_NEGATIVE),
    # pretraining
    "around": SHARE,
    **dict.fromkeys(("drop", "drop_source", "high_noise", "high_noise_from"), SHARE),
    "decay": Range(0, 1, below=True),
    "shift": Range(-100, 100),
    "model.timesteps": whole(2, 100_000),
    "latent_channels": whole(1, 4096),
    "patch": whole(1, 256),
    "width": whole(1, 8192),
    "blocks": whole(0, 256),
    "whiten": SHARE,
    "layers_per_block": whole(1, 64),
    **dict.fromkeys(("block_out_channels", "attention_head_dim"), whole(1, 8192)),
    "norm_num_groups": whole(1, 8192),
    **dict.fromkeys(("hidden_size", "intermediate_size"), whole(1, 65_536)),
    **dict.fromkeys(("num_hidden_layers", "num_attention_heads"), whole(1, 256)),
}

# Lists that have so many numbers, and an example.
LENGTHS = {
    "timesteps": (2, "[0.02,0.98]"),
    "betas": (2, "[0.9,0.999]"),
    "background": (3, "[1,1,1]"),
}


def range_of(key: str) -> Range | None:
    """The range that is stated for a dotted key, or None.

    >>> str(range_of("scene.camera.elevation"))
    'a finite number from -89 to 89'
    >>> range_of("backbone.recommended.guidance.dds") is RANGES["guidance"]
    True
    """
    parts = key.split(".")
    for end in range(len(parts), 0, -1):
        for start in range(end):
            found = RANGES.get(".".join(parts[start:end]))
            if found is not None:
                return found
    return None


def check(key: str, value: Any, foreign: bool = False) -> None:
    """Checks the numbers in a value: a number, a list, or anything else, which passes.

    Args:
        key: where it stands, with dots.
        value: without interpolations.
        foreign: of a class from outside, whose keys may mean something else: finite is enough.

    Raises:
        UserError: with the key, its value and what would be right.
    """
    wanted = FINITE if foreign else range_of(key) or FINITE
    if not foreign:
        _check_length(key, value)
    for number in _numbers(value):
        if not wanted.holds(number):
            raise UserError(f"{key}={shown(value)} is out of range: it must be {wanted}.")
    if not foreign:
        _check_order(key, value)


def _check_length(key: str, value: Any) -> None:
    """Whether a list of numbers has as many as it takes."""
    name = key.rpartition(".")[2]
    # A grey alone is no colour: it takes three.
    numbers = [value] if name == "background" and isinstance(value, int | float) else value
    if name not in LENGTHS or not isinstance(numbers, list):
        return
    length, example = LENGTHS[name]
    if len(numbers) != length or len(list(_numbers(numbers))) != length:
        count = {2: "two", 3: "three"}[length]
        span = f" {SHARE.span}" if range_of(key) is SHARE else ""
        raise UserError(
            f"{key}={shown(value)} must be {count} numbers{span}, for example {example}."
        )


def _check_order(key: str, value: Any) -> None:
    name = key.rpartition(".")[2]
    if name == "timesteps" and isinstance(value, list) and value[0] > value[1]:
        raise UserError(f"{key}={shown(value)} must be two ascending ratios between 0 and 1.")


def _numbers(value: Any) -> Iterator[int | float]:
    if isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _numbers(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def shown(value: Any, longest: int = 60) -> str:
    """A value as text in one line, cut where it is long."""
    try:
        text = " ".join(str(value).split())
    except ValueError:  # an integer of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= longest else f"{text[: longest // 2]}… ({len(text)} characters)"
