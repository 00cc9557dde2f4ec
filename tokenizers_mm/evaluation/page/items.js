// Items: one card each, with a panel per version (originals, then codecs), filtered and sorted as the form says.

const PAGE = 8; // cards at a time
const cards = new Map(); // item index -> {element, player, panels}
let current = null; // the card that the keys act on

// -- which items, in which order -------------------------------------------------------------------

function badness(item, state) {
  if (!state.metric) return null;
  const sign = state.metric.better === "higher" ? -1 : 1;
  const values = state.ranked.map((s) => item.results[s.index]?.metrics?.[state.metric.key]).filter((v) => v != null);
  return values.length ? Math.max(...values.map((v) => sign * v)) : null;
}

const failed = (item, state) => state.visible.some((s) => item.results[s.index]?.error != null);

function chooseItems(items, state) {
  const wanted = state.text.toLowerCase();
  const order = state.order === "worst" ? -1 : 1;
  const chosen = items.map((item, index) => ({ item, index, value: badness(item, state), failed: failed(item, state) }))
    .filter(({ item }) => item.name.toLowerCase().includes(wanted))
    .filter(({ item }) => Object.entries(state.labels).every(([key, value]) => value === "" || item.labels[key] === value))
    .filter((entry) => !state.failedOnly || entry.failed);
  const rank = (e) => (e.failed ? (order < 0 ? 0 : 3) : e.value == null ? 2 : 1); // failed ones are the worst; undefined ones are neither
  return chosen.sort((a, b) => rank(a) - rank(b) || order * ((a.value ?? 0) - (b.value ?? 0)) || a.index - b.index);
}

// -- one card --------------------------------------------------------------------------------------

function itemCard(item, index, page) {
  const id = `item-${index}`;
  const labels = Object.entries(item.labels).filter(([, value]) => value);
  const errors = page.series.filter((s) => item.results[s.index]?.error != null);
  const element = h("article", { class: "card item", "aria-labelledby": id },
    h("header", {}, h("h3", { id }, item.name),
      labels.map(([key, value]) => h("span", { class: "tag", title: key }, value)),
      item.seconds != null && h("span", { class: "tag" }, `${number(item.seconds, 2)} s`),
      errors.length > 0 && h("span", { class: "tag failed" }, `failed for ${errors.length}`)));
  const card = { element, item, panels: [], player: null };
  const media = item.media == null ? null : island(`media-${item.media}`);
  const versions = h("div", { class: "versions" });
  if (media) {
    const several = new Set(Object.values(media.originals).map((shown) => shown.rate)).size > 1;
    for (const [path, shown] of Object.entries(media.originals)) {
      const name = several && shown.rate ? `Original, ${shown.rate / 1000} kHz` : "Original";
      card.panels.push({ name, style: "original", shown, path, conditions: new Set() });
    }
  }
  for (const s of page.series) {
    const shown = media?.versions[s.index] ?? null, result = item.results[s.index];
    if (!result) continue;
    card.panels.push({ name: s.name, style: s.style, shown, result, series: s });
    card.panels.find((p) => p.path && p.path === shown?.original)?.conditions.add(s.condition);
  }
  card.player = new Player(card.panels.map((p) => ({ sound: p.shown?.sound, seconds: p.shown?.seconds ?? 0 })), () => update(card));
  card.panels.forEach((panel, i) => {
    if (media || panel.result?.error != null) versions.append((panel.element = panelOf(card, panel, i, page)));
  });
  if (card.player.seconds > 0) element.append(transport(card, media));
  if (versions.children.length) element.append(versions);
  for (const panel of card.panels.filter((p) => p.shown?.strip)) {
    const { image, caption } = panel.shown.strip;
    panel.strip = h("figure", { class: "strip" }, h("img", { src: image, alt: `${caption}: ${panel.name}` }), h("figcaption", { class: "quiet" }, `${panel.name}: ${caption.toLowerCase()}`));
    element.append(panel.strip);
  }
  element.append(numbersOf(card, page, !media));
  element.addEventListener("pointerdown", () => setCurrent(card));
  element.addEventListener("focusin", () => setCurrent(card));
  return card;
}

