// The page of one run.

function startRun(run) {
  const show = {
    graph: name => { showTab("graph"); view?.go(name); if (matchMedia("(max-width: 1100px)").matches) closeDetail(); },
    row: name => { showTab("layers"); layers?.reveal(name); if (matchMedia("(max-width: 1100px)").matches) closeDetail(); },
  };
  const about = describer(run, show);
  const openLayer = (name, from) => { about.showLayer(name, from); layers?.reveal(name); };
  let layers = null, view = null;

  // ---- overview: the part that the page brings as text is there already ----
  const measured = run.layers.map((layer, at) => ({ layer, at })).filter(one => one.layer.sqnr_db !== null);
  if (measured.length > 1) {
    const points = measured.map(({ layer }, at) => ({ name: layer.node, at, sqnr: layer.sqnr_db, colour: `var(--${about.runsAs(layer) || "other"})` }));
    byId("noise").append(
      noiseChart([{ points, length: points.length, colour: "var(--bar)" }], name => openLayer(name)),
      legend([["int8", run.codes], ["fused", "fused"], ["weights", `float, ${run.stored} weights`], ["float", "float"]]
        .filter(([kind]) => measured.some(({ layer }) => about.runsAs(layer) === kind)).map(([kind, text]) => [`var(--${kind})`, text])));
    // What runs in float adds no noise of its own, though it may let the noise of its inputs show.
    const worst = run.layers.map(layer => ({ layer, loss: about.lossOf(layer) })).filter(one => one.loss > 0.5 && !["float", "other"].includes(about.runsAs(one.layer)))
      .sort((a, b) => b.loss - a.loss).slice(0, 6);
    byId("losses").append(worst.length
      ? el("div", { class: "plain-table" }, el("table", {}, el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "layer"), el("th", { scope: "col" }, "runs as"), el("th", { scope: "col", class: "n" }, "lost here"), el("th", { scope: "col", class: "n" }, "SQNR behind it"))),
        el("tbody", {}, worst.map(({ layer, loss }) => el("tr", {}, el("td", {}, linkTo(layer.node, event => openLayer(layer.node, event.target)), " ", el("span", { class: "op" }, layer.op)),
          el("td", {}, runsBadge(layer, about.runsAs(layer), run)), el("td", { class: "n" }, `${loss.toFixed(1)} dB`), el("td", { class: "n" }, gauge(layer.sqnr_db)))))))
      : el("p", { class: "mute" }, "Behind no quantized layer is the SQNR more than half a dB below that of its inputs."));
    byId("noise-box").hidden = false;
  }

  // ---- layers ----
  if (run.layers.length) {
    const total = run.layers.reduce((sum, layer) => sum + (layer.macs || 0), 0) || 1;
    const rows = run.layers.map((layer, at) => ({ ...layer, at: at + 1, tensor: about.outputOf(layer), loss: about.lossOf(layer) }));
    const has = test => rows.some(test);
    layers = table({
      name: "layers", unit: "layer", rows, id: row => row.node, open: (row, tr) => about.showLayer(row.node, tr),
      choices: [{ label: "All" }, ...["int8", "fused", "weights", "float", "other"].filter(kind => has(row => about.runsAs(row) === kind))
        .map(kind => ({ label: kind === "int8" ? run.codes : kind, test: row => about.runsAs(row) === kind })),
      ...(has(row => differs(row)) ? [{ label: "not as planned", test: row => differs(row) }] : [])],
      select: { label: "any operator", of: row => row.op },
      columns: [
        { key: "at", title: "#", number: true, low: true, up: true, value: row => row.at },
        { key: "node", title: "Layer", value: row => row.node, text: row => `${row.node} ${row.op}`,
          cell: row => el("span", {}, el("span", { class: "ident" }, breakable(row.node)), el("span", { class: "op" }, row.op)) },
        { key: "runs", title: "Runs as", value: about.runsAs,
          cell: row => el("span", {}, runsBadge(row, about.runsAs(row), run), differs(row) ? el("span", { class: "op" }, ` planned ${row.decision}`) : null) },
        { key: "sqnr", title: "SQNR dB", number: true, up: true, hint: "How far this output is from the float model's; smallest first", value: row => row.sqnr_db, text: () => "", cell: row => gauge(row.sqnr_db, row.exact) },
        { key: "loss", title: "Lost here", number: true, low: true, hint: "SQNR of its inputs less its own", value: row => row.loss, text: () => "", cell: row => lossText(row.loss) },
        { key: "range", title: "Range", number: true, low: true, value: row => row.tensor ? row.tensor.rmax - row.tensor.rmin : null, text: () => "", cell: row => row.tensor ? range(row.tensor.rmin, row.tensor.rmax) : "" },
        { key: "scale", title: "Scale", number: true, low: true, value: row => row.tensor?.largest_scale ?? null, text: () => "", cell: row => row.tensor ? number(row.tensor.largest_scale) : "" },
        { key: "method", title: "Method", low: true, value: row => about.method(row.tensor) },
        { key: "macs", title: "Arithmetic", number: true, low: true, value: row => row.macs, text: () => "", cell: row => row.macs ? percent(row.macs / total) : "" },
        { key: "why", title: "Why", low: true, class: "why", value: row => row.reason || row.why, text: row => `${row.reason} ${row.why} ${row.rule} ${row.engine_op}`,
          cell: row => el("span", { class: "clamp" }, row.rule ? el("b", {}, `${row.rule} `) : null, row.reason || row.why) },
      ].filter(column => ["at", "node", "runs", "why"].includes(column.key) || has(row => column.value(row))),
    });
    panel("layers", "Layers", rows.length, layers.element);
  }
  function differs(row) { return Boolean(row.decision && row.executed) && row.decision !== "other" && row.executed !== "other" && (row.decision === "float") !== (row.executed === "float"); }

  // ---- tensors ----
  if (run.tensors.length) {
    const rows = run.tensors.map(tensor => ({ ...tensor, used: tensor.values?.choices?.find(choice => choice.method === "used") ?? null }));
    const kinds = [...new Set(rows.map(row => row.role))].filter(Boolean);
    const tensors = table({
      name: "tensors", unit: "tensor", rows, id: row => row.name, open: (row, tr) => about.showTensor(row.name, tr),
      choices: [{ label: "All" }, ...kinds.map(kind => ({ label: kind === "int8" ? run.codes : kind, test: row => row.role === kind }))],
      columns: [
        { key: "name", title: "Tensor", value: row => row.name, cell: row => el("span", { class: "ident" }, breakable(row.name)) },
        { key: "role", title: "Role", low: true, value: row => row.role },
        { key: "dtype", title: "Type", low: true, value: row => row.dtype, cell: row => row.channels > 1 ? `${row.dtype} × ${row.channels}` : row.dtype },
        { key: "picture", title: "Values", low: true, value: row => row.values ? 1 : 0, text: () => "", cell: row => sparkline(row.values) },
        { key: "range", title: "Range", number: true, value: row => row.rmax - row.rmin, text: () => "", cell: row => range(row.rmin, row.rmax) },
        { key: "scale", title: "Scale", number: true, low: true, value: row => row.largest_scale, text: () => "", cell: row => number(row.largest_scale) },
        { key: "zero", title: "Zero-point", number: true, low: true, value: row => row.zero_point[0] ?? 0, text: () => "" },
        { key: "method", title: "Method", low: true, value: about.method },
        { key: "clipped", title: "Clipped", number: true, low: true, value: row => row.used?.clipped_share ?? null, text: () => "", cell: row => percent(row.used?.clipped_share) },
        { key: "sqnr", title: "SQNR dB", number: true, up: true, hint: "To expect of this tensor alone", value: row => row.sqnr_db ?? row.used?.sqnr_db ?? null, text: () => "", cell: row => gauge(row.sqnr_db ?? row.used?.sqnr_db) },
        { key: "source", title: "Range from", low: true, value: row => row.source },
      ].filter(column => !["picture", "clipped", "sqnr"].includes(column.key) || rows.some(row => column.value(row))),
    });
    panel("tensors", "Tensors", rows.length, tensors.element);
  }
  if (PAGE.sensitivity ?? run.sensitivity) sensitivityPanel(PAGE.sensitivity ?? run.sensitivity, about, openLayer);
  if (PAGE.evaluation) evaluationPanel(PAGE.evaluation);
  if (run.graph?.nodes.length) {
    view = graphView(run, openLayer);
    panel("graph", "Graph", null, view.element);
    onTab.graph = () => view.show();
  }
}

