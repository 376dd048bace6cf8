"""Attention shared between the images of a batch: invariances, branches, and what comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_pipelines import build_unet
from torch import Tensor, nn

from pds_cli.backbones.base import Text
from pds_cli.backbones.embedded import EmbeddedBackbone
from pds_cli.backbones.instruct import InstructMixin
from pds_cli.backbones.mixture import CrescentMixture
from pds_cli.backbones.shared_attention import self_attentions, shared_attention
from pds_cli.errors import UserError

IMAGES = 3


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def embedded(tiny_backbone: Path) -> EmbeddedBackbone:
    return EmbeddedBackbone(str(tiny_backbone), device="cpu")


@pytest.fixture(scope="module")
def unets() -> dict[str, nn.Module]:
    """One network of each kind of Stable Diffusion."""
    return {kind: build_unet(kind) for kind in ("sd1", "sd2", "sdxl")}


@torch.no_grad()
def seen(unet: Any, x: Tensor, tokens: Tensor) -> Tensor:
    """The network's output [N,C,h,w] for x [N,C,h,w], tokens [N,L,D]."""
    added = None
    if tokens.shape[-1] == 40:  # SDXL
        added = {"text_embeds": tokens[:, 0, :12], "time_ids": torch.ones(len(x), 6)}
    t = torch.full((len(x),), 400)
    return unet(x, t, encoder_hidden_states=tokens, added_cond_kwargs=added).sample


def prompts(unet: Any, count: int) -> Tensor:
    """`count` random prompts, each for all images of a branch."""
    width = unet.config.cross_attention_dim
    return noise(count, 5, width, seed=3).repeat_interleave(IMAGES, 0)


