// The data, elements, and numbers as texts. Texts of the data go into text nodes and attributes only.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);

function made(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false)
      node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}
const el = (tag, attributes = {}, ...children) =>
  made(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) =>
  made(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
function bytes(value) {
  let unit = 0;
  while (Math.abs(value) >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${Number(value.toPrecision(4))} ${UNITS[unit]}`;
}
const plain = (value) => {
  if (Number.isInteger(value) && Math.abs(value) < 1e9) return String(value);
  const size = Math.abs(value);
  if (value === 0 || (size >= 1e-3 && size < 1e7)) return String(Number(value.toPrecision(5)));
  return value.toExponential(2);
};
const fixed = (value) => (Math.abs(value) < 1000 ? value.toFixed(4) : plain(value));
const isBytes = (name) => name.endsWith("_bytes") || name === "bytes";
function shown(name, value) {
  if (value === null || value === undefined) return "";
  if (isBytes(name)) return bytes(value);
  return /nats|accuracy|preferred/.test(name) ? fixed(value) : plain(value);
}
const words = (name) => name.replace("heldout", "held-out").replaceAll("_", " ");
const costOf = (name) => data.costs.find((cost) => cost.name === name);
const labelOf = (name) =>
  costOf(name)?.label ?? data.measures.find((each) => each.name === name)?.label ?? words(name);
const cut = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);
const many = (count, what) => `${count} ${what}${count === 1 ? "" : "s"}`;

function options(select, pairs, value) {
  select.replaceChildren(...pairs.map(([key, text]) => el("option", { value: key }, text)));
  if (value !== undefined) select.value = value;
}

function save(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
