// The panel at the side: all that is known of one layer or one tensor.

const DETAIL = { from: null, show: null };

function openDetail(title, subtitle, from, ...content) {
  const aside = byId("detail");
  if (from) DETAIL.from = from;
  const heading = el("h2", { tabindex: "-1", id: "detail-title" }, breakable(title));
  aside.replaceChildren(
    el("header", {}, heading, el("div", { class: "mute" }, subtitle),
      el("button", { type: "button", class: "plain-button close", "aria-label": "Close details", onclick: closeDetail }, "✕")),
    ...content.filter(Boolean));
  aside.hidden = false;
  aside.scrollTop = 0;
  heading.focus({ preventScroll: true });
}
function closeDetail() {
  byId("detail").hidden = true;
  DETAIL.from?.focus?.({ preventScroll: true });
}
function startDetail() {
  document.addEventListener("keydown", event => { if (event.key === "Escape" && !byId("detail").hidden) closeDetail(); });
}
function part(title, ...content) { return el("section", {}, el("h3", {}, title), ...content); }
function facts(pairs) {
  return el("dl", { class: "facts" }, pairs.filter(([, value]) => value !== "" && value !== null && value !== undefined)
    .flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}
function linkTo(text, action) { return el("button", { type: "button", class: "linkish", onclick: action }, breakable(text)); }

/** Looks up layers and tensors of one run, and describes them. */
function describer(run, show) {
  const layers = new Map(run.layers.map(layer => [layer.node, layer]));
  const tensors = new Map(run.tensors.map(tensor => [tensor.name, tensor]));
  const written = new Map(), read = new Map();
  for (const tensor of run.tensors) {
    if (tensor.writer) written.set(tensor.writer, tensor);
    for (const node of tensor.readers) read.set(node, [...(read.get(node) ?? []), tensor]);
  }
  const after = new Map(), before = new Map();
  for (const edge of run.graph?.edges ?? []) {
    const [source, target] = [run.graph.nodes[edge.source].name, run.graph.nodes[edge.target].name];
    after.set(source, [...(after.get(source) ?? []), target]);
    before.set(target, [...(before.get(target) ?? []), source]);
  }
  const runsAs = layer => layer.executed || layer.decision;

  /** The quantized tensor that a layer ends in: its own output, or that of what is fused into it. */
  function outputOf(layer) {
    let node = layer.node;
    for (let step = 0; step < 8; step++) {
      if (written.has(node)) return written.get(node);
      const next = (after.get(node) ?? []).filter(name => layers.has(name) && runsAs(layers.get(name)) === "fused");
      if (next.length !== 1) return null;
      node = next[0];
    }
    return null;
  }
  /** What a layer itself loses: the smallest SQNR of what it reads, less its own. */
  function lossOf(layer) {
    if (layer.sqnr_db === null) return null;
    const inputs = (before.get(layer.node) ?? []).map(name => layers.get(name)).filter(one => one && one.sqnr_db !== null);
    return inputs.length ? Math.min(...inputs.map(one => one.sqnr_db)) - layer.sqnr_db : null;
  }
  function method(tensor) {
    if (!tensor) return "";
    if (tensor.role === "weight" || tensor.role === "constant") return "values";
    if (/^observed/.test(tensor.source)) {
      const own = tensor.source.match(/method (.+)$/);
      return own ? own[1] : run.method ?? "observed";
    }
    return tensor.source.split(" ")[0];
  }
  function showLayer(name, from = null) {
    const layer = layers.get(name);
    if (!layer) return;
    const output = outputOf(layer), inputs = read.get(name) ?? [];
    const planned = layer.decision && layer.executed && layer.decision !== layer.executed && layer.executed !== "other";
    openDetail(name, layer.op, from,
      el("section", {}, facts([
        ["runs as", el("span", {}, runsBadge(layer, runsAs(layer), run), layer.engine_op ? el("span", { class: "mute" }, `  kernel ${layer.engine_op}`) : null)],
        ["planned", planned ? runsBadge(layer, layer.decision, run) : ""],
        ["why", [layer.reason, layer.why].filter(Boolean).filter((text, at, all) => all.indexOf(text) === at).join("; ")],
        ["rule", layer.rule ? `${layer.rule} (docs/targets.md)` : ""],
        ["SQNR here", layer.exact ? "exact" : layer.sqnr_db === null ? "" : gauge(layer.sqnr_db)],
        ["lost here", lossText(lossOf(layer))],
        ["arithmetic", layer.macs ? `${layer.macs.toLocaleString("en")} MACs, ${percent(layer.macs / totalMacs)} of the model` : ""],
      ]), el("div", { class: "buttons" },
        run.graph ? el("button", { type: "button", class: "plain-button", onclick: () => show.graph(name) }, "Show in graph") : null,
        el("button", { type: "button", class: "plain-button", onclick: () => show.row(name) }, "Show in table"),
        runsAs(layer) === "int8" ? copyButton(`--exclude '${name}'`, "Copy --exclude") : null)),
      output ? tensorPart(`Output ${output.name}`, output) : null,
      ...inputs.map(tensor => tensorPart(`${tensor.role === "weight" ? "Weight" : tensor.role === "bias" ? "Bias" : "Input"} ${tensor.name}`, tensor, true)),
      neighbours("Comes from", before.get(name)), neighbours("Goes to", after.get(name)));
  }
  const totalMacs = run.layers.reduce((sum, layer) => sum + (layer.macs || 0), 0) || 1;
  function neighbours(title, names) {
    const known = [...new Set(names ?? [])].filter(name => layers.has(name));
    return known.length ? part(title, el("div", {}, known.map(name => el("div", {}, linkTo(name, () => showLayer(name)), " ", el("span", { class: "op" }, layers.get(name).op))))) : null;
  }
  function tensorPart(title, tensor, folded = false) {
    const content = tensorContent(tensor);
    if (!folded) return part(title, ...content);
    return el("section", {}, el("details", { open: tensor.role === "weight" ? null : true }, el("summary", {}, el("b", {}, title)), ...content));
  }
  function tensorContent(tensor) {
    const perChannel = tensor.channels > 1;
    return [
      facts([
        ["type", `${tensor.dtype}${tensor.axis === null ? "" : tensor.block_size ? `, blocks of ${tensor.block_size} along axis ${tensor.axis}` : `, ${tensor.channels} channels along axis ${tensor.axis}`}`],
        ["range", range(tensor.rmin, tensor.rmax)],
        ["scale", perChannel ? `${number(tensor.least_scale)} to ${number(tensor.largest_scale)}` : number(tensor.scale[0], 6)],
        ["zero-point", [...new Set(tensor.zero_point)].slice(0, 4).join(", ")],
        ["range from", tensor.source],
        ["codes by", tensor.rounding],
        ["SQNR", tensor.sqnr_db === null ? "" : `${decibels(tensor.sqnr_db)} dB`],
        ["shares with", tensor.group ?? ""],
      ]),
      tensor.values?.histogram ? histogram(tensor.values) : null,
      tensor.values?.choices?.length ? methodTable(tensor.values) : null,
      perChannel ? el("div", {}, el("div", { class: "mute chart-head" }, "Scale of each channel"), channelChart(tensor.scale)) : null,
    ].filter(Boolean);
  }
  function showTensor(name, from = null) {
    const tensor = tensors.get(name);
    if (!tensor) return;
    openDetail(name, `${tensor.role || "tensor"}, ${tensor.dtype}`, from,
      el("section", {}, ...tensorContent(tensor)),
      tensor.writer && layers.has(tensor.writer) ? part("Computed by", linkTo(tensor.writer, () => showLayer(tensor.writer))) : null,
      tensor.readers.length ? part("Read by", el("div", {}, tensor.readers.map(node => el("div", {}, layers.has(node) ? linkTo(node, () => showLayer(node)) : node)))) : null,
      part("Change it", el("p", { class: "mute" }, "Fix its range, or choose another method for it alone:"),
        command(`--override 'tensors = "${name}", method = "max"'`)));
  }
  return { layers, tensors, outputOf, lossOf, method, runsAs, showLayer, showTensor };
}
function lossText(loss) {
  if (loss === null || loss === undefined) return "";
  return loss > 0.05 ? `${loss.toFixed(1)} dB` : "nothing";
}
function copyButton(text, label) {
  const button = el("button", { type: "button", class: "plain-button", title: text, onclick: async () => {
    try { await navigator.clipboard.writeText(text); button.textContent = "Copied"; } catch { prompt("Copy:", text); }
    setTimeout(() => { button.textContent = label; }, 1500);
  } }, label);
  return button;
}
function command(text) {
  const line = el("div", { class: "command" }, el("code", {}, text), el("button", { type: "button" }, "copy"));
  line.querySelector("button").addEventListener("click", async event => {
    try { await navigator.clipboard.writeText(text); event.target.textContent = "copied"; } catch { event.target.textContent = "select it"; }
    setTimeout(() => { event.target.textContent = "copy"; }, 1500);
  });
  return line;
}
