"""Trains the toybox's backbone at 128 pixels on a GPU machine, from packed pictures.

    python3 benchmarks/gpu_toybox.py [data=outputs/toybox128.zip] [out=outputs/gpu_toybox]
                                     [wheels=outputs/wheels] [device=cuda] [seconds=460]
                                     [branch=600] [steps=9000] [decode=800] [batch=128] [size=sd]

As `make toybox-128`: first the fine branch on the shipped weights, then all of it and the decoder.
The machine needs what `gpu_check.py` needs, no more: the pictures come packed (`make
toybox-pictures`), so nothing is rendered. What comes back is packed: `out/toybox128`, no file over
16 MiB, beside it the logs. A stage that has not ended after `seconds` is stopped, and
what the stage before it wrote is packed. `size=tiny device=cpu` tries the script itself, on a model
of a few thousand numbers.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from _words import choice, number, options, refuse, write_json
from gpu_check import ROOT, Part, check_wheels, run, unpacking, verdict

GROWN = (
    *("size=128", "model.autoencoder.patch=8", "model.autoencoder.latent_channels=48"),
    "model.unet.fine_width=64",
)
TINY = (
    *("size=32", "model.unet.block_out_channels=[16,32]", "model.unet.fine_width=8"),
    "model.unet.down_block_types=[DownBlock2D,CrossAttnDownBlock2D]",
    "model.unet.up_block_types=[CrossAttnUpBlock2D,UpBlock2D]",
    *("model.unet.attention_head_dim=16", "model.unet.norm_num_groups=8"),
    *("model.text_encoder.hidden_size=32", "model.text_encoder.intermediate_size=32"),
    *("model.text_encoder.num_hidden_layers=1", "model.text_encoder.num_attention_heads=2"),
    *("model.autoencoder.width=8", "model.autoencoder.blocks=1", "preview.steps=1"),
)
DEFAULTS = {
    **{"data": "outputs/toybox128.zip", "out": "outputs/gpu_toybox", "wheels": "outputs/wheels"},
    **{"device": "cuda", "seconds": "460", "branch": "600", "steps": "9000", "decode": "800"},
    **{"batch": "128", "size": "sd"},
}


def stages(found: dict[str, str], pictures: Path, scratch: Path) -> list[list[str]]:
    """The words of each `pds pretrain`, one after the other."""
    tiny = found["size"] == "tiny"
    common = [
        *("pretrain", f"data.folder={pictures}", "data.toybox=false", f"device={found['device']}"),
        *(f"into={scratch / 'toybox128'}", f"denoise.batch_size={found['batch']}"),
        *("checkpoint_every=0", "render_every=0", *(TINY if tiny else GROWN)),
    ]
    first = [] if tiny else ["init=toybox"]
    return [
        [*common, *first, f"out={scratch / 'branch'}", "stages=[denoise]", "denoise.trains=branch",
         f"denoise.steps={found['branch']}", "denoise.lr=1.5e-3", "denoise.high_noise=0"],
        [*common, f"init={scratch / 'toybox128'}", f"out={scratch / 'all'}",
         "stages=[denoise,decode]", f"denoise.steps={found['steps']}", "denoise.lr=8e-4",
         "denoise.high_noise=0.3", "denoise.high_noise_from=0", f"decode.steps={found['decode']}"],
    ]  # fmt: skip


def train(found: dict[str, str], out: Path, scratch: Path) -> bool:
    """Runs everything; whether all of it ended well."""
    until = time.monotonic() + number(found, "seconds")
    environment = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    chosen: list[Part] = []
    if found["wheels"]:
        chosen.append(unpacking(Path(found["wheels"]).resolve(), scratch / "site"))
        environment["PYTHONPATH"] = f"{scratch / 'site'}{os.pathsep}{ROOT}"
    python, pictures = sys.executable, scratch / "pictures"
    album = "import sys; from pathlib import Path; from pds_cli.pretraining.album import unpack; "
    album += "unpack(Path(sys.argv[1]), Path(sys.argv[2]))"
    data = str(Path(found["data"]).resolve())
    chosen.append(
        Part("pictures", 60, [python, "-c", album, data, str(pictures)], None, environment)
    )
    for name, words in zip(("branch", "all"), stages(found, pictures, scratch), strict=True):
        command = [python, "-m", "pds_cli", *words]
        chosen.append(Part(name, 1e9, command, None, environment))
    pack = [python, "-m", "pds_cli.pretraining.packing", str(scratch / "toybox128")]
    chosen.append(Part("packing", 60, [*pack, str(out / "toybox128")], None, environment))
    done = []
    for part in chosen:
        left = max(until - time.monotonic(), 30 if part.name == "packing" else 0)
        done.append(run(part, out / f"{part.name}.log", left))
        print(f"{part.name}: {verdict(done[-1])} in {done[-1]['seconds']:.0f} s", flush=True)
        write_json(out / "toybox.json", {"words": found, "parts": done})
    return all(part["rc"] == 0 for part in done)


def main(argv: list[str]) -> None:
    """Checks the words, and runs the parts."""
    found = options(argv, DEFAULTS)
    choice(found, "size", ("sd", "tiny"))
    choice(found, "device", ("cuda", "cpu"))
    for key in ("seconds", "branch", "steps", "decode", "batch"):
        number(found, key)
    if not Path(found["data"]).is_file():
        refuse(f"{found['data']} is not there: make toybox-pictures packs the pictures")
    check_wheels(found["wheels"])
    out = Path(found["out"]).resolve()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pds-gpu-") as scratch:
        well = train(found, out, Path(scratch))
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main(sys.argv[1:])
