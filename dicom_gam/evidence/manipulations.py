"""What can be wrong with an image that was once a good radiograph, made from real ones at their own resolution.

*Covariate* shifts leave it an exposure, but not one of the kind that a bundle was trained on. *Fabricated* images are
no exposures: they were generated, photographed, captured from a screen, resampled or compressed again. Each function
takes display values (rows, columns), float32 in [0, 1], and a numpy Generator that decides everything left to chance,
and returns an image of the same convention, not always of the same size. The ranges are our own choices: wide enough
for a casual forgery, not made to deceive this check.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter, map_coordinates

Pixels: TypeAlias = NDArray[np.float32]
_KERNELS = (
    Image.Resampling.BILINEAR,
    Image.Resampling.BICUBIC,
    Image.Resampling.LANCZOS,
    Image.Resampling.HAMMING,
)
_LEVEL = 1 / 255  # one grey level of an 8-bit picture


@dataclass(frozen=True, slots=True)
class Manipulation:
    """One way to spoil an image, and whether what comes out is still an exposure (`covariate`) or not."""

    kind: Literal["covariate", "fabricated"]
    apply: Callable[[Pixels, Generator], Pixels]


def inverted(image: Pixels, generator: Generator) -> Pixels:  # noqa: ARG001 - every manipulation is called alike
    """Black for white: a wrong Photometric Interpretation."""
    return _pixels(1 - image)


def rotated(image: Pixels, generator: Generator) -> Pixels:
    """Turned by 90, 180 or 270 degrees."""
    return _pixels(np.rot90(image, int(generator.integers(1, 4))))


def half_cropped(image: Pixels, generator: Generator) -> Pixels:
    """Only the upper, lower, left or right half."""
    rows, columns = image.shape
    halves = (image[: rows // 2], image[rows // 2 :], image[:, : columns // 2], image[:, columns // 2 :])
    return _pixels(halves[int(generator.integers(4))])


def overexposed(image: Pixels, generator: Generator) -> Pixels:
    """Too much dose: everything darker, and the thin parts black because the detector was saturated."""
    black = float(np.quantile(image, generator.uniform(0.2, 0.45)))
    stretched = (_dithered(image, generator) - black) / max(1 - black, _LEVEL)
    return _pixels(np.clip(stretched, 0, 1) ** generator.uniform(1.2, 2.0))


def underexposed(image: Pixels, generator: Generator) -> Pixels:
    """Too little dose: everything brighter, the dense parts white, and noise that grows with density."""
    white = max(float(np.quantile(image, generator.uniform(0.55, 0.8))), _LEVEL)
    bright = np.clip(_dithered(image, generator) / white, 0, 1) ** generator.uniform(0.5, 0.8)
    quantum = generator.standard_normal(image.shape) * generator.uniform(0.02, 0.06) * bright
    return _pixels(bright + quantum)


def blurred(image: Pixels, generator: Generator) -> Pixels:
    """Out of focus or moved: a Gaussian of 0.8 to 2 % of the shorter side."""
    return _pixels(gaussian_filter(image, generator.uniform(0.008, 0.02) * min(image.shape)))


def noisy(image: Pixels, generator: Generator) -> Pixels:
    """White Gaussian noise of 5 to 15 % of the grey scale."""
    return _pixels(image + generator.standard_normal(image.shape) * generator.uniform(0.05, 0.15))


def marker_covered(image: Pixels, generator: Generator) -> Pixels:
    """Two to four opaque labels with a letter, each a tenth to a quarter of the side, laid over the image."""
    canvas = _to_8_bit(image)
    draw = ImageDraw.Draw(canvas)
    for _ in range(int(generator.integers(2, 5))):
        side = max(4, int(generator.uniform(0.1, 0.25) * min(image.shape)))
        x, y = (int(generator.uniform(0, max(1, end - side))) for end in canvas.size)
        bright = bool(generator.integers(2))
        draw.rectangle((x, y, x + side, y + side), fill=250 if bright else 5)
        letter = str(generator.choice(["L", "R", "AP", "PA"]))
        draw.text((x + side // 6, y), letter, fill=5 if bright else 250, font=ImageFont.load_default(0.6 * side))
    return _from_8_bit(canvas)


def generated(image: Pixels, generator: Generator) -> Pixels:
    """A stand-in for the output of a generative network; **not** made by one, and no evidence about real GANs.

    What such networks have in common is imitated: the coarse anatomy is plausible (a real image's, below a random
    scale, bent smoothly), all finer detail is synthetic (noise with the spectrum and the local strength of the real
    detail, so every phase is random), and half of the time it was made at half resolution and enlarged by a
    transposed convolution, whose overlap shows as a checkerboard (Odena et al., Distill 2016; Durall et al.,
    CVPR 2020).
    """
    bent = _bent(image, generator)
    scale = max(0.7, generator.uniform(0.003, 0.01) * min(image.shape))
    coarse = gaussian_filter(bent, scale)
    detail = bent - coarse
    phase = np.angle(np.fft.rfft2(generator.standard_normal(image.shape)))
    texture = np.fft.irfft2(np.abs(np.fft.rfft2(detail)) * np.exp(1j * phase), s=image.shape)
    strength = np.sqrt(gaussian_filter(np.square(detail), 2 * scale) + 1e-12)
    made = coarse + texture / max(float(texture.std()), 1e-6) * strength
    if generator.integers(2):
        made = _transposed_convolution(made, generator)
    return _saved(_to_8_bit(made), generator)


def screenshot(image: Pixels, generator: Generator) -> Pixels:
    """A viewer's window captured: windowed to 8 bits, scaled to fit, with a frame around it and text over it."""
    factor = generator.uniform(0.6, 1.7)
    width, height = (max(48, round(n * factor)) for n in image.shape[::-1])
    low, high = generator.uniform(0, 0.08), generator.uniform(0.85, 1)
    shown = _to_8_bit((image - low) / (high - low)).resize((width, height), _kernel(generator))
    bar, side = (round(generator.uniform(0.03, 0.1) * n) for n in (height, width))
    screen = Image.new("L", (width + 2 * side, height + 2 * bar), int(generator.integers(20, 70)))
    screen.paste(shown, (side, bar))
    draw = ImageDraw.Draw(screen)
    draw.rectangle((0, 0, screen.width, bar), fill=int(generator.integers(150, 245)))
    letter = max(7, round(0.028 * height))
    font = ImageFont.load_default(letter)
    for row, text in enumerate(("DOE^JANE  F  1957", "CHEST PA", "W 2048 L 1024", f"Zoom {factor:.0%}")):
        draw.text((side + 4, bar + 4 + row * 1.3 * letter), text, fill=230, font=font)
    return _saved(screen, generator)


