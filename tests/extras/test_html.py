"""The HTML pages in a real browser: Debian's Chromium, headless."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import Missing, chromium, show
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

import graphopt
from graphopt.report import html
from graphopt.report.headline import headline
from graphopt.report.results import Applied, Left, Point, Result, Sweep
from graphopt.report.wording import output_sqnr
from graphopt.rewrites import registry
from graphopt.runtime.latency import Timing
from graphopt.types import Candidate, Cost, Exactness, Quality, Site
from tests.builders import classifier, conv_bn, samples, saved
from tests.command import cli
from tests.places import ROOT

MEGABYTE = 10**6
TWO_RANKS = {"bottleneck.rank_in": 8, "bottleneck.rank_out": 8}


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    try:
        with chromium() as driver:
            yield driver
    except Missing as missing:
        pytest.fail(str(missing))


@pytest.fixture(scope="module")
def result() -> Result:
    """Applied and rejected rewrites, an approximate one with spectra among them, and what a run measures."""
    inputs = np.random.default_rng(0).standard_normal((128, 8, 8, 8)).astype(np.float32)
    asked = {"budget": {"macs": 0.5}, "metric": "classification"}
    found = graphopt.optimize(classifier(), calibration=inputs, force=True, **asked)
    assert found.report.quality is not None and found.report.latency is not None
    assert found.report.applied and found.report.rejected
    declined = Left("merge_siblings", Site("main", ("conv1", "conv2")), "expected to be slower (80 → 101 µs)")
    return replace(found, report=replace(found.report, declined=(declined,), curve=points()))


@pytest.fixture(scope="module")
def page(result: Result, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("page"), html.report(result))


@pytest.fixture(scope="module")
def sweep_page(result: Result, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = result.report
    swept = Sweep(data.source, data.before, points(), ("0.3 was not reached",), {"fit": 1.5}, {"seed": 0})
    return written(tmp_path_factory.mktemp("sweep"), html.sweep(swept))


@pytest.fixture(scope="module")
def sensitivity_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = graphopt.sensitivity(classifier(), samples(32), only=["bottleneck"])
    return written(tmp_path_factory.mktemp("sensitivity"), html.sensitivity(found))


def written(folder: Path, text: str) -> Path:
    path = folder / "page.html"
    path.write_text(text, encoding="utf-8")
    return path


def points() -> tuple[Point, ...]:
    """Three networks of a trade-off, by falling cost; the second was taken."""
    costs = [(Cost(9000), Cost(4000 - i)) for i in range(3)]
    chosen = [
        Candidate("bottleneck", Site("main", (f"conv{i}",)), *cost, 0.01, {"rank_in": 4}, "1x1 4/–")
        for i, cost in enumerate(costs)
    ]
    return tuple(
        Point(
            {"macs": 0.9 - 0.2 * i, "params": 0.8, "latency": 0.95 - 0.1 * i},
            Quality(1 - 0.02 * i, 40 - 8 * i, 32),
            tuple(chosen[: i + 1]),
            metric=0.91 - 0.01 * i,
            taken=i == 1,
        )
        for i in range(3)
    )


def texts(driver: Chrome, selector: str) -> list[str]:
    return [element.text for element in driver.find_elements(By.CSS_SELECTOR, selector)]


def column(driver: Chrome, table: str, title: str) -> list[str]:
    """The cells of a column, of the rows that are shown."""
    heads = [head.text.split("\n")[0] for head in driver.find_elements(By.CSS_SELECTOR, f"#{table} thead th")]
    number = heads.index(title) + 1
    return texts(driver, f"#{table} tbody tr:not([hidden]) > :nth-child({number})")


def header(driver: Chrome, table: str, title: str) -> WebElement:
    heads = driver.find_elements(By.CSS_SELECTOR, f"#{table} thead th")
    return next(head for head in heads if head.text == title)


def requests(driver: Chrome) -> list[str]:
    """The addresses that the page asked for."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]


PAGES = ("page", "sweep_page", "sensitivity_page")


# ---------------------------------------------------------------- it opens


