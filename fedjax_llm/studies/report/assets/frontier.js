// The measure against a cost, with intervals over seeds and the significant front of what is shown.
function drawFrontier() {
  const box = $("frontier-chart");
  const all = shownPoints().map((item) => {
    const [cost, value] = [state.cost, state.measure].map((name) => item.point.numbers[name]);
    return { ...item, x: cost?.[0], y: value?.[0], low: value?.[1], high: value?.[2], lost: value?.[4] };
  });
  const placed = all.filter((item) => item.x > 0 && (item.lost || Number.isFinite(item.y)));
  const measured = placed.filter((item) => !item.lost);
  const apart = all.filter((item) => !placed.includes(item));
  const caption = [];
  if (apart.length)
    caption.push(`Not drawn, as cost or measure is missing or zero: ${cut(apart.map(({ point }) => nameOf(point)).join("; "), 300)}.`);
  if (placed.length > measured.length) caption.push("× at the edge: a run of the point diverged, so it has no mean.");
  if (placed.some(({ point }) => point.missing.length))
    caption.push("Hollow: without a seed that other points have.");
  drawLegend(all);
  listNotes(all);
  if (!placed.length) {
    box.replaceChildren(el("p", { class: "empty" }, "Nothing to draw with these choices."));
    $("frontier-caption").textContent = caption.join(" ");
    return;
  }
  const { width, height } = size(box, 430);
  const margin = { left: 56, right: 18, top: 30, bottom: 44 };
  const x = logScale(placed.map((item) => item.x), margin.left, width - margin.right);
  const ends = measured.length ? measured.flatMap((item) => [item.y, item.low, item.high]) : [0, 1];
  const near = Math.max(...ends) - Math.min(...ends) || Math.abs(ends[0]) * 0.1;
  const lines = data.references.filter(({ measure, value }) =>
    measure === state.measure && value > Math.min(...ends) - near && value < Math.max(...ends) + near);
  const far = data.references.filter((each) => each.measure === state.measure && !lines.includes(each));
  if (far.length)
    caption.push(`Outside the picture: ${far.map(({ label, value }) => `${label} ${fixed(value)}`).join(", ")}.`);
  const y = linearScale([...ends, ...lines.map(({ value }) => value)], height - margin.bottom, margin.top);
  const { root, marks } = frame(box, {
    width, height, margin, x, y, xName: state.cost, yName: state.measure,
    xText: `${labelOf(state.cost)}${isBytes(state.cost) ? ", all messages of the run" : ""}`,
    yText: labelOf(state.measure), label: "Frontier",
  });
  for (const { label, value } of lines)
    marks.append(
      svg("line", { class: "reference", x1: margin.left, x2: width - margin.right, y1: y.at(value), y2: y.at(value) }),
      svg("text", { class: "reference-label", x: width - margin.right, y: y.at(value) + 14, "text-anchor": "end" }, label),
    );
  const kinds = new Set(measured.map(({ point }) => point.measured_on));
  const best = kinds.size > 1 ? [] : front(measured);
  if (best.length) marks.append(svg("path", { class: "front", d: `M${best.map((item) => `${x.at(item.x)} ${y.at(item.y)}`).join("L")}` }));
  const edge = lessIsBetter(state.measure) ? margin.top + 4 : height - margin.bottom - 4;
  placed.sort((a, b) => a.x - b.x || a.y - b.y);
  const nodes = placed.map((item) => {
    const at = { x: x.at(item.x), y: item.lost ? edge : y.at(item.y) };
    const { colour, shape } = lookOf(item.point);
    const classes = ["point", colour, item.point.missing.length ? "hollow" : "", item.index === state.chosen ? "chosen" : ""];
    const node = svg("g", { class: classes.join(" "), role: "button", "data-point": item.index });
    if (!item.lost && item.low !== item.high) {
      const [low, high] = [y.at(item.low), y.at(item.high)];
      node.append(svg("path", { class: "bar", d: `M${at.x} ${low}V${high}M${at.x - 4} ${low}h8M${at.x - 4} ${high}h8` }));
    }
    const cross = "M-5-5L5 5M-5 5L5-5";
    const place = { transform: `translate(${at.x} ${at.y})` };
    node.append(svg("circle", { class: "hit", r: 12, ...place }));
    node.append(svg("path", { class: item.lost ? "spot lost" : "spot", d: item.lost ? cross : shape, ...place }));
    return node;
  });
  marks.append(...nodes);
  nameMarks(root, (best.length ? best : measured).map((item) => ({ text: shortName(item.point), x: x.at(item.x), y: y.at(item.y) })), width - margin.right, margin.left);
  movable(nodes, { tip: (index) => pointTip(placed[index].point), enter: (index) => choose(placed[index].index, true) });
  const test = "Student's t-test of the differences by seed, one chance in 40; with one seed any difference counts";
  const among = `of the ${many(measured.length, "point")} shown`;
  let line = kinds.size > 1 ? "No front: the points shown are measured on different data or in different ways." : "";
  if (best.length > 1) line = `Line: the front ${among}, each significantly better than every cheaper point of the line (${test}).`;
  if (best.length === 1) line = `The front ${among} is ${cut(nameOf(best[0].point), 60)} alone: no dearer one is significantly better (${test}).`;
  $("frontier-caption").textContent = [line, ...caption].join(" ");
}

// What must be known of the points shown; the table has what is left out here.
const LISTED = 12;
function listNotes(items) {
  const told = items.flatMap(({ point }) => point.notes.map((note) => `${nameOf(point)}: ${note}.`));
  const left = told.length - LISTED;
  $("point-notes").replaceChildren(
    ...told.slice(0, LISTED).map((line) => el("li", {}, line)),
    ...(left > 0 ? [el("li", {}, `${many(left, "further note")} in the table.`)] : []),
  );
}

function drawLegend(items) {
  const field = data.fields[state.colour];
  const used = new Set(items.map(({ point }) => point.fields[state.colour]));
  $("legend").replaceChildren(
    ...(field?.values ?? []).flatMap((value, index) => {
      if (!used.has(index)) return [];
      const { colour, shape } = look(index);
      const mark = svg("svg", { viewBox: "-8 -8 16 16", class: `point ${colour}`, "aria-hidden": "true" }, svg("path", { class: "spot", d: shape }));
      return [el("li", {}, mark, el("span", {}, value))];
    }),
  );
}
