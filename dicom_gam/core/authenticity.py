"""Was this image ever an exposure? Statistics of its finest detail, at the resolution in which it came.

What makes a picture leaves traces in the pixels that reducing it to a network's resolution wipes out: a detector its
noise, a resampling its missing high frequencies and periodic variance, JPEG its 8-pixel grid, a screen its moiré, a
generator its spectrum. None is proof, and a site's own archive may compress or rescale everything it holds. So nothing
is compared with a rule: an image is compared with the reference images of its class, however they were made, and what
differs from all of them is odd. An honest image of another detector or archive is odd too: this check can't tell it
from a forgery.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

FREQUENCY_STATISTICS: tuple[str, ...] = (
    # log power in bands of spatial frequency against the lowest (Welch, IEEE Trans. Audio Electroacoust. 15, 1967).
    # The spectrum's slope and a missing floor of noise are linear in these; generators get it wrong (Durall et al.,
    # CVPR 2020).
    *(f"power_{n}" for n in range(1, 6)),
    # spread over the image of the two upper bands' log power: what was put together is uneven (Mahdian & Saic, Image
    # and Vision Computing 27, 2009)
    "unevenness_middle",
    "unevenness_high",
    # log power of high frequencies by direction: horizontal against vertical, diagonal against both, and on the two
    # axes against the rest, where frames and text lie (Torralba & Oliva, Network 14, 2003)
    "anisotropy",
    "diagonality",
    "axes",
    # the strongest peak above its surroundings: moiré of a screen (Cao & Kot, ICASSP 2010), checkerboards
    "peak",
    # periodic variance of second differences: interpolation (Gallagher, CRV 2005; Mahdian & Saic, IEEE TIFS 3, 2008);
    # multiples of 1/8 are JPEG's and stand apart
    "periodicity",
    "periodicity_by_8",
    # cross differences at the borders of 8x8 blocks: on the image's own grid, and at the strongest other phase (Chen &
    # Hsu, MMSP 2008; Nikoukhah et al., IPOL 10, 2020)
    "blockiness",
    "blockiness_elsewhere",
    # how much smaller high-frequency DCT coefficients are on the image's own grid, and at the best of the 63 others:
    # quantisation made them zero (Nikoukhah et al., CVPR Workshops 2019; Bianchi & Piva, IEEE TIFS 7, 2012)
    "quantisation",
    "quantisation_elsewhere",
    # correlation of the noise residual with its neighbours (Pevný, Bas & Fridrich, IEEE TIFS 5, 2010)
    "correlation_1",
    "correlation_3",
    "correlation_diagonal",
    # log kurtosis of the residual (Lyu & Farid, IEEE Trans. Signal Processing 53, 2005)
    "kurtosis",
    # log odds of a neighbour of exactly the same grey (Athitsos, Swain & Frankel, CBAIVL 1997)
    "equal_neighbours",
    # log share of pixels at either end of the grey scale (Stamm & Liu, IEEE TIFS 5, 2010)
    "saturation",
)
TILE = 64  # pixels
_BLOCK = 8  # pixels: JPEG's grid
_TILES_A_SIDE, _MOST_TILES = 8, 32
_FLAT = 0.1  # a tile with less than this share of the greatest contrast is left out: collimated, or air
_FLOOR = 1e-8  # of the power of an image of unit variance: far below the rounding of 8 bits

_FREQUENCIES = torch.fft.fftfreq(TILE)  # cycles per pixel
_FY, _FX = _FREQUENCIES[:, None].abs(), _FREQUENCIES[None].abs()
_RADIUS = (_FY**2 + _FX**2).sqrt()
_EDGES = (0.012, 0.05, 0.11, 0.20, 0.32, 0.46, 0.71)
_HALF = TILE // 2 + 1  # columns of a spectrum that rfft2 keeps, the others mirror them
_TWICE = torch.where((_FX[:, :_HALF] > 0) & (_FX[:, :_HALF] < 0.5), 2.0, 1.0)
_BANDS = torch.stack([(_RADIUS.ge(low) * _RADIUS.lt(high))[:, :_HALF] * _TWICE for low, high in pairwise(_EDGES)])
_BANDS /= _BANDS.sum((1, 2), keepdim=True)
_WINDOW = torch.hann_window(TILE, periodic=False)
_WINDOW_2D = _WINDOW[:, None] * _WINDOW
_AXES = (_FX < 1.5 / TILE) | (_FY < 1.5 / TILE)
_PEAKS = (_RADIUS > 0.1) & ~_AXES & (_FX < 0.49) & (_FY < 0.49)
_PERIODS = torch.arange(TILE // 2 + 1)  # cycles per tile
_BY_8 = (_PERIODS % _BLOCK + 1) % _BLOCK <= 2  # JPEG's, and one beside them: the window is that wide
_FREE = ~_BY_8 & (_PERIODS > 5)


def _sectors() -> Tensor:
    """Weights (5, 64·64) that average over high frequencies: horizontal, vertical, diagonal; on the axes, off them."""
    horizontal, vertical = 2 * _FY < _FX, 2 * _FX < _FY  # a wave along the rows, along the columns
    high, wide = (_RADIUS >= 0.25) & (_RADIUS < 0.5), (_RADIUS > 0.15) & (_RADIUS < 0.5)
    parts = (high & horizontal, high & vertical, high & ~horizontal & ~vertical, wide & _AXES, wide & ~_AXES)
    weights = torch.stack(parts).flatten(1).float()
    return weights / weights.sum(1, keepdim=True)


_SECTORS = _sectors()
_PHASES = TILE - _BLOCK + 1  # places of a block along a tile


def _responses() -> Tensor:
    """A tile's row (64,) times this (64, 2·57) is the DCT coefficients 5 and 7 of the block at each of its pixels."""
    angle = (2 * torch.arange(8.0) + 1) * math.pi / 16
    matrix = torch.zeros(TILE, 2, _PHASES)
    for k, frequency in enumerate((5, 7)):
        for start in range(_PHASES):
            matrix[start : start + _BLOCK, k, start] = torch.cos(frequency * angle) / 2
    return matrix.flatten(1)