@pytest.mark.parametrize("name", PAGES)
def test_it_opens_offline_without_an_error(
    browser: Chrome, name: str, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(name)
    browser.get_log("browser"), browser.get_log("performance")
    show(browser, path)
    assert browser.get_log("browser") == []
    asked = [url for url in requests(browser) if not url.startswith("data:")]
    assert asked == [path.resolve().as_uri()]
    assert path.stat().st_size < 2 * MEGABYTE
    assert "graphopt" in browser.title


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 800, 1400])
@pytest.mark.parametrize("name", PAGES)
def test_it_fits_the_screen(
    browser: Chrome, name: str, width: int, scheme: str, request: pytest.FixtureRequest
) -> None:
    show(browser, request.getfixturevalue(name), width=width, scheme=scheme)
    browser.execute_script("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    shown = browser.find_elements(By.CSS_SELECTOR, "main figure svg")
    drawn = [svg.rect["width"] for svg in shown if svg.is_displayed() and svg.rect["width"]]
    assert bool(drawn) is (name != "sensitivity_page") and all(size <= width for size in drawn)


def test_no_table_scrolls_sideways_on_a_usual_screen(browser: Chrome, result: Result, tmp_path: Path) -> None:
    """Also with the longest names of rewrites, and figures of four digits."""
    names = sorted(registry.registry(), key=len)[-5:]
    cost = Cost(123_400_000, 1), Cost(88_880_000, 1)
    site = Site("main", ("/features/stage3/block12/conv2/Conv", "/features/stage3/block12/bn2/BatchNorm"))
    form = "1x1 → depthwise 128 → 1x1"
    applied = [
        Applied(Candidate(name, site, *cost, 1.2e-05, {"rank": 128}, form), Exactness.APPROXIMATE, 3.4e-05)
        for name in names
    ]
    report = replace(result.report, applied=(*result.report.applied, *applied))
    show(browser, written(tmp_path, html.report(replace(result, report=report))), width=1100)
    browser.execute_script("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    widths = browser.execute_script(
        "return [...document.querySelectorAll('.scroll')].map((s) => [s.scrollWidth, s.clientWidth])"
    )
    assert widths and all(inside <= outside for inside, outside in widths)


CONTRASTS = """
const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
const light = (c) => c.slice(0, 3).map((v) => v / 255)
  .map((v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
const behind = (e) => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
  if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
const found = [];
for (const e of document.querySelectorAll("main *, header *")) {
  const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  if (!own || !e.checkVisibility() || e.closest("svg")) continue;
  const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
  found.push([(a + .05) / (b + .05), e.textContent.trim().slice(0, 40)]);
}
return found;
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_background(browser: Chrome, page: Path, scheme: str) -> None:
    """A contrast of 4.5, which WCAG 2 AA asks for; and the schemes differ."""
    show(browser, page, scheme=scheme)
    found = browser.execute_script(CONTRASTS)
    assert len(found) > 50
    assert [item for item in found if item[0] < 4.5] == []
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")


def test_charts_follow_the_scheme(browser: Chrome, page: Path) -> None:
    fills = []
    for scheme in ("light", "dark"):
        show(browser, page, scheme=scheme)
        bars = browser.find_elements(By.CSS_SELECTOR, "figure .wide path[fill^=var]")
        fills.append({bar.value_of_css_property("fill") for bar in bars})
    assert fills[0] and fills[1] and not fills[0] & fills[1]


def test_it_can_be_read_without_scripts(browser: Chrome, page: Path, result: Result) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        show(browser, page)
        rows = browser.find_elements(By.CSS_SELECTOR, "#rewrite-table tbody tr")
        assert all(row.is_displayed() for row in rows)
        assert not browser.find_element(By.CSS_SELECTOR, ".tools").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


# ---------------------------------------------------------------- sorting and filtering


def numbers(driver: Chrome, title: str) -> list[float | None]:
    """The figures of a column of the table of rewrites."""
    heads = texts(driver, "#rewrite-table thead th")
    cells = driver.find_elements(
        By.CSS_SELECTOR, f"#rewrite-table tbody td:nth-child({heads.index(title) + 1})"
    )
    values = [cell.get_attribute("data-v") for cell in cells]
    return [float(value) if value else None for value in values]


def ordered(values: Sequence[float | None], *, falling: bool = False) -> list[float | None]:
    """In order, those without a value last."""
    known = sorted((v for v in values if v is not None), reverse=falling)
    return [*known, *[None] * (len(values) - len(known))]


def test_a_click_sorts(browser: Chrome, page: Path) -> None:
    show(browser, page)
    before = numbers(browser, "MACs")
    assert len(set(before)) > 2
    button = header(browser, "rewrite-table", "MACs").find_element(By.TAG_NAME, "button")
    button.click()
    assert numbers(browser, "MACs") == ordered(before)
    assert header(browser, "rewrite-table", "MACs").get_attribute("aria-sort") == "ascending"
    button.click()
    assert numbers(browser, "MACs") == ordered(before, falling=True)
    assert header(browser, "rewrite-table", "MACs").get_attribute("aria-sort") == "descending"
    header(browser, "rewrite-table", "rewrite").find_element(By.TAG_NAME, "button").click()
    names = column(browser, "rewrite-table", "rewrite")
    assert names == sorted(names)
    assert header(browser, "rewrite-table", "MACs").get_attribute("aria-sort") == "none"


def test_the_keyboard_sorts_and_filters(browser: Chrome, page: Path) -> None:
    """From the top of the page with Tab alone: search, a box, then a header."""
    show(browser, page)
    reached: list[str] = []
    for _ in range(60):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        focused = browser.switch_to.active_element
        assert focused.tag_name != "body", "Tab left the page before it reached the table"
        assert browser.execute_script(
            "const s = getComputedStyle(arguments[0]);"
            "return s.outlineStyle !== 'none' && s.outlineWidth !== '0px'",
            focused,
        ), f"the focus is not seen on {focused.tag_name} {focused.text}"
        reached.append(focused.tag_name)
        kind = focused.get_attribute("type")
        if kind == "search":
            focused.send_keys("fold_affine")
            shown = column(browser, "rewrite-table", "rewrite")
            assert shown and all("fold_affine" in name for name in shown)
            focused.send_keys(Keys.CONTROL, "a")
            focused.send_keys(Keys.BACKSPACE)
        elif kind == "checkbox" and focused.get_attribute("value") == "rejected":
            focused.send_keys(Keys.SPACE)
            assert set(column(browser, "rewrite-table", "status")) == {"applied", "declined"}
            focused.send_keys(Keys.SPACE)
        elif focused.tag_name == "button" and focused.text.startswith("saved"):
            focused.send_keys(Keys.ENTER)
            break
    assert {"a", "summary", "input", "button"} <= set(reached)
    assert numbers(browser, "saved") == ordered(numbers(browser, "saved"))


def test_search_wants_every_word(browser: Chrome, page: Path) -> None:
    show(browser, page)
    every = column(browser, "rewrite-table", "status")
    search = browser.find_element(By.CSS_SELECTOR, ".tools input[type=search]")
    search.send_keys("EXPECTED slower")
    assert column(browser, "rewrite-table", "rewrite") == ["merge_siblings"]
    assert browser.find_element(By.CSS_SELECTOR, ".tools output").text == f"1 of {len(every)} shown"
    search.send_keys(" nowhere")
    assert column(browser, "rewrite-table", "rewrite") == []


# ---------------------------------------------------------------- what it says


def test_every_rewrite_is_there(browser: Chrome, page: Path, result: Result) -> None:
    data = result.report
    show(browser, page)
    status = column(browser, "rewrite-table", "status")
    wanted = ["applied"] * len(data.applied) + ["declined"] * len(data.declined)
    assert status == wanted + ["rejected"] * len(data.rejected)
    sites = column(browser, "rewrite-table", "site")
    left = (*data.declined, *data.rejected)
    applied = sorted(data.applied, key=lambda item: -item.candidate.macs_saved)
    nodes = [*(item.candidate.site.nodes[0] for item in applied), *(item.site.nodes[0] for item in left)]
    assert [site.split(" with")[0] for site in sites] == nodes
    reasons = column(browser, "rewrite-table", "choice or reason")
    assert reasons[len(data.applied) :] == [item.reason for item in left]


def test_the_headline_figures(browser: Chrome, page: Path, result: Result) -> None:
    data = result.report
    show(browser, page)
    assert texts(browser, ".headline") == [headline(data)]
    cards = {text.split("\n")[0]: text for text in texts(browser, ".card")}
    assert data.before.macs and data.after.macs and data.latency and data.quality
    assert f"−{(1 - data.after.macs / data.before.macs) * 100:.3g} %" in cards["MACs"]
    told = data.latency.outcome or f"{data.latency.speedup:.2f} × as fast"
    assert cards["Latency"].split("\n")[1] == told
    assert f"95 %: {data.latency.range} × as fast" in cards["Latency"]
    assert f"{data.quality.agreement:.2%} agreement" in cards["Quality"]
    assert f"on {data.quality.samples} held-out inputs" in cards["Quality"]
    assert "passed" in cards["Verification, of the exact rewrites"]


def test_macs_by_layer(browser: Chrome, page: Path, result: Result) -> None:
    """The chart's columns add up to what the table says, and the table to the totals."""
    show(browser, page)
    browser.execute_script("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    cells = browser.find_elements(By.CSS_SELECTOR, "#layer-table tbody tr")
    figures = [
        [float(td.get_attribute("data-v") or "nan") for td in row.find_elements(By.CSS_SELECTOR, "td.number")]
        for row in cells
    ]
    assert sum(row[1] for row in figures) == result.report.before.macs
    assert sum(row[2] for row in figures) == result.report.after.macs
    bars = browser.find_elements(By.CSS_SELECTOR, "#layers ~ figure .wide path[fill^=var]")
    heights = {"kept": 0.0, "cut": 0.0, "same": 0.0}
    for bar in bars:
        part = re.sub(r"var\(--(\w+)\)", r"\1", bar.get_attribute("fill") or "")
        heights[part] += bar.rect["height"]
    before, after = result.report.before.macs, result.report.after.macs
    assert before and after
    assert heights["cut"] / sum(heights.values()) == pytest.approx(1 - after / before, abs=0.01)


def test_spectra_show_the_chosen_rank(browser: Chrome, page: Path, result: Result) -> None:
    show(browser, page)
    ranks = [
        (item.candidate.site.nodes[0], key, item.candidate.choice[key], len(values))
        for item in sorted(result.report.applied, key=lambda item: -item.candidate.macs_saved)
        for key, values in item.spectra.items()
    ]
    assert ranks
    figures = browser.find_elements(By.CSS_SELECTOR, "#spectra ~ .grid figure")
    assert len(figures) == len(ranks)
    for figure, (name, key, rank, full) in zip(figures, ranks, strict=True):
        assert name in figure.text and f"{key} {rank} of {full}" in figure.text
        kept = figure.find_elements(By.CSS_SELECTOR, 'path[fill="var(--kept)"]')
        assert len(kept) == rank


def test_structure_before_and_after(browser: Chrome, tmp_path: Path) -> None:
    show(browser, written(tmp_path, html.report(graphopt.optimize(conv_bn()))))
    (drawing,) = browser.find_elements(By.CSS_SELECTOR, ".drawing")
    before, after = drawing.find_elements(By.CSS_SELECTOR, ".side")
    drawn = [
        [g.text.split("\n")[0] for g in side.find_elements(By.CSS_SELECTOR, "g.op")]
        for side in (before, after)
    ]
    assert drawn[0] == ["Conv 3x3", "BatchNormalization", "Relu", "input"]
    assert drawn[1] == ["Conv 3x3", "Relu", "input"]
    assert len(before.find_elements(By.CSS_SELECTOR, "g.removed")) == 2
    assert len(after.find_elements(By.CSS_SELECTOR, "g.added")) == 1
    assert drawing.find_element(By.TAG_NAME, "h3").text == "fold_affine"


def test_slower_comes_first(browser: Chrome, result: Result, tmp_path: Path) -> None:
    slow = Timing(1.0, 1.2, 0.83, (0.7, 1.1), (0.8, 0.9), 1, 50, "CPUExecutionProvider")
    slower = replace(result, report=replace(result.report, latency=slow))
    show(browser, written(tmp_path, html.report(slower)))
    assert texts(browser, "main > *")[0].startswith("The model got slower: 1.000 → 1.200 ms")


def test_noise_is_not_shown_as_a_speed_up(browser: Chrome, result: Result, tmp_path: Path) -> None:
    noisy = Timing(1.0, 0.6, 1.68, (0.17, 10.85), (0.9, 2.5), 1, 50, "CPUExecutionProvider")
    unclear = replace(result, report=replace(result.report, latency=noisy))
    show(browser, written(tmp_path, html.report(unclear)))
    whole = browser.find_element(By.TAG_NAME, "main").text
    assert texts(browser, "main > *")[0].startswith("No clear difference in latency: 1.000 → 0.600 ms")
    assert "no clear difference" in whole and "1.68" not in whole


def test_names_are_text(browser: Chrome, tmp_path: Path) -> None:
    """A model is given by somebody else: its names must not become markup or script."""
    prefix = "<img src=x onerror=alert(1)>\"'&<script>alert(2)</script></title>"
    inputs = np.random.default_rng(0).standard_normal((64, 8, 8, 8)).astype(np.float32)
    found = graphopt.optimize(
        classifier(prefix=prefix), calibration=inputs, only=["bottleneck"], options=TWO_RANKS
    )
    assert found.report.applied
    browser.get_log("browser")
    show(browser, written(tmp_path, html.report(found)))
    assert browser.get_log("browser") == []
    assert browser.find_elements(By.TAG_NAME, "img") == []
    assert any(prefix in site for site in column(browser, "rewrite-table", "site"))


def test_gates_are_shown(browser: Chrome, page: Path, tmp_path: Path) -> None:
    show(browser, page)
    assert not browser.find_elements(By.ID, "gate-table")  # where none was given
    path = saved(conv_bn(), tmp_path / "m.onnx")
    gates = ("--require", "macs<=0.5", "--require", "params<=1")
    assert cli("optimize", path, "--dry-run", "--html", tmp_path / "page.html", *gates).code == 3
    show(browser, tmp_path / "page.html")
    assert column(browser, "gate-table", "asked for") == ["macs<=0.5", "params<=1"]
    assert column(browser, "gate-table", "outcome") == ["failed", "passed"]
    assert column(browser, "gate-table", "measured")[0] == "1.0000"


@pytest.mark.parametrize("name", PAGES)
def test_what_a_screen_reader_needs(browser: Chrome, name: str, request: pytest.FixtureRequest) -> None:
    show(browser, request.getfixturevalue(name))
    ids = [e.get_attribute("id") for e in browser.find_elements(By.CSS_SELECTOR, "[id]")]
    assert len(ids) == len(set(ids))
    for table in browser.find_elements(By.TAG_NAME, "table"):
        assert table.find_elements(By.TAG_NAME, "caption")
        heads = table.find_elements(By.CSS_SELECTOR, "thead th")
        assert all(head.get_attribute("scope") == "col" for head in heads)
        assert all(head.find_elements(By.TAG_NAME, "button") for head in heads)
    for element in browser.find_elements(By.CSS_SELECTOR, "[role=img], [role=region]"):
        assert element.get_attribute("aria-label")
    for svg in browser.find_elements(By.TAG_NAME, "svg"):
        assert svg.get_attribute("aria-hidden") == "true"
    levels = [int(h.tag_name[1]) for h in browser.find_elements(By.CSS_SELECTOR, "h1, h2, h3, h4")]
    assert levels[0] == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels))
    targets = [a.get_attribute("href").split("#")[1] for a in browser.find_elements(By.CSS_SELECTOR, "nav a")]
    assert targets and set(targets) <= set(ids)


