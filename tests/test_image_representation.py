"""A flat image as pixels or latent, and its export at the original size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pds_cli.backbones.base import Backbone, Text
from pds_cli.backbones.schedule import Schedule
from pds_cli.errors import UserError
from pds_cli.pictures.files import read_image, resize
from pds_cli.representations.image import ImageRepresentation
from pds_cli.scenes.base import Scene
from pds_cli.scenes.image import ImageScene
from pds_cli.views.view import View


class LossyBackbone(Backbone):
    """Averages 4×4 pixels into a latent, so that decoding loses detail as a real VAE does."""

    def __init__(self) -> None:
        super().__init__()
        self.schedule = Schedule(torch.linspace(0.99, 0.01, 10))
        self.resolution = 32
        self.weight = torch.nn.Parameter(torch.ones(1))

    def image_size(self, height: int, width: int) -> tuple[int, int]:
        return (32, 16) if height > width else (32, 32)

    def encode_image(self, image: Tensor) -> Tensor:
        return 2 * torch.nn.functional.avg_pool2d(image, 4) - 1

    def decode_latent(self, x0: Tensor) -> Tensor:
        return torch.nn.functional.interpolate((x0 + 1) / 2, scale_factor=4.0)

    def encode_prompt(self, prompts: Sequence[str], negative: str = "") -> Text:
        raise NotImplementedError

    def predict_eps(self, x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        raise NotImplementedError


class ManyViews(Scene):
    source_prompt = "a room"

    def __init__(self, views: Sequence[View]) -> None:
        self._views = views

    @property
    def views(self) -> Sequence[View]:
        return self._views


@pytest.fixture
def backbone() -> LossyBackbone:
    return LossyBackbone()


def save_noise(path: Path, height: int, width: int, channels: int = 3) -> Path:
    """A file of white noise: all detail, nothing a smaller image could hold."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (height, width, channels), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def scene(tmp_path: Path) -> ImageScene:
    return ImageScene(save_noise(tmp_path / "noise.png", 90, 50), "noise")


def exported(representation: ImageRepresentation, folder: Path) -> View:
    (path,) = representation.export(folder / "exports")
    assert path == folder / "exports" / "result.png"
    return read_image(path)


def source_of(scene: Scene) -> Tensor:
    image = scene.views[0].image
    assert image is not None
    return image


# -- starting, rendering -------------------------------------------------------------------------


def test_pixels_start_as_the_resized_source(scene: ImageScene, backbone: LossyBackbone) -> None:
    representation = ImageRepresentation(scene, backbone)
    view = scene.views[0]
    assert representation.render(view).shape == (1, 3, 32, 16)
    assert torch.equal(representation.render(view)[0], resize(source_of(scene), 32, 16))
    assert representation.render_latent(view) is None


def test_latent_starts_as_the_encoded_source(scene: ImageScene, backbone: LossyBackbone) -> None:
    representation = ImageRepresentation(scene, backbone, parametrisation="latent")
    view, small = scene.views[0], resize(source_of(scene), 32, 16)[None]
    latent = representation.render_latent(view)
    assert latent is not None and latent is representation.theta
    torch.testing.assert_close(latent, backbone.encode_image(small))
    torch.testing.assert_close(representation.render(view), backbone.decode_latent(latent))


@pytest.mark.parametrize("parametrisation", ["pixels", "latent"])
def test_render_is_differentiable_and_only_theta_is_a_parameter(
    parametrisation: str, scene: ImageScene, backbone: LossyBackbone
) -> None:
    representation = ImageRepresentation(scene, backbone, parametrisation=parametrisation)
    representation.render(scene.views[0]).sum().backward()
    assert representation.theta.grad is not None and (representation.theta.grad > 0).all()
    (group,) = representation.parameter_groups()
    assert [p is representation.theta for p in group["params"]] == [True]
    assert list(representation.state_dict()) == ["theta"]
    assert backbone.weight.grad is None


def test_regularise_clamps_pixels_but_not_latents(
    scene: ImageScene, backbone: LossyBackbone
) -> None:
    pixels, latent = (
        ImageRepresentation(scene, backbone, parametrisation=p) for p in ("pixels", "latent")
    )
    for representation in (pixels, latent):
        with torch.no_grad():
            representation.theta.mul_(5).sub_(2)
        representation.regularise()
        assert representation.render(scene.views[0]).min() >= 0
        assert representation.render(scene.views[0]).max() <= 1
    assert pixels.theta.min() == 0 and pixels.theta.max() == 1
    assert latent.theta.min() < -1


