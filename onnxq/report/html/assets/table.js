// A table that sorts, filters and searches, and whose rows open.

/**
 * columns: {key, title, number, low (hidden on small screens), value(row) to sort by, text(row) to search, cell(row), up}
 * options: {name, rows, columns, open(row), id(row), choices: [{label, test}], select: {label, of(row)}, sort: [key, up]}
 */
function table(options) {
  const { rows, columns } = options;
  const body = el("tbody");
  const heads = columns.map(column => el("th", { scope: "col", class: classes(column) },
    el("button", { type: "button", title: column.hint ?? null, onclick: () => sortBy(column) }, column.title)));
  const shown = el("span", { class: "shown", role: "status" });
  const search = el("input", { type: "search", placeholder: "Search  ( / )", "aria-label": `Search ${options.name}`,
    oninput: () => filter() });
  const state = { choice: 0, selected: "", rows: new Map() };
  const lines = rows.map(row => ({ row, text: columns.map(c => c.text ? c.text(row) : c.value(row) ?? "").join(" ").toLowerCase(), tr: null }));

  function classes(column) { return [column.number && "n", column.low && "low", column.class].filter(Boolean).join(" ") || null; }
  function line(entry) {
    const tr = el("tr", { class: options.open ? "open" : null, tabindex: options.open ? "-1" : null },
      columns.map(column => el("td", { class: classes(column) }, column.cell ? column.cell(entry.row) : String(column.value(entry.row) ?? ""))));
    if (options.open) {
      tr.addEventListener("click", event => { if (!event.target.closest("a, button")) open(entry, tr); });
      tr.addEventListener("keydown", event => {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); open(entry, tr); }
        const to = { ArrowDown: next(tr, "nextElementSibling"), ArrowUp: next(tr, "previousElementSibling") }[event.key];
        if (to) { event.preventDefault(); rove(to); to.focus(); }
      });
    }
    return tr;
  }
  function next(tr, way) { let to = tr[way]; while (to && to.hidden) to = to[way]; return to; }
  function rove(tr) { for (const one of body.querySelectorAll("tr[tabindex='0']")) one.tabIndex = -1; tr.tabIndex = 0; }
  function open(entry, tr) { mark(entry); options.open(entry.row, tr); }
  function mark(entry) {
    for (const one of body.querySelectorAll("tr[aria-selected]")) one.removeAttribute("aria-selected");
    entry.tr.setAttribute("aria-selected", "true");
    rove(entry.tr);
  }
  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const test = options.choices?.[state.choice]?.test;
    let count = 0;
    for (const entry of lines) {
      const fits = words.every(word => entry.text.includes(word)) && (!test || test(entry.row))
        && (!state.selected || options.select.of(entry.row) === state.selected);
      entry.tr.hidden = !fits;
      count += fits;
    }
    shown.textContent = count === rows.length ? plural(count, options.unit ?? "row") : `${count} of ${rows.length}`;
    none.hidden = count > 0;
    const first = body.querySelector("tr:not([hidden])");
    if (first && options.open) rove(first);
  }
  function sortBy(column, up = null) {
    const head = heads[columns.indexOf(column)];
    const now = head.getAttribute("aria-sort");
    const ascending = up ?? (now ? now !== "ascending" : column.up ?? !column.number);
    for (const one of heads) one.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const order = (a, b) => {
      const x = column.value(a.row), y = column.value(b.row);
      const [noX, noY] = [x, y].map(v => v === null || v === undefined || v === "");
      if (noX || noY) return noX - noY;  // what is not known comes last, whichever way
      const sign = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true });
      return ascending ? sign : -sign;
    };
    lines.sort(order);
    body.append(...lines.map(entry => entry.tr));
  }
  for (const entry of lines) {
    entry.tr = line(entry);
    if (options.id) state.rows.set(options.id(entry.row), entry);
  }
  body.append(...lines.map(entry => entry.tr));
  const none = el("div", { class: "empty", hidden: true }, "Nothing fits. ",
    el("button", { type: "button", class: "plain-button", onclick: () => reset() }, "Show all"));
  const choices = (options.choices ?? []).map((choice, at) => el("button", {
    type: "button", class: "plain-button", "aria-pressed": at === 0, onclick: () => choose(at) }, choice.label));
  function choose(at) {
    state.choice = at;
    choices.forEach((button, i) => button.setAttribute("aria-pressed", i === at));
    filter();
  }
  function reset() { search.value = ""; state.selected = ""; if (select) select.value = ""; if (choices.length) choose(0); else filter(); }
  let select = null;
  if (options.select) {
    const values = [...new Set(rows.map(options.select.of))].filter(Boolean).sort();
    select = el("select", { "aria-label": options.select.label, onchange: () => { state.selected = select.value; filter(); } },
      el("option", { value: "" }, options.select.label), values.map(value => el("option", { value }, value)));
  }
  const grid = el("table", { "aria-label": options.name }, el("thead", {}, el("tr", {}, heads)), body);
  const made = el("div", { class: "finder" }, el("div", { class: "tools" }, search, choices, select, shown),
    el("div", { class: "scroll" }, grid, none));
  if (options.sort) sortBy(columns.find(c => c.key === options.sort[0]), options.sort[1]);
  filter();
  return {
    element: made,
    /** Selects the row called `id` and brings it into view; all rows are shown if it was filtered out. */
    reveal(id) {
      const entry = state.rows.get(id);
      if (!entry) return false;
      if (entry.tr.hidden) reset();
      mark(entry);
      entry.tr.scrollIntoView({ block: "center" });
      return true;
    },
    find(text) { search.value = text; filter(); },
  };
}
function startSearchKey() {
  document.addEventListener("keydown", event => {
    if (event.key !== "/" || /^(input|select|textarea)$/i.test(event.target.tagName)) return;
    const input = [...document.querySelectorAll("input[type=search]")].find(one => one.offsetParent);
    if (input) { event.preventDefault(); input.focus(); input.select(); }
  });
}
