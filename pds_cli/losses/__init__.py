"""Distillation losses on one base: SDS, DDS and PDS, and the rest of the field."""

from pds_cli.losses.base import Branch, Branches, Inputs, Loss, LossOutput, inject
from pds_cli.losses.cds import CDS
from pds_cli.losses.coefficients import Coefficients, posterior_coefficients
from pds_cli.losses.csd import CSD
from pds_cli.losses.dds import DDS
from pds_cli.losses.dreamcatalyst import DreamCatalyst
from pds_cli.losses.ids import IDS
from pds_cli.losses.ism import ISM
from pds_cli.losses.nfsd import NFSD
from pds_cli.losses.pds import PDS
from pds_cli.losses.sdi import SDI
from pds_cli.losses.sds import SDS
from pds_cli.losses.sds_bridge import SDSBridge
from pds_cli.losses.timesteps import Walk
from pds_cli.losses.vsd import VSD

__all__ = [
    "CDS",
    "CSD",
    "DDS",
    "IDS",
    "ISM",
    "NFSD",
    "PDS",
    "SDI",
    "SDS",
    "VSD",
    "Branch",
    "Branches",
    "Coefficients",
    "DreamCatalyst",
    "Inputs",
    "Loss",
    "LossOutput",
    "SDSBridge",
    "Walk",
    "inject",
    "posterior_coefficients",
]
