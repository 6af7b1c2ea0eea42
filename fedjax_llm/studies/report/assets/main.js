// The page's start: choices, filters, and the details of the chosen point.
function drawFilters() {
  $("filters").replaceChildren(...several.map(([field, index]) => {
    const boxes = field.values.map((value, at) => el("label", {}, el("input", {
      type: "checkbox", checked: true,
      change: (event) => { state.hidden[index][event.target.checked ? "delete" : "add"](at); draw(); },
    }), el("span", {}, value)));
    const all = (on) => () => {
      boxes.forEach((each) => { each.firstChild.checked = on; });
      state.hidden[index] = new Set(on ? [] : field.values.keys());
      draw();
    };
    return el("details", { class: "filter" }, el("summary", {}, field.label), el("div", { class: "choices" },
      el("div", {}, el("button", { type: "button", click: all(true) }, "All"), " ", el("button", { type: "button", click: all(false) }, "None")), ...boxes));
  }));
}

function choose(index, jump = false) {
  state.chosen = index;
  $("chosen").value = index;
  const first = data.points[index]?.runs.find((run) => data.runs[run].rounds.round);
  if (first !== undefined && !$("ledger").hidden) { $("ledger-run").value = first; drawLedger(); }
  document.querySelectorAll("[data-point]").forEach((node) => node.classList.toggle("chosen", Number(node.dataset.point) === index));
  drawDetail();
  if (jump && document.activeElement?.closest("#points-table")) $("detail").scrollIntoView();
}

function drawDetail() {
  const point = data.points[state.chosen];
  if (!point) return;
  const runs = point.runs.map((index) => data.runs[index]);
  const list = (pairs) => el("dl", {}, ...pairs.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
  const baselines = runs.flatMap((run) => Object.entries(run.baselines).flatMap(([name, each]) =>
    Object.entries(each).map(([measure, value]) => [`${name}, seed ${run.seed}: ${labelOf(measure)}`, shown(measure, value)])));
  const same = (name) => [...new Set(runs.map((run) => run.about[name] ?? ""))].join("; ");
  $("detail-body").replaceChildren(
    el("ul", { class: "points-notes" }, ...point.notes.map((note) => el("li", {}, note))),
    list([
      ...data.fields.map((field, index) => [field.label, field.values[point.fields[index]]]),
      ["seeds", seedsOf(point)], ["device", same("device")], ["versions", same("versions")],
      ...Object.entries(point.numbers).map(([name, value]) => [labelOf(name), spread(name, value)]),
    ]),
    el("details", {}, el("summary", {}, "Its runs"), list(runs.flatMap((run) => [[`seed ${run.seed}`, run.where], ["digest", run.about.digest ?? "not recorded"]]))),
    ...(baselines.length ? [el("details", {}, el("summary", {}, "Baselines"), list(baselines))] : []),
    el("details", {}, el("summary", {}, `What all configurations share (${Object.keys(data.common).length} fields)`), list(Object.entries(data.common))),
  );
}

function draw() {
  hideTip();
  const items = shownPoints();
  $("count").textContent = `${items.length} of ${many(data.points.length, "point")}`;
  if (!$("frontier").hidden) drawFrontier();
  if (!$("rounds").hidden) drawRounds();
  if (!$("clients").hidden) drawClients();
  if (!$("table").hidden) drawTable();
}

function start() {
  $("title").textContent = data.name;
  $("summary").textContent = [many(data.points.length, "point"), many(data.runs.length, "run"),
    ...(data.codecs ? [many(data.codecs.rows.length, "measurement") + " of codecs"] : [])].join(", ") + `. Written by fedjax-llm ${data.version}.`;
  $("interval").textContent = data.interval;
  if (data.notes.length) {
    $("notes").hidden = false;
    $("notes").querySelector("summary").textContent = `${many(data.notes.length, "note")} on what is not whole`;
    $("notes").querySelector("ul").append(...data.notes.map((note) => el("li", {}, note)));
    $("notes").open = data.notes.length <= 12;
  }
  const ledgers = data.runs.map((run, index) => [index, run]).filter(([, run]) => run.rounds.uplink_bytes || run.rounds.downlink_bytes);
  const bases = data.measures.filter(({ name }) => partsOf(name).length);
  const hide = { controls: !data.points.length && !data.runs.length, frontier: !data.points.length, detail: !data.points.length, rounds: !evaluated().length,
    clients: !bases.length || !data.points.length, ledger: !ledgers.length, codecs: !data.codecs, table: !data.points.length };
  for (const [id, hidden] of Object.entries(hide)) $(id).hidden = hidden;
  state.cost = data.costs[0]?.name ?? "";
  state.measure = data.measures[0]?.name ?? "";
  state.colour = Math.max(0, several.find(([field]) => field.name === "uplink")?.[1] ?? several[0]?.[1] ?? 0);
  options($("cost"), data.costs.map(({ name, label }) => [name, label]), state.cost);
  options($("measure"), data.measures.map(({ name, label }) => [name, label]), state.measure);
  options($("colour"), (several.length ? several : data.fields.map((field, index) => [field, index])).map(([field, index]) => [index, field.label]), state.colour);
  options($("chosen"), data.points.map((point, index) => [index, nameOf(point)]), 0);
  options($("rounds-measure"), evaluated().map((name) => [name, labelOf(name)]), evaluated().includes(state.measure) ? state.measure : evaluated()[0]);
  options($("clients-measure"), bases.map(({ name, label }) => [name, label]));
  options($("ledger-run"), ledgers.map(([index, run]) => [index, runName(run)]));
  drawFilters();
  const set = (name) => (event) => { state[name] = event.target.value; draw(); };
  for (const name of ["cost", "measure", "colour"]) $(name).addEventListener("change", set(name));
  $("search").addEventListener("input", set("search"));
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  $("reset").addEventListener("click", () => {
    state.search = $("search").value = "";
    state.hidden.forEach((hidden) => hidden.clear());
    drawFilters();
    draw();
  });
  $("chosen").addEventListener("change", (event) => choose(Number(event.target.value)));
  $("rounds-measure").addEventListener("change", drawRounds);
  $("clients-measure").addEventListener("change", drawClients);
  $("ledger-run").addEventListener("change", drawLedger);
  startCodecs();
  draw();
  drawDetail();
  drawLedger();
  drawCodecs();
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    draw();
    drawLedger();
    drawCodecs();
  });
}
start();
