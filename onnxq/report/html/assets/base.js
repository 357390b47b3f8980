// What all parts of the page use: elements, numbers as people read them, tabs, theme, copying.
// Text from a model or a user reaches the page as text alone (textContent, setAttribute), never as markup.
const PAGE = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";

/** An element: attributes as given ("on..." are listeners), children as nodes or text. */
function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}
function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}
function fill(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || (value === false && !name.startsWith("aria-"))) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true && !name.startsWith("aria-") ? "" : value);
  }
  for (const child of children.flat()) if (child !== null && child !== undefined) made.append(child);
  return made;
}
/** Names of nodes and tensors break behind their separators. */
const breakable = text => String(text).split(/(?<=[/._:])/).flatMap((piece, at) => at ? [el("wbr"), piece] : [piece]);
const byId = id => document.getElementById(id);

function number(value, digits = 4) {
  if (value === null || value === undefined) return "";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-3) return value.toExponential(Math.min(2, digits - 1)).replace("e+", "e");
  return String(Number(value.toPrecision(digits)));
}
const decibels = value => (value === null || value === undefined ? "" : value.toFixed(1));
function percent(share) {
  if (share === null || share === undefined) return "";
  if (share === 0) return "0 %";
  if (share < 1e-4) return "<0.01 %";
  return (100 * share).toFixed(share < 0.01 ? 2 : 1) + " %";
}
const range = (low, high) => low === null || high === null ? "" : `[${number(low)}, ${number(high)}]`;
const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

/** How good an SQNR is, 1 to 4: below 10 dB noise is a third of the signal, from 30 dB on it is hard to notice. */
const level = sqnr => (sqnr >= 30 ? 4 : sqnr >= 20 ? 3 : sqnr >= 10 ? 2 : 1);
const LEVELS = ["", "poor", "fair", "good", "excellent"];

/** How a layer runs, with the type of the codes that it computes on. */
function runsBadge(layer, runs, run) {
  return badge(runs, runs === "int8" ? layer.codes || run.codes : runs === "weights" ? `${layer.codes || run.stored} weights` : runs);
}
function badge(kind, text = kind) {
  return kind ? el("span", { class: `badge ${kind}` }, text) : el("span", { class: "mute" }, "–");
}
/** An SQNR with a bar: full at 50 dB. */
function gauge(sqnr, exact = false) {
  if (exact) return el("span", { class: "mute" }, "exact");
  if (sqnr === null || sqnr === undefined) return el("span", { class: "mute" }, "–");
  const bar = el("b", { class: `level-${level(sqnr)}` });
  bar.style.width = `${Math.max(4, Math.min(100, 2 * sqnr))}%`;
  return el("span", { class: "gauge", title: LEVELS[level(sqnr)] }, el("i", { "aria-hidden": "true" }, bar), decibels(sqnr));
}
/** Lines a chart up with the width it has, now and whenever that changes. */
function responsive(draw) {
  const box = el("div");
  let last = 0;
  new ResizeObserver(() => {
    const width = Math.floor(box.clientWidth);
    if (width && width !== last) { last = width; box.replaceChildren(draw(width)); }
  }).observe(box);
  return box;
}

// ---- tabs ----------------------------------------------------------------------------------------------------------
const onTab = {};
function showTab(name, focus = false) {
  const chosen = byId(`tab-${name}`);
  if (!chosen) return;
  for (const tab of document.querySelectorAll("[role=tab]")) {
    const is = tab === chosen;
    tab.setAttribute("aria-selected", is);
    tab.tabIndex = is ? 0 : -1;
    byId(tab.getAttribute("aria-controls")).hidden = !is;
  }
  document.body.dataset.tab = name;
  if (focus) chosen.focus();
  const strip = chosen.parentElement;
  strip.scrollLeft = Math.max(0, chosen.offsetLeft - (strip.clientWidth - chosen.offsetWidth) / 2);
  if (onTab[name]) onTab[name]();
  try { history.replaceState(null, "", `#${name}`); } catch { /* some viewers forbid it */ }
}
function startTabs() {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  tabs.forEach((tab, at) => {
    tab.addEventListener("click", () => showTab(tab.id.slice(4)));
    tab.addEventListener("keydown", event => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      const to = step ? tabs[(at + step + tabs.length) % tabs.length]
        : event.key === "Home" ? tabs[0] : event.key === "End" ? tabs[tabs.length - 1] : null;
      if (to) { event.preventDefault(); showTab(to.id.slice(4), true); }
    });
  });
  if (tabs.length) {
    const wanted = location.hash.slice(1).split("/")[0];
    showTab(byId(`tab-${wanted}`) ? wanted : tabs[0].id.slice(4));
  }
}
/** A panel behind a tab of its own; the tab appears with it. */
function panel(name, title, count, ...children) {
  const id = `panel-${name}`;
  byId("tabs").append(el("button", { role: "tab", id: `tab-${name}`, "aria-controls": id, type: "button" }, title,
    count === null ? null : el("span", { class: "count" }, String(count))));
  const made = el("section", { role: "tabpanel", class: "panel", id, "aria-labelledby": `tab-${name}`, hidden: true },
    ...children);
  byId("panels").append(made);
  return made;
}

// ---- theme and copying ---------------------------------------------------------------------------------------------
function startTheme() {
  const root = document.documentElement;
  const button = byId("theme");
  const show = () => { button.textContent = root.dataset.theme === "dark" ? "Light" : "Dark"; };
  button.addEventListener("click", () => {
    root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem("onnxq-theme", root.dataset.theme); } catch { /* files may have no storage */ }
    show();
  });
  show();
}
function startCopying() {
  for (const button of document.querySelectorAll(".command button")) {
    button.addEventListener("click", async () => {
      const text = button.parentElement.querySelector("code").textContent;
      try { await navigator.clipboard.writeText(text); button.textContent = "copied"; }
      catch { getSelection().selectAllChildren(button.parentElement.querySelector("code")); button.textContent = "selected"; }
      setTimeout(() => { button.textContent = "copy"; }, 1500);
    });
  }
}
