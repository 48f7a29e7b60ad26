"""What readers see of our results, in the viewers that they have: `python -m tests.viewers.pictures OUT`.

Three real studies (PASS, FAIL, REJECT) stand in a real Orthanc, and are pictured in OHIF with
plugins/ohif/app-config.js, in Orthanc's preview, and by DCMTK: dsr2html, dcmj2pnm, and dcmp2pgm with the presentation
state. OUT/index.html shows all of them. OHIF comes through npm, in the version that plugins/ohif was tried with.
"""

from __future__ import annotations

import argparse
import html
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page
from pydicom import dcmread

from tests.end_to_end.peers import DICOMWEB, Orthanc, free_port
from tests.viewers.published_ohif import FOLDER, browser_context, installed_viewer
from tests.viewers.reading import Reader, as_shown
from tests.viewers.studies import Study, make_studies
from tests.viewers.web_server import viewer_server

WIDTH, HEIGHT = 1500, 900
_PROGRAMS = {
    "chromium": "chromium",
    "npm": "npm",
    "Orthanc": "orthanc orthanc-dicomweb",
    "dsr2html": "dcmtk",
    "dcmj2pnm": "dcmtk",
    "dcmp2pgm": "dcmtk",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Take the pictures; 2 when a program is missing."""
    parser = argparse.ArgumentParser(prog="python -m tests.viewers.pictures", description=__doc__)
    parser.add_argument("output", type=Path, help="folder for the pictures")
    parser.add_argument("--ohif", type=Path, default=FOLDER, help="folder that OHIF is installed into")
    parser.add_argument("--readme", type=Path, help="folder for the four small pictures of the README")
    options = parser.parse_args(arguments)
    missing = sorted({package for program, package in _PROGRAMS.items() if shutil.which(program) is None})
    if missing:
        print(f"Programs are missing. As root: apt-get install {' '.join(missing)}", file=sys.stderr)
        return 2
    output = options.output.resolve()
    shutil.rmtree(output / "studies", ignore_errors=True)
    output.mkdir(parents=True, exist_ok=True)
    try:
        viewer = installed_viewer(options.ohif.resolve())
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 2
    studies = make_studies(output / "studies")
    pictures = dcmtk_pictures(studies, output)
    orthanc = Orthanc(output / "studies" / "orthanc", free_port(), **DICOMWEB)
    try:
        instances = {path: orthanc.store(path) for study in studies for path in (study.source, *study.results.values())}
        pictures += previews(orthanc, studies, instances, output)
        with viewer_server(viewer, orthanc.http) as address:
            pictures += browser_pictures(address, studies, output)
    finally:
        orthanc.stop()
    write_index(pictures, output)
    if options.readme:
        write_readme_pictures(output, options.readme)
    print(f"{len(pictures)} pictures: {output / 'index.html'}")
    return 0


def dcmtk_pictures(studies: Sequence[Study], output: Path) -> list[Path]:
    """The report as HTML, source and overlay as pictures, and the source as its presentation state shows it."""
    pictures = []
    for study in studies:
        name = study.verdict.lower()
        page = output / f"dsr2html-{name}.html"
        _run("dsr2html", str(study.results["sr"]), str(page))
        for role, path in (("source", study.source), ("overlay", study.results["overlay"])):
            pictures.append(output / f"dcmj2pnm-{name}-{role}.png")
            _run("dcmj2pnm", "+on", "+Wm" if role == "source" else "-W", str(path), str(pictures[-1]))
        if "presentation" in study.results:
            pictures.append(output / f"dcmp2pgm-{name}.png")
            raw = output / "studies" / f"{name}.pgm"
            _run("dcmp2pgm", "--pstate", str(study.results["presentation"]), str(study.source), str(raw))
            Image.open(raw).save(pictures[-1])
    return pictures


def previews(orthanc: Orthanc, studies: Sequence[Study], instances: dict[Path, str], output: Path) -> list[Path]:
    """Source and overlay as Orthanc shows them in its explorer."""
    pictures = []
    for study in studies:
        for role, path in (("source", study.source), ("overlay", study.results["overlay"])):
            pictures.append(output / f"orthanc-{study.verdict.lower()}-{role}.png")
            pictures[-1].write_bytes(orthanc.call(f"/instances/{instances[path]}/preview"))
    return pictures


def browser_pictures(address: str, studies: Sequence[Study], output: Path) -> list[Path]:
    """OHIF's study list, each study as it opens, and with every score unfolded; the report as a page."""
    pictures = []

    def take(name: str, page: Page) -> None:
        pictures.append(output / f"{name}.png")
        page.wait_for_timeout(1000)  # drawing in software
        page.screenshot(path=pictures[-1])

    with browser_context(WIDTH, HEIGHT) as context:
        reader = Reader.at(context, address)
        for study in studies:
            name = study.verdict.lower()
            reader.list_row(study.uid).get_by_text("AI verification report").first.wait_for()
            take(f"ohif-{name}-list", reader.page)
            reader.page.locator(f"[data-cy='{study.uid}']").click()
            reader.open(study.uid)
            _, *right = reader.panes()
            overlay = min(right, key=lambda pane: (pane.bounding_box() or {})["y"])
            reader.shows(overlay, as_shown(dcmread(study.results["overlay"])))
            take(f"ohif-{name}", reader.page)
            reader.page.get_by_text("All scores").click()
            take(f"ohif-{name}-sr", reader.page)
            reader.page.keyboard.press("Escape")
        for complaint in reader.errors:
            print(f"the browser complains: {complaint}", file=sys.stderr)
        page = context.new_page()
        page.set_viewport_size({"width": 900, "height": 1200})
        for study in studies:
            name = study.verdict.lower()
            page.goto((output / f"dsr2html-{name}.html").as_uri())
            take(f"dsr2html-{name}", page)
    return pictures


def write_index(pictures: Sequence[Path], output: Path) -> None:
    """One page with every picture, and one picture of them all."""
    figures = "\n".join(
        f'<figure><a href="{p.name}"><img src="{p.name}" width="460"></a><figcaption>{html.escape(p.stem)}</figcaption>'
        "</figure>"
        for p in pictures
    )
    style = "<style>body{font-family:sans-serif;background:#222;color:#eee}figure{display:inline-block}</style>"
    (output / "index.html").write_text(f"<!doctype html><title>Viewers</title>{style}\n{figures}\n")
    columns, cell = 4, (480, 320)
    sheet = Image.new("RGB", (columns * cell[0], -(-len(pictures) // columns) * cell[1]), "#222222")
    for number, path in enumerate(pictures):
        with Image.open(path) as picture:
            small = picture.convert("RGB")
            small.thumbnail((cell[0] - 8, cell[1] - 8))
        sheet.paste(small, (number % columns * cell[0] + 4, number // columns * cell[1] + 4))
    sheet.save(output / "contact-sheet.png")


def write_readme_pictures(output: Path, folder: Path) -> None:
    """The four small pictures of the README: at most 900 pixels wide."""
    for name, picture in {"pass": "pass", "fail": "fail", "reject": "reject", "sr": "fail-sr"}.items():
        with Image.open(output / f"ohif-{picture}.png") as large:
            small = large.convert("RGB").resize((900, round(900 * HEIGHT / WIDTH)), Image.Resampling.LANCZOS)
        small.save(folder / f"ohif-{name}.jpg", quality=80, optimize=True)


def _run(*command: str, **more: object) -> str:
    made = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, **more)
    if made.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{made.stdout}{made.stderr}")
    return made.stdout


if __name__ == "__main__":
    raise SystemExit(main())