function transport(card, media) {
  card.button = h("button", { type: "button", click: () => card.player.toggle() }, "Play");
  card.slider = h("input", { type: "range", min: 0, max: card.player.seconds, step: 0.01, value: 0, "aria-label": `Position in ${card.item.name}`, input: (e) => card.player.seek(Number(e.target.value)) });
  card.time = h("span", {}, "");
  card.fault = h("span", { class: "error", role: "alert" });
  const share = Math.min(1, ...Object.values(media.versions).map((v) => v.share ?? 1));
  return h("div", { class: "transport" }, card.button, card.slider, card.time,
    share < 0.999 && h("span", {}, `first ${number(card.player.seconds, 0)} s`), card.fault);
}

function panelOf(card, panel, i, page) {
  const { shown, result } = panel;
  const silent = !shown?.sound;
  const pick = h("button", { type: "button", class: "pick", "aria-pressed": "false", disabled: silent, "aria-label": silent ? null : `Play ${panel.name}`, click: () => card.player.toggle(i) },
    swatch(panel.style), h("span", { title: panel.name }, panel.name), !silent && h("kbd", { "aria-hidden": "true" }));
  const element = h("section", { class: "version", "aria-label": panel.name }, pick);
  if (result?.error != null) element.append(h("p", { class: "error" }, result.error));
  if (shown?.image) element.append(picture(card, panel, i));
  else if (shown?.caption && !shown.sound) element.append(h("p", { class: "excerpt", dir: "auto" }, shown.caption)); // a signal that is text
  if (shown?.ids) element.append(ribbon(shown.ids, shown.seconds));
  if (result && result.error == null) element.append(scores(result, page));
  return element;
}

function picture(card, panel, i) {
  const { shown } = panel;
  const seek = (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * shown.seconds;
    card.player.seek(at);
    card.player.playing ? card.player.select(i) : card.player.play(i);
  };
  panel.head = h("span", { class: "head" });
  return h("div", { class: shown.sound ? "picture" : shown.seconds ? "picture still traces" : "picture still", ...(shown.sound ? { click: seek } : {}) },
    h("img", { src: shown.image, alt: `${shown.caption}: ${panel.name}`, title: shown.caption }),
    panel.head, shown.top && h("b", { "aria-hidden": "true" }, shown.top), shown.bottom && h("b", { "aria-hidden": "true" }, shown.bottom));
}

function scores(result, page) {
  const shown = page.metrics.filter((m) => page.headline.includes(m.key) && !m.of_set);
  if (shown.length && shown.every((m) => result.metrics[m.key] == null)) return h("p", { class: "error" }, `Not measured: ${result.reasons[shown[0].key]}`);
  return h("dl", { class: "scores" }, shown.map((m) =>
    h("div", { title: result.reasons[m.key] ?? withUnit(m) }, h("dt", {}, m.name), h("dd", {}, number(result.metrics[m.key], m.digits)))));
}

