// Charts: quality against rate, and how the ids spread over a codebook. Drawn for the width there is, again when it changes.

const log10 = Math.log10;

function scale(domain, range, logarithmic = false) {
  const f = logarithmic ? log10 : (v) => v;
  const [a, b] = domain.map(f);
  return (value) => range[0] + ((f(value) - a) / (b - a || 1)) * (range[1] - range[0]);
}

function niceTicks(low, high, count) {
  const raw = (high - low) / count, power = 10 ** Math.floor(log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) ticks.push(i * step);
  return ticks;
}

function logTicks(low, high, steps) {
  const ticks = [];
  for (let decade = Math.floor(log10(low)); decade <= log10(high); decade++)
    for (const step of steps) if (step * 10 ** decade >= low * 0.999 && step * 10 ** decade <= high * 1.001) ticks.push(step * 10 ** decade);
  return ticks;
}

const plain = (value) => String(Number(value.toPrecision(6)));
const compact = (value) => (value >= 1e6 ? `${plain(value / 1e6)}M` : value >= 1e3 ? `${plain(value / 1e3)}k` : plain(value));
const decades = (low, high) => logTicks(low, high, [1]).filter((_, i, ticks) => ticks.length < 6 || (ticks.length - 1 - i) % 2 === 0);

// -- quality against rate --------------------------------------------------------------------------

