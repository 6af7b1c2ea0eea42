// Losses of the runs' rounds against what they cost so far, and one run's bytes by round.
const columnOf = (rounds, name) =>
  name === "both_bytes"
    ? rounds.uplink_bytes && rounds.downlink_bytes && rounds.uplink_bytes.map((up, index) => up + rounds.downlink_bytes[index])
    : rounds[name];
const evaluated = () => [
  ...new Set(data.runs.flatMap((run) => Object.keys(run.rounds).filter((name) => /^(heldout|unseen|personal|train)_/.test(name)))),
];

function drawRounds() {
  const [box, name] = [$("rounds-chart"), $("rounds-measure").value];
  const curves = data.runs.filter((run) => isShown(run) && run.rounds[name]).map((run) => {
    const cost = columnOf(run.rounds, state.cost);
    const dots = run.rounds[name].map((y, index) => ({ x: cost?.[index], y, round: run.rounds.round[index] }));
    return { run, dots: dots.filter(({ x, y }) => x > 0 && y !== null) };
  });
  const drawn = curves.filter(({ dots }) => dots.length);
  const empty = curves.length - drawn.length;
  $("rounds-caption").textContent =
    `One line for each run; dashed: not finished or not counted.${empty ? ` ${many(empty, "run")} without these costs or losses.` : ""}`;
  if (!drawn.length) {
    box.replaceChildren(el("p", { class: "empty" }, "No run that is shown has this measure by round."));
    return;
  }
  const { width, height } = size(box, 360);
  const margin = { left: 56, right: 18, top: 30, bottom: 44 };
  const every = drawn.flatMap(({ dots }) => dots);
  const x = logScale(every.map((dot) => dot.x), margin.left, width - margin.right);
  const y = linearScale(every.map((dot) => dot.y), height - margin.bottom, margin.top);
  const { marks } = frame(box, {
    width, height, margin, x, y, xName: state.cost, yName: name,
    xText: `${labelOf(state.cost)} so far`, yText: labelOf(name), label: "Loss by round",
  });
  const tip = ({ run }, dot) => [
    runName(run), `round ${dot.round}: ${fixed(dot.y)}`, `${labelOf(state.cost)} so far: ${shown(state.cost, dot.x)}`, run.where,
  ];
  const nodes = drawn.map((curve) => {
    const { run, dots } = curve;
    const d = `M${dots.map((dot) => `${x.at(dot.x).toFixed(1)} ${y.at(dot.y).toFixed(1)}`).join("L")}`;
    const node = svg("g", { class: `curve ${lookOf(run).colour}${run.state ? " open" : ""}`, role: "img" },
      svg("path", { class: "line", d }), svg("path", { class: "hit-line", d }));
    if (dots.length <= 30)
      node.append(...dots.map((dot) => svg("circle", { class: "dot", r: 2.5, cx: x.at(dot.x), cy: y.at(dot.y) })));
    node.addEventListener("pointermove", (event) => {
      const at = (event.clientX - box.getBoundingClientRect().x) * (width / box.clientWidth);
      const far = (dot) => Math.abs(x.at(dot.x) - at);
      showTip(tip(curve, dots.reduce((a, b) => (far(b) < far(a) ? b : a))), { x: event.clientX, y: event.clientY });
    });
    node.addEventListener("pointerleave", hideTip);
    return node;
  });
  marks.append(...nodes);
  movable(nodes, { tip: (index) => tip(drawn[index], drawn[index].dots.at(-1)) });
}

function drawLedger() {
  const run = data.runs[$("ledger-run").value];
  const box = $("ledger-chart");
  if (!run) return;
  const { rounds } = run;
  const names = ["uplink_bytes", "downlink_bytes", "header_bytes"].filter((name) => rounds[name]);
  const rows = rounds.round.map((last, index) => {
    const first = (index ? rounds.round[index - 1] : 0) + 1;
    const of = names.map((name) => rounds[name][index] - (index ? rounds[name][index - 1] : 0));
    return { when: first === last ? `${last}` : `${first} to ${last}`, first, last, of, total: names.map((name) => rounds[name][index]), seconds: rounds.simulated_seconds?.[index] };
  });
  const { width } = size(box, 200);
  const margin = { left: 72, right: 18, top: 30, bottom: 40 };
  box.replaceChildren(
    ...names.slice(0, 2).map((name, column) => {
      const panel = el("div");
      const x = linearScale([0.5, rows.at(-1).last + 0.5], margin.left, width - margin.right);
      x.whole = true;
      x.low = 0.5;
      x.high = rows.at(-1).last + 0.5;
      x.at = (value) => margin.left + ((width - margin.right - margin.left) * (value - x.low)) / (x.high - x.low);
      const y = linearScale([...rows.map((row) => row.of[column]), 1], 180 - margin.bottom, margin.top, true);
      const { marks } = frame(panel, {
        width, height: 180, margin, x, y, xName: "round", yName: "bytes", xText: "round",
        yText: `${labelOf(name)} in each round`, label: `${labelOf(name)} by round`,
      });
      const nodes = rows.map((row) => {
        const [left, right] = [x.at(row.first - 0.4), x.at(row.last + 0.4)];
        const top = y.at(row.of[column]);
        return svg("g", { class: `bar-of ${column ? "c1" : "c0"}`, role: "img" },
          svg("rect", { class: "spot", x: left, width: Math.max(1, right - left), y: top, height: y.at(0) - top }));
      });
      const tip = (row) => [`round ${row.when}`, `${labelOf(name)}: ${bytes(row.of[column])}`, `so far: ${bytes(row.total[column])}`];
      marks.append(...nodes);
      movable(nodes, { tip: (index) => tip(rows[index]) });
      return panel;
    }),
  );
  $("ledger-caption").textContent = `${runName(run)}, from ${run.where}.`;
  grid($("ledger-table"), {
    caption: "Bytes by round", file: `${data.name}-ledger.csv`,
    columns: [
      { label: "round", text: true },
      ...names.map((name) => ({ label: labelOf(name), name })),
      ...names.slice(0, 2).map((name) => ({ label: `${labelOf(name)} so far`, name })),
      ...(rounds.simulated_seconds ? [{ label: "simulated seconds", name: "simulated_seconds" }] : []),
    ],
    rows: rows.map((row) => [row.when, ...row.of, ...row.total.slice(0, 2), ...(rounds.simulated_seconds ? [row.seconds] : [])]),
  });
}
