"""What a person does with a report: opens it, sorts, filters, finds a tensor, looks at histograms and at the graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import onnxq
from onnxq.report.html.run_page import render_run
from tests.browser.conftest import MODELS, NARROW, Browser, Write

pytestmark = pytest.mark.slow  # some ten seconds, and a browser

ROWS = "#panel-{0} tbody tr"
UNKNOWN = ("\N{EN DASH}", "exact")
NAMES = "#panel-{0} tbody tr .ident"


def test_it_opens_with_the_verdict_and_no_complaints(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.texts("h1")[0].startswith("Passed: 5 checks")
    assert len(browser.texts(".card")) == 5
    assert browser.texts("[role=tab][aria-selected=true]") == ["Overview"]
    browser.wait("document.querySelectorAll('#noise circle').length > 5")
    for name in ("layers", "tensors", "sensitivity", "graph"):
        browser.click(f"#tab-{name}")
        assert browser.js(f"return document.querySelector('#panel-{name}').offsetHeight") > 200
    assert browser.errors == []


def test_tables_sort_both_ways_and_keep_unknown_values_last(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.click("#tab-layers")
    at = browser.texts("#panel-layers thead th").index("SQNR dB")
    for expected in ("ascending", "descending"):
        browser.click("#panel-layers thead th button", at)
        cells = browser.texts(f"#panel-layers tbody td:nth-child({at + 1})")
        values = [float(cell) for cell in cells if cell not in UNKNOWN]
        assert len(values) > 5
        assert values == sorted(values, reverse=expected == "descending")
        assert cells[: len(values)] == [c for c in cells if c not in UNKNOWN]
        assert browser.js(
            "return document.querySelectorAll('#panel-layers thead th')[arguments[0]].getAttribute('aria-sort')", at
        ) == expected  # fmt: skip
    assert browser.errors == []


def test_tables_filter_and_search(browser: Browser, page: Path, reports: tuple[dict[str, Any], Any]) -> None:
    browser.open(page)
    browser.click("#tab-layers")
    rows = reports[0]["layers"]
    assert len(browser.texts(ROWS.format("layers"))) == len(rows)
    choices = browser.texts("#panel-layers .tools button")
    browser.click("#panel-layers .tools button", choices.index("fused"))
    assert len(browser.texts(ROWS.format("layers"))) == sum(row["executed"] == "fused" for row in rows)
    browser.click("#panel-layers .tools button", choices.index("All"))
    browser.type("#panel-layers input[type=search]", "conv")
    found = browser.texts(ROWS.format("layers"))
    # What the engine made of a node is found as well, though the table does not show it: a Relu in a FusedConv.
    searched = ("node", "op", "reason", "why", "rule", "engine_op")
    expected = [row for row in rows if any("conv" in str(row[field]).lower() for field in searched)]
    assert 0 < len(found) < len(rows)
    assert len(found) == len(expected)
    assert browser.texts("#panel-layers .shown") == [f"{len(found)} of {len(rows)}"]
    browser.type("#panel-layers input[type=search]", "there is no such layer")
    assert browser.texts(ROWS.format("layers")) == []
    browser.click("#panel-layers .empty button")
    assert len(browser.texts(ROWS.format("layers"))) == len(rows)


def test_a_tensor_is_found_and_shows_its_histogram(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.click("#tab-tensors")
    first = browser.texts(NAMES.format("tensors"))[0]
    browser.type("#panel-tensors input[type=search]", first)
    browser.click(ROWS.format("tensors"))
    assert browser.texts("#detail h2") == [first]
    browser.wait("document.querySelectorAll('#detail .histogram .bars rect').length > 10")
    methods = browser.texts("#detail .plain-table tbody tr td:first-child")
    assert [text.split(" =")[0].strip() for text in methods] == [
        "in use", "auto", "entropy", "max", "mse", "percentile",
    ]  # fmt: skip
    before = browser.js("return document.querySelector('#detail .histogram').outerHTML")
    browser.click("#detail .chart-head button")
    assert browser.js("return document.querySelector('#detail .histogram').outerHTML") != before
    assert browser.errors == []


def test_keys_do_all_that_the_mouse_does(browser: Browser, page: Path) -> None:
    from selenium.webdriver.common.keys import Keys  # noqa: PLC0415 - skipped without selenium

    browser.open(page)
    browser.js("document.querySelector('#tab-overview').focus()")
    browser.press(Keys.ARROW_RIGHT)
    assert browser.texts("[role=tab][aria-selected=true]")[0].startswith("Layers")
    browser.press("/")
    assert browser.js("return document.activeElement.type") == "search"
    browser.js("document.querySelector('#panel-layers tbody tr[tabindex=\"0\"]').focus()")
    browser.press(Keys.ARROW_DOWN)
    second = browser.texts(NAMES.format("layers"))[1]
    browser.press(Keys.ENTER)
    assert browser.texts("#detail h2") == [second]
    browser.press(Keys.ESCAPE)
    assert browser.texts("#detail h2") == []
    # The focus is back where it was, so that arrows go on from there.
    assert browser.js("return document.activeElement.tagName") == "TR"
    browser.click("#tab-graph")
    browser.js("document.querySelector('.graph svg[tabindex]').focus()")
    before = browser.js("return document.querySelector('.graph svg[tabindex] > g').getAttribute('transform')")
    browser.press("+")
    browser.press(Keys.ARROW_DOWN)
    assert browser.js("return document.querySelector('.graph svg[tabindex] > g').getAttribute('transform')") != before
    browser.press("n")
    browser.press("n")
    browser.press(Keys.ENTER)
    assert len(browser.texts("#detail h2")) == 1
    assert browser.errors == []


def test_a_click_on_a_node_opens_its_row(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.click("#tab-graph")
    node = browser.js("return document.querySelector('.node.int8 title').textContent").split(": ")[0]
    browser.click(".node.int8")
    op, name = node.split(" ", 1)
    assert browser.texts("#detail h2") == [name]
    browser.click("#detail .buttons button", browser.texts("#detail .buttons button").index("Show in table"))
    assert browser.texts("#panel-layers tr[aria-selected=true] .ident") == [name]
    assert op in browser.texts("#panel-layers tr[aria-selected=true]")[0]
    assert browser.errors == []


def test_labels_of_the_graph_fit_their_boxes(
    browser: Browser, reports: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path
) -> None:
    """Operators are cut at their end, names at their beginning."""
    operator = "SkipLayerNormalization"
    nodes = [
        {**node, "op": operator, "name": f"/{'W' * 40}/{i}"} for i, node in enumerate(reports[0]["graph"]["nodes"])
    ]
    page = tmp_path / "long.html"
    page.write_text(render_run({**reports[0], "graph": {**reports[0]["graph"], "nodes": nodes}}), encoding="utf-8")
    browser.open(page)
    browser.click("#tab-graph")
    shown = browser.js("return [...document.querySelectorAll('.node .type')].map(one => one.textContent)")
    (cut,) = set(shown)
    assert cut in {operator, *(f"{operator[:n]}…" for n in range(9, len(operator)))}
    room = browser.js(
        "return [...document.querySelectorAll('.node')].map(one => one.querySelector('rect').getBBox().width"
        " - Math.max(...[...one.querySelectorAll('text')].map(text => text.getBBox().width)))"
    )
    assert min(room) > 0
    assert browser.errors == []


def test_the_graph_pans_and_zooms(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.click("#tab-graph")

    def transform() -> str:
        return str(browser.js("return document.querySelector('.graph svg[tabindex] > g').getAttribute('transform')"))

    seen = [transform()]
    for label in ("Zoom in", "Zoom out", "Whole model", "Beginning of the model"):
        browser.click(f"[aria-label='{label}']")
        seen.append(transform())
    assert [place == seen[0] for place in seen] == [True, False, True, False, True]
    wheel = (
        "document.querySelector('.graph svg[tabindex]')"
        ".dispatchEvent(new WheelEvent('wheel', {deltaY: 100, ctrlKey: arguments[0]}))"
    )
    for control in (False, True):
        before = transform()
        browser.js(wheel, control)
        assert transform() != before
    browser.type("#panel-graph input", "Gemm\n")
    assert "Gemm" in browser.js("return document.querySelector('.node.selected title').textContent")
    assert browser.errors == []


CONTRAST = """
const style = getComputedStyle(document.documentElement);
const pen = document.createElement('canvas').getContext('2d');
const rgb = name => {
  pen.fillStyle = style.getPropertyValue(name).trim();
  return [1, 3, 5].map(at => parseInt(pen.fillStyle.slice(at, at + 2), 16) / 255);
};
const light = name => {
  const [r, g, b] = rgb(name).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ratio = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
const soft = ['int8', 'fused', 'float', 'other', 'boundary', 'good', 'warn', 'bad', 'accent'];
const pairs = [['--ink', '--paper'], ['--ink', '--card'], ['--mute', '--card'], ['--mute', '--soft'],
  ['--mute', '--paper'], ['--accent', '--card'], ['--bad', '--card'], ...soft.map(n => ['--' + n, '--' + n + '-soft'])];
return Object.fromEntries(pairs.map(([a, b]) => [a + ' on ' + b, ratio(a, b)]));
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_on_a_telephone(browser: Browser, page: Path, scheme: str) -> None:
    browser.size(*NARROW)
    browser.scheme(scheme)
    browser.open(page)
    assert browser.js("return document.documentElement.dataset.theme") == scheme
    for name in ("overview", "layers", "tensors", "sensitivity", "graph"):
        browser.js(f"document.querySelector('#tab-{name}').click()")
        assert browser.js("return document.documentElement.scrollWidth") <= NARROW[0]
    small = browser.js(
        "return [...document.querySelectorAll('td, p, h1, h2, button, dd')].filter(e => e.offsetParent)"
        ".map(e => parseFloat(getComputedStyle(e).fontSize)).filter(size => size < 12).length"
    )
    assert small == 0
    assert browser.errors == []


def test_colours_have_contrast_in_both_themes(browser: Browser, page: Path) -> None:
    """WCAG 2.2 asks for 4.5 to 1 for text."""
    for scheme in ("light", "dark"):
        browser.scheme(scheme)
        browser.open(page)
        found = browser.js(CONTRAST)
        assert {name: ratio for name, ratio in found.items() if ratio < 4.5} == {}
        assert len(found) == 16


def test_the_theme_can_be_changed(browser: Browser, page: Path) -> None:
    browser.open(page)
    before = browser.js("return getComputedStyle(document.body).backgroundColor")
    browser.click("#theme")
    assert browser.js("return getComputedStyle(document.body).backgroundColor") != before
    browser.click("#theme")
    assert browser.js("return getComputedStyle(document.body).backgroundColor") == before


def test_two_runs_side_by_side(browser: Browser, comparison: Path) -> None:
    browser.open(comparison)
    assert "auto" in browser.texts(".name")[0]
    assert [text.split()[0] for text in browser.texts("thead .tag")] == ["A", "B"]
    browser.click("#tab-layers")
    browser.click("#panel-layers .tools button", browser.texts("#panel-layers .tools button").index("runs differently"))
    changed = browser.texts(ROWS.format("layers"))
    assert len(changed) >= 1
    assert all("changed" in text for text in changed)
    browser.click(ROWS.format("layers"))
    assert len(browser.texts("#detail h3")) >= 2
    browser.click("#detail .close")
    browser.click("#tab-tensors")
    browser.click("#panel-tensors .tools button", browser.texts("#panel-tensors .tools button").index("differ"))
    browser.click(ROWS.format("tensors"))
    browser.wait("document.querySelectorAll('#detail .histogram .bars rect').length > 10")
    browser.click("#detail .close")
    browser.click("#tab-graph-b")
    assert browser.js("return document.querySelectorAll('#panel-graph-b .node').length") > 10
    assert browser.errors == []


def test_a_ranking_alone(browser: Browser, ranking_page: Path, ranking: dict[str, Any]) -> None:
    browser.open(ranking_page)
    assert len(browser.texts(ROWS.format("sensitivity"))) == len(ranking["layers"])
    assert browser.texts(NAMES.format("sensitivity"))[0] == ranking["layers"][0]["node"]
    assert browser.errors == []


def large_report(report: dict[str, Any], copies: int) -> dict[str, Any]:
    """The report of a model of `copies` times as many layers, one after the other."""
    layers, tensors, nodes, edges = [], [], [], []
    count = len(report["graph"]["nodes"])
    for i in range(copies):
        layers += [{**row, "node": f"{row['node']}/{i}"} for row in report["layers"]]
        tensors += [
            {**row, "name": f"{row['name']}/{i}", "writer": f"{row['writer']}/{i}"} for row in report["tensors"]
        ]
        nodes += [{**node, "name": f"{node['name']}/{i}"} for node in report["graph"]["nodes"]]
        edges += [{**e, "source": e["source"] + i * count, "target": e["target"] + i * count}
                  for e in report["graph"]["edges"]]  # fmt: skip
        edges += [{"source": i * count - 1, "target": i * count, "tensor": "t", "kind": "int8"}] if i else []
    return {**report, "layers": layers, "tensors": tensors, "graph": {"nodes": nodes, "edges": edges}}


def test_a_thousand_nodes(browser: Browser, reports: tuple[dict[str, Any], Any], write: Write) -> None:
    copies = -(-1000 // len(reports[0]["layers"]))
    page = write(render_run(large_report(reports[0], copies)))
    assert page.stat().st_size < 5_000_000
    browser.open(page)
    browser.click("#tab-layers")
    assert len(browser.texts(ROWS.format("layers"))) >= 1000
    browser.click("#tab-graph")
    assert browser.js("return document.querySelectorAll('.node').length") >= 1000
    browser.click("[aria-label='Whole model']")
    browser.type("#panel-graph input", f"Gemm /{copies - 1}\n")
    browser.click(".node.selected")
    assert browser.texts("#detail h2")[0].endswith(f"/{copies - 1}")
    assert browser.errors == []


def test_without_scripts_the_verdict_is_there(
    browser: Browser, page: Path, reports: tuple[dict[str, Any], Any], write: Write
) -> None:
    text = page.read_text().replace("<script>", '<script type="off">')
    write(text)
    browser.driver.get(page.as_uri())
    assert browser.texts("h1")[0].startswith("Passed")
    assert "What to do next" in browser.texts("h2")


@pytest.mark.parametrize(
    ("arguments", "badge", "card"),
    [
        ({"mode": "dynamic"}, "int8", "in int8"),
        ({"mode": "weight-only"}, "int4 weights", "int4 weights"),
        ({"mode": "static", "target": "tensorrt", "activations": "fp8", "limit": 8}, "fp8", "in fp8"),
    ],
    ids=["dynamic", "weight-only", "fp8"],
)
def test_other_modes_and_types_are_called_by_their_names(
    browser: Browser, write: Write, arguments: dict[str, Any], badge: str, card: str
) -> None:
    name = "wordlang_transformer" if arguments["mode"] != "static" else "digits_resnet"
    options = {"target": "ort-x64-vnni", **arguments}
    result = onnxq.quantize(MODELS / f"{name}.onnx", MODELS / f"{name}.calib.npz", details=True, **options)
    browser.open(write(result.report.to_html()))
    assert card in browser.texts(".card .label")
    for tab in ("layers", "tensors", "graph"):
        browser.click(f"#tab-{tab}")
    browser.click("#tab-layers")
    assert badge in browser.texts("#panel-layers .badge")
    if badge != "int8":
        assert "int8" not in browser.texts("#panel-layers .badge")
    assert browser.errors == []
