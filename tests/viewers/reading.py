"""What a reader sees in OHIF: the study list, the three viewports, the verdicts; from the page and its pixels."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import BrowserContext, Locator, Page
from pydicom.dataset import Dataset

PANES = "[data-cy=viewport-grid] [data-cy=viewport-pane]"
LIKE = 12.0  # mean grey levels of 255 between a picture and the same picture scaled by somebody else


@dataclass
class Reader:
    """A reader at OHIF, at `address`; what the browser complained of stands in `errors`."""

    page: Page
    address: str
    errors: list[str]

    @classmethod
    def at(cls, context: BrowserContext, address: str) -> Reader:
        reader = cls(context.new_page(), address, [])
        reader.page.on("pageerror", lambda error: reader.errors.append(str(error)))
        reader.page.on("console", lambda said: reader.errors.append(said.text) if said.type == "error" else None)
        return reader

    def list_row(self, uid: str) -> Locator:
        """A study's row in the list, opened, so that its series are seen."""
        if "/viewer" in self.page.url:
            self.page.locator("[data-cy=return-to-work-list]").click(position={"x": 8, "y": 14})
        elif self.page.url == "about:blank":
            self.page.goto(self.address)
        self.page.locator(f"[data-cy='{uid}']").click()
        return self.page.locator(f"[data-cy='studyRow-{uid}']")

    def open(self, uid: str) -> None:
        """Open a study from the list, as a reader does: OHIF's code is started once only."""
        if uid in self.page.url:
            return
        self.list_row(uid)
        self.page.locator(f"[data-cy='mode-viewer-{uid}']").click()
        self.page.locator(f"{PANES} canvas").first.wait_for()

    def panes(self) -> list[Locator]:
        """The viewports from left to right and down."""
        return sorted(self.page.locator(PANES).all(), key=lambda pane: (pane.bounding_box() or {})["x"])

    def verdicts(self) -> list[str]:
        """The verdicts at the top of the viewer."""
        return self.page.locator("[data-cy=ai-verification] button").all_inner_texts()

    def picture(self, path: Path) -> None:
        self.page.screenshot(path=path)

    def shows(self, pane: Locator, expected: NDArray[np.uint8]) -> bool:
        """Whether a viewport comes to show the picture `expected` (rows, columns, 3), whole and in its middle."""
        for _ in range(60):  # each look makes the browser draw, in software: seldom, then
            if difference(pane, expected) < LIKE:
                return True
            self.page.wait_for_timeout(500)
        return False

    def shows_at_top_right(self, pane: Locator, expected: NDArray[np.uint8], colour: tuple[int, int, int]) -> bool:
        """Whether the overlay's right upper corner is drawn in this colour: nothing of OHIF's lies over the banner."""
        seen, _ = fitted(pane, expected)
        corner = seen[4:8, -40:-4]
        return bool(np.abs(corner - np.asarray(colour, np.float32)).max() < LIKE)


def difference(pane: Locator, expected: NDArray[np.uint8]) -> float:
    """Mean grey levels between what a viewport shows and the picture that should fill it."""
    seen, meant = fitted(pane, expected)
    return float(np.abs(seen - meant).mean())


def fitted(pane: Locator, expected: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The middle of a viewport, and the picture that should fill it, scaled to the same size."""
    with Image.open(io.BytesIO(pane.locator("canvas").first.screenshot())) as shot:
        drawn = shot.convert("RGB")
    rows, columns, _ = expected.shape
    scale = min(drawn.width / columns, drawn.height / rows)
    width, height = round(columns * scale), round(rows * scale)
    left, top = (drawn.width - width) // 2, (drawn.height - height) // 2
    seen = np.asarray(drawn.crop((left, top, left + width, top + height)), np.float32)
    return seen, np.asarray(Image.fromarray(expected).resize((width, height), Image.Resampling.LANCZOS), np.float32)


def as_shown(ds: Dataset) -> NDArray[np.uint8]:
    """A grey image as its own window shows it, or a colour image, as (rows, columns, 3)."""
    pixels = ds.pixel_array
    if pixels.ndim == 3:
        return pixels
    low = float(ds.WindowCenter) - float(ds.WindowWidth) / 2
    grey = np.clip((pixels - low) / float(ds.WindowWidth), 0, 1)
    if ds.PhotometricInterpretation == "MONOCHROME1":
        grey = 1 - grey
    return np.repeat((grey * 255).astype(np.uint8)[..., None], 3, axis=2)
