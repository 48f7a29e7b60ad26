"""What holds for every page."""

from __future__ import annotations

import pytest

PAGES = ("/", "/studies", "/attention", "/quality", "/bundles", "/settings", "/audit")


@pytest.mark.parametrize("url", PAGES)
def test_a_page_is_for_those_only_whose_role_gives_it(visit, url):
    assert visit().get(url).status_code in (302, 401)
    assert visit("viewer", "operator", "auditor").get(url).status_code == 200
