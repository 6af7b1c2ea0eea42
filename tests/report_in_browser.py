"""The report page in a headless Chromium, as a person uses it.

    python -m tests.report_in_browser --out runs/report-check

Checks hover, keys, filters, the front, sorting, CSV, time to open with 500 runs, and that the page
logs and requests nothing; writes pictures in light, dark, phone width and print. Ends with status 2
where there is no browser, and with an error where anything is wrong.
"""

import argparse
import base64
import csv
import tempfile
import time
from pathlib import Path

import numpy as np

from fedjax_llm.studies import points, report
from tests.helpers.browser import Browser
from tests.helpers.report_rows import HOSTILE, codec_rows, row, sweep, write

OPENS_WITHIN = 1.5
"""Most seconds until a page of 500 runs is drawn."""


def mixed(folder):
    """A folder with everything that a page can show."""
    rows = sweep()
    rows[4]["heldout_nats_per_byte"] = None
    rows[10]["device"] = "gpu"
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
    assert "seed 0: there twice, with one digest" in tip, tip
    browser.hover("#frontier .point[data-point='1'] .hit")
    tip = browser.js("document.getElementById('tip').innerText")
    assert "heldout_nats_per_byte: 1 of 3 runs diverged; no mean" in tip, tip
    browser.hover("#frontier .point[data-point='3'] .hit")
    tip = browser.js("document.getElementById('tip').innerText")
    assert "no finished run of seed 2" in tip, tip
    assert "mean over devices cpu and gpu" in tip, tip
    told = browser.js("document.getElementById('point-notes').innerText")
    assert "eden(bits=2): heldout_nats_per_byte: 1 of 3 runs diverged; no mean" in told, told
    assert f"{HOSTILE}: no finished run of seed 2" in told, told

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


def noisy():
    """Rows of twelve codecs whose losses fall with their bytes, less clearly than they vary."""
    random = np.random.Generator(np.random.Philox(4))
    return [
        row(f"eden(bits={codec + 1})", seed, 3 - 0.05 * codec + noise, 1000 * (codec + 1))
        for codec in range(12)
        for seed, noise in enumerate(random.normal(0, 0.04, size=2 + codec % 6))
    ]


ON_FRONT = """(() => {
const path = document.querySelector('#frontier path.front');
const places = new Set(path ? path.getAttribute('d').slice(1).split('L') : []);
const at = (node) => node.querySelector('.spot').getAttribute('transform').slice(10, -1);
return [...document.querySelectorAll('#frontier .point[data-point]')]
  .filter((node) => places.has(at(node)))
  .map((node) => node.getAttribute('aria-label').split(';')[0]);
})()"""


def fronts(browser, folder):
    """The page's front is that of `points`, whatever points are shown."""
    rows = noisy()
    browser.open(report(write(folder, rows)).as_uri())
    boxes = "document.querySelectorAll('.filter input')"
    for hidden in ((), (11,), (0, 3), (1, 2, 8, 10)):
        for index in hidden:
            browser.js(f"{boxes}[{index}].click()")
        shown = [r for r in rows if int(r["codec"][10:-1]) - 1 not in hidden]
        expected = [point.codec for point in points(shown) if point.on_front]
        assert browser.js(ON_FRONT) == expected, hidden
        assert 1 < len(expected) < len({r["codec"] for r in shown}), expected
        browser.js("document.getElementById('reset').click()")
    other = [r | {"contents": {"data": "b" * 64}, "seed": 9} for r in rows[:2]]
    browser.open(report(write(folder, rows + other)).as_uri())
    assert browser.js(ON_FRONT) == []
    caption = browser.js("document.getElementById('frontier-caption').textContent")
    assert caption.startswith("No front: the points shown are measured on different data"), caption
    notes = browser.js("document.getElementById('notes').innerText")
    assert "Not all losses can be compared" in notes, notes


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
            fronts(browser, folder / "fronts")
            pictures(browser, page, out)
            browser.look(1200, 900)
            seconds = min(browser.open(many.as_uri()) for _ in range(3))
        finally:
            browser.close()
        assert seconds <= OPENS_WITHIN, f"500 runs: {seconds:.2f} s"
        assert browser.messages == [], browser.messages
        apart = {url for url in browser.requests if not url.startswith(("file:", "data:", "blob:"))}
        assert apart == set(), apart
        print("hover, keys, filters, front, sorting and CSV work; no message, no request;")
        print(f"500 runs open in {seconds:.2f} s, with {many.stat().st_size:,} bytes;")
        print(f"pictures in {out}")


if __name__ == "__main__":
    main()
