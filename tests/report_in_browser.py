"""The report page in a headless Chromium, as a person uses it.

    python -m tests.report_in_browser --out runs/report-check

Checks hover, keys, filters, sorting, CSV, time to open with 500 runs, and that the page logs and
requests nothing; writes pictures in light, dark, phone width and print. Ends with status 2 where
there is no browser, and with an error where anything is wrong.
"""

import argparse
import base64
import csv
import tempfile
import time
from pathlib import Path

from fedjax_llm.studies import report
from tests.helpers.browser import Browser
from tests.helpers.report_rows import HOSTILE, codec_rows, row, sweep, write

OPENS_WITHIN = 1.5
"""Most seconds until a page of 500 runs is drawn."""


def mixed(folder):
    """A folder with everything that a page can show."""
    rows = sweep()
    rows[4]["heldout_nats_per_byte"] = None
    write(folder, [*rows[:-1], row("eden(bits=1)", 0, loss=2.2)], end='\n{"codec": "e')
    write(folder / "codecs", codec_rows(), "codecs.jsonl")
    return report(folder)


def used(browser, page, downloads):
    """Use the page of `mixed`."""
    browser.look(1200, 900)
    browser.open(page.as_uri())
    points = "document.querySelectorAll('#frontier .point[data-point]').length"
    assert browser.js(points) == 4
    browser.hover("#frontier .point[data-point='2'] .hit")
    tip = browser.js("document.getElementById('tip').innerText")
    assert tip.startswith("eden(bits=1)"), tip
    assert "seed 0 is there twice" in tip, tip

    browser.js("document.querySelector('#frontier .point[tabindex=\"0\"]').focus()")
    first = browser.js("document.activeElement.getAttribute('aria-label')")
    browser.key("ArrowRight")
    second = browser.js("document.activeElement.getAttribute('aria-label')")
    assert first != second
    assert first.startswith(HOSTILE), first
    browser.key("Enter")
    assert browser.js("document.getElementById('chosen').selectedIndex") == 2

    browser.js("document.querySelector('.filter input').click()")
    assert browser.js(points) == 3
    assert browser.js("document.getElementById('count').textContent") == "3 of 4 points"
    browser.js("document.getElementById('reset').click()")
    assert browser.js(points) == 4

    name = "#points-table thead th:nth-child(4)"
    browser.js(f"document.querySelector('{name} button').click()")
    assert browser.js(f"document.querySelector('{name}').ariaSort") == "ascending"
    cells = "#points-table tbody td:first-child"
    order = f"[...document.querySelectorAll('{cells}')].map(e => e.textContent)"
    up = browser.js(order)
    assert up == [HOSTILE, "eden(bits=1)", "eden(bits=2)", "identity()"], up
    browser.js(f"document.querySelector('{name} button').click()")
    assert browser.js(order) == up[::-1]

    browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
    browser.js("document.querySelector('#points-table .csv').click()")
    path = downloads / f"{page.parent.name}.csv"
    until = time.monotonic() + 10
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.05)
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [line["codec"] for line in lines] == up[::-1]
    assert float(lines[-1]["Uplink"]) == 16_000
    assert lines[1]["held-out nats per byte"] == "" != lines[0]["held-out nats per byte"]

    before = browser.js("document.querySelector('#frontier .label').textContent")
    browser.js(
        "(() => { const e = document.getElementById('cost'); e.value = 'both_bytes';"
        "e.dispatchEvent(new Event('change')); })()"
    )
    assert browser.js("document.querySelector('#frontier .label').textContent") != before
    assert browser.js("document.images.length") == 0


def pictures(browser, page, out):
    for name, width, dark in (("light", 1200, False), ("dark", 1200, True), ("phone", 390, False)):
        browser.look(width, 900, dark=dark)
        browser.open(page.as_uri())
        wide = browser.js("document.documentElement.scrollWidth")
        assert wide <= width, f"{name}: {wide} wide in {width}"
        browser.picture(out / f"{name}.png")
    browser.look(1200, 900)
    pdf = browser.call("Page.printToPDF", printBackground=True)["data"]
    (out / "print.pdf").write_bytes(base64.b64decode(pdf))


def large(folder):
    """The page of 500 runs of 100 points."""
    rows = [row(f"eden(bits={1 + n // 5})", n % 5, 2 + n / 977, 1000 + n) for n in range(500)]
    return report(write(folder, rows))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("runs/report-check"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        page, many = mixed(folder / "mixed"), large(folder / "large")
        browser = Browser(folder / "profile")
        try:
            used(browser, page, folder)
            pictures(browser, page, out)
            browser.look(1200, 900)
            seconds = min(browser.open(many.as_uri()) for _ in range(3))
        finally:
            browser.close()
        assert seconds <= OPENS_WITHIN, f"500 runs: {seconds:.2f} s"
        assert browser.messages == [], browser.messages
        apart = {url for url in browser.requests if not url.startswith(("file:", "data:", "blob:"))}
        assert apart == set(), apart
        print(f"hover, keys, filters, sorting and CSV work; 500 runs open in {seconds:.2f} s, with")
        print(f"{many.stat().st_size:,} bytes; no message, no request; pictures in {out}")


if __name__ == "__main__":
    main()
