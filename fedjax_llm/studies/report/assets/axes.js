// Scales, the frame of a chart, its tip, and movement between its marks by keys.
function logScale(values, from, to) {
  let low = Math.min(...values);
  let high = Math.max(...values);
  const wide = Math.max(Math.log2(high / low) * 0.06, low === high ? 1 : 0.1);
  low /= 2 ** wide;
  high *= 2 ** wide;
  const ratio = Math.log(high / low);
  const at = (value) => from + ((to - from) * Math.log(value / low)) / ratio;
  return { at, low, high, log: true };
}

function linearScale(values, from, to, zero = false) {
  let low = zero ? 0 : Math.min(...values);
  let high = Math.max(...values);
  const pad = (high - low) * 0.07 || Math.abs(high) * 0.05 || 1;
  low -= zero ? 0 : pad;
  high += pad;
  return { at: (value) => from + ((to - from) * (value - low)) / (high - low), low, high };
}

function ticks(scale, most, binary) {
  if (!scale.log) {
    const rough = (scale.high - scale.low) / most;
    const ten = 10 ** Math.floor(Math.log10(rough));
    const decimal = [1, 2, 5, 10].map((each) => each * ten).find((each) => each >= rough);
    const step = binary ? 2 ** Math.ceil(Math.log2(rough)) : scale.whole ? Math.max(1, decimal) : decimal;
    const first = Math.ceil(scale.low / step);
    const count = Math.floor(scale.high / step) - first + 1;
    return Array.from({ length: count }, (_, index) => Number(((first + index) * step).toPrecision(12)));
  }
  const candidates = [];
  if (binary) {
    for (let power = Math.ceil(Math.log2(scale.low)); 2 ** power <= scale.high; power += 1)
      candidates.push([power, 2 ** power]);
    const step = Math.max(1, Math.ceil(candidates.length / most));
    return candidates.filter(([power]) => power % step === 0).map(([, value]) => value);
  }
  for (let ten = Math.floor(Math.log10(scale.low)); 10 ** ten <= scale.high; ten += 1)
    for (const digit of [1, 2, 5]) {
      const value = Number(`${digit}e${ten}`);
      if (value >= scale.low && value <= scale.high) candidates.push([digit, value]);
    }
  const some = candidates.length > most ? candidates.filter(([digit]) => digit === 1) : candidates;
  const step = Math.max(1, Math.ceil(some.length / most));
  return some.filter((_, index) => index % step === 0).map(([, value]) => value);
}

function size(box, height) {
  const width = Math.max(300, Math.floor(box.clientWidth || 800));
  return { width, height: width < 520 ? Math.round(height * 0.85) : height };
}

// Axes with grid and labels; returns the SVG element and its group for marks.
function frame(box, { width, height, margin, x, y, xName, yName, xText, yText, label }) {
  const most = Math.max(3, Math.floor((width - margin.left - margin.right) / 80));
  const [bottom, right] = [height - margin.bottom, width - margin.right];
  const lines = [];
  for (const value of ticks(x, most, isBytes(xName))) {
    const at = x.at(value);
    lines.push(
      svg("line", { class: "grid", x1: at, x2: at, y1: margin.top, y2: bottom }),
      svg("text", { class: "tick", x: at, y: bottom + 16, "text-anchor": "middle" }, tick(xName, value)),
    );
  }
  for (const value of ticks(y, Math.max(3, Math.floor(height / 60)), isBytes(yName))) {
    const at = y.at(value);
    lines.push(
      svg("line", { class: "grid", x1: margin.left, x2: right, y1: at, y2: at }),
      svg("text", { class: "tick", x: margin.left - 6, y: at + 4, "text-anchor": "end" }, tick(yName, value)),
    );
  }
  const marks = svg("g", { class: "marks" });
  const root = svg(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": label },
    ...lines,
    svg("text", { class: "label", x: (margin.left + right) / 2, y: height - 6, "text-anchor": "middle" }, xText),
    svg("text", { class: "label", x: margin.left, y: margin.top - 8 }, yText),
    marks,
  );
  box.replaceChildren(root);
  return { root, marks };
}
const tick = (name, value) => (isBytes(name) ? bytes(value) : plain(value));

const SHAPES = [
  "M0-5.5A5.5 5.5 0 1 1 0 5.5A5.5 5.5 0 1 1 0-5.5Z",
  "M-5-5H5V5H-5Z",
  "M0-6.5L6 4.5H-6Z",
  "M0-7L6 0L0 7L-6 0Z",
  "M0 6.5L6-4.5H-6Z",
  "M-2-6H2V-2H6V2H2V6H-2V2H-6V-2H-2Z",
];
// Twenty-four combinations of colour and shape, told apart without colour as far as they go.
const look = (index) => ({
  colour: `c${index % 8}`,
  shape: SHAPES[(index + Math.floor(index / 24)) % SHAPES.length],
});

function showTip(lines, at) {
  const tip = $("tip");
  tip.replaceChildren(...lines.filter(Boolean).map((line, index) => el(index ? "div" : "b", {}, line)));
  tip.hidden = false;
  const left = Math.min(at.x + 14, innerWidth - tip.offsetWidth - 8);
  const above = at.y - tip.offsetHeight - 12;
  tip.style.left = `${Math.max(4, left) + scrollX}px`;
  tip.style.top = `${(above < 4 ? at.y + 16 : above) + scrollY}px`;
}
const hideTip = () => {
  $("tip").hidden = true;
};

// One mark of a chart takes part in Tab; arrows, Home and End move between all; Enter chooses.
function movable(marks, { tip, enter }) {
  marks.forEach((mark, index) => {
    const told = () => {
      const box = (mark.querySelector(".spot") ?? mark).getBoundingClientRect();
      showTip(tip(index), { x: box.x + box.width / 2, y: box.y });
    };
    mark.setAttribute("tabindex", index ? -1 : 0);
    mark.setAttribute("aria-label", tip(index).filter(Boolean).join("; "));
    mark.addEventListener("pointerenter", (event) => showTip(tip(index), { x: event.clientX, y: event.clientY }));
    mark.addEventListener("pointerleave", hideTip);
    mark.addEventListener("focus", told);
    mark.addEventListener("blur", hideTip);
    mark.addEventListener("keydown", (event) => {
      const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
      const ends = { Home: 0, End: marks.length - 1 };
      let next = ends[event.key];
      if (event.key in steps) next = (index + steps[event.key] + marks.length) % marks.length;
      if (next !== undefined) {
        marks.forEach((each, other) => each.setAttribute("tabindex", other === next ? 0 : -1));
        marks[next].focus();
      } else if ((event.key === "Enter" || event.key === " ") && enter) enter(index);
      else if (event.key === "Escape") hideTip();
      else return;
      event.preventDefault();
    });
    if (enter) mark.addEventListener("click", () => enter(index));
  });
}

// Names beside marks, as many as have room.
function nameMarks(root, items, right, left) {
  const taken = [];
  for (const item of items) {
    const text = cut(item.text, 34);
    const long = text.length * 6.2;
    const end = item.x + 10 + long > right;
    const box = { x: end ? item.x - 10 - long : item.x + 10, y: item.y + 16, long };
    if (box.x < left || taken.some((b) => Math.abs(b.y - box.y) < 13 && box.x < b.x + b.long && b.x < box.x + long)) continue;
    taken.push(box);
    root.append(svg("text", { class: "name", x: end ? item.x - 10 : box.x, y: box.y, "text-anchor": end ? "end" : "start" }, text));
  }
}