function ratePlot(figure, series, metric, unit) {
  const points = series
    .flatMap((s) => (s.lm_rate ? [s, { ...s, name: `${s.name} with LM`, family: `${s.family} with LM`, rate: s.lm_rate }] : [s]))
    .map((s) => ({ ...s, x: s.rate, y: s.metrics[metric.key]?.[0], ci: s.metrics[metric.key]?.[1] ?? 0 }))
    .filter((p) => p.x > 0 && p.y != null);
  if (!points.length) return figure.replaceChildren(h("p", { class: "quiet" }, "No codec has both a rate and this metric."));
  const width = Math.max(300, figure.clientWidth), height = Math.min(460, Math.max(300, width * 0.45));
  const frame = { left: 48, right: width - 12, top: 24, bottom: height - 44 };
  const spread = (values, f, g) => [f(...values), g(...values)];
  const [x0, x1] = spread(points.map((p) => p.x), Math.min, Math.max);
  const low = Math.min(...points.map((p) => p.y - p.ci)), high = Math.max(...points.map((p) => p.y + p.ci));
  const room = (high - low || Math.abs(high) || 1) * 0.08;
  const x = scale([x0 / 1.5, x1 * 1.7], [frame.left, frame.right], true), y = scale([low - room, high + room], [frame.bottom, frame.top]);
  const label = `${withUnit(metric)} ${direction(metric)}`;
  const chart = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${label} against ${unit}, ${points.length} points` });
  const wide = width > 560 ? [1, 2, 5] : [1, 3];
  const xTicks = logTicks(x0 / 1.5, x1 * 1.7, wide);
  chart.append(...grid(frame, xTicks.map((v) => [x(v), plain(v)]), niceTicks(low - room, high + room, 6).map((v) => [y(v), plain(v)])));
  chart.append(svg("text", { x: frame.right, y: height - 6, "text-anchor": "end" }, `${unit}, as written to files`));
  chart.append(svg("text", { x: 0, y: 12 }, `${label} ${metric.better === "higher" ? "higher" : "lower"} is better`));
  for (const line of families(points))
    chart.append(svg("polyline", { class: `link ${line[0].style}`, points: line.map((p) => `${x(p.x)},${y(p.y)}`).join(" ") }));
  const taken = points.map((p) => box(x(p.x) - 7, y(p.y) - 7, 14, 14));
  for (const p of points) chart.append(point(p, x, y, metric, unit));
  figure.replaceChildren(chart); // in the page, so that the labels can be measured
  for (const p of [...points].sort((a, b) => (a.kind === "baseline") - (b.kind === "baseline"))) placeLabel(chart, p, x(p.x), y(p.y), taken, frame);
}

function grid(frame, xTicks, yTicks) {
  return [
    ...yTicks.flatMap(([at, text]) => [
      svg("line", { class: "grid", x1: frame.left, x2: frame.right, y1: at, y2: at }),
      svg("text", { x: frame.left - 8, y: at + 4, "text-anchor": "end" }, text),
    ]),
    ...xTicks.flatMap(([at, text]) => [
      svg("line", { class: "grid", x1: at, x2: at, y1: frame.top, y2: frame.bottom }),
      svg("text", { x: at, y: frame.bottom + 18, "text-anchor": "middle" }, text),
    ]),
    svg("line", { class: "axis", x1: frame.left, x2: frame.right, y1: frame.bottom, y2: frame.bottom }),
  ];
}

// Bits for the same quality: a row per coder, a column per anchor.
function bitsTable(table, data) {
  const head = h("tr", {}, h("th", { scope: "col" }, ""), data.anchors.map((name) => h("th", { scope: "col" }, `from ${name}`)));
  const rows = data.rows.map((row) => h("tr", {}, h("th", { scope: "row" }, row.codec ? h("b", {}, row.name) : row.name),
    row.cells.map(({ value, reason }) => h("td", { title: reason || null }, value == null ? DASH : `${value > 0 ? "+" : ""}${number(value, 1)} %`))));
  table.replaceChildren(h("thead", {}, head), h("tbody", {}, rows));
}

function families(points) {
  const by = new Map();
  for (const p of points) by.set(`${p.condition}\n${p.family}`, [...(by.get(`${p.condition}\n${p.family}`) ?? []), p]);
  return [...by.values()].filter((line) => line.length > 1).map((line) => line.sort((a, b) => a.x - b.x));
}

function point(p, x, y, metric, unit) {
  const [px, py] = [x(p.x), y(p.y)];
  const text = `${p.name}\n${number(p.x, 2)} ${unit}\n${withUnit(metric)}: ${number(p.y, metric.digits)}` + (p.ci ? ` ± ${number(p.ci, metric.digits)}` : "");
  const group = svg("g", { class: `series ${p.style}`, tabindex: "0", role: "img", "aria-label": text.replaceAll("\n", ", ") });
  if (p.ci) {
    for (const [x1, y1, x2, y2] of [[px, y(p.y - p.ci), px, y(p.y + p.ci)], ...[-1, 1].map((s) => [px - 4, y(p.y + s * p.ci), px + 4, y(p.y + s * p.ci)])])
      group.append(svg("line", { x1, y1, x2, y2, "stroke-width": 1.25, "stroke-opacity": 0.65 }));
  }
  const marks = { b0: "M0-7L7 0L0 7L-7 0Z", b1: "M-5-5H5V5H-5Z", b2: "M0-6L6 5H-6Z", b3: "M0 6L6-5H-6Z" };
  const mark = marks[p.style] ? svg("path", { class: "dot", d: marks[p.style], transform: `translate(${px} ${py})` }) : svg("circle", { class: "dot", cx: px, cy: py, r: 7 });
  group.append(mark, svg("circle", { cx: px, cy: py, r: 14, fill: "transparent", stroke: "none" }));
  return tip(group, text);
}

const box = (x, y, w, h) => ({ x, y, w, h });
const overlap = (a, b) => a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h;

// The first of a few places beside the point that is free; a label without one stays in the tooltip and the table.
function placeLabel(chart, p, px, py, taken, frame) {
  const short = p.name.length > 34 ? `…${p.name.slice(-33)}` : p.name;
  const text = svg("text", { class: `name ${p.kind}` }, short);
  chart.append(text);
  const width = text.getComputedTextLength() + 4, height = 15;
  const places = [[11, 4, "start"], [-11, 4, "end"], [0, -13, "middle"], [0, 22, "middle"], [10, -10, "start"], [10, 18, "start"], [-10, -10, "end"], [-10, 18, "end"]];
  for (const [dx, dy, anchor] of places) {
    const left = px + dx - (anchor === "end" ? width : anchor === "middle" ? width / 2 : 0);
    const area = box(left, py + dy - 11, width, height);
    const inside = left >= frame.left + 2 && left + width <= frame.right + 12 && area.y > 14 && area.y + height < frame.bottom;
    if (!inside || taken.some((other) => overlap(area, other))) continue;
    fill(text, { x: px + dx, y: py + dy, "text-anchor": anchor }, []);
    return taken.push(area);
  }
  text.remove();
}

// -- use of the codebooks --------------------------------------------------------------------------

function healthCard(s, all) {
  const { books, ideal, unit } = s.health;
  const sum = (key) => (books.some((b) => b[key] == null) ? null : books.reduce((total, b) => total + b[key], 0));
  const mean = (key) => (sum(key) == null ? null : sum(key) / books.length);
  const bits = books.reduce((total, b) => total + Math.log2(b.size), 0);
  const facts = [
    ["in use", `${number(100 * mean("utilisation"), 1)} %`, books.length > 1 ? `${books.length} codebooks` : `of ${books[0].size}`],
    ["perplexity", number(mean("perplexity"), 0), `from ${books[0].count} ids`],
    ["entropy", `${number(sum("entropy"), 2)} bit`, `of ${number(bits, 2)}`],
    ["cond. entropy", sum("conditional_entropy") == null ? DASH : `${number(sum("conditional_entropy"), 2)} bit`, "given the id before"],
    ["repetition", mean("repetition") == null ? DASH : `${number(100 * mean("repetition"), 1)} %`, "same id as before"],
    ["ideal coder", ideal == null ? DASH : `${number(ideal, 3)}`, ideal == null ? "" : unit],
  ];
  for (const [key, share] of Object.entries(s.stability)) facts.push([key.replaceAll("_", " "), share == null ? DASH : `${number(100 * share, 1)} %`, "of ids stay"]);
  const label = s.condition === "clean" ? s.name : `${s.name}, ${s.condition}`;
  return h("article", { class: "card" },
    h("h3", {}, swatch(s.style), label),
    curves(s, all),
    seen(s, all),
    h("dl", { class: "numbers" }, facts.map(([name, value, note]) => h("div", {}, h("dt", {}, name), h("dd", {}, value, note && h("small", {}, ` ${note}`))))),
    books.length > 1 && perBook(books),
    s.overview?.image && h("figure", { class: "overview" }, h("img", { src: s.overview.image, alt: s.overview.caption }), h("figcaption", {}, s.overview.caption)));
}

function curves(s, all) {
  const width = 340, height = 206, frame = { left: 58, right: 332, top: 12, bottom: 166 };
  const books = all.flatMap((other) => other.health.books);
  const most = Math.max(2, ...books.map((b) => b.size));
  const least = Math.min(...books.map((b) => Math.min(1 / b.size, 1 / b.count)));
  const x = scale([1, most], [frame.left, frame.right], true), y = scale([least, 1], [frame.bottom, frame.top], true);
  const yTicks = decades(least, 1);
  const percent = (v) => `${plain(100 * v)} %`;
  const chart = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Share of the ids by rank of the entry, ${s.name}` },
    grid(frame, decades(1, most).map((v) => [x(v), compact(v)]), yTicks.map((v) => [y(v), percent(v)])),
    svg("text", { x: frame.right, y: height - 4, "text-anchor": "end" }, "rank of the entry"));
  for (const size of new Set(s.health.books.map((b) => b.size)))
    chart.append(svg("path", { class: "ideal", d: `M${x(1)} ${y(1 / size)}H${x(size)}V${frame.bottom}` }));
  s.health.books.forEach((book, i, list) => {
    const line = book.curve.map(([rank, share]) => `${x(rank)},${y(share)}`).join(" ");
    const [rank, share] = book.curve.at(-1), faded = 1 - (0.75 * i) / list.length;
    chart.append(svg("polyline", { class: `curve ${s.style}`, points: line, "stroke-opacity": faded }),
      svg("circle", { class: `end ${s.style}`, cx: x(rank), cy: y(share), r: 2.5, "fill-opacity": faded }));
  });
  return chart;
}

