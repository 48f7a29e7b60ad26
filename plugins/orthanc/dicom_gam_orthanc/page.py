"""The panel's page. Every value is escaped; there is no script, and nothing comes from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from pathlib import Path
from typing import Any

from .study import WAITING
from .view import AWAITED, NO_VERDICT, NOT_ROUTED, QUEUED, REFUSED, UNSENT, VERDICT

CSS = (Path(__file__).parent / "panel.css").read_text(encoding="utf-8")
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'self'; "
    f"style-src 'sha256-{base64.b64encode(hashlib.sha256(CSS.encode()).digest()).decode()}'"
)
WORDS = {  # sign, word, what it means for the reader
    "PASS": ("✓", "PASS", "All checks passed: the network looked where it should, on an image that it knows."),
    "FAIL": ("✕", "FAIL", "Do not use the AI result: the network did not look where it should. No finding is given."),
    "REJECT": ("⊘", "REJECT", "This is not an image that the network is for. No finding is given."),
    WAITING: ("…", "WAITING", "An image of this study has no verdict yet."),
    "": ("–", "NO VERDICT", "The node has given no verdict on an image of this study."),
}
STATES = {
    AWAITED: "The node has this image; its verdict is awaited.",
    QUEUED: "To be sent to the node, by itself, as soon as the study is complete and the node takes it.",
    UNSENT: "Not sent: it came before the plugin was there, or its mark was removed.",
    REFUSED: "Sending was given up:",
    NOT_ROUTED: "Not for the node:",
    NO_VERDICT: "The node could not give a verdict:",
}


def page_of(view: dict[str, Any], about: dict[str, Any], tokens: dict[str, str], dashboard: str) -> str:
    """The page of a study. `about` is Orthanc's record of it, `tokens` guards the two buttons, by action."""
    study = view["study"]
    body = [
        _heading(about, study),
        _banner(view["verdict"]),
        _notices(view),
        _actions(view, tokens, dashboard),
        *(_card(image, many=len(view["images"]) > 1) for image in view["images"]),
        _rest(view),
    ]
    return document("AI verification", "\n".join(body))