_DCT = _responses()


def frequency_statistics(image: Tensor) -> Tensor:
    """FREQUENCY_STATISTICS of one image (rows, columns) of display values in [0, 1]: (F,) float32, always finite.

    Taken from up to 32 tiles of 64x64 pixels on the image's 8-pixel grid, spread over the image, flat ones left out:
    the cost hardly grows with the image. A side shorter than a tile is continued by reflection. A linear change of grey
    scale leaves all of them as they are. Worked out on the CPU.
    """
    with torch.inference_mode():
        tiles = _tiles(image)
        centred = tiles - tiles.mean((1, 2), keepdim=True)
        x = centred / centred.square().mean().sqrt().clamp_min(1e-6)
        values = [*_spectrum(x), *_periodicity(x), *_blockiness(x), *_quantisation(x), *_residual(x), *_greys(tiles)]
        return torch.stack(values)


def frequency_distance(statistics: Tensor, prototypes: Tensor, whitening: Tensor) -> Tensor:
    """Whitened distance of statistics (N, F) to the nearest of prototypes (P, F), per square root of F: (N,).

    Prototypes, because a site's images come from several detectors and archives: their mean is like none of them.
    """
    white, reference = statistics @ whitening, prototypes @ whitening
    distance = torch.cdist(white, reference, compute_mode="donot_use_mm_for_euclid_dist")
    return distance.amin(1) / math.sqrt(whitening.shape[1])


def _tiles(image: Tensor) -> Tensor:
    """Up to 32 tiles (T, 64, 64) of an image, in order of place."""
    for axis in (0, 1):
        side = image.shape[axis]
        if side < TILE:
            there_and_back = torch.arange(TILE, device=image.device) % (2 * side)
            image = image.index_select(axis, torch.minimum(there_and_back, 2 * side - 1 - there_and_back))
    rows, columns = (_starts(side) for side in image.shape)
    tiles = torch.stack([image[r : r + TILE, c : c + TILE] for r in rows for c in columns]).float().cpu()
    contrast = (tiles.square().mean((1, 2)) - tiles.mean((1, 2)).square()).clamp_min(0).sqrt()
    kept = (contrast >= _FLAT * contrast.max()).nonzero()[:, 0]
    if len(kept) > _MOST_TILES:
        kept = kept[torch.linspace(0, len(kept) - 1, _MOST_TILES).round().long()]
    return tiles[kept]