# --- what sharing is ------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_queries_see_the_keys_and_values_of_all_images_of_their_branch(
    unets: dict[str, nn.Module], share: float
) -> None:
    """Against softmax(Q K^T/√d) V written out, with one layer."""
    layer: Any = next(iter(self_attentions(unets["sd1"]).values()))
    x = noise(2 * IMAGES, 6, layer.to_q.in_features)
    holder = nn.ModuleDict({"only": nn.ModuleDict({"attn1": layer})})
    with torch.no_grad():
        with shared_attention(holder, IMAGES, share):
            found = layer(x)

        def heads(values: Tensor) -> Tensor:
            return values.unflatten(-1, (layer.heads, -1)).transpose(-2, -3)

        expected = torch.empty_like(x)
        for row in range(len(x)):
            first = row // IMAGES * IMAGES
            group = x[first : first + IMAGES].flatten(0, 1)
            mixed = []
            for keys in (x[row], group):
                q, k, v = (
                    heads(layer.to_q(x[row])),
                    heads(layer.to_k(keys)),
                    heads(layer.to_v(keys)),
                )
                weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
                mixed.append((weights @ v).transpose(-2, -3).flatten(-2))
            expected[row] = layer.to_out[0]((1 - share) * mixed[0] + share * mixed[1])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_images_that_are_equal_have_nothing_to_share(
    kind: str, unets: dict[str, nn.Module]
) -> None:
    """The softmax over keys that are there several times is that over one of each."""
    unet, x = unets[kind], noise(2, 4, 8, 8).repeat_interleave(IMAGES, 0)
    tokens = prompts(unet, 2)
    alone = seen(unet, x, tokens)
    with shared_attention(unet, IMAGES):
        torch.testing.assert_close(seen(unet, x, tokens), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_a_branch_sees_itself_alone_and_its_images_in_any_order(
    kind: str, unets: dict[str, nn.Module]
) -> None:
    unet, x = unets[kind], noise(2 * IMAGES, 4, 8, 8)
    tokens = prompts(unet, 2)
    alone = seen(unet, x, tokens)
    with shared_attention(unet, IMAGES):
        together = seen(unet, x, tokens)
        one = seen(unet, x[IMAGES:], tokens[IMAGES:])
        order = torch.tensor([2, 0, 1, 4, 5, 3])
        moved = seen(unet, x[order], tokens)
    assert float((together - alone).abs().max()) > 1e-3
    torch.testing.assert_close(together[IMAGES:], one, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(moved, together[order], rtol=1e-4, atol=1e-5)


# --- the batches of backbones ---------------------------------------------------------------------


@pytest.mark.parametrize("guidance", [0.0, 1.0, 3.0])
def test_guided_predictions_share_within_prompt_and_null(
    embedded: EmbeddedBackbone, guidance: float
) -> None:
    """ω = 0 and 1 leave a branch out; the branches put together by hand are the same."""
    x, t = noise(IMAGES, *embedded.latent_shape), torch.full((IMAGES,), 500)
    text = embedded.encode_prompt(["a photo of a robot"]).expand(IMAGES)
    alone = embedded.predict_noise(x, t, text, guidance)
    with shared_attention(embedded, IMAGES):
        found = embedded.predict_noise(x, t, text, guidance)
        null, cond = (embedded.predict_eps(x, t, part) for part in (text.null, text.cond))
    assert float((found - alone).abs().max()) > 1e-4
    torch.testing.assert_close(found, null + guidance * (cond - null), rtol=1e-4, atol=1e-5)


class Instructed(nn.Module, InstructMixin):
    """A network that sees a source image, with InstructPix2Pix's three parts."""

    def __init__(self) -> None:
        super().__init__()
        self.unet: Any = build_unet("sd1", in_channels=8)

    def predict_beside(
        self, x_t: Tensor, t: Tensor, cond: dict[str, Tensor], image: Tensor
    ) -> Tensor:
        return seen(self.unet, torch.cat([x_t, image], 1), cond["tokens"])


def test_the_three_parts_of_an_instruct_model_are_branches() -> None:
    model, t = Instructed(), torch.full((IMAGES,), 400)
    x, looked_at = noise(IMAGES, 4, 8, 8), noise(IMAGES, 4, 8, 8, seed=1)
    cond, null = ({"tokens": part} for part in prompts(model.unet, 2).chunk(2))
    given = (t, Text(cond, null))
    alone = model.predict_edit(x, *given, looked_at, 3.0, 1.5)
    with shared_attention(model, IMAGES):
        found = model.predict_edit(x, *given, looked_at, 3.0, 1.5)
        whole = model.predict_beside(x, t, cond, looked_at)
        pictured = model.predict_beside(x, t, null, looked_at)
        plain = model.predict_beside(x, t, null, torch.zeros_like(looked_at))
    expected = plain + 1.5 * (pictured - plain) + 3.0 * (whole - pictured)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert float((found - alone).abs().max()) > 1e-3


# --- before and after -----------------------------------------------------------------------------


def processors(network: nn.Module) -> dict[str, Any]:
    return {name: layer.processor for name, layer in self_attentions(network).items()}


def test_the_former_processors_come_back_also_after_an_error(unets: dict[str, nn.Module]) -> None:
    unet: Any = unets["sd1"]
    unet.set_attention_slice(1)  # a processor of another kind
    try:
        former, everywhere = processors(unet), dict(unet.attn_processors)
        x, tokens = noise(IMAGES, 4, 8, 8).repeat(2, 1, 1, 1), prompts(unet, 2)
        with shared_attention(unet, IMAGES):
            assert all(processors(unet)[name] is not former[name] for name in former)
            found = seen(unet, x, tokens)
        assert processors(unet) == former and dict(unet.attn_processors) == everywhere
        with pytest.raises(RuntimeError, match="on the way"), shared_attention(unet, IMAGES):
            raise RuntimeError("on the way")
        assert processors(unet) == former
    finally:
        unet.set_default_attn_processor()
    with shared_attention(unet, IMAGES):
        torch.testing.assert_close(seen(unet, x, tokens), found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("images", "share"), [(1, 1.0), (4, 0.0)])
def test_one_image_or_no_share_changes_nothing(
    images: int, share: float, unets: dict[str, nn.Module]
) -> None:
    former = processors(unets["sd1"])
    with shared_attention(unets["sd1"], images, share):
        assert processors(unets["sd1"]) == former
    with shared_attention(CrescentMixture(points=4), images, share):
        pass


def test_a_backbone_without_a_unet_gets_a_sentence() -> None:
    with (
        pytest.raises(UserError, match="shared in a UNet's self-attention; this backbone has"),
        shared_attention(CrescentMixture(points=4), 2),
    ):
        pass


def test_a_batch_that_is_no_whole_number_of_groups_is_a_mistake(
    unets: dict[str, nn.Module],
) -> None:
    unet = unets["sd1"]
    with (
        shared_attention(unet, 2),
        pytest.raises(ValueError, match="a batch of 3 is no whole number of 2 images"),
    ):
        seen(unet, noise(3, 4, 8, 8), prompts(unet, 1))
