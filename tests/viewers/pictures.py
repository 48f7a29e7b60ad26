"""What readers see of our results, in the viewers that they have: `python -m tests.viewers.pictures OUT`.

Three real studies (PASS, FAIL, REJECT) stand in a real Orthanc, and are pictured in OHIF with
plugins/ohif/app-config.js, in Orthanc's preview, and by DCMTK: dsr2html, dcmj2pnm, and dcmp2pgm with the presentation
state. OUT/index.html shows all of them. OHIF comes through npm, in the version that plugins/ohif was tried with.
"""

from __future__ import annotations

import argparse
import html
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from tests.end_to_end.peers import DICOMWEB, Orthanc, free_port
from tests.viewers.studies import Study, make_studies
from tests.viewers.web_server import viewer_server

OHIF_VERSION = "3.12.10"  # the version that plugins/ohif was tried with
DRIVER = Path(__file__).with_name("driver.js")
WIDTH, HEIGHT = 1500, 900
_PROGRAMS = {
    "chromium": "chromium",
    "node": "nodejs",
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
    parser.add_argument("--ohif", type=Path, default=Path("build/ohif"), help="folder that OHIF is installed into")
    parser.add_argument("--readme", type=Path, help="folder for the four small pictures of the README")
    options = parser.parse_args(arguments)
    missing = sorted({package for program, package in _PROGRAMS.items() if shutil.which(program) is None})
    if missing:
        print(f"Programs are missing. As root: apt-get install {' '.join(missing)}", file=sys.stderr)
        return 2
    output = options.output.resolve()
    shutil.rmtree(output / "studies", ignore_errors=True)
    output.mkdir(parents=True, exist_ok=True)
    viewer = install_viewer(options.ohif.resolve())
    studies = make_studies(output / "studies")
    pictures = dcmtk_pictures(studies, output)
    orthanc = Orthanc(output / "studies" / "orthanc", free_port(), **DICOMWEB)
    try:
        instances = {path: orthanc.store(path) for study in studies for path in (study.source, *study.results.values())}
        pictures += previews(orthanc, studies, instances, output)
        with viewer_server(viewer / "package" / "dist", orthanc.http) as address:
            pictures += browser_pictures(address, studies, output, viewer)
    finally:
        orthanc.stop()
    write_index(pictures, output)
    if options.readme:
        write_readme_pictures(output, options.readme)
    print(f"{len(pictures)} pictures: {output / 'index.html'}")
    return 0


def install_viewer(folder: Path) -> Path:
    """The built viewer and the browser's driver from npm, unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "node_modules" / "playwright-core").is_dir():
        (folder / "package.json").write_text('{"private": true}')
        _run("npm", "install", "--silent", "playwright-core", cwd=folder)
    if not (folder / "package" / "dist" / "index.html").exists():
        _run("npm", "pack", "--silent", f"@ohif/app@{OHIF_VERSION}", cwd=folder)
        with tarfile.open(next(folder.glob("ohif-app-*.tgz"))) as archive:
            archive.extractall(folder, filter="data")
    return folder


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


def browser_pictures(address: str, studies: Sequence[Study], output: Path, viewer: Path) -> list[Path]:
    """OHIF as it opens a study and with the report opened in place of the source; the report as a page."""
    steps = []
    for study in studies:
        name = study.verdict.lower()
        steps += [_viewed(address, study, output / f"ohif-{name}.png")]
        opened = _viewed(address, study, output / f"ohif-{name}-sr.png")
        steps.append(opened | {"thumbnail": "AI verification report"})
        page = (output / f"dsr2html-{name}.html").as_uri()
        steps.append({"url": page, "picture": str(output / f"dsr2html-{name}.png"), "width": 900, "height": 1200})
    request = json.dumps({"chromium": shutil.which("chromium"), "pages": steps})
    environment = {**os.environ, "NODE_PATH": str(viewer / "node_modules")}
    answer = _run("node", str(DRIVER), input=request, env=environment)
    (output / "console.jsonl").write_text(answer)
    return [Path(step["picture"]) for step in steps]


def _viewed(address: str, study: Study, picture: Path) -> dict[str, object]:
    return {
        "url": f"{address}/viewer?StudyInstanceUIDs={study.uid}",
        "picture": str(picture),
        "width": WIDTH,
        "height": HEIGHT,
        "ready": "[data-cy=viewport-grid] canvas",
        "settle_ms": 9000,  # software rendering on few cores
        "clicks": ["Skip all", "Confirm and hide"],
    }


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
    for name, picture in {"pass": "pass", "fail": "fail", "reject": "reject", "sr": "pass-sr"}.items():
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