def phone_photograph(image: Pixels, generator: Generator) -> Pixels:
    """Photographed askew with a phone, from a monitor (moiré of its pixels) or from film on a light box (grain)."""
    rows, columns = image.shape
    seen: NDArray[np.floating] = _askew(image, generator)
    y, x = np.mgrid[:rows, :columns]
    if generator.integers(2):
        tilt, pitch = generator.uniform(-0.3, 0.3), generator.uniform(0.06, 0.42)
        along, across = x * np.cos(tilt) + y * np.sin(tilt), y * np.cos(tilt) - x * np.sin(tilt)
        waves = np.cos(2 * np.pi * pitch * along) + np.cos(2 * np.pi * pitch * across)
        seen = seen * (1 + generator.uniform(0.02, 0.08) * waves)
    else:
        seen = seen + gaussian_filter(generator.standard_normal(image.shape), 0.7) * generator.uniform(0.02, 0.06)
    centre = generator.uniform(0, 1, 2) * (rows, columns)
    distance = np.hypot((y - centre[0]) / rows, (x - centre[1]) / columns)
    seen = seen + generator.uniform(0.05, 0.4) * np.exp(-np.square(distance / generator.uniform(0.1, 0.35)))
    corner = np.square(2 * y / rows - 1) + np.square(2 * x / columns - 1)
    seen = seen * (1 - generator.uniform(0.05, 0.25) * corner)
    seen = gaussian_filter(seen, generator.uniform(0.5, 1.2))
    seen = np.clip(seen, 0, 1) ** generator.uniform(0.7, 1.3) + generator.standard_normal(image.shape) * 0.01
    return _from_8_bit(_jpeg(_to_8_bit(seen), int(generator.integers(70, 93))))


def resampled(image: Pixels, generator: Generator) -> Pixels:
    """Made smaller by a random factor (0.4 to 0.9) and then its old size again, each with a random kernel."""
    factor = generator.uniform(0.4, 0.9)
    size = image.shape[1], image.shape[0]
    small = _to_8_bit(image).resize(
        (max(8, round(size[0] * factor)), max(8, round(size[1] * factor))), _kernel(generator)
    )
    return _saved(small.resize(size, _kernel(generator)), generator)


