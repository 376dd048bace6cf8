"""The contract of a 3D scene as a representation: any camera sees it, and one file keeps it."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn, Self

import torch
from torch import Tensor

from pds_cli.backbones.base import resolve_device
from pds_cli.errors import UserError
from pds_cli.files import write_text
from pds_cli.instantiate import check_target
from pds_cli.representations.base import Representation
from pds_cli.runs import layout
from pds_cli.runs.checkpoint import check_state, fits, load_checkpoint, save_checkpoint
from pds_cli.scenes.base import Scene
from pds_cli.scenes.saved import SavedScene
from pds_cli.views.cameras import Camera
from pds_cli.views.view import Rendering, View

ANEW = "fit or edit anew with this version of pds"


class Spatial(Representation):
    """A representation of a scene of posed views, in three dimensions.

    Whatever shows, measures or exports a 3D scene asks it for no more than this. What is in
    `state_dict()` and in the options is all that brings it back.

    Args:
        scene: gives the region and the cameras.
        options: the keyword arguments that the class is built with again when its result is read;
            what JSON can hold.

    Attributes:
        region: where the scene is, in world units.
        cameras: part (`train`, `eval`) → name of a view → the camera that it was seen by.
        transform: from the coordinates of what was captured to the scene's.

    Raises:
        UserError: a scene without posed views.
    """

    def __init__(self, scene: Scene, options: Mapping[str, Any]) -> None:
        super().__init__()
        region = scene.region
        if region is None or any(view.camera is None for view in scene.views):
            raise UserError(
                f"representation={self.word or type(self).__name__} needs a scene of posed views, "
                "such as scene=figurine or scene=nerfstudio; for one picture use "
                "representation=image"
            )
        self.region, self.transform, self.options = region, scene.transform, dict(options)
        self.cameras = {"train": _cameras(scene.views), "eval": _cameras(scene.eval_views)}

    def idle(self) -> dict[str, str]:
        """None: a turntable shows it."""
        return {}

    @abstractmethod
    def render_camera(self, camera: Camera) -> Rendering:
        """What a camera sees, without a graph, at the camera's own size."""

    def export(self, folder: Path) -> list[Path]:
        """Writes the result, which `load_spatial` reads, and `cameras.json`; returns the paths."""
        paths = [Path(folder) / layout.RESULT_3D.name, Path(folder) / layout.CAMERAS.name]
        self.save(paths[0])
        write_text(paths[1], json.dumps(self._listed(), indent=1) + "\n")
        return paths

    def save(self, path: Path) -> None:
        """Writes one file that holds the scene: class, options, state, region and cameras.

        Raises:
            UserError: no place to write.
        """
        kind = type(self)
        meta = {
            "class": f"{kind.__module__}.{kind.__qualname__}",
            "options": self.options,
            "region": asdict(self.region),
            "transform": self.transform.to_dict(),
            "cameras": self._listed(),
        }
        save_checkpoint(path, self.state_dict(), meta)

    def _listed(self) -> dict[str, list[dict[str, Any]]]:
        return {
            part: [{"name": name, **camera.to_dict()} for name, camera in found.items()]
            for part, found in self.cameras.items()
        }

    @classmethod
    def restored(
        cls,
        scene: SavedScene,
        device: torch.device,
        options: dict[str, Any],
        tensors: Mapping[str, Tensor],
    ) -> Self:
        """Builds the representation that a file describes; its state is loaded afterwards.

        A class whose options cost memory compares them with the tensors' sizes first.

        Raises:
            ValueError, LookupError, TypeError: the options are not this class's.
        """
        return cls(scene, Place(device), **options)  # type: ignore[call-arg, arg-type]


class Volumetric(Spatial):
    """A 3D scene that says of any point how dense it is, and in which colour it shines."""

    @abstractmethod
    def density(self, points: Tensor) -> Tensor:
        """σ [N] at world points [N,3], per world unit, without a graph."""

    @abstractmethod
    def color(self, points: Tensor, directions: Tensor) -> Tensor:
        """Colours [N,3] in [0,1] of world points [N,3] seen along unit directions [N,3]."""


def check_render_size(size: int | None) -> None:
    """UserError for a longer side of edited renders that is too short."""
    if size is not None and size < 8:
        raise UserError(
            f"representation.render_size={size} must be at least 8 pixels, or null for the views' "
            "own size"
        )


class Place:
    """Stands in for a backbone where a representation needs no more of it than the device.

    Args:
        device: see `resolve_device`.
        otherwise: what to say to a class that asks for more.
    """

    def __init__(self, device: str | torch.device, otherwise: str | None = None) -> None:
        self.device, self._otherwise = resolve_device(device), otherwise

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        without = f"a 3D result is read without a backbone, so there is no {name} of one"
        raise UserError(self._otherwise or without)


def load_spatial(
    path: Path | str, device: str = "auto", allow_modules: Sequence[str] = ()
) -> Spatial:
    """A 3D scene from what `Spatial.save` wrote; it needs neither its source nor a backbone.

    Args:
        allow_modules: modules that the recorded class may come from, beside the shipped ones.

    Raises:
        UserError: no such file, a damaged one, one of a class that may not be built, or no such
            device.
    """
    path, place = Path(path), resolve_device(device)
    tensors, meta = load_checkpoint(path, ANEW)
    kind = _recorded_class(path, meta, allow_modules)
    with fits(path, ANEW, "is no 3D result of this version of pds"):
        scene = SavedScene.from_dict(meta)
        found = kind.restored(scene, place, dict(meta["options"]), tensors)
        check_state(tensors, found.state_dict())
        found.load_state_dict(dict(tensors))
        if not all(bool(value.isfinite().all()) for value in found.parameters()):
            raise ValueError("it holds infinite weights")
    return found.eval()


def _recorded_class(
    path: Path, meta: Mapping[str, Any], allow_modules: Sequence[str]
) -> type[Spatial]:
    if "class" not in meta:
        raise UserError(f"{path} is no 3D result of this version of pds; {ANEW}")
    try:
        found = check_target("representation", meta["class"], allow_modules)
    except UserError as error:
        raise UserError(f"{path} cannot be read: {error} Else {ANEW}") from error
    if not issubclass(found, Spatial):
        raise UserError(f"{path} is no 3D result: its class {meta['class']} is flat; {ANEW}")
    return found


def _cameras(views: Sequence[View]) -> dict[str, Camera]:
    return {view.name: view.camera for view in views if view.camera is not None}
