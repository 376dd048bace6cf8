"""Self-attention across the images of a batch: what is drawn together comes to look alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from pds_cli.errors import UserError


def self_attentions(network: nn.Module) -> dict[str, Any]:
    """The self-attention layers of a backbone's UNet, diffusers' `Attention`, by their names.

    None where there is no such UNet.
    """
    return {name: m for name, m in network.named_modules() if name.endswith(".attn1")}


class ExtendedSelfAttention:
    """A diffusers attention processor: queries of an image see keys and values of its group.

    Rows [branches · images, L, C] are seen as [branches, images · L, C], one long image a branch,
    and given to the layer's own processor. Whatever that is, memory-saving or not, it stays in
    use, and no key is held twice.

    Args:
        own: the processor that the layer had.
        images: how many rows that follow one another are a group.
        share: the output is (1 − share) · own attention + share · extended attention.

    Source: the extended attention of Chen et al., DGE, arXiv 2404.18929; own and others blended as
    in Wu et al., GaussCtrl, arXiv 2403.08733.
    """

    def __init__(self, own: Any, images: int, share: float) -> None:
        self.own, self.images, self.share = own, images, share

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """See diffusers' processors; what attends to text, or under a mask, is left as it is.

        Raises:
            ValueError: the batch is no whole number of groups.
        """
        if encoder_hidden_states is not None or attention_mask is not None:
            return self.own(attn, hidden_states, encoder_hidden_states, attention_mask)
        batch, length, channels = hidden_states.shape
        if batch % self.images:
            raise ValueError(f"a batch of {batch} is no whole number of {self.images} images")
        long = hidden_states.reshape(-1, self.images * length, channels)
        extended = self.own(attn, long).reshape(batch, length, -1)
        if self.share == 1:
            return extended
        return self.own(attn, hidden_states).lerp(extended, self.share)


@contextmanager
def shared_attention(backbone: nn.Module, images: int, share: float = 1.0) -> Iterator[None]:
    """Lets the self-attention of a UNet see all images of a group meanwhile.

    A batch of the network has to be one of branches, each with the same images in the same order,
    as `Backbone.predict_noise` with one guidance for all and `InstructMixin.predict_edit` lay it
    out: (cond, null), or three parts. Images of one branch see one another, branches do not. With
    one image, or a share of 0, nothing changes.

    Args:
        backbone: whose UNet it is.
        images: the size of a group; a batch may hold several groups in a branch, one by one.
        share: of the output, in [0, 1]; see `ExtendedSelfAttention`.

    Raises:
        UserError: the backbone has no such layers.
    """
    if images == 1 or share == 0:
        yield
        return
    layers = self_attentions(backbone)
    if not layers:
        raise UserError("attention is shared in a UNet's self-attention; this backbone has none")
    former = {name: layer.processor for name, layer in layers.items()}
    try:
        for name, layer in layers.items():
            layer.set_processor(ExtendedSelfAttention(former[name], images, share))
        yield
    finally:
        for name, layer in layers.items():
            layer.set_processor(former[name])
