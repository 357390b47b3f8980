// The page of two runs side by side: A and B.

const A_COLOUR = "var(--m-max)", B_COLOUR = "var(--m-b)";

function startComparison(a, b) {
  const both = [a, b];
  const views = [null, null];
  const show = at => ({
    graph: name => { showTab(`graph-${"ab"[at]}`); views[at]?.go(name); if (matchMedia("(max-width: 1100px)").matches) closeDetail(); },
    row: name => { showTab("layers"); layers?.reveal(name); if (matchMedia("(max-width: 1100px)").matches) closeDetail(); },
  });
  const about = both.map((run, at) => describer(run, show(at)));
  const byNode = both.map(run => new Map(run.layers.map(layer => [layer.node, layer])));
  const byTensor = both.map(run => new Map(run.tensors.map(tensor => [tensor.name, tensor])));
  const names = (first, second) => [...new Set([...first.keys(), ...second.keys()])];
  const sides = (name, first, second) => el("div", { class: "two" },
    el("section", {}, el("h3", {}, tag("a"), " ", PAGE.names[0]), first), el("section", {}, el("h3", {}, tag("b"), " ", PAGE.names[1]), second));

  // ---- overview: noise along both models ----
  const order = names(...byNode);
  const at = new Map(order.map((name, index) => [name, index]));
  const series = both.map((run, index) => ({ colour: index ? B_COLOUR : A_COLOUR, length: order.length,
    points: run.layers.filter(layer => layer.sqnr_db !== null).map(layer => ({ name: layer.node, at: at.get(layer.node), sqnr: layer.sqnr_db })) }))
    .filter(one => one.points.length > 1);
  if (series.length) {
    byId("noise").append(noiseChart(series, openLayer), legend([[A_COLOUR, `A: ${PAGE.names[0]}`], [B_COLOUR, `B: ${PAGE.names[1]}`]]));
    byId("noise-box").hidden = false;
  }

  // ---- layers ----
  const rows = order.map(name => {
    const [one, two] = byNode.map(map => map.get(name) ?? null);
    const sqnr = [one, two].map(layer => layer?.sqnr_db ?? null);
    return { node: name, op: (one ?? two).op, one, two, runs: [one, two].map(layer => layer ? layer.executed || layer.decision : ""),
      sqnr, gain: sqnr[0] === null || sqnr[1] === null ? null : sqnr[1] - sqnr[0], why: (two ?? one).reason || (two ?? one).why };
  });
  const changed = row => row.runs[0] !== row.runs[1];
  const layers = table({
    name: "layers", unit: "layer", rows, id: row => row.node, open: (row, tr) => openLayer(row.node, tr),
    choices: [{ label: "All" }, { label: "runs differently", test: changed }, { label: "B worse", test: row => row.gain !== null && row.gain < -0.5 }, { label: "B better", test: row => row.gain !== null && row.gain > 0.5 }],
    select: { label: "any operator", of: row => row.op },
    columns: [
      { key: "node", title: "Layer", value: row => row.node, text: row => `${row.node} ${row.op}`, cell: row => el("span", {}, el("span", { class: "ident" }, breakable(row.node)), el("span", { class: "op" }, row.op)) },
      { key: "a", title: "A runs as", low: true, value: row => row.runs[0], cell: row => row.one ? runsBadge(row.one, row.runs[0], a) : badge("") },
      { key: "b", title: "B runs as", value: row => row.runs[1], cell: row => el("span", {}, row.two ? runsBadge(row.two, row.runs[1], b) : badge(""), changed(row) ? el("span", { class: "badge changed" }, "changed") : null) },
      { key: "sa", title: "A SQNR dB", number: true, low: true, up: true, value: row => row.sqnr[0], text: () => "", cell: row => gauge(row.sqnr[0], row.one?.exact) },
      { key: "sb", title: "B SQNR dB", number: true, low: true, up: true, value: row => row.sqnr[1], text: () => "", cell: row => gauge(row.sqnr[1], row.two?.exact) },
      { key: "gain", title: "B − A", number: true, up: true, hint: "More dB in B is better", value: row => row.gain, text: () => "", cell: row => delta(row.gain, "dB") },
      { key: "why", title: "Why, in B", low: true, class: "why", value: row => row.why, cell: row => el("span", { class: "clamp" }, row.why) },
    ],
  });
  panel("layers", "Layers", rows.length, layers.element);

  // ---- tensors ----
  const used = tensor => tensor?.values?.choices?.find(choice => choice.method === "used") ?? null;
  const pairs = names(...byTensor).map(name => {
    const [one, two] = byTensor.map(map => map.get(name) ?? null);
    return { name, one, two, role: (one ?? two).role, same: Boolean(one && two && one.rmin === two.rmin && one.rmax === two.rmax && one.dtype === two.dtype && one.largest_scale === two.largest_scale) };
  });
  const width = tensor => tensor ? tensor.rmax - tensor.rmin : null;
  const tensors = table({
    name: "tensors", unit: "tensor", rows: pairs, id: row => row.name, open: (row, tr) => openTensor(row.name, tr),
    choices: [{ label: "All" }, { label: "differ", test: row => !row.same }],
    select: { label: "any role", of: row => row.role },
    columns: [
      { key: "name", title: "Tensor", value: row => row.name, cell: row => el("span", { class: "ident" }, breakable(row.name)) },
      { key: "ra", title: "A range", number: true, value: row => width(row.one), text: () => "", cell: row => row.one ? range(row.one.rmin, row.one.rmax) : "–" },
      { key: "rb", title: "B range", number: true, value: row => width(row.two), text: () => "", cell: row => row.two ? range(row.two.rmin, row.two.rmax) : "–" },
      { key: "ratio", title: "Scale B / A", number: true, value: row => row.one && row.two ? row.two.largest_scale / row.one.largest_scale : null, text: () => "", cell: row => row.one && row.two ? number(row.two.largest_scale / row.one.largest_scale, 3) : "" },
      { key: "ca", title: "A clipped", number: true, low: true, value: row => used(row.one)?.clipped_share ?? null, text: () => "", cell: row => percent(used(row.one)?.clipped_share) },
      { key: "cb", title: "B clipped", number: true, low: true, value: row => used(row.two)?.clipped_share ?? null, text: () => "", cell: row => percent(used(row.two)?.clipped_share) },
      { key: "gain", title: "SQNR B − A", number: true, low: true, up: true, value: row => gainOf(row), text: () => "", cell: row => delta(gainOf(row), "dB") },
      { key: "role", title: "Role", low: true, value: row => row.role },
    ],
  });
  function gainOf(row) {
    const [x, y] = [used(row.one)?.sqnr_db ?? null, used(row.two)?.sqnr_db ?? null];
    return x === null || y === null ? null : y - x;
  }
  panel("tensors", "Tensors", pairs.length, tensors.element);
  both.forEach((run, index) => {
    if (!run.graph?.nodes.length) return;
    const letter = "ab"[index];
    views[index] = graphView(run, openLayer);
    panel(`graph-${letter}`, `Graph ${letter.toUpperCase()}`, null, views[index].element);
    onTab[`graph-${letter}`] = () => views[index].show();
  });

  // ---- details ----
  function openLayer(name, from = null) {
    const found = byNode.map(map => map.get(name) ?? null);
    layers.reveal(name);
    const outputs = found.map((layer, index) => layer ? about[index].outputOf(layer) : null);
    const side = (layer, index) => layer ? el("div", {}, facts([
      ["runs as", runsBadge(layer, layer.executed || layer.decision, both[index])], ["SQNR here", layer.exact ? "exact" : layer.sqnr_db === null ? "" : gauge(layer.sqnr_db)],
      ["lost here", lossText(about[index].lossOf(layer))], ["why", layer.reason || layer.why], ["kernel", layer.engine_op],
    ]), el("div", { class: "buttons" }, views[index] ? el("button", { type: "button", class: "plain-button", onclick: () => show(index).graph(name) }, `Show in graph ${"AB"[index]}`) : null)) : el("p", { class: "mute" }, "not in this run");
    openDetail(name, (found[0] ?? found[1])?.op ?? "", from, sides(name, side(found[0], 0), side(found[1], 1)),
      outputs[0] || outputs[1] ? part(`Output ${(outputs[0] ?? outputs[1]).name}`, ...tensorBoth(outputs)) : null);
  }
  function openTensor(name, from = null) {
    const found = byTensor.map(map => map.get(name) ?? null);
    openDetail(name, (found[0] ?? found[1]).role, from, el("section", {}, ...tensorBoth(found)));
  }
  function tensorBoth(found) {
    const text = tensor => tensor ? facts([["type", tensor.dtype], ["range", range(tensor.rmin, tensor.rmax)],
      ["scale", tensor.channels > 1 ? `${number(tensor.least_scale)} to ${number(tensor.largest_scale)}` : number(tensor.largest_scale)],
      ["range from", tensor.source], ["clipped", percent(used(tensor)?.clipped_share)], ["SQNR", used(tensor)?.sqnr_db ? `${decibels(used(tensor).sqnr_db)} dB` : ""]]) : el("p", { class: "mute" }, "not quantized in this run");
    const shown = found.find(tensor => tensor?.values?.histogram);
    const choices = found.map((tensor, index) => tensor && { method: `used by ${"AB"[index]}`, label: "AB"[index], rmin: tensor.rmin, rmax: tensor.rmax, colour: index ? B_COLOUR : A_COLOUR }).filter(Boolean);
    return [sides("", text(found[0]), text(found[1])),
      shown ? histogram(shown.values, { choices }) : null,
      shown ? legend([[A_COLOUR, "range of A"], [B_COLOUR, "range of B"]]) : null].filter(Boolean);
  }
}
function tag(letter) { return el("span", { class: `tag ${letter}` }, letter.toUpperCase()); }
/** A difference: more is better. */
function delta(value, unit) {
  if (value === null || value === undefined) return "";
  const kind = value > 0.05 ? "good" : value < -0.05 ? "bad" : "mute";
  return el("span", { class: `delta ${kind}` }, `${value > 0 ? "+" : ""}${value.toFixed(1)} ${unit}`);
}
