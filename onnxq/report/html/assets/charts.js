// Charts as inline SVG, made from the numbers of the report at the width they have on the screen.

const METHOD_COLOUR = name => `var(--m-${name})`;

/** A histogram of a tensor with the ranges that methods would choose; bars outside the range in use are clipped. */
function histogram(values, options = {}) {
  const state = { log: true }, key = el("div");
  const choices = options.choices ?? values.choices;
  const used = choices.find(choice => choice.method === "used") ?? choices[0];
  const box = responsive(width => draw(width));
  const toggle = el("button", { type: "button", class: "plain-button", "aria-pressed": true, onclick: () => {
    state.log = !state.log;
    toggle.setAttribute("aria-pressed", state.log);
    box.replaceChildren(draw(Math.floor(box.clientWidth)));
  } }, "log scale");
  function draw(width) {
    const shown = values.histogram, height = 170, lane = 13, named = choices.filter(c => c !== used);
    const total = height + 18 + (named.length + 1) * lane;
    let low = Math.min(shown.low, 0), high = Math.max(shown.low + shown.width * shown.counts.length, 0);
    if (!shown.counts.length) { low = -1; high = 1; }
    for (const c of choices) {  // a symmetric range of one-sided data may reach far beyond them: shown in part
      low = Math.min(low, Math.max(c.rmin, low - 0.35 * (high - low)));
      high = Math.max(high, Math.min(c.rmax, high + 0.35 * (high - low)));
    }
    const left = 4, right = width - 4;
    const x = value => left + (Math.max(low, Math.min(high, value)) - low) / (high - low) * (right - left);
    const scale = state.log ? count => Math.log10(1 + count) : count => count;
    const top = Math.max(1e-9, ...shown.counts.map(scale));
    const bars = svg("g", { class: "bars" });
    const marks = { moot: false, clipped: false };
    shown.counts.forEach((count, at) => {
      if (!count) return;
      const from = shown.low + at * shown.width, to = from + shown.width, middle = (from + to) / 2;
      const moot = (values.lower !== null && middle < values.lower) || (values.upper !== null && middle > values.upper);
      // What lies less than half a step outside is rounded to the last code, not clipped.
      const half = used ? (used.rmax - used.rmin) / 510 : 0;
      const clipped = !moot && used && (to < used.rmin - half || from > used.rmax + half);
      const tall = Math.max(1, (height - 12) * scale(count) / top);
      bars.append(svg("rect", { x: x(from), y: height - tall, width: Math.max(0.8, x(to) - x(from) - 0.5), height: tall,
        class: moot ? "moot" : clipped ? "clipped" : null },
      svg("title", {}, `${range(from, to)}: ${plural(count, "value")}${moot ? ", beyond what its readers tell apart" : clipped ? ", clipped" : ""}`)));
      marks.moot ||= moot; marks.clipped ||= clipped;
    });
    const art = svg("svg", { width, height: total, role: "img", class: "histogram",
      "aria-label": `Histogram from ${number(shown.low)} to ${number(shown.low + shown.width * shown.counts.length)}` });
    if (used) art.append(svg("rect", { class: "band", x: x(used.rmin), y: 0, width: Math.max(1, x(used.rmax) - x(used.rmin)), height }));
    art.append(bars, svg("line", { class: "axis", x1: left, x2: right, y1: height, y2: height }));
    if (low < 0 && high > 0) art.append(svg("line", { class: "zero", x1: x(0), x2: x(0), y1: 0, y2: height }));
    art.append(svg("text", { x: left, y: height + 12 }, number(low, 3)), svg("text", { x: right, y: height + 12, "text-anchor": "end" }, number(high, 3)));
    if (low < 0 && high > 0 && x(0) > left + 40 && x(0) < right - 40) art.append(svg("text", { x: x(0), y: height + 12, "text-anchor": "middle" }, "0"));
    [used, ...named].filter(Boolean).forEach((choice, at) => {
      const y = height + 24 + at * lane, colour = choice === used && !options.choices ? "var(--ink)" : choice.colour ?? METHOD_COLOUR(choice.method);
      for (const end of [choice.rmin, choice.rmax]) {
        art.append(svg("line", { x1: x(end), x2: x(end), y1: 4, y2: y, stroke: colour, "stroke-width": choice === used ? 1.8 : 1, "stroke-dasharray": choice === used ? null : "3 3", opacity: choice === used ? 1 : 0.75 }));
      }
      art.append(svg("line", { x1: x(choice.rmin), x2: x(choice.rmax), y1: y, y2: y, stroke: colour, "stroke-width": choice === used ? 4 : 2.5, "stroke-linecap": "round" },
        svg("title", {}, `${choice.label ?? choice.method}: ${range(choice.rmin, choice.rmax)}`)));
    });
    key.replaceChildren(legend([["var(--bar)", "inside the range in use"], ...(marks.clipped ? [["var(--bad)", "clipped"]] : []),
      ...(marks.moot ? [["var(--moot)", "cut by the graph: its readers do not tell these apart"]] : [])]));
    return art;
  }
  const counts = values.histogram.counts.reduce((sum, count) => sum + count, 0);
  const zeros = values.histogram.zeros ? `, ${percent(values.histogram.zeros / (counts + values.histogram.zeros))} of the values are exactly 0` : "";
  return el("div", {}, el("div", { class: "chart-head" },
    el("span", { class: "mute" }, `${plural(counts + values.histogram.zeros, "value")} counted${zeros}`), toggle), box, key);
}

