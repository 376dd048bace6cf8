"""What the names of metrics stand for: title, unit, digits, and which way is better."""

from __future__ import annotations

from dataclasses import dataclass, replace

ARROWS = {1: "↑", -1: "↓", 0: ""}


@dataclass(frozen=True)
class Metric:
    """A metric.

    label: its short name.
    better: +1 higher, -1 lower, 0 neither or unknown.
    text: what it says, in a few words.
    unit: behind its name in a title.
    digits: after the point, in a table; None: by its size, 3 below 10, 1 below 100, else none.
    """

    label: str
    better: int = 0
    text: str = ""
    unit: str = ""
    digits: int | None = None

    @property
    def arrow(self) -> str:
        return ARROWS[self.better]

    def number(self, value: float, sign: str = "") -> str:
        """A value for a table; with `sign="+"` also a positive one has its sign."""
        return f"{value:{sign}.{self._digits(value)}f}"

    def interval(self, mean: float, low: float, high: float, sign: str = "") -> str:
        """A mean with its interval, with as many digits."""
        digits = self._digits(mean)
        return f"{mean:{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"

    def _digits(self, value: float) -> int:
        if self.digits is not None:
            return self.digits
        return 3 if abs(value) < 10 else 1 if abs(value) < 100 else 0


METRICS = {
    "psnr": Metric("PSNR", 1, "closeness pixel by pixel, in decibels", "dB", 2),
    "ssim": Metric("SSIM", 1, "closeness of local structure; 1 means equal"),
    "lpips": Metric("LPIPS", -1, "difference as a vision network sees it; 0 means equal"),
    "mse": Metric("MSE", -1, "mean squared difference of the pixels"),
    "clip_direction": Metric(
        "CLIP direction", 1, "whether the picture changed the way the words did, by CLIP", digits=4
    ),
    "clip": Metric("CLIP", 1, "how well the picture fits the prompt, by CLIP", digits=4),
    "similarity": Metric(
        "icon similarity to prompt", 1, "how well the picture fits the prompt, by a model of icons"
    ),
    "similarity_source": Metric("icon similarity to source prompt"),
    "success": Metric("success", 1, "share of edits that reached the wanted attribute"),
    "kept": Metric("kept", 1, "share of the other attributes that stayed as they were"),
    "balance": Metric("balance", 1, "harmonic mean of success and kept"),
    "consistency": Metric(
        "view consistency", 1, "how well neighbouring views agree, in decibels", "dB"
    ),
    "overlap": Metric("overlap", 0, "share of a view that its neighbour sees, too"),
    "points_moved": Metric("points moved", 0, "how far, where a side is 512", "of 512"),
    "colors_changed": Metric("colours changed", 0, "by how much, of 255", "of 255"),
    "seconds": Metric("s", 0, "time in seconds"),
    "memory_mb": Metric("peak MB", 0, "the most memory held"),
    "gpu_memory_mb": Metric("peak GPU MB", 0, "the most memory held on the GPU"),
}
COSTS = ("seconds", "memory_mb", "gpu_memory_mb")
"""What an edit took, rather than how good it is."""
REFERENCES = {
    "source": "Against the source: how much was kept (no edit at all scores best)",
    "truth": "Against the true edit: how close the result came to it",
}


def parts(name: str) -> tuple[str, str]:
    """A name and what it is measured against; nothing where it is no comparison.

    >>> parts("psnr_truth"), parts("seconds"), parts("truth")
    (('psnr', 'truth'), ('seconds', ''), ('truth', ''))
    """
    base, _, reference = name.rpartition("_")
    return (base, reference) if base and reference in REFERENCES else (name, "")


def metric(name: str) -> Metric:
    """What a full name stands for; an unknown one has no direction.

    >>> metric("lpips_source").label, metric("clip_score").label, metric("odd_number").label
    ('LPIPS', 'CLIP score', 'odd number')
    """
    if name in METRICS:
        return METRICS[name]
    base = parts(name)[0].lower()
    for known in sorted(METRICS, key=len, reverse=True):
        if base == known or base.startswith(known + "_"):
            rest = base[len(known) + 1 :].replace("_", " ")
            return replace(METRICS[known], label=f"{METRICS[known].label} {rest}".strip())
    return Metric(base.replace("_", " "))


def title(name: str) -> str:
    """The heading of a metric's column.

    >>> title("psnr_truth"), title("lpips_source"), title("points_moved")
    ('PSNR to truth, dB ↑', 'LPIPS to source ↓', 'points moved, of 512')
    """
    found = metric(name)
    reference = "" if name in METRICS else parts(name)[1]
    words = f"{found.label} to {reference}" if reference else found.label
    unit = f", {found.unit}" if found.unit else ""
    return f"{words}{unit} {found.arrow}".strip()