def double_compressed(image: Pixels, generator: Generator) -> Pixels:
    """JPEG, then cropped so that the 8-pixel grid moves, then JPEG again at a better quality."""
    first = int(generator.integers(50, 86))
    once = _jpeg(_to_8_bit(image), first)
    left, top = (int(n) for n in generator.integers(1, 8, 2))
    moved = once.crop((left, top, once.width, once.height))
    return _from_8_bit(_jpeg(moved, int(generator.integers(first + 5, 97))))


MANIPULATIONS: Mapping[str, Manipulation] = MappingProxyType(
    {
        "inverted": Manipulation("covariate", inverted),
        "rotated": Manipulation("covariate", rotated),
        "half_cropped": Manipulation("covariate", half_cropped),
        "overexposed": Manipulation("covariate", overexposed),
        "underexposed": Manipulation("covariate", underexposed),
        "blurred": Manipulation("covariate", blurred),
        "noisy": Manipulation("covariate", noisy),
        "marker_covered": Manipulation("covariate", marker_covered),
        "generated": Manipulation("fabricated", generated),
        "screenshot": Manipulation("fabricated", screenshot),
        "phone_photograph": Manipulation("fabricated", phone_photograph),
        "resampled": Manipulation("fabricated", resampled),
        "double_compressed": Manipulation("fabricated", double_compressed),
    }
)


def _pixels(values: NDArray[np.floating]) -> Pixels:
    clipped: Pixels = np.ascontiguousarray(np.clip(values, 0, 1), dtype=np.float32)
    return clipped


def _to_8_bit(image: NDArray[np.floating]) -> Image.Image:
    return Image.fromarray(np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8))


def _from_8_bit(picture: Image.Image) -> Pixels:
    return np.asarray(picture, np.float32) / np.float32(255)


def _jpeg(picture: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality)
    with Image.open(stream) as compressed:
        compressed.load()
        return compressed


def _saved(picture: Image.Image, generator: Generator) -> Pixels:
    """Saved and opened again: half of the time without loss, else as a JPEG of quality 80 to 96."""
    return _from_8_bit(_jpeg(picture, int(generator.integers(80, 97))) if generator.integers(2) else picture)


def _kernel(generator: Generator) -> Image.Resampling:
    return _KERNELS[int(generator.integers(len(_KERNELS)))]


def _dithered(image: Pixels, generator: Generator) -> NDArray[np.float64]:
    """Up to half a grey level of noise: else a stretched 8-bit source has gaps in its grey levels, no exposure has."""
    return image + generator.uniform(-0.5, 0.5, image.shape) * _LEVEL


def _bent(image: Pixels, generator: Generator) -> NDArray[np.float64]:
    """Each point moved smoothly, by up to about 3 % of the side."""
    side = min(image.shape)
    shifts = [gaussian_filter(generator.standard_normal(image.shape), 0.12 * side) for _ in range(2)]
    grid = np.mgrid[: image.shape[0], : image.shape[1]].astype(np.float64)
    for axis, shift in enumerate(shifts):
        grid[axis] += 0.03 * side * shift / max(float(np.abs(shift).max()), 1e-12)
    bent: NDArray[np.float64] = map_coordinates(image.astype(np.float64), grid, order=3, mode="nearest")
    return bent


def _transposed_convolution(image: NDArray[np.float64], generator: Generator) -> NDArray[np.float64]:
    """Every second pixel spread by a 3x3 kernel with stride 2, as a decoder's last layer does: uneven overlap."""
    spread = np.zeros_like(image)
    spread[::2, ::2] = image[::2, ::2]
    even = np.array([0.5, 1.0, 0.5])
    kernel = even * (1 + generator.uniform(-0.06, 0.06, 3))
    for axis in (0, 1):
        before, after = np.roll(spread, 1, axis), np.roll(spread, -1, axis)
        spread = kernel[0] * before + kernel[1] * spread + kernel[2] * after
    return spread


def _askew(image: Pixels, generator: Generator) -> NDArray[np.float32]:
    """The image with each corner moved inwards by up to 6 % of the side; dark surroundings come in."""
    rows, columns = image.shape
    corners = np.array([[0, 0], [0, rows], [columns, rows], [columns, 0]])
    outwards = np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]]) * generator.uniform(0, 0.06, (4, 2)) * (columns, rows)
    quadrangle = tuple((corners + outwards).ravel())
    seen = Image.fromarray(image).transform(
        (columns, rows), Image.Transform.QUAD, quadrangle, Image.Resampling.BILINEAR, fillcolor=0.05
    )
    return np.asarray(seen, np.float32)
