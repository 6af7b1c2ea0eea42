// How the measure is spread over clients: its mean, and its mean over parts of them.
const SPREADS = 40;
const partsOf = (name) => data.measures.map((each) => each.name).filter((other) => other.startsWith(`${name}_of_`));

function drawClients() {
  const [box, name] = [$("clients-chart"), $("clients-measure").value];
  const names = [name, ...partsOf(name)];
  const all = shownPoints().filter(({ point }) => names.every((each) => Number.isFinite(point.numbers[each]?.[0])));
  const value = ({ point }, each) => point.numbers[each][0];
  const sign = lessIsBetter(name) ? 1 : -1;
  all.sort((a, b) => sign * (value(a, name) - value(b, name)));
  const items = all.slice(0, SPREADS);
  const titles = ["all clients", ...names.slice(1).map((each) => words(each.slice(name.length + 4)))];
  $("clients-caption").textContent = `Filled: mean over ${titles[0]}. Hollow: ${titles.slice(1).join(", ")}.` +
    (all.length > SPREADS ? ` The best ${SPREADS} of ${all.length} points; the table has all.` : "");
  if (!items.length) {
    box.replaceChildren(el("p", { class: "empty" }, "No point that is shown has these measures."));
    return;
  }
  const width = size(box, 100).width;
  const narrow = width < 620;
  const left = narrow ? 12 : Math.min(width * 0.42, 20 + 6.6 * Math.max(...items.map(({ point }) => nameOf(point).length)));
  const step = narrow ? 34 : 22;
  const margin = { left, right: 18, top: 14, bottom: 44 };
  const height = margin.top + margin.bottom + step * items.length;
  const x = linearScale(items.flatMap((item) => names.map((each) => value(item, each))), left, width - margin.right);
  const y = { at: (row) => row, low: 0, high: 0, log: true };
  const { marks } = frame(box, {
    width, height, margin, x, y: { ...y, low: 1, high: 0.5 }, xName: name, yName: "row", xText: labelOf(name), yText: "", label: "Spread over clients",
  });
  const tip = ({ point }) => [nameOf(point), ...names.map((each, index) => `${titles[index]}: ${spread(each, point.numbers[each])}`)];
  const nodes = items.map((item, row) => {
    const at = margin.top + step * (row + (narrow ? 0.7 : 0.5));
    const ends = names.map((each) => x.at(value(item, each)));
    const long = narrow ? Math.floor((width - 30) / 6.4) : Math.floor((left - 16) / 6.2);
    return svg("g", { class: `point ${lookOf(item.point).colour}`, role: "button" },
      svg("rect", { class: "hit", x: 0, width, y: at - step / 2, height: step }),
      svg("text", { class: "name", x: narrow ? left : left - 10, y: narrow ? at - 11 : at + 4, "text-anchor": narrow ? "start" : "end" }, cut(nameOf(item.point), long)),
      svg("line", { class: "bar", x1: Math.min(...ends), x2: Math.max(...ends), y1: at, y2: at }),
      ...ends.map((end, index) => svg("circle", { class: index ? "spot empty-spot" : "spot", r: 5, cx: end, cy: at })));
  });
  marks.append(...nodes);
  movable(nodes, { tip: (index) => tip(items[index]), enter: (index) => choose(items[index].index) });
}
