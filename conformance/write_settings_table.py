"""Write the table of settings into OPERATING.md, between its markers: python conformance/write_settings_table.py."""

from pathlib import Path

from dicom_gam.config import settings_table

DOCUMENT = Path(__file__).parent / "OPERATING.md"
BEGIN, END = "<!-- settings -->", "<!-- /settings -->"


def with_table(text: str) -> str:
    """The document's text with today's table."""
    before, _, rest = text.partition(BEGIN)
    table = f"| key | default | meaning |\n|---|---|---|\n{settings_table()}"
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    DOCUMENT.write_text(with_table(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
