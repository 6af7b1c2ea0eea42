// Measurements of codecs: any two columns against each other, and all of them in a table.
function startCodecs() {
  if (!data.codecs) return;
  const { columns, rows } = data.codecs;
  const sources = [...new Set(rows.map((row) => row.source))];
  options($("codecs-source"), sources.map((name) => [name, name || "not named"]));
  const pairs = columns.map((name) => [name, words(name)]);
  options($("codecs-x"), pairs, columns.includes("bits_per_entry") ? "bits_per_entry" : columns[0]);
  options($("codecs-y"), pairs, columns.find((name) => /mean/.test(name)) ?? columns.find((name) => /error/.test(name)) ?? columns.at(-1));
  for (const id of ["codecs-source", "codecs-x", "codecs-y"]) $(id).addEventListener("change", drawCodecs);
  grid($("codecs-table"), {
    caption: "Codecs on known sources", file: `${data.name}-codecs.csv`,
    columns: [{ label: "codec", text: true }, { label: "source", text: true }, ...columns.map((name) => ({ label: words(name), name }))],
    rows: rows.map((row) => [row.codec, row.source, ...row.values]),
  });
}

function drawCodecs() {
  if (!data.codecs) return;
  const { columns, rows } = data.codecs;
  const box = $("codecs-chart");
  const [xName, yName] = [$("codecs-x").value, $("codecs-y").value];
  const all = rows.filter((row) => row.source === $("codecs-source").value)
    .map((row) => ({ row, x: row.values[columns.indexOf(xName)], y: row.values[columns.indexOf(yName)] }));
  const items = all.filter((item) => item.x > 0 && item.y > 0).sort((a, b) => a.x - b.x);
  const apart = all.filter((item) => !items.includes(item)).map(({ row, x, y }) => {
    const why = x > 0 ? y : x;
    return `${row.codec} (${why === null ? "not measured" : plain(why)})`;
  });
  $("codecs-caption").textContent = apart.length ? `Both axes are logarithmic. Not drawn: ${cut(apart.join("; "), 400)}.` : "Both axes are logarithmic.";
  if (!items.length) {
    box.replaceChildren(el("p", { class: "empty" }, "Nothing to draw with these columns."));
    return;
  }
  const { width, height } = size(box, 380);
  const margin = { left: 66, right: 18, top: 30, bottom: 44 };
  const x = logScale(items.map((item) => item.x), margin.left, width - margin.right);
  const y = logScale(items.map((item) => item.y), height - margin.bottom, margin.top);
  const { root, marks } = frame(box, { width, height, margin, x, y, xName, yName, xText: words(xName), yText: words(yName), label: "Error of codecs" });
  const tip = ({ row }) => [row.codec, ...columns.map((name, index) => row.values[index] === null ? "" : `${words(name)}: ${shown(name, row.values[index])}`)];
  const families = [...new Set(rows.map((row) => row.codec.split("(")[0]))];
  const nodes = items.map((item) => {
    const { colour, shape } = look(families.indexOf(item.row.codec.split("(")[0]));
    const place = { transform: `translate(${x.at(item.x)} ${y.at(item.y)})` };
    return svg("g", { class: `point ${colour}`, role: "img" }, svg("circle", { class: "hit", r: 11, ...place }), svg("path", { class: "spot", d: shape, ...place }));
  });
  marks.append(...nodes);
  nameMarks(root, items.map((item) => ({ text: item.row.codec, x: x.at(item.x), y: y.at(item.y) })), width - margin.right, margin.left);
  movable(nodes, { tip: (index) => tip(items[index]) });
}
