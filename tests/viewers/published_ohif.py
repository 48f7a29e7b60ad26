"""OHIF as it is published: the build of `@ohif/app`, by npm, and a browser that draws it without a graphics card."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import BrowserContext, sync_playwright

OHIF_VERSION = "3.12.10"  # the version that plugins/ohif was tried with
FOLDER = Path(__file__).parents[2] / "build" / "ohif"
_FLAGS = [
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-gpu-compositing",
]
# What OHIF shows to a new reader once: its disclaimer and its tour lie over the images.
_SEEN_BEFORE = """
sessionStorage.setItem('investigationalUseDialog', 'seen');
localStorage.setItem('investigationalUseDialog', JSON.stringify({ expiryDate: '2999-01-01T00:00:00Z' }));
localStorage.setItem('shownTours', JSON.stringify(['basicViewerTour']));
"""


def installed_viewer(folder: Path = FOLDER) -> Path:
    """The folder to serve: downloaded by npm the first time, found there afterwards.

    Raises RuntimeError when it is neither there nor to be had.
    """
    viewer = folder / f"ohif-{OHIF_VERSION}"
    if not viewer.is_dir():
        if shutil.which("npm") is None:
            raise RuntimeError(f"OHIF is not in {viewer}, and npm is missing to get it: apt-get install npm")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as unpacked:
            command = ["npm", "pack", "--silent", f"@ohif/app@{OHIF_VERSION}"]
            made = subprocess.run(command, cwd=unpacked, capture_output=True, text=True, timeout=300, check=False)
            if made.returncode:
                raise RuntimeError(f"OHIF is not in {viewer}, and `{' '.join(command)}` got none: {made.stderr}")
            with tarfile.open(Path(unpacked) / made.stdout.split()[-1]) as archive:
                archive.extractall(unpacked, filter="data")
            (Path(unpacked) / "package" / "dist").rename(viewer)  # whole or not at all
    return viewer


@contextmanager
def browser_context(width: int, height: int) -> Iterator[BrowserContext]:
    """Debian's Chromium with WebGL in software; one context, so that OHIF's 17 MB of code are read once.

    Raises RuntimeError when Chromium is missing.
    """
    program = shutil.which("chromium")
    if program is None:
        raise RuntimeError("chromium is missing: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=_FLAGS)
        try:
            context = browser.new_context(
                viewport={"width": width, "height": height},
                service_workers="block",  # OHIF's fetches all of its files ahead
                reduced_motion="reduce",
            )
            context.set_default_timeout(120_000)
            context.add_init_script(_SEEN_BEFORE)
            yield context
        finally:
            browser.close()
