// A table that sorts by any column and saves what it shows as CSV.
function grid(box, { caption, file, columns, rows, choose: chosen }) {
  const sorting = { column: -1, up: true };
  const head = el("tr");
  const body = el("tbody");
  const ordered = () => {
    if (sorting.column < 0) return rows.map((row, index) => [row, index]);
    const value = (row) => { const cell = row[sorting.column]; return Array.isArray(cell) ? cell[0] : cell; };
    const missing = (each) => each === null || each === undefined || each === "";
    return rows.map((row, index) => [row, index]).sort(([a, i], [b, j]) => {
      const [p, q] = [value(a), value(b)];
      if (missing(p) || missing(q)) return missing(p) - missing(q) || i - j;
      const order = typeof p === "number" && typeof q === "number" ? p - q : String(p).localeCompare(String(q), "en", { numeric: true });
      return (sorting.up ? order : -order) || i - j;
    });
  };
  const cell = (column, value, index) => {
    const text = Array.isArray(value) ? spread(column.name, value) : typeof value === "number" ? shown(column.name ?? "", value) : value ?? "";
    return chosen && column.first ? el("td", {}, el("button", { type: "button", click: () => chosen(index) }, text)) : el("td", { class: column.wide ? "wide" : column.text ? "" : "number" }, text);
  };
  const fill = () => body.replaceChildren(...ordered().map(([row, index]) => el("tr", {}, ...row.map((value, at) => cell(columns[at], value, index)))));
  columns.forEach((column, at) => {
    const th = el("th", { scope: "col", "aria-sort": "none", class: column.text ? "" : "number-head" }, el("button", {
      type: "button",
      click: () => {
        sorting.up = sorting.column === at ? !sorting.up : true;
        sorting.column = at;
        [...head.children].forEach((each, other) => each.setAttribute("aria-sort", other !== at ? "none" : sorting.up ? "ascending" : "descending"));
        fill();
      },
    }, column.label));
    head.append(th);
  });
  fill();
  const flat = (value) => (Array.isArray(value) ? value : [value]);
  const write = () => {
    const titles = columns.flatMap(({ label, csv }) => (csv ? csv.map((each) => `${label}${each}`) : [label]));
    const lines = ordered().map(([row]) => row.flatMap((value, at) => {
      const { csv } = columns[at];
      return csv ? csv.map((_, index) => flat(value)[index]) : flat(value);
    }));
    save(file, [titles, ...lines].map((line) => line.map(quoted).join(",")).join("\r\n") + "\r\n");
  };
  box.replaceChildren(
    el("div", { class: "tools" }, el("button", { type: "button", class: "csv", click: write }, "Save CSV")),
    el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
      el("table", {}, el("caption", {}, caption), el("thead", {}, head), body)),
  );
}

// A CSV field. A text that a spreadsheet would take for a formula gets an apostrophe before it.
function quoted(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return String(value);
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function drawTable() {
  const items = shownPoints();
  const costs = data.numbers.filter((name) => items.some(({ point }) => point.numbers[name]));
  const fields = several.length ? several : data.fields.map((field, index) => [field, index]).slice(0, 1);
  const state_of = (point) => point.notes.join("; ");
  grid($("points-table"), {
    caption: `${many(items.length, "point")}; brackets: ${data.interval}`, file: `${data.name}.csv`,
    columns: [
      ...fields.map(([field], index) => ({ label: field.label, text: true, first: index === 0 })),
      { label: "seeds", text: true }, { label: "missing seeds", text: true },
      ...costs.map((name) => ({ label: labelOf(name), name, csv: ["", " low", " high", " runs", " diverged"] })),
      { label: "notes", text: true, wide: true },
    ],
    rows: items.map(({ point }) => [
      ...fields.map(([field, index]) => field.values[point.fields[index]]),
      point.seeds.join(" "), point.missing.join(" "),
      ...costs.map((name) => point.numbers[name] ?? null), state_of(point),
    ]),
    choose: (index) => choose(items[index].index, true),
  });
}
