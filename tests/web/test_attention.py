"""The page Attention."""

from __future__ import annotations

import pytest
from lxml import html

from dicom_gam.service.store import AUDIT_FILE
from dicom_gam.storage.audit import records
from dicom_gam.storage.rows import ReviewKind
from dicom_gam.storage.sqlite_attention import dead_letters, open_results
from tests.web.made_site import made_store


@pytest.fixture
def store(settings):
    """Few images, for each of them takes its time; the last outcomes of the table in `made_site` are among them."""
    with made_store(settings, jobs=20) as made:
        yield made


def events(store, *names):
    return [record for record in records(store.folder / AUDIT_FILE) if record["event"] in names]


def text_of(answer):
    return " ".join(html.fromstring(answer.text).text_content().split())


@pytest.mark.requirement("WEB-12")
def test_the_list_shows_causes_and_senders_but_no_patient_s_data_and_lets_a_viewer_only_look(visit, store):
    viewer = visit("viewer")
    answer = viewer.get("/attention")
    tree = html.fromstring(answer.text)
    waiting = open_results(store.database).rows
    assert len(tree.xpath("//*[@id='results']//tbody/tr")) == len(waiting)
    text = text_of(answer)
    assert "the destination refuses it with status A700" in text
    for secret in ("Doe", "P0000", "A00000", "alert(1)"):
        assert secret not in answer.text
    assert not tree.xpath("//form[@method='post'][not(contains(@action, 'logout'))]")
    job_id, sender = waiting[0].job_id, waiting[0].sender
    for url in ("/attention/results", "/attention/letters", f"/attention/override/{job_id}"):
        assert viewer.post(url, data={"job": job_id, "why": "because"}).status_code == 403
    only = html.fromstring(viewer.get("/attention", query_string={"kind": "FAIL", "sender": sender}).text)
    rows = only.xpath("//*[@id='results']//tbody/tr")
    expected = [row for row in waiting if (row.outcome, row.sender) == ("FAIL", sender)]
    assert len(rows) == len(expected)
    assert not only.xpath("//*[@id='letters-title']")
    for wrong in ("x", "-1", "9" * 30, "1e3", "\u0661"):
        assert viewer.get("/attention", query_string={"before": wrong}).status_code == 400
    assert viewer.get("/attention", query_string={"kind": "../etc", "sender": "' OR 1=1 --"}).status_code == 200


@pytest.mark.requirement("WEB-04")
def test_dead_letters_are_sent_again_and_dismissed_and_a_second_click_says_so(visit, store):
    operator = visit("operator")
    first, second = dead_letters(store.database, "pacs").rows[:2]
    keys = {"one": f"{first.job_id}/pacs", "why": "", "kind": "dead"}
    answer = operator.post("/attention/letters", data=keys)
    assert (answer.status_code, answer.location) == (303, "/attention?kind=dead")
    assert "Dead letters sent again: 1." in text_of(operator.get(answer.location))
    operator.post("/attention/letters", data=keys)
    assert "is no dead letter any more" in text_of(operator.get("/attention"))
    data = {"letter": f"{second.job_id}/pacs", "action": "dismiss"}
    operator.post("/attention/letters", data=data)
    assert "Nothing was done: say why" in text_of(operator.get("/attention"))
    operator.post("/attention/letters", data=data | {"why": "sent  by\nhand"})
    operator.post("/attention/letters", data={"all": "pacs", "action": "retry-all"})
    assert dead_letters(store.database, "pacs").rows == []
    done = [record["keys"] for record in events(store, "destination.retried", "destination.dismissed")]
    assert [(item["by"], item["job_id"], item["why"]) for item in done][:2] == [
        ("operator", first.job_id, ""),
        ("operator", second.job_id, "sent by hand"),
    ]
    assert operator.post("/attention/letters", data={"action": "burn"}).status_code == 400


@pytest.mark.requirement("WEB-03")
def test_an_override_asks_for_a_reason_and_says_that_nothing_is_sent_or_changed(visit, store):
    operator = visit("operator")
    row = next(row for row in open_results(store.database).rows if row.outcome == "FAIL")
    url, before = f"/attention/override/{row.job_id}", store.outbox.deliveries(row.job_id)
    text = text_of(operator.get(url))
    assert "Nothing that was sent is changed or called back, and no finding is sent to anybody." in text
    assert operator.post(url, data={"why": ""}).status_code == 400
    assert operator.post(url, data={"why": "I see a hand", "class_name": "no class"}).status_code == 400
    answer = operator.post(url, data={"why": "I see <b>a hand</b>", "class_name": "hand"})
    assert answer.status_code == 303
    assert "What was sent stays as it is, and nothing was sent." in text_of(operator.get(answer.location))
    assert store.outbox.deliveries(row.job_id) == before
    assert [review.kind for review in store.reviews.of_job(row.job_id)][-1] is ReviewKind.OVERRIDDEN
    assert "there is nothing to override" in text_of(operator.get(url))
    operator.post(url, data={"why": "once more"})
    assert len(events(store, "result.overridden")) == 1
    assert operator.get("/attention/override/nothing").status_code == 404


@pytest.mark.requirement("WEB-01")
def test_ticked_results_are_dismissed_together_with_a_reason(visit, store):
    operator = visit("operator")
    ids = [row.job_id for row in open_results(store.database).rows][:3]
    operator.post("/attention/results", data={"job": [*ids, "none"], "action": "dismiss", "why": "phantom images"})
    text = text_of(operator.get("/attention"))
    assert "Results dismissed: 3." in text
    assert "Left out: none (there is no such job)." in text
    assert not {row.job_id for row in open_results(store.database).rows} & set(ids)
    operator.post(
        "/attention/results", data={"job": open_results(store.database).rows[0].job_id, "action": "reprocess"}
    )
    assert "its file has been deleted" in text_of(operator.get("/attention"))
    assert [record["keys"]["by"] for record in events(store, "job.reprocess_ordered")] == ["operator"]