def test_the_search_is_shown(browser: Chrome, page: Path) -> None:
    show(browser, page)
    assert column(browser, "search-table", "of input") == ["90.0%", "70.0%", "50.0%"]
    assert column(browser, "search-table", "result") == ["", "taken", ""]


def test_the_sweep(browser: Chrome, sweep_page: Path) -> None:
    show(browser, sweep_page)
    assert column(browser, "point-table", "agreement") == ["100.00%", "98.00%", "96.00%"]
    assert column(browser, "point-table", "latency") == ["95.0%", "85.0%", "75.0%"]
    assert column(browser, "point-table", "your measure") == ["0.91", "0.9", "0.89"]
    charts = browser.find_elements(By.CSS_SELECTOR, "#tradeoff ~ figure .wide svg")
    assert len(charts) == 2  # agreement, and the user's own measure
    assert "0.3 was not reached" in browser.find_element(By.TAG_NAME, "main").text
    networks = browser.find_elements(By.TAG_NAME, "details")
    assert [len(n.find_elements(By.CSS_SELECTOR, "tbody tr")) for n in networks] == [1, 2, 3]
    networks[2].find_element(By.TAG_NAME, "summary").send_keys(Keys.ENTER)
    assert "conv2\n" in networks[2].text or "conv2 " in networks[2].text