// Dead codes over time: entries seen so far, by ids seen so far.
function seen(s, all) {
  const width = 340, height = 176, frame = { left: 58, right: 332, top: 12, bottom: 136 };
  const most = Math.max(2, ...all.flatMap((other) => other.health.books.map((b) => b.count)));
  const x = scale([1, most], [frame.left, frame.right], true), y = scale([0, 1], [frame.bottom, frame.top]);
  const last = s.health.books.map((b) => `${number(100 * (b.seen.at(-1)?.[1] ?? 0), 1)} %`);
  const ends = last.length > 4 ? [...last.slice(0, 4), "…"] : last;
  const chart = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Entries seen by ids seen, ${s.name}: ${ends.join(", ")} at the end` },
    grid(frame, decades(1, most).map((v) => [x(v), compact(v)]), [0, 0.5, 1].map((v) => [y(v), `${plain(100 * v)} %`])),
    svg("text", { x: frame.right, y: height - 4, "text-anchor": "end" }, "ids seen"));
  for (const size of new Set(s.health.books.map((b) => b.size))) {
    const even = Array.from({ length: 60 }, (_, i) => most ** (i / 59)).map((n) => `${x(n)},${y(-Math.expm1(n * Math.log1p(-1 / size)))}`);
    chart.append(svg("polyline", { class: "ideal", points: even.join(" ") }));
  }
  s.health.books.forEach((book, i, list) => {
    const points = book.seen.map(([ids, share]) => [x(ids), y(share)]), faded = 1 - (0.75 * i) / list.length;
    chart.append(svg("polyline", { class: `curve ${s.style}`, points: points.map((p) => p.join(",")).join(" "), "stroke-opacity": faded }),
      svg("circle", { class: `end ${s.style}`, cx: points.at(-1)[0], cy: points.at(-1)[1], r: 2.5, "fill-opacity": faded }));
  });
  return chart;
}

function perBook(books) {
  const columns = [["in use", (b) => `${number(100 * b.utilisation, 1)} %`], ["perplexity", (b) => number(b.perplexity, 0)], ["entropy", (b) => number(b.entropy, 2)], ["of", (b) => number(Math.log2(b.size), 2)], ["shared with the one before", (b) => (b.mutual_information == null ? DASH : `${number(b.mutual_information, 2)} bit`)]];
  return h("details", {}, h("summary", {}, "Each codebook"), h("div", { class: "scroll" }, h("table", {},
    h("thead", {}, h("tr", {}, ["codebook", ...columns.map(([name]) => name)].map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, books.map((b, i) => h("tr", {}, h("th", { scope: "row" }, String(i)), columns.map(([, f]) => h("td", {}, f(b)))))))));
}