function numbersOf(card, page, open) {
  const columns = card.panels.filter((p) => p.series);
  const head = h("tr", {}, h("th", { scope: "col" }, "metric"), columns.map((p) => (p.column = h("th", { scope: "col" }, p.name))));
  const rows = page.metrics.filter((m) => !m.of_set).map((m) => h("tr", {}, h("th", { scope: "row" }, `${withUnit(m)} ${direction(m)}`),
    columns.map((p) => cellOf(p, p.result.metrics[m.key], m, p.result.reasons[m.key]))));
  const bytes = h("tr", {}, h("th", { scope: "row" }, "bytes as a file"), columns.map((p) => cellOf(p, p.result.bytes || null, { digits: 0 })));
  return h("details", { open: open && columns.every((p) => p.result.error == null) && page.items.length <= PAGE }, h("summary", {}, "All numbers"),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Numbers of ${card.item.name}` }, h("table", {}, h("thead", {}, head), h("tbody", {}, rows, bytes))));
}

function cellOf(panel, value, metric, reason) {
  const cell = h("td", { title: reason }, number(value, metric.digits));
  (panel.cells ??= []).push(cell);
  return cell;
}

// -- token ribbon: a row per codebook, a colour per id ---------------------------------------------

function ribbon(ids, seconds) {
  const values = new Uint32Array(Uint8Array.from(atob(ids.data), (c) => c.charCodeAt(0)).buffer);
  const canvas = h("canvas", { class: "ribbon", width: ids.columns, height: ids.rows, role: "img", "aria-label": `Token ids: ${ids.columns} steps, ${ids.rows} row(s)` });
  canvas.style.height = `${Math.min(144, Math.max(12, 6 * ids.rows))}px`;
  if (!values.length) return canvas;
  const image = new ImageData(ids.columns, ids.rows);
  values.forEach((id, i) => image.data.set([...colour(id), 255], 4 * i));
  canvas.getContext("2d").putImageData(image, 0, 0);
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    const column = Math.min(ids.columns - 1, Math.floor(((event.clientX - box.left) / box.width) * ids.columns));
    const row = Math.min(ids.rows - 1, Math.floor(((event.clientY - box.top) / box.height) * ids.rows));
    const time = seconds ? ` at ${number((column / ids.columns) * seconds, 2)} s` : "";
    canvas.title = `id ${values[row * ids.columns + column]}, row ${row}, step ${column}${time}`;
  });
  return canvas;
}

// Golden-angle hues: ids next to each other look unlike, and an id looks the same everywhere.
function colour(id) {
  const hue = (id * 137.508) % 360, light = 0.5 + 0.16 * (((id * 0.7548777) % 1) - 0.5);
  const channel = (n) => {
    const k = (n + hue / 30) % 12;
    return 255 * (light - 0.55 * Math.min(light, 1 - light) * Math.max(-1, Math.min(k - 3, 9 - k, 1)));
  };
  return [channel(0), channel(8), channel(4)];
}

// -- state of a card -------------------------------------------------------------------------------

function update(card) {
  const { player, element } = card;
  element.classList.toggle("playing", player.playing);
  element.classList.toggle("paused", !player.playing && player.position > 0);
  if (card.button) card.button.textContent = player.playing ? "Pause" : player.busy ? "…" : "Play";
  if (card.slider) {
    card.slider.value = player.position;
    card.slider.setAttribute("aria-valuetext", `${number(player.position, 1)} seconds`);
    card.time.textContent = `${clock(player.position)} / ${clock(player.seconds)}`;
    card.fault.textContent = player.fault;
  }
  card.panels.forEach((panel, i) => {
    if (!panel.element) return;
    const active = i === player.active && (player.playing || player.position > 0);
    panel.element.firstChild.setAttribute("aria-pressed", active);
    panel.element.toggleAttribute("data-sounding", active && player.playing);
    if (panel.head) panel.head.style.transform = `translateX(${(100 * player.position) / (panel.shown.seconds || 1)}%)`;
  });
}

// Panels of codecs that are not to be shown disappear; the keys 0 to 9 count those that are left.
function showPanels(card, state) {
  const visible = new Set(state.visible.map((s) => s.index));
  card.keys = [];
  card.panels.forEach((panel, i) => {
    const hidden = panel.series ? !visible.has(panel.series.index) : ![...panel.conditions].some((c) => c === state.condition);
    for (const element of [panel.element, panel.column, panel.strip, ...(panel.cells ?? [])]) if (element) element.hidden = hidden;
    if (hidden || !panel.shown?.sound) return;
    const key = panel.element.querySelector("kbd");
    key.textContent = card.keys.length < 10 ? card.keys.length : "";
    card.keys.push(i);
  });
  update(card);
}

function setCurrent(card) {
  if (current === card) return;
  current?.element.classList.remove("current");
  current = card;
  card.element.classList.add("current");
}

// -- keys ------------------------------------------------------------------------------------------

function onKey(event) {
  const typing = event.target.closest("input:not([type=range]):not([type=checkbox]), select, textarea");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const player = current?.player, listening = player && player.seconds > 0;
  if (event.key === "j" || event.key === "k") step(event.key === "j" ? 1 : -1);
  else if (!listening) return;
  else if (/^[0-9]$/.test(event.key) && Number(event.key) < current.keys.length) choose(player, current.keys[Number(event.key)]);
  else if (event.key === "x") choose(player, player.active === current.keys[0] ? player.last ?? current.keys[1] ?? current.keys[0] : current.keys[0]);
  else if (event.key === " " && !event.target.closest("button, summary, input")) player.toggle();
  else return;
  event.preventDefault();
}

function choose(player, index) {
  if (player.active !== current.keys[0]) player.last = player.active; // what x goes back to
  player.playing ? player.select(index) : player.play(index);
}

function step(by) {
  const list = [...$("item-list").children];
  const next = list[list.indexOf(current?.element) + by];
  if (!next) return;
  setCurrent([...cards.values()].find((card) => card.element === next));
  next.scrollIntoView({ block: "nearest" });
}