/** What each method would do to a tensor, as a table; methods that agree with the range in use are marked. */
function methodTable(values) {
  const used = values.choices.find(choice => choice.method === "used");
  const width = used ? used.rmax - used.rmin : 0;
  const close = (a, b) => Math.abs(a - b) <= 0.005 * width;  // less than the steps that ranges are rounded to
  const best = Math.max(...values.choices.map(c => c.sqnr_db ?? -Infinity));
  return el("div", { class: "plain-table" }, el("table", {},
    el("thead", {}, el("tr", {}, ["range by", "from", "to", "clipped", "SQNR dB"].map((text, at) => el("th", { scope: "col", class: at ? "n" : null }, text)))),
    el("tbody", {}, values.choices.map(choice => {
      const isUsed = choice === used;
      const same = !isUsed && used && close(choice.rmin, used.rmin) && close(choice.rmax, used.rmax);
      const swatch = el("span", { class: "swatch", "aria-hidden": "true" });
      swatch.style.background = isUsed ? "var(--ink)" : METHOD_COLOUR(choice.method);
      return el("tr", {}, el("td", {}, swatch, " ", isUsed ? el("b", {}, "in use") : choice.method, same ? el("span", { class: "mute" }, " = in use") : null),
        el("td", { class: "n" }, number(choice.rmin)), el("td", { class: "n" }, number(choice.rmax)),
        el("td", { class: "n" }, percent(choice.clipped_share)),
        el("td", { class: "n" }, choice.sqnr_db === null ? "–" : decibels(choice.sqnr_db), choice.sqnr_db !== null && choice.sqnr_db === best && values.choices.length > 1 ? " ★" : ""));
    }))));
}

/** The scales of a weight's channels in their order. */
function channelChart(scales) {
  return responsive(width => {
    const height = 60, top = Math.max(...scales), step = (width - 8) / scales.length;
    return svg("svg", { width, height, role: "img", "aria-label": `Scales of ${scales.length} channels` },
      svg("g", { class: "bars" }, scales.map((value, at) => {
        const tall = Math.max(1, (height - 4) * value / top);
        return svg("rect", { x: 4 + at * step, y: height - tall, width: Math.max(0.6, step - (step > 3 ? 1 : 0)), height: tall },
          svg("title", {}, `channel ${at}: ${number(value)}`));
      })));
  });
}

/** A small histogram for a row of a table. */
function sparkline(values) {
  const counts = values?.histogram?.counts;
  if (!counts?.length) return el("span", { class: "mute" }, "–");
  const width = 72, height = 20, top = Math.log10(1 + Math.max(...counts)), step = width / counts.length;
  let path = "";
  counts.forEach((count, at) => {
    if (count) path += `M${(at * step).toFixed(1)} ${height}v${(-height * Math.log10(1 + count) / top).toFixed(1)}h${step.toFixed(2)}V${height}z`;
  });
  return svg("svg", { width, height, class: "mini", "aria-hidden": "true" }, svg("path", { d: path }));
}

/**
 * SQNR along the model: series of [{name, sqnr, runs}] in the order of the model, each with a colour.
 * `pick` is called with the name of a point that was clicked.
 */
function noiseChart(series, pick) {
  return responsive(width => {
    const height = 210, left = 34, right = width - 8, top = 10, bottom = height - 22;
    const all = series.flatMap(one => one.points.map(point => point.sqnr));
    const high = Math.min(80, Math.max(40, Math.ceil(Math.max(...all) / 10) * 10)), low = Math.max(-10, Math.min(0, Math.floor(Math.min(...all) / 10) * 10));
    const length = Math.max(...series.map(one => one.length));
    const x = at => left + (right - left) * (length > 1 ? at / (length - 1) : 0.5);
    const y = sqnr => bottom - (bottom - top) * (Math.max(low, Math.min(high, sqnr)) - low) / (high - low);
    const art = svg("svg", { width, height, role: "img", class: "noise", "aria-label": "SQNR of each layer's output, in the order of the model" });
    for (let tick = low; tick <= high; tick += 10) {
      art.append(svg("line", { class: "axis", x1: left, x2: right, y1: y(tick), y2: y(tick) }),
        svg("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, String(tick)));
    }
    art.append(svg("text", { x: left, y: height - 5 }, "input"), svg("text", { x: right, y: height - 5, "text-anchor": "end" }, "output"),
      svg("text", { x: (left + right) / 2, y: height - 5, "text-anchor": "middle" }, "layers in the order of the model"));
    for (const one of series) {
      art.append(svg("path", { stroke: one.colour, d: one.points.map((p, i) => `${i ? "L" : "M"}${x(p.at).toFixed(1)} ${y(p.sqnr).toFixed(1)}`).join("") }));
      for (const point of one.points) {
        art.append(svg("circle", { cx: x(point.at), cy: y(point.sqnr), r: one.points.length > 200 ? 2.2 : 3.2, fill: point.colour ?? one.colour, onclick: () => pick(point.name) },
          svg("title", {}, `${point.name}: ${decibels(point.sqnr)} dB`)));
      }
    }
    return art;
  });
}

function legend(entries) {
  return el("div", { class: "legend" }, entries.map(([colour, text]) => {
    const swatch = el("span", { class: "swatch" });
    swatch.style.background = colour;
    return el("span", {}, swatch, text);
  }));
}