def _starts(side: int) -> list[int]:
    count = min(_TILES_A_SIDE, side // TILE)
    blocks = (side - TILE) // _BLOCK
    return [_BLOCK * round(i * blocks / max(count - 1, 1)) for i in range(count)]


def _spectrum(x: Tensor) -> list[Tensor]:
    """Power by band, its unevenness, directions and the strongest peak, of tiles (T, 64, 64) of unit variance."""
    level = (x * _WINDOW_2D).sum((1, 2), keepdim=True) / _WINDOW_2D.sum()
    spectrum = torch.fft.rfft2((x - level) * _WINDOW_2D)
    power = (spectrum.real.square() + spectrum.imag.square()) / _WINDOW_2D.square().sum()
    bands = (power.flatten(1) @ _BANDS.flatten(1).T + _FLOOR).log()  # (T, bands)
    usual = bands.mean(0)
    uneven = bands.std(0, unbiased=False)
    half = ((power + _FLOOR).log() - bands[:, :1, None]).mean(0)
    log_power = torch.cat([half, half[:, 1:-1].flip(0, 1).roll(1, 0)], 1)  # the value at -f is the value at f
    horizontal, vertical, diagonal, on_axes, off_axes = _SECTORS @ log_power.flatten()
    around = F.avg_pool2d(F.pad(log_power[None, None], (3, 3, 3, 3), mode="circular"), 7, stride=1)[0, 0]
    return [
        *(usual[1:] - usual[0]),
        uneven[2],
        uneven[4],
        horizontal - vertical,
        diagonal - (horizontal + vertical) / 2,
        on_axes - off_axes,
        (log_power - around)[_PEAKS].max(),
    ]


def _periodicity(x: Tensor) -> list[Tensor]:
    """How much the second difference's mean size repeats itself along rows and columns, off and on multiples of 1/8."""
    sizes = torch.stack([x.diff(n=2, dim=2).abs().mean(1), x.diff(n=2, dim=1).abs().mean(2)])
    trace = (sizes + 1e-4).log()
    trace = F.pad(trace - trace.mean(2, keepdim=True), (1, 1)) * _WINDOW
    power = torch.fft.rfft(trace).abs().square() + 1e-6
    shares = (power / power.mean(2, keepdim=True)).mean((0, 1))
    usual = shares[6:].median()
    multiples = shares[_BLOCK::_BLOCK].mean()
    return [(shares[_FREE].max() / usual).log(), (multiples / usual).log()]


def _blockiness(x: Tensor) -> list[Tensor]:
    """Log ratio of cross differences between blocks to those within, and of the strongest phase within."""
    cross = x.diff(dim=1).diff(dim=2).abs()
    cross = cross.clamp_max(4 * cross.mean())  # one sharp edge must not outweigh all blocks
    own, elsewhere = [], []
    for axis in (1, 2):
        line = F.pad(cross.mean((0, 3 - axis)), (0, 1), value=torch.nan)
        phases = (line.view(-1, _BLOCK).nanmean(0) + 1e-4).log()
        within = phases[:-1]
        own.append(phases[-1] - within.median())
        elsewhere.append(within.max() - within.median())
    return [torch.stack(own).mean(), torch.stack(elsewhere).max()]


def _quantisation(x: Tensor) -> list[Tensor]:
    """How far DCT coefficients (5 and 7 both ways) sink on the image's own grid, and at the best other phase."""
    sizes = (_DCT.T @ (x @ _DCT)).abs().mean(0).view(2, _PHASES, 2, _PHASES)
    size = (sizes.mean((0, 2)) + 3e-3).log()
    whole = F.pad(size, (0, _BLOCK - 1, 0, _BLOCK - 1), value=torch.nan)
    table = whole.view(_BLOCK, _BLOCK, _BLOCK, _BLOCK).nanmean((0, 2)).flatten()
    usual = table.median()
    return [usual - table[0], usual - table[1:].min()]


def _residual(x: Tensor) -> list[Tensor]:
    """Correlations of the high-pass residual with its neighbours (Fisher's z), and its log kurtosis."""
    residual = x.diff(n=2, dim=1).diff(n=2, dim=2) / 6  # Immerkær's mask for noise, CVIU 64, 1996
    power = residual.square().mean().clamp_min(_FLOOR)

    def correlation(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).mean() / power

    near = correlation(residual[:, :, 1:], residual[:, :, :-1]) + correlation(residual[:, 1:], residual[:, :-1])
    far = correlation(residual[:, :, 3:], residual[:, :, :-3]) + correlation(residual[:, 3:], residual[:, :-3])
    falling = correlation(residual[:, 1:, 1:], residual[:, :-1, :-1])
    rising = correlation(residual[:, 1:, :-1], residual[:, :-1, 1:])
    both = torch.stack([near, far, falling + rising]) / 2
    squared = residual.square()
    kurtosis = squared.square().mean((1, 2)) / squared.mean((1, 2)).square().clamp_min(_FLOOR**2)
    return [*both.clamp(-0.99, 0.99).atanh(), (kurtosis + 0.1).log().mean()]


def _greys(tiles: Tensor) -> list[Tensor]:
    """Log odds of equal neighbours, and log share of pixels at the darkest or brightest grey."""
    equal = ((tiles.diff(dim=2) == 0).float().mean() + (tiles.diff(dim=1) == 0).float().mean()) / 2
    ends = ((tiles == tiles.min()) | (tiles == tiles.max())).float().mean()
    return [((equal + 0.01) / (1.01 - equal)).log(), (ends + 0.003).log()]
