"""Editors: images edited by text, one at a time, with no knowledge of a scene."""

from pds_cli.editors.base import Editor
from pds_cli.editors.ddim_inversion import DDIMInversion
from pds_cli.editors.ddpm_inversion import DDPMInversion
from pds_cli.editors.sdedit import SDEdit

__all__ = ["DDIMInversion", "DDPMInversion", "Editor", "SDEdit"]
