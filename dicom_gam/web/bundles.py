"""The page Bundles: what judges the images, on what evidence, and which rule uses it. It shows no patient's data."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, abort, render_template
from markdown_it import MarkdownIt
from markupsafe import Markup, escape

from dicom_gam.errors import BundleError
from dicom_gam.service.bundle_cards import PICTURES, BundleCard, read_card, read_picture
from dicom_gam.storage.sqlite_quality import Judged
from dicom_gam.web.access import Permission, needs
from dicom_gam.web.quality import figures
from dicom_gam.web.site import site

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from markdown_it.token import Token

pages = Blueprint("bundles", __name__)
_BELOW = 2  # a card's own headings come below the page's and the bundle's
_DEEPEST = 6


@dataclass(frozen=True, slots=True)
class Shown:
    """A bundle in use: its card, its model card as HTML, who uses it, how many images it has judged.

    `running` is the digest that the node has loaded, empty where that is not known.
    """

    card: BundleCard
    model_card: Markup
    uses: tuple[str, ...]
    judged: int
    running: str

    @property
    def changed(self) -> bool:
        """Whether the bundle's folder has changed since the node was started."""
        return bool(self.running and self.card.digest and self.running != self.card.digest)


@pages.get("/bundles")
@needs(Permission.LOOK)
def page() -> str:
    """Show every bundle in use, and name those that were."""
    seen = figures().judged(site().store.database, time.time())
    running = _running()
    shown = [_shown(name, seen, running) for name in site().settings.bundles]
    in_use = {item.card.digest for item in shown} | {item.running for item in shown}
    earlier = {digest: judged for digest, judged in seen.items() if digest not in in_use}
    return render_template("bundles.html", shown=shown, earlier=earlier, pictures=PICTURES)


@pages.get("/bundles/<int:number>/<picture>")
@needs(Permission.LOOK)
def picture(number: int, picture: str) -> Response:
    """Hand out a picture of the bundle with this number in the settings; both come from fixed lists."""
    names = site().settings.bundles
    if not 0 < number <= len(names) or picture not in PICTURES:
        abort(404)
    try:
        content = read_picture(names[number - 1], picture)
    except BundleError:
        abort(404)
    return Response(content, mimetype="image/png")


def render_markdown(text: str) -> Markup:
    """Markdown as HTML with tables and without pictures, HTML of its own, inline styles, or links but to the web."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    reader.validateLink = _to_the_web  # type: ignore[method-assign]  # the library's own hook
    reader.add_render_rule("table_open", _table_begins)
    reader.add_render_rule("table_close", _table_ends)
    reader.add_render_rule("image", _picture_words)
    tokens = reader.parse(text)
    for token in tokens:
        token.attrs.pop("style", None)  # of aligned columns; the page's policy forbids it
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(_DEEPEST, int(token.tag[1:]) + _BELOW)}"
        for child in token.children or ():
            if child.type == "link_open":
                child.attrs["rel"] = "noopener noreferrer"
    return Markup(reader.renderer.render(tokens, reader.options, {}))  # noqa: S704 (it escapes all text, html is off)


def _to_the_web(url: str) -> bool:
    return url.lower().startswith(("https://", "http://"))


def _table_begins(_renderer: Any, _tokens: Sequence[Token], _place: int, _options: Any, _environment: Any) -> str:
    return '<div class="scroll" tabindex="0" role="region" aria-label="Table of the model card"><table>\n'


def _table_ends(_renderer: Any, _tokens: Sequence[Token], _place: int, _options: Any, _environment: Any) -> str:
    return "</table></div>\n"


def _picture_words(_renderer: Any, tokens: Sequence[Token], place: int, _options: Any, _environment: Any) -> str:
    return str(escape(tokens[place].content))


def _shown(name: str, seen: Mapping[str, Judged], running: Mapping[str, str]) -> Shown:
    card = read_card(name)
    settings = site().settings
    uses = [f"rule {rule.name}" for rule in settings.rules if rule.bundle == name and rule.process]
    if name == settings.processing.bundle:
        silent = [rule.name for rule in settings.rules if rule.bundle is None and rule.process]
        uses += [f"rule {rule}" for rule in silent] if settings.rules else ["every image, as there are no rules"]
    loaded = running.get(name, "")
    judged = seen.get(loaded or card.digest)
    images = 0 if judged is None else judged.images
    return Shown(card, render_markdown(card.model_card), tuple(uses), images, loaded)


def _running() -> dict[str, str]:
    """The digests of the bundles that the node has loaded, by their names in the settings, as far as they are known."""
    vitals = site().vitals
    about = {} if vitals is None else vitals().about.get("bundles", {})
    return {name: str(bundle.get("digest", "")) for name, bundle in about.items()}
