// The picture of the model: drawn from positions that the report holds; pans, zooms, selects.

const ZOOM = { least: 0.02, most: 3 };

/** graph: {nodes: [{name, op, runs, x, y}], edges: [{source, target, kind, bends}], width, height, box: [w, h]} */
function graphView(run, pick) {
  const graph = run.graph, edgeText = kind => EDGE[kind].replace("int8", run.codes);
  const [boxWidth, boxHeight] = graph.box;
  const world = svg("g");
  const art = svg("svg", { tabindex: "0", role: "application",
    "aria-label": "Graph of the model. Arrow keys move the picture, plus and minus zoom, 0 shows all, n and p go to the next and previous node, Enter opens its details." }, world);
  const view = { x: 0, y: 0, scale: 1 };
  const drawn = [];
  const pen = document.createElement("canvas").getContext("2d"), family = getComputedStyle(document.body).fontFamily;
  // The whole model as a narrow strip: where it runs in what, and which part is in view.
  const windowBox = svg("rect", { class: "window", x: 1, width: 54, y: 0, height: 0 });
  const marks = svg("g");
  const strip = svg("svg", { class: "strip", "aria-hidden": "true" }, marks, windowBox);
  function buildStrip() {
    const [, height] = size();
    marks.replaceChildren(...graph.nodes.map(node => svg("rect", { class: node.runs, x: (4 + 40 * node.x / Math.max(1, graph.width)).toFixed(1),
      y: (height * node.y / Math.max(1, graph.height) - 1).toFixed(1), width: 8, height: Math.max(1.2, Math.min(6, 0.6 * height * boxHeight / graph.height)).toFixed(1) })));
  }
  function stripTo(event) {
    const box = strip.getBoundingClientRect();
    const y = (event.clientY - box.top) / box.height * graph.height, [width, height] = size();
    const near = graph.nodes.reduce((best, node) => Math.abs(node.y - y) < Math.abs(best.y - y) ? node : best, graph.nodes[0]);
    view.y = height / 2 - y * view.scale;
    view.x = width / 2 - near.x * view.scale;
    apply();
  }
  strip.addEventListener("pointerdown", event => { strip.setPointerCapture(event.pointerId); stripTo(event); });
  strip.addEventListener("pointermove", event => { if (event.buttons) stripTo(event); });
  let selected = -1;

  function path(edge) {
    const from = graph.nodes[edge.source], to = graph.nodes[edge.target];
    const points = [[from.x, from.y + boxHeight / 2], ...edge.bends, [to.x, to.y - boxHeight / 2]];
    let d = `M${points[0][0]} ${points[0][1]}`;
    for (let at = 1; at < points.length; at++) {
      const [x0, y0] = points[at - 1], [x1, y1] = points[at], middle = (y0 + y1) / 2;
      d += Math.abs(x0 - x1) < 1 ? `L${x1} ${y1}` : `C${x0} ${middle} ${x1} ${middle} ${x1} ${y1}`;
    }
    return d;
  }
  function build() {
    const edges = svg("g"), pills = svg("g"), nodes = svg("g");
    for (const edge of graph.edges) {
      edges.append(svg("path", { class: `edge ${edge.kind}`, d: path(edge) }, svg("title", {}, `${edge.tensor}: ${edgeText(edge.kind)}`)));
      const to = graph.nodes[edge.target];
      edges.append(svg("path", { class: "arrow", d: `M${to.x - 4} ${to.y - boxHeight / 2 - 7}l4 7l4 -7z` }));
      if (edge.kind !== "quantize" && edge.kind !== "dequantize") continue;
      const from = graph.nodes[edge.source];
      const first = edge.bends[0] ?? [to.x, to.y - boxHeight / 2];
      const x = (from.x + first[0]) / 2, y = from.y + boxHeight / 2 + (edge.bends.length ? 16 : (first[1] - from.y - boxHeight / 2) / 2);
      const text = edge.kind === "quantize" ? "Q" : "DQ";
      pills.append(svg("g", { class: "pill" }, svg("rect", { x: x - 11, y: y - 8, width: 22, height: 16, rx: 8 }),
        svg("text", { x, y: y + 3.5 }, text), svg("title", {}, `${edgeText(edge.kind)}: ${edge.tensor}`)));
    }
    graph.nodes.forEach((node, at) => {
      const group = svg("g", { class: `node ${node.runs}`, transform: `translate(${node.x - boxWidth / 2} ${node.y - boxHeight / 2})` },
        svg("rect", { width: boxWidth, height: boxHeight, rx: node.runs === "input" || node.runs === "output" ? boxHeight / 2 : 8 }),
        svg("text", { class: "type", x: boxWidth / 2, y: 17 }, fitting(node.op, "650 12.5px", text => `${text.slice(0, -2)}…`)),
        svg("text", { class: "title", x: boxWidth / 2, y: 30 }, fitting(node.name, "9.5px", text => `…${text.slice(2)}`)),
        svg("title", {}, `${node.op} ${node.name}: ${node.runs}`));
      group.addEventListener("click", () => { if (!moved) { select(at, false); open(); } });
      drawn.push(group);
      nodes.append(group);
    });
    world.append(edges, pills, nodes);
  }
  /** `text`, cut until it fits into a box: an operator at its end, a name at its beginning, for its end tells more. */
  function fitting(text, font, cut) {
    pen.font = `${font} ${family}`;
    while (text.length > 2 && pen.measureText(text).width > boxWidth - 10) text = cut(text);
    return text;
  }

  function apply() {
    world.setAttribute("transform", `translate(${view.x} ${view.y}) scale(${view.scale})`);
    art.classList.toggle("far", view.scale < 0.45);
    art.classList.toggle("tiny", view.scale < 0.16);
    const [, height] = size(), part = height / Math.max(1, graph.height);
    windowBox.setAttribute("y", (-view.y / view.scale * part).toFixed(1));
    windowBox.setAttribute("height", Math.max(4, height / view.scale * part).toFixed(1));
  }
  function size() { return [art.clientWidth || 800, art.clientHeight || 500]; }
  function zoom(factor, cx = size()[0] / 2, cy = size()[1] / 2) {
    const scale = Math.max(ZOOM.least, Math.min(ZOOM.most, view.scale * factor));
    view.x = cx - (cx - view.x) * scale / view.scale;
    view.y = cy - (cy - view.y) * scale / view.scale;
    view.scale = scale;
    apply();
  }
  function fit() {
    const [width, height] = size();
    view.scale = Math.max(ZOOM.least, Math.min(1, 0.94 * width / graph.width, 0.94 * height / graph.height));
    view.x = (width - graph.width * view.scale) / 2;
    view.y = (height - graph.height * view.scale) / 2;
    apply();
  }
  /** The beginning of the model at a size that can be read. */
  function start() {
    const [width] = size();
    const first = graph.nodes[0] ?? { x: 0, y: 0 };
    view.scale = Math.max(0.7, Math.min(1, 0.94 * width / graph.width));
    view.x = graph.width * view.scale <= width ? (width - graph.width * view.scale) / 2 : width / 2 - first.x * view.scale;
    view.y = 24;
    apply();
  }
  function center(at) {
    const [width, height] = size(), node = graph.nodes[at];
    view.scale = Math.max(view.scale, 0.8);
    view.x = width / 2 - node.x * view.scale;
    view.y = height / 2 - node.y * view.scale;
    apply();
  }
  function select(at, move = true) {
    drawn[selected]?.classList.remove("selected");
    selected = at;
    drawn[at]?.classList.add("selected");
    if (move && at >= 0) center(at);
    told.textContent = at >= 0 ? `${graph.nodes[at].op} ${graph.nodes[at].name}, ${graph.nodes[at].runs}` : "";
  }
  function open() { if (selected >= 0) pick(graph.nodes[selected].name, art); }

  // ---- pointer, wheel, keys ----
  const pointers = new Map();
  let moved = false;
  art.addEventListener("pointerdown", event => { moved = false; pointers.set(event.pointerId, [event.clientX, event.clientY]); });
  art.addEventListener("pointermove", event => {
    const last = pointers.get(event.pointerId);
    if (!last) return;
    const dx = event.clientX - last[0], dy = event.clientY - last[1];
    if (!moved && Math.hypot(dx, dy) < 4) return;
    if (!moved) { moved = true; art.classList.add("dragging"); art.setPointerCapture(event.pointerId); }
    if (pointers.size === 1) { view.x += dx; view.y += dy; apply(); }
    else {
      const other = [...pointers.entries()].find(([id]) => id !== event.pointerId)[1];
      const before = Math.hypot(last[0] - other[0], last[1] - other[1]), now = Math.hypot(event.clientX - other[0], event.clientY - other[1]);
      const box = art.getBoundingClientRect();
      if (before > 0) zoom(now / before, (event.clientX + other[0]) / 2 - box.left, (event.clientY + other[1]) / 2 - box.top);
    }
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
  });
  for (const kind of ["pointerup", "pointercancel"]) {
    art.addEventListener(kind, event => { pointers.delete(event.pointerId); art.classList.remove("dragging"); });
  }
  art.addEventListener("wheel", event => {
    event.preventDefault();
    const box = art.getBoundingClientRect();
    if (event.ctrlKey || event.metaKey) zoom(Math.exp(-event.deltaY / 150), event.clientX - box.left, event.clientY - box.top);
    else { view.x -= event.deltaX; view.y -= event.deltaY; apply(); }
  }, { passive: false });
  art.addEventListener("dblclick", event => {
    const box = art.getBoundingClientRect();
    zoom(1.6, event.clientX - box.left, event.clientY - box.top);
  });
  art.addEventListener("keydown", event => {
    const step = 80, [width, height] = size();
    const actions = {
      ArrowLeft: () => { view.x += step; apply(); }, ArrowRight: () => { view.x -= step; apply(); },
      ArrowUp: () => { view.y += step; apply(); }, ArrowDown: () => { view.y -= step; apply(); },
      PageDown: () => { view.y -= height * 0.8; apply(); }, PageUp: () => { view.y += height * 0.8; apply(); },
      "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), 0: fit, Home: start,
      n: () => select((selected + 1) % graph.nodes.length), p: () => select((selected + graph.nodes.length - 1) % graph.nodes.length),
      Enter: open,
    };
    if (actions[event.key] && !event.ctrlKey && !event.metaKey && width) { event.preventDefault(); actions[event.key](); }
  });

  // ---- around the picture ----
  const told = el("span", { class: "shown", role: "status" });
  const find = el("input", { type: "search", placeholder: "Find a node  ( / )", "aria-label": "Find a node", onkeydown: event => {
    if (event.key !== "Enter") return;
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    if (!words.length) return;
    const fits = node => words.every(word => `${node.op} ${node.name}`.toLowerCase().includes(word));
    for (let step = 1; step <= graph.nodes.length; step++) {
      const at = (selected + step) % graph.nodes.length;
      if (fits(graph.nodes[at])) { select(at); return; }
    }
    told.textContent = "no node fits";
  } });
  const button = (text, label, action, wide = "") => el("button", { type: "button", class: `plain-button ${wide}`, "aria-label": label, title: label, onclick: action }, text);
  const element = el("div", {}, el("div", { class: "tools" }, find, told),
    legend([["int8", run.codes], ["fused", `fused into a neighbour in ${run.codes}`], ["weights", `float, with ${run.stored} weights`], ["float", "float"], ["other", "shapes and indices"]]
      .filter(([kind]) => graph.nodes.some(node => node.runs === kind)).map(([kind, text]) => [`var(--${kind})`, text])
      .concat(graph.edges.some(edge => edge.kind.endsWith("quantize")) ? [["var(--boundary)", `boundary: Q to ${run.codes}, DQ to float`]] : [])),
    el("div", { class: "graph" }, art, strip, el("div", { class: "over" },
      button("+", "Zoom in", () => zoom(1.25)), button("−", "Zoom out", () => zoom(0.8)), button("Top", "Beginning of the model", start, "wide"), button("Fit", "Whole model", fit, "wide"))),
    el("p", { class: "mute" }, "Drag or scroll to move, Ctrl and scroll to zoom. Keys: arrows, + and −, 0 for all, n and p from node to node, Enter for details."));
  let built = false;
  return {
    element,
    /** Draws the picture the first time it is seen. */
    show() { if (!built) { built = true; build(); buildStrip(); start(); } },
    go(name) {
      this.show();
      const at = graph.nodes.findIndex(node => node.name === name);
      if (at >= 0) { select(at); art.focus({ preventScroll: true }); }
    },
  };
}
const EDGE = { int8: "codes, int8", float: "float", other: "no float values", quantize: "quantized here, float to int8", dequantize: "dequantized here, int8 to float" };
