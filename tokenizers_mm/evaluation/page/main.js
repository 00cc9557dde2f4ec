// Ties the controls to the table, the plot and the items.

const page = island("report");
page.series.forEach((s, index) => (s.index = index));
const conditions = [...new Set(page.series.map((s) => s.condition))];
const state = { condition: conditions[0], hidden: new Set(), labels: {}, shown: PAGE };
const option = (value, text) => h("option", { value }, text);

function readState() {
  state.text = $("filter-text").value;
  state.failedOnly = $("filter-failed").checked;
  state.order = $("sort-order").value;
  state.metric = page.metrics.find((m) => m.key === $("sort-metric").value); // none where nothing was measured
  const here = page.series.filter((s) => s.condition === state.condition);
  state.visible = here.filter((s) => !state.hidden.has(s.name));
  const one = here.filter((s) => s.name === $("sort-codec").value);
  const codecs = state.visible.filter((s) => s.kind !== "baseline");
  state.ranked = one.length ? one : codecs.length ? codecs : state.visible;
}

function drawItems() {
  readState();
  const chosen = chooseItems(page.items, state);
  const shown = chosen.slice(0, state.shown).map(({ item, index }) => {
    if (!cards.has(index)) cards.set(index, itemCard(item, index, page));
    return cards.get(index);
  });
  if (audio.current && !shown.some((card) => card.player === audio.current)) audio.current.pause();
  $("item-list").replaceChildren(...shown.map((card) => card.element));
  shown.forEach((card) => showPanels(card, state));
  if (!shown.includes(current) && shown.length) setCurrent(shown[0]);
  $("items-count").textContent = `${chosen.length} of ${page.items.length} items`;
  $("more").hidden = chosen.length <= state.shown;
  $("more").textContent = `Show ${Math.min(PAGE, chosen.length - state.shown)} more`;
}

function drawRate() {
  const metric = page.metrics.find((m) => m.key === $("rate-metric").value);
  $("rate-about").textContent = metric?.definition ?? "No metric has a value.";
  const bits = metric && page.rates[state.condition]?.[metric.key];
  $("rate-bits").hidden = !bits;
  if (bits) bitsTable($("rate-bits-table"), bits);
  if (!metric) return;
  ratePlot($("rate-plot"), page.series.filter((s) => s.condition === state.condition && !state.hidden.has(s.name)), metric, page.unit);
}

function drawCondition() {
  state.condition = $("condition").value;
  for (const row of $("summary").tBodies[0].rows) row.hidden = row.dataset.condition !== state.condition;
  const healthy = page.series.filter((s) => s.health && s.condition === state.condition);
  $("tokens").hidden = !healthy.length;
  $("token-cards").replaceChildren(...healthy.map((s) => healthCard(s, healthy)));
  drawRate();
  drawItems();
}

function reset() {
  state.shown = PAGE;
  drawItems();
}

function fillControls() {
  $("condition").append(...conditions.map((c) => option(c, c)));
  $("condition-field").hidden = conditions.length < 2;
  const names = [...new Map(page.series.map((s) => [s.name, s])).values()];
  for (const id of ["rate-metric", "sort-metric"]) {
    const usable = page.metrics.filter((m) => id === "rate-metric" || !m.of_set);
    $(id).append(...usable.map((m) => option(m.key, `${m.name} ${direction(m)}`)));
  }
  $("sort-codec").append(option("", "the worst codec"), ...names.map((s) => option(s.name, s.name)));
  for (const id of ["rate-series", "series-filter"]) $(id).append(...names.map(seriesToggle));
  for (const key of [...new Set(page.items.flatMap((item) => Object.keys(item.labels)))]) {
    const values = [...new Set(page.items.map((item) => item.labels[key]).filter(Boolean))].sort();
    if (values.length < 2) continue;
    const select = h("select", { "data-label": key, change: (e) => { state.labels[key] = e.target.value; reset(); } }, option("", "any"), values.map((v) => option(v, v)));
    $("label-filters").append(h("label", {}, `${key[0].toUpperCase()}${key.slice(1)} `, select));
  }
  const timed = page.items.some((item) => item.seconds != null);
  const step = timed ? " Every version of an item runs in step: switching keeps the position." : "";
  const listen = page.shown ? `${step} Below each picture its token ids, a row per codebook${timed ? "" : " and row of the grid"} and a colour per id. ` : "";
  const some = `${timed ? "Sound and pictures" : "Pictures"} come with ${page.shown} of ${page.items.length} items, the worst. `;
  const which = !page.shown ? "This page was made without sound and pictures." : page.shown < page.items.length ? some : "";
  $("items-about").append(which + listen);
  if (page.shown) {
    const playing = timed ? [["0", "original"], ["1–9", "reconstructions"], ["x", "back and forth"], ["space", "play or pause"]] : [];
    const keys = [...playing, ["j k", "next or previous item"]];
    $("items-about").append(h("span", { class: "keys" }, keys.flatMap(([key, what]) => [h("kbd", {}, key), ` ${what}  `])));
    if (timed) $("filters").append(h("label", { class: "check" }, h("input", { type: "checkbox", id: "loop", change: (e) => setLoop(e.target.checked) }), " Loop"));
  }
}

// Beside the plot and above the items: the same choice in both places.
function seriesToggle(s) {
  const toggle = () => {
    const on = state.hidden.delete(s.name);
    if (!on) state.hidden.add(s.name);
    for (const button of document.querySelectorAll(".shown button")) if (button.dataset.name === s.name) button.setAttribute("aria-pressed", on);
    drawRate();
    reset();
  };
  return h("button", { type: "button", "aria-pressed": "true", "data-name": s.name, click: toggle }, swatch(s.style), s.name);
}

// -- theme: the system's until the reader says otherwise -------------------------------------------

function toggleTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  try { localStorage.setItem("mmtok-theme", root.dataset.theme); } catch { /* a viewer without storage forgets */ }
}

function restoreTheme() {
  try {
    const saved = localStorage.getItem("mmtok-theme");
    if (saved === "light" || saved === "dark") document.documentElement.dataset.theme = saved;
  } catch { /* as above */ }
}

$("rate").hidden = page.series.every((s) => s.rate === null); // detectors write nothing
restoreTheme();
sortable($("summary"));
fillControls();
drawCondition();
$("theme").addEventListener("click", toggleTheme);
$("condition").addEventListener("change", drawCondition);
$("rate-metric").addEventListener("change", drawRate);
$("all-columns").addEventListener("change", (event) => $("summary").classList.toggle("all", event.target.checked));
$("filters").addEventListener("submit", (event) => event.preventDefault());
for (const id of ["filter-text", "filter-failed", "sort-metric", "sort-codec", "sort-order"]) $(id).addEventListener("input", reset);
$("more").addEventListener("click", () => { state.shown += PAGE; drawItems(); });
document.addEventListener("keydown", onKey);
new ResizeObserver(drawRate).observe($("rate-plot"));
