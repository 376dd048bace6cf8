"""The rasteriser's kernels: against their twin in PyTorch, against theory, and on bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from raster_twin import twin
from torch import Tensor

from pds_cli.drawings.drawing import Drawing
from pds_cli.drawings.rasterise import TOLERANCE, Numbers, Program, compiled, rasterise
from pds_cli.drawings.reading import parse_drawing
from pds_cli.drawings.values import IDENTITY
from pds_cli.kernels import raster
from pds_cli.scenes.svg import SAMPLES


def svg(body: str, size: int = 16) -> Drawing:
    text = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} {size}">{body}</svg>'
    return parse_drawing(text.encode())


def drawn(body: str, size: int = 16, **options: object) -> tuple[Program, Numbers]:
    """A drawing whose own coordinates are the pixels of a picture of `size`."""
    drawing = svg(body, size)
    program, numbers = compiled(drawing)
    scale = drawing.box[2] / size  # small drawings are enlarged
    data = numbers.data.clone()
    data[torch.as_tensor(program.kinds != raster.SOLID)] /= scale
    return program, Numbers(
        numbers.points / scale, numbers.opacities, data, numbers.stops, numbers.groups
    )


def pieces(program: Program, points: Tensor) -> list[int]:
    _, origin, *_ = raster.flatten(
        points.detach().numpy(), program.curves, program.contours, TOLERANCE
    )
    return np.bincount(origin, minlength=len(program.curves)).tolist()


def variables(numbers: Numbers) -> list[Tensor]:
    return [v.clone().requires_grad_() for v in vars(numbers).values()]


SCENES = {
    "a polygon": '<path d="M2.3 1.7L13.1 4.2L9.4 14.6L3.8 9.1Z" fill="#c33"/>',
    "curves": '<path d="M3 8.2C2 2 9 1 12.3 4.1Q16.2 9 11 13.4C8 15 4 14 3 8.2Z" fill="#36c"/>',
    "a hole": '<path d="M1.2 1.3L14.6 1.4L14.5 14.1L1.3 13.9Z'
    'M4.7 5.2L4.9 10.3L10.9 10.1L10.8 5.4Z" fill="green"/>',
    "even-odd": '<path fill-rule="evenodd" d="M8 1.2L12.3 14.1L1.4 5.7L14.8 5.9L3.6 14.3Z"/>',
    "nonzero star": '<path d="M8 1.2L12.3 14.1L1.4 5.7L14.8 5.9L3.6 14.3Z" fill="#e80"/>',
    "open path": '<path d="M2.1 3.3L13.2 5.1L6.4 13.3" fill="purple"/>',
    "half transparent": '<g fill-opacity=".6"><circle cx="6.2" cy="7.1" r="4.4" fill="red"/>'
    '<circle cx="9.7" cy="8.9" r="4.6" fill="blue" opacity=".7"/></g>',
    "a group's opacity": '<g opacity=".5"><circle cx="6.2" cy="7.1" r="4.4" fill="red"/>'
    '<circle cx="9.7" cy="8.9" r="4.6" fill="blue"/></g>',
    "a clip": '<clipPath id="c"><circle cx="8.2" cy="7.7" r="5.3"/></clipPath>'
    '<g clip-path="url(#c)"><path d="M3.3 2.1L9.2 2.4L9.1 14.3L3.2 14.1Z" fill="red"/>'
    '<path d="M7.4 5.7L15.5 5.9L15.3 10.1L7.2 9.8Z" fill="teal"/></g>',
    "beyond the canvas": '<path d="M-9.3 4.2L8.1 -3.4L22.9 9.6L5.3 20.7Z" fill="#282"/>',
    "a linear gradient": '<linearGradient id="g" gradientUnits="userSpaceOnUse" x1="3.1" y1="2.7" '
    'x2="12.4" y2="10.9"><stop stop-color="red"/><stop offset=".4" stop-color="#0a0" '
    'stop-opacity=".6"/><stop offset="1" stop-color="blue"/></linearGradient>'
    '<circle cx="7.9" cy="8.3" r="6.6" fill="url(#g)"/>',
    "a radial gradient": '<radialGradient id="g" gradientUnits="userSpaceOnUse" cx="8.1" cy="7.8" '
    'r="6.3" fx="6.4" fy="9.2" spreadMethod="reflect"><stop stop-color="red"/>'
    '<stop offset=".7" stop-color="#0af"/><stop offset="1" stop-color="#ff0"/></radialGradient>'
    '<path d="M1.3 2.1L14.8 2.3L12.2 13.9L3.1 13.6Z" fill="url(#g)"/>',
    "a turned gradient": '<radialGradient id="g" gradientUnits="userSpaceOnUse" cx="5" cy="4" '
    'r="3.1" gradientTransform="matrix(1.5 .6 -.3 .9 2 1.2)" spreadMethod="repeat">'
    '<stop stop-color="#fff"/><stop offset="1" stop-color="#123"/></radialGradient>'
    '<path d="M1.3 2.1L14.8 2.3L12.2 13.9L3.1 13.6Z" fill="url(#g)"/>',
}
GROUND = (0.8, 0.9, 1.0, 1.0)


@pytest.mark.parametrize("name", SCENES)
def test_image_and_gradients_are_those_of_the_twin(name: str) -> None:
    program, numbers = drawn(SCENES[name])
    weights = torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(0)).double()
    cut = pieces(program, numbers.points)
    results = []
    for kernels in (True, False):
        inputs = variables(numbers)
        if kernels:
            image = rasterise(program, Numbers(*inputs), IDENTITY, 16, 16, GROUND)
        else:
            image = twin(program, Numbers(*inputs), cut, 16, 16, GROUND)
        grads = torch.autograd.grad((image * weights).sum(), inputs, allow_unused=True)
        results.append((image.detach(), grads))
    (ours, ours_grads), (theirs, their_grads) = results
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    for label, a, b in zip(vars(numbers), ours_grads, their_grads, strict=True):
        assert a is not None
        b = torch.zeros_like(a) if b is None else b
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-8), label
    assert float(ours_grads[0].abs().max()) > 0.01


@pytest.mark.parametrize("name", ["curves", "a radial gradient", "a group's opacity", "a clip"])
def test_gradcheck(name: str) -> None:
    program, numbers = drawn(SCENES[name])
    held = vars(numbers)
    names = [name for name, value in held.items() if len(value)]
    inputs = [held[name].clone().requires_grad_() for name in names]

    def render(*tensors: Tensor) -> Tensor:
        changed = held | dict(zip(names, tensors, strict=True))
        return rasterise(program, Numbers(**changed), IDENTITY, 16, 16, GROUND)

    # Nearly every step of a finite difference leaves the number of chords as it is.
    assert torch.autograd.gradcheck(render, inputs, eps=1e-7, atol=2e-4, rtol=1e-3, nondet_tol=0.0)


def test_float32_is_close_to_float64() -> None:
    for body in SCENES.values():
        program, numbers = drawn(body)
        fine = rasterise(program, numbers, IDENTITY, 16, 16)
        coarse = rasterise(program, numbers.to(torch.float32), IDENTITY, 16, 16)
        assert float((fine - coarse.double()).abs().max()) < 2e-3


def test_area_of_a_circle_and_its_slope() -> None:
    """A = πr² and dA/dr = 2πr; a chord per 0.03 px costs less than one part in a hundred."""
    program, numbers = drawn('<circle cx="32.3" cy="31.8" r="20"/>', 64)
    points = numbers.points.clone().requires_grad_()
    image = rasterise(program, Numbers(points, *list(vars(numbers).values())[1:]), IDENTITY, 64, 64)
    area = (1 - image[0]).sum()
    assert area.item() == pytest.approx(math.pi * 400, rel=5e-3)
    (grad,) = torch.autograd.grad(area, points)
    outwards = (numbers.points - torch.tensor([32.3, 31.8])) / 20
    assert float((grad * outwards).sum()) == pytest.approx(2 * math.pi * 20, rel=5e-3)
    assert float((grad * torch.tensor([1.0, 0.0])).sum()) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("at", [(4.0, 5.0), (4.25, 5.5), (4.3, 5.0)])
def test_area_of_a_rectangle_and_its_slope(at: tuple[float, float]) -> None:
    """dA/dx of a side is its length, also where it lies exactly between two pixels."""
    x, y = at
    program, numbers = drawn(f'<path d="M{x} {y}h9v7h-9Z"/>', 32)
    points = numbers.points.clone().requires_grad_()
    image = rasterise(program, Numbers(points, *list(vars(numbers).values())[1:]), IDENTITY, 32, 32)
    area = (1 - image[0]).sum()
    (grad,) = torch.autograd.grad(area, points)
    assert area.item() == pytest.approx(63)
    expected = torch.tensor([[-3.5, -4.5], [3.5, -4.5], [3.5, 4.5], [-3.5, 4.5]]).double()
    torch.testing.assert_close(grad, expected, rtol=1e-6, atol=1e-6)


def test_overlap_within_one_nonzero_path_is_painted_once() -> None:
    image = rasterise(*drawn('<path d="M2 2H10V10H2ZM6 6H14V14H6Z"/>'), IDENTITY, 16, 16)
    assert float((1 - image[0]).sum()) == pytest.approx(64 + 64 - 16)


def test_moving_the_picture_by_whole_pixels_moves_the_image() -> None:
    program, numbers = drawn(SCENES["curves"])
    shift = np.array([[1.0, 0.0, 3.0], [0.0, 1.0, 2.0]])
    there = rasterise(program, numbers, shift, 20, 20)
    here = rasterise(program, numbers, IDENTITY, 20, 20)
    torch.testing.assert_close(there[:, 2:, 3:], here[:, :-2, :-3])


def test_the_number_of_threads_changes_nothing_in_the_image() -> None:
    import numba

    program, numbers = drawn(SCENES["a clip"] + SCENES["curves"])
    images, before = [], numba.get_num_threads()
    try:
        for threads in (1, min(2, before)):
            numba.set_num_threads(threads)
            images.append(rasterise(program, numbers, IDENTITY, 16, 16))
    finally:
        numba.set_num_threads(before)
    assert torch.equal(images[0], images[1])


@pytest.mark.parametrize(
    "path",
    [
        "M3 3",
        "M3 3Z",
        "M3 3L3 3Z",
        "M3 3L9 9Z",
        "M3 3C3 3 3 3 3 3Z",
        "M5 5L5 9L5 5Z",
        "M-9e8 -9e8L9e8 -9e8L9e8 9e8L-9e8 9e8Z",
        "M1e8 1e8L9e8 1e8L9e8 9e8Z",
        "M-1e8 3L1e8 3.5L1e8 9Z",
        "M0 0C9e8 0 -9e8 16 16 16Z",
    ],
)
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_degenerate_paths_have_finite_images_and_gradients(path: str, kind: torch.dtype) -> None:
    program, numbers = drawn(f'<path d="{path}" fill="red"/>')
    inputs = variables(numbers.to(kind))
    image = rasterise(program, Numbers(*inputs), IDENTITY, 16, 16)
    assert bool(torch.isfinite(image).all())
    assert float(image.detach().min()) >= 0 and float(image.detach().max()) <= 1
    grads = torch.autograd.grad(image.sum(), inputs, allow_unused=True)
    assert all(g is None or bool(torch.isfinite(g).all()) for g in grads)


def test_a_nan_is_an_error() -> None:
    program, numbers = drawn(SCENES["curves"])
    numbers.points[2, 1] = math.nan
    with pytest.raises(ValueError, match="not a finite number"):
        rasterise(program, numbers, IDENTITY, 16, 16)


def test_too_much_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import numba

    from pds_cli.drawings import rasterise as module
    from pds_cli.errors import UserError

    program, numbers = drawn(SCENES["a polygon"] * 3)
    inputs = variables(numbers)
    image = rasterise(program, Numbers(*inputs), IDENTITY, 16, 16)
    # Three shapes that fill a band's box of at most 8 × 16 pixels, five numbers a pixel.
    limit = 3 * 8 * 16 * 5 * 8 * numba.get_num_threads()
    monkeypatch.setattr(module, "MOST_MEMORY", limit)
    image.sum().backward(retain_graph=True)
    monkeypatch.setattr(module, "MOST_MEMORY", limit / 4)
    with pytest.raises(UserError, match="16×16 pixels"):
        image.sum().backward()


def test_finite_differences_on_a_real_drawing() -> None:
    """Moving single points of an icon changes the image as its gradient says."""
    drawing = parse_drawing((SAMPLES / "cat_icon.svg").read_bytes())
    program, numbers = compiled(drawing)
    placed = drawing.placed(48, 48)
    target = torch.rand(4, 48, 48, generator=torch.Generator().manual_seed(1)).double()

    def value(points: Tensor) -> Tensor:
        rest = list(vars(numbers).values())[1:]
        return ((rasterise(program, Numbers(points, *rest), placed, 48, 48) - target) ** 2).sum()

    points = numbers.points.clone().requires_grad_()
    (grad,) = torch.autograd.grad(value(points), points)
    step, wrong = 1e-5, []
    for i in range(0, len(points), max(1, len(points) // 40)):
        for axis in (0, 1):
            moved = torch.zeros_like(numbers.points)
            moved[i, axis] = step
            slope = (value(numbers.points + moved) - value(numbers.points - moved)) / (2 * step)
            if abs(float(slope) - float(grad[i, axis])) > 1e-3 * (1 + abs(float(slope))):
                wrong.append((i, axis, float(slope), float(grad[i, axis])))
    # A point at a kink (an edge along a row of pixels) has two slopes.
    assert len(wrong) <= 2, wrong
