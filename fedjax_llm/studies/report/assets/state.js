// What is chosen, and what of the data is therefore shown.
const state = { cost: "", measure: "", colour: 0, search: "", hidden: data.fields.map(() => new Set()), chosen: 0 };
const several = data.fields.map((field, index) => [field, index]).filter(([field]) => field.values.length > 1);

const fieldTexts = (item) =>
  several.map(([field, index]) => {
    const value = field.values[item.fields[index]];
    return field.name === "uplink" || field.name === "algorithm" ? value : `${field.label} ${value}`;
  });
const nameOf = (item) => fieldTexts(item).join(" · ") || data.fields[0]?.values[item.fields[0]] || "";
// Names of marks: codec and method alone, where they tell points apart at all.
const shortName = (item) =>
  several.filter(([field]) => field.name === "uplink" || field.name === "algorithm").map(([field, index]) => field.values[item.fields[index]]).join(" · ") || nameOf(item);
const runName = (run) => `${nameOf(run)}, seed ${run.seed}${run.state ? ` (${run.state})` : ""}`;
const isShown = (item) =>
  state.hidden.every((hidden, index) => !hidden.has(item.fields[index])) &&
  nameOf(item).toLowerCase().includes(state.search.toLowerCase());
const shownPoints = () => data.points.map((point, index) => ({ point, index })).filter(({ point }) => isShown(point));
const lookOf = (item) => look(item.fields[state.colour] ?? 0);
const lessIsBetter = (name) => data.measures.find((each) => each.name === name)?.less_is_better ?? true;

// A point's values of the measure by seed.
const bySeed = (point) =>
  new Map(point.runs.map((run) => [data.runs[run].seed, data.runs[run].numbers[state.measure]]).filter(([, value]) => Number.isFinite(value)));

// Whether a mean is significantly above zero: `is_positive` of fedjax_llm/studies/intervals.py.
function isPositive(values) {
  const count = values.length;
  if (count < 2) return false;
  const mean = values.reduce((sum, value) => sum + value, 0) / count;
  const square = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (count - 1);
  return mean > data.critical[count] * Math.sqrt(square / count);
}

// The points whose cost buys a significantly better measure: `significant_front` of fedjax_llm/studies/front.py.
function front(items) {
  const sign = lessIsBetter(state.measure) ? 1 : -1;
  const sorted = [...items].sort((a, b) => a.x - b.x || sign * (a.y - b.y));
  const found = [];
  for (const item of sorted) {
    const mine = bySeed(item.point);
    const better = ({ point }) => {
      const gains = [...bySeed(point)].filter(([seed]) => mine.has(seed)).map(([seed, value]) => sign * (value - mine.get(seed)));
      return gains.length === 1 ? gains[0] > 0 : isPositive(gains);
    };
    if (found.every(better)) found.push(item);
  }
  return found;
}

function spread(name, value) {
  if (!value) return "not measured";
  const [mean, low, high, count, lost] = value;
  if (mean === null) return `diverged in ${lost} of ${many(count, "run")}`;
  const between = low === high ? "" : ` [${shown(name, low)}, ${shown(name, high)}]`;
  return `${shown(name, mean)}${between}`;
}
const seedsOf = (point) =>
  `${many(point.seeds.length, "seed")}: ${point.seeds.join(", ")}`;
const pointTip = (point) => [
  nameOf(point),
  `${labelOf(state.measure)}: ${spread(state.measure, point.numbers[state.measure])}`,
  ...data.costs.map(({ name, label }) => `${label}: ${spread(name, point.numbers[name])}`),
  seedsOf(point),
  ...point.notes,
];