def document(title: str, body: str) -> str:
    """A whole page around a body that is HTML already."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head><body><main>{body}"
        '<p class="quiet">Research use only. Not a medical device, not for diagnosis.</p></main></body></html>'
    )


def problem_page(title: str, words: str, back: str) -> str:
    """A page that says what could not be done."""
    return document(
        title,
        f'<h1>{escape(title)}</h1><p class="notice">{escape(words)}</p>'
        f'<p><a href="{escape(back)}">Back to the study</a></p>',
    )


def _heading(about: dict[str, Any], study: str) -> str:
    patient, tags = about.get("PatientMainDicomTags", {}), about["MainDicomTags"]
    parts = (
        patient.get("PatientName", "").replace("^", " "),
        patient.get("PatientID", ""),
        tags.get("StudyDescription", ""),
        _day(tags.get("StudyDate", "")),
    )
    told = " · ".join(part for part in parts if part.strip())
    back = f"../../app/explorer.html#study?uuid={study}"
    return (
        f'<header class="top"><div><h1>AI verification</h1><p>{escape(told)}</p></div>'
        f'<p><a href="{escape(back)}">Back to the study in Orthanc</a></p></header>'
    )


def _banner(word: str) -> str:
    sign, name, meaning = WORDS[word]
    colour = word if word in ("PASS", "FAIL", "REJECT") else "other"
    return (
        f'<div class="banner {colour}" role="status"><span class="sign" aria-hidden="true">{sign}</span>'
        f'<div><span class="word">{name}</span>{meaning}</div></div>'
    )


def _notices(view: dict[str, Any]) -> str:
    said = []
    outage = view["outage"]
    if outage:
        since = escape(_moment(outage["since"]))
        said.append(
            f"<strong>The node has taken no images since {since}:</strong> {escape(outage['why'])}. "
            "Images wait in Orthanc and go by themselves when it is back."
        )
    if view["node_said"]:
        said.append(escape(view["node_said"][:1].upper() + view["node_said"][1:]) + ".")
    if view["unconfirmed_reports"]:
        said.append(
            f"{view['unconfirmed_reports']} report(s) in this study look like the node's but did not come from it, "
            "so they are not counted (DicomGam.ResultsFrom)."
        )
    if view["awaiting"]:
        said.append(f'Something is awaited. <a href="{escape(view["study"])}">Look again</a>')
    return "".join(f'<p class="notice">{item}</p>' for item in said)


def _actions(view: dict[str, Any], tokens: dict[str, str], dashboard: str) -> str:
    parts = []
    if view["can_process_again"]:
        parts.append(_button(view["study"], "again", "Process again", tokens))
    elif not view["node_configured"]:
        parts.append(
            '<span class="quiet">To have images processed again from here, give <code>DicomGam.Url</code> and '
            "<code>DicomGam.TokenFile</code> in Orthanc's configuration; or on the node: "
            f"<code>dicom-gam reprocess --study {escape(view['study_instance_uid'])}</code></span>"
        )
    if view["can_send"]:
        parts.append(_button(view["study"], "send", "Send to the node", tokens))
    if dashboard:
        address = f"{dashboard}/studies/{view['study_instance_uid']}"
        parts.append(f'<a href="{escape(address)}" rel="noreferrer">This study on the node\'s dashboard</a>')
    parts.append(f'<a href="{escape(view["study"])}.json">As JSON</a>')
    return f'<div class="actions">{"".join(parts)}</div>'


def _button(study: str, action: str, words: str, tokens: dict[str, str]) -> str:
    return (
        f'<form method="post" action="{escape(study)}/{action}"><input type="hidden" name="token" '
        f'value="{escape(tokens[action])}"><button>{words}</button></form>'
    )


def _card(image: dict[str, Any], *, many: bool) -> str:
    report, state = image["report"], image["state"]
    title = f'Image <span class="quiet uid">{escape(image["sop_instance_uid"])}</span>'
    chip = _chip(image["verdict"]) if many and report else ""
    lines = [f'<article class="card"><header><h2>{title}</h2>{chip}</header>']
    if state == VERDICT:
        lines.append(_said(report))
    else:
        why = f" {escape(image['why'])}." if state in (REFUSED, NOT_ROUTED, NO_VERDICT) else ""
        lines.append(f"<p>{STATES[state]}{why}</p>")
    lines.append(_course(image))
    lines.append(_pictures(image))
    if report:
        lines.append(_scores(report, open_=not many))
        address = f"../../instances/{escape(report['instance'])}"
        lines.append(
            f'<p class="quiet"><a href="{address}/file">Report (DICOM)</a> · by {escape(report["bundle"])}</p>'
        )
    return "".join(lines) + "</article>"


def _chip(verdict: str) -> str:
    sign, name, _ = WORDS[verdict]
    return f'<span class="chip {verdict}"><span aria-hidden="true">{sign}</span> {name}</span>'


def _said(report: dict[str, Any]) -> str:
    finding = f"<p>Finding: <strong>{escape(report['finding'])}</strong></p>" if report["finding"] else ""
    reasons = "".join(f"<li>{escape(text)}</li>" for text in report["comments"][1:])  # the first is the title
    return finding + (f'<ul class="reasons">{reasons}</ul>' if reasons else "")


def _course(image: dict[str, Any]) -> str:
    """What became of an image, in a line: sent, judged, processed again."""
    told = []
    if image["sent"]:
        told.append(f"sent {_moment(image['sent'])}")
    if image["report"]:
        told.append(f"report of {_moment(image['report']['moment'])}")
    if image["reports_before"]:
        told.append(f"{image['reports_before']} earlier report(s), superseded")
    if image["job"]:
        reason = f", {image['job_reason']}" if image["job_reason"] else ""
        told.append(
            f"the node's latest word: {image['job_outcome'] or 'none'}{reason}, {_moment(image['job_finished'])}"
        )
    if image["again"]:
        told.append(image["again"])
    return f'<p class="quiet">{escape("; ".join(told))}</p>' if told else ""


def _pictures(image: dict[str, Any]) -> str:
    report = image["report"]
    shown = [_figure_of(image["instance"], "rendered", "?width=800", "The source image", "Source image")]
    if report and report["overlay"]:
        alt = f"Overlay of where the network looked, verdict {image['verdict']}"
        shown.append(_figure_of(report["overlay"], "preview", "", alt, "Overlay of the node: where the network looked"))
    elif report:
        shown.append('<p class="quiet">The overlay has not come from the node yet, or was deleted.</p>')
    return f'<div class="pictures">{"".join(shown)}</div>'


def _figure_of(instance: str, kind: str, size: str, alt: str, caption: str) -> str:
    address = f"../../instances/{escape(instance)}/{kind}"
    return (
        f'<figure><a href="{address}"><img src="{address}{size}" alt="{escape(alt)}" loading="lazy"></a>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _scores(report: dict[str, Any], *, open_: bool) -> str:
    parts = [_check(check) for check in report["checks"]]
    return f"<details{' open' if open_ else ''}><summary>Every score with its limit</summary>{''.join(parts)}</details>"


def _check(check: dict[str, Any]) -> str:
    advisory = ' <span class="quiet">(advisory: not part of the verdict)</span>' if check["advisory"] else ""
    columns = ("Measurement", ""), ("Value", "figure"), ("Limit", "figure"), ("p-value", "figure"), ("Result", "")
    head = "".join(f'<th scope="col" class="{kind}">{name}</th>' for name, kind in columns)
    rows = "".join(_row(score) for score in check["scores"])
    return (
        f"<h3>{escape(check['name'])}: {_result(check['result'])}{advisory}</h3>"
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _row(score: dict[str, Any]) -> str:
    limit = f"{score['limit_kind']} {_figure(score['limit'])}" if score["limit"] else ""
    return (
        f"<tr{' class=no' if score['result'] == 'FAIL' else ''}><td>{escape(score['name'])}</td>"
        f'<td class="figure">{_figure(score["value"])}</td><td class="figure">{limit}</td>'
        f'<td class="figure">{_figure(score["p_value"])}</td><td>{_result(score["result"])}</td></tr>'
    )


def _result(result: str) -> str:
    return {"PASS": "✓ within", "FAIL": "✕ outside"}.get(result, escape(result))


def _rest(view: dict[str, Any]) -> str:
    modalities = view["other_series"]
    if not modalities:
        return ""
    listed = ", ".join(f"{number} of Modality {modality or 'none'}" for modality, number in modalities.items())
    return f'<p class="quiet">Other series, which hold no radiographs or are results: {escape(listed)}.</p>'


def _figure(text: str) -> str:
    try:
        value = float(text)
    except ValueError:
        return escape(text)
    shown = f"{value:.4g}"
    return "&gt; 0.9999" if shown == "1" and value < 1 else escape(shown)


def _day(date: str) -> str:
    return f"{date[:4]}-{date[4:6]}-{date[6:8]}" if len(date) == 8 and date.isdigit() else date


def _moment(iso: str) -> str:
    """A moment of ISO 8601 to the second, as people write it."""
    zone = " UTC" if iso.endswith(("Z", "+00:00")) else ""
    return iso[:19].replace("T", " ") + zone