def test_the_sensitivity_of_layers(browser: Chrome, sensitivity_page: Path) -> None:
    show(browser, sensitivity_page)
    found = graphopt.sensitivity(classifier(), samples(32), only=["bottleneck"])
    assert column(browser, "layer-table", "SQNR at 1%") == [output_sqnr(row.damage) for row in found.layers]
    names = [each.text for each in browser.find_elements(By.CSS_SELECTOR, "#layer-table tbody th")]
    assert names == [row.linear.name for row in found.layers] and len(names) > 1


# ---------------------------------------------------------------- large models, and the same again


def test_a_large_model_stays_small(browser: Chrome, result: Result, tmp_path: Path) -> None:
    """Tens of thousands of sites with long names and reasons: what does not fit is counted."""
    left = tuple(
        Left("collapse", Site("main", (f"/a/rather/long/{'x' * 60}/{i}/Conv",)), f"reason {i} " + "y" * 80)
        for i in range(20_000)
    )
    checks = result.report.checks * 3000
    large = replace(result, report=replace(result.report, rejected=left, checks=checks))
    text = html.report(large)
    assert len(text.encode()) < 2 * MEGABYTE
    show(browser, written(tmp_path, text))
    shown = column(browser, "rewrite-table", "status").count("rejected")
    counted = re.search(r"(\d+) more sites left out", browser.find_element(By.TAG_NAME, "main").text)
    assert shown > 200 and counted and shown + int(counted[1]) == len(left)