/** Layers by how much each alone moves the outputs. */
function sensitivityPanel(found, about = null, openLayer = null) {
  const rows = found.layers;
  const noise = row => row.equal ? 0 : row.sqnr_db === null ? 60 : Math.max(0, Math.min(60, 60 - row.sqnr_db));
  const made = table({
    name: "sensitivity", unit: "layer", rows, id: row => row.node,
    open: openLayer ? (row, tr) => openLayer(row.node, tr) : null,
    columns: [
      { key: "rank", title: "#", number: true, up: true, value: row => row.rank },
      { key: "node", title: "Layer", value: row => row.node, text: row => `${row.node} ${row.op}`, cell: row => el("span", {}, el("span", { class: "ident" }, breakable(row.node)), el("span", { class: "op" }, row.op)) },
      { key: "noise", title: "Noise at the outputs", value: noise, text: () => "", cell: row => {
        const bar = el("span", { class: `level-${row.equal ? 4 : level(row.sqnr_db ?? -99)}` });
        bar.style.width = `${100 * noise(row) / 60}%`;
        const meter = el("span", { class: "meter" }, bar);
        meter.style.minWidth = "6rem";
        return meter;
      } },
      { key: "sqnr", title: "SQNR dB", number: true, up: true, value: row => row.equal ? 999 : row.sqnr_db, text: () => "", cell: row => row.equal ? "exact" : decibels(row.sqnr_db) },
      { key: "cosine", title: "Cosine", number: true, low: true, up: true, value: row => row.cosine, text: () => "", cell: row => row.cosine.toFixed(5) },
      { key: "kl", title: "KL", number: true, low: true, value: row => row.kl, text: () => "", cell: row => number(row.kl, 2) },
      { key: "macs", title: "MACs", number: true, low: true, value: row => row.macs, text: () => "", cell: row => row.macs ? row.macs.toLocaleString("en") : "" },
      { key: "weights", title: "Weights", number: true, low: true, value: row => row.weights, text: () => "", cell: row => row.weights.toLocaleString("en") },
    ].filter(column => column.key !== "kl" || rows.some(row => row.kl !== null)),
  });
  const what = found.quantize === "only" ? "noise at the model's outputs with this one layer quantized and all others in float" : "noise at the model's outputs with all layers quantized but this one";
  const worst = rows.slice(0, 3).map(row => `--exclude '${row.node}'`).join(" ");
  panel("sensitivity", "Sensitivity", rows.length,
    el("p", { class: "mute" }, `${what}; ${plural(found.samples, "sample")}, target ${found.target}, mode ${found.mode}, method ${found.method}. The first layers hurt most.`),
    found.quantize === "only" && rows.length > 3 ? el("div", { class: "box" }, el("h2", {}, "To keep the three that hurt most in float"), command(worst)) : null,
    made.element);
}