def test_noise_forgets_the_source(
    scene: ImageScene, backbone: LossyBackbone, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    representation = ImageRepresentation(scene, backbone, initial="noise")
    assert abs(representation.theta.mean() - 0.5) < 0.02 and representation.theta.std() < 0.15
    image = exported(representation, tmp_path).image
    assert image is not None and image.std() < 0.15


# -- export --------------------------------------------------------------------------------------


@pytest.mark.parametrize("parametrisation", ["pixels", "latent"])
@pytest.mark.parametrize("size", [(90, 50), (20, 33), (32, 32), (1, 7), (300, 200)])
def test_no_edit_exports_the_source(
    parametrisation: str, size: tuple[int, int], backbone: LossyBackbone, tmp_path: Path
) -> None:
    scene = ImageScene(save_noise(tmp_path / "a.png", *size), "noise")
    representation = ImageRepresentation(scene, backbone, parametrisation=parametrisation)
    image = exported(representation, tmp_path).image
    assert image is not None and image.shape == (3, *size)
    assert (image - source_of(scene)).abs().max() <= 1 / 255


def test_without_detail_the_enlarged_render_is_exported(
    scene: ImageScene, backbone: LossyBackbone, tmp_path: Path
) -> None:
    representation = ImageRepresentation(scene, backbone, export_detail=False)
    image = exported(representation, tmp_path).image
    assert image is not None
    expected = resize(representation.theta.detach(), 90, 50)[0]
    torch.testing.assert_close(image, expected, atol=1 / 255, rtol=0)
    assert (image - source_of(scene)).abs().mean() > 0.1


@pytest.mark.parametrize("parametrisation", ["pixels", "latent"])
def test_a_local_edit_appears_and_leaves_the_rest_untouched(
    parametrisation: str, backbone: LossyBackbone, tmp_path: Path
) -> None:
    scene = ImageScene(save_noise(tmp_path / "a.png", 128, 128), "noise")
    representation = ImageRepresentation(scene, backbone, parametrisation=parametrisation)
    half = representation.theta.shape[-1] // 2
    with torch.no_grad():
        representation.theta[..., :half] = 0.0 if parametrisation == "pixels" else -1.0
    image = exported(representation, tmp_path).image
    assert image is not None
    left, right = image[..., :48], image[..., 80:]
    # Where everything changed, none of the old noise shines through.
    assert left.mean() < 0.05 and left.std() < 0.1
    assert (right - source_of(scene)[..., 80:]).abs().max() <= 1 / 255


def test_a_slight_change_of_tone_keeps_the_detail(backbone: LossyBackbone, tmp_path: Path) -> None:
    scene = ImageScene(save_noise(tmp_path / "a.png", 128, 128), "noise")
    representation = ImageRepresentation(scene, backbone)
    with torch.no_grad():
        representation.theta.add_(0.02)
    result = representation.full_size()
    centred = torch.stack([result.flatten(), source_of(scene).flatten()])
    assert torch.corrcoef(centred)[0, 1] > 0.99


def test_alpha_returns_and_transparent_colours_are_not_whitened(
    backbone: LossyBackbone, tmp_path: Path
) -> None:
    path = save_noise(tmp_path / "a.png", 60, 40, channels=4)
    original = read_image(path)
    representation = ImageRepresentation(ImageScene(path, "noise"), backbone)
    result = exported(representation, tmp_path)
    assert result.alpha is not None and original.alpha is not None
    assert torch.equal(result.alpha, original.alpha)
    assert result.image is not None and original.image is not None
    visible = (original.alpha > 0).expand(3, -1, -1)
    assert (result.image - original.image)[visible].abs().max() <= 1 / 255


def test_a_checkpoint_restores_the_edit(
    scene: ImageScene, backbone: LossyBackbone, tmp_path: Path
) -> None:
    first, second = (ImageRepresentation(scene, backbone) for _ in range(2))
    with torch.no_grad():
        first.theta.mul_(0.5)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.full_size(), second.full_size())


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parametrisation": "voxels"}, "choose one of pixels, latent"),
        ({"initial": "zeros"}, "choose one of source, noise"),
    ],
)
def test_unknown_options_are_answered(
    options: dict[str, str], message: str, scene: ImageScene, backbone: LossyBackbone
) -> None:
    with pytest.raises(UserError, match=message):
        ImageRepresentation(scene, backbone, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("views", [[], [View("a")], [View("a", torch.zeros(3, 4, 4))] * 2])
def test_a_scene_that_is_not_one_image_is_refused(
    views: list[View], backbone: LossyBackbone
) -> None:
    with pytest.raises(UserError, match="edits one image"):
        ImageRepresentation(ManyViews(views), backbone)