SCRIPT = """
import re, sys
sys.path.insert(0, sys.argv[1])
import graphopt
from graphopt.report import html
from tests.builders import classifier
text = html.report(graphopt.optimize(classifier()))
sys.stdout.write(re.sub(r"<dt>seconds</dt><dd>.*?</dd>", "", text))
"""


def test_the_same_again() -> None:
    """Two processes that order sets differently write the same bytes, but for the seconds."""
    pages = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT, str(ROOT)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert pages[0] == pages[1] and b"rewrite-table" in pages[0]


# ---------------------------------------------------------------- the command


def test_the_command_writes_it(tmp_path: Path) -> None:
    done = cli(
        "optimize",
        saved(conv_bn(), tmp_path / "m.onnx"),
        "-o",
        tmp_path / "o.onnx",
        "--html",
        tmp_path / "r.html",
    )
    assert done.code == 0, done.err
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>") and "<h1>m.onnx</h1>" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "o.onnx", "r.html"]


def test_a_missed_budget_is_said(tmp_path: Path) -> None:
    path = saved(classifier(), tmp_path / "m.onnx")
    done = cli(
        "optimize", path, "-o", tmp_path / "o.onnx", "--budget", "macs=0.001", "--html", tmp_path / "r.html"
    )
    assert done.code == 3 and not (tmp_path / "o.onnx").exists()
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "No model was written: the budget was not reached" in text


@pytest.mark.parametrize("target", ["m.onnx", "o.onnx", "r.json", "absent/r.html"])
def test_a_page_that_cannot_be_written(tmp_path: Path, target: str) -> None:
    path = saved(conv_bn(), tmp_path / "m.onnx")
    given = path.read_bytes()
    done = cli(
        *("optimize", path, "-o", tmp_path / "o.onnx", "--report", tmp_path / "r.json"),
        *("--html", tmp_path / target),
    )
    assert done.code == 2 and len(done.err.splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"] and path.read_bytes() == given