/** Scores on labelled data. */
function evaluationPanel(found) {
  const text = (value, sign = false) => value === null ? "–" : (sign && value > 0 ? "+" : "") + (found.unit === "%" ? `${(100 * value).toFixed(2)} %` : `${value.toFixed(2)} ${found.unit}`);
  panel("evaluation", "Accuracy", null, el("div", { class: "box" },
    el("h2", {}, `${found.metric} on ${plural(found.samples, "sample")}`),
    el("div", { class: "plain-table" }, el("table", {}, el("thead", {}, el("tr", {}, ["model", found.metric, "95 % interval"].map((t, at) => el("th", { scope: "col", class: at ? "n" : null }, t)))),
      el("tbody", {}, found.models.map(model => el("tr", {}, el("td", {}, model.name), el("td", { class: "n" }, text(model.score)), el("td", { class: "n" }, model.low === null && model.high === null ? "" : `${text(model.low)} to ${text(model.high)}`)))))),
    el("ul", {}, found.comparisons.map(one => el("li", {}, `${one.candidate} against ${one.baseline}: ${text(one.difference, true)} (${one.low === null && one.high === null ? "no interval" : `${text(one.low, true)} to ${text(one.high, true)}`}), ${one.verdict}${one.p_value === null ? "" : `, p = ${number(one.p_value, 2)} (${one.test})`}`))),
    [...found.warnings, ...found.notes].map(line => el("p", { class: "mute" }, line))));
}
