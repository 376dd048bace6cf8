"""Trains the toybox's backbone at 128 pixels on a GPU machine, from packed pictures.

    python3 benchmarks/gpu_toybox.py [data=outputs/toybox128.zip] [out=outputs/gpu_toybox]
                                     [wheels=outputs/wheels] [device=cuda] [seconds=460]
                                     [steps=9000] [decode=800] [batch=128] [size=sd]

As the last step of `make toybox`, from the weights that ship on: denoising, then the decoder.
The machine needs what `gpu_check.py` needs, no more: the pictures come packed (`make
toybox-pictures`), so nothing is rendered. What comes back is packed: `out/toybox`, no file over
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
    *("model.unet.fine_width=64", "model.camera=true"),
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
    **{"device": "cuda", "seconds": "460", "steps": "9000", "decode": "800"},
    **{"batch": "128", "size": "sd"},
}


def runs(found: dict[str, str], pictures: Path, scratch: Path) -> dict[str, list[str]]:
    """The words of each `pds pretrain`, one after the other."""
    tiny, made = found["size"] == "tiny", scratch / "toybox"
    common = [
        *("pretrain", f"data.folder={pictures}", "data.toybox=false", f"device={found['device']}"),
        *(f"into={made}", "checkpoint_every=0", "render_every=0", *(TINY if tiny else GROWN)),
    ]
    return {
        "denoise": [
            *(*common, *([] if tiny else ["init=toybox"]), f"out={scratch / 'denoise'}"),
            *("stages=[denoise]", f"denoise.batch_size={found['batch']}", "denoise.lr=8e-4"),
            *("denoise.high_noise=0.3", "denoise.high_noise_from=0"),
            f"denoise.steps={found['steps']}",
        ],
        "decode": [
            *(*common, f"init={made}", f"out={scratch / 'decode'}", "stages=[decode]"),
            f"decode.steps={found['decode']}",
        ],
    }


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
    for name, words in runs(found, pictures, scratch).items():
        chosen.append(Part(name, 1e9, [python, "-m", "pds_cli", *words], None, environment))
    pack = [python, "-m", "pds_cli.pretraining.packing", str(scratch / "toybox")]
    chosen.append(Part("packing", 60, [*pack, str(out / "toybox")], None, environment))
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
    for key in ("seconds", "steps", "decode", "batch"):
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
