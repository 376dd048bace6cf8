"""What the figures call the methods of the benchmarks."""

from __future__ import annotations

METHODS = {
    "sds": "SDS",
    "dds": "DDS",
    "pds": "PDS",
    "pds_refined": "PDS, refined",
    "inversion2nerf": "Inversion2NeRF",
    "instruct_nerf2nerf": "Instruct-NeRF2NeRF",
    "sdedit": "SDEdit",
    "ddim_inversion": "DDIM inversion",
    "ddpm_inversion": "DDPM inversion",
    "instruct_pix2pix": "InstructPix2Pix",
}
