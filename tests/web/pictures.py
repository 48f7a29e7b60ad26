"""Pictures of every page of the dashboard, at desktop and tablet size, light and dark.

    python -m tests.web.pictures OUT

The data are made up but for one image with real result objects.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.web.browsing import PAGES, SCHEMES, SIZES, browser, log_in, serious_faults, served


def main() -> None:
    """Take them, and say what axe-core finds on each page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    output: Path = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    faults = 0
    with tempfile.TemporaryDirectory() as folder, served(Path(folder) / "node") as site, browser() as opened:
        password = site.add_person("all", "viewer", "operator", "auditor")
        for scheme in SCHEMES:
            for size, viewport in SIZES.items():
                context = opened.new_context(viewport=viewport, color_scheme=scheme)
                page = context.new_page()
                page.goto(site.url)
                page.screenshot(path=output / f"login-{size}-{scheme}.png")
                log_in(page, site, "all", password)
                password = "correct horse battery"
                for name, path in PAGES.items():
                    page.goto(site.url + path)
                    page.screenshot(path=output / f"{name}-{size}-{scheme}.png", full_page=True)
                    found = serious_faults(page)
                    faults += len(found)
                    print(f"{name} {size} {scheme}: {found or 'no serious fault'}")
                context.close()
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
