"use strict";
// The page: its text, the table of results with its filters, the figures' marks, and all other tables.

const DATA = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

function summary() {
  byId("summary").append(
    ...DATA.summary.map((line) => element("p", {}, line)),
    element("ul", {}, ...DATA.findings.map((line) => element("li", {}, line))),
  );
}

/* Links to all sections, once these exist. */
function contents() {
  const sections = [...document.querySelectorAll("main section:not([hidden])")];
  byId("contents").append(...sections.map((section) => element("a", { href: `#${section.id}` }, section.querySelector("h2").textContent)));
}

const known = (value) => typeof value === "number";
const fixed = (value, digits) => (known(value) ? value.toFixed(digits) : "-");

function scoreCell(column, group) {
  const [mean, sd] = group.values[column.key] ?? [];
  if (!known(mean)) return { text: "-", value: null };
  const star = group.selected[column.key] ? "*" : "";
  const scale = column.scale ?? 1;
  const spread = known(sd) ? ` ± ${fixed(sd / scale, column.digits)}` : "";
  const text = fixed(mean / scale, column.digits);
  return column.spread ? { text: text + spread + star, value: mean } : { text, value: mean, tip: spread ? text + spread : null };
}

/* A spot in the method's colour in the figures. */
function swatch(colour) {
  const spot = element("span", { class: "swatch" });
  spot.style.setProperty("--look", colour);
  return spot;
}

function methodCell(group) {
  return { text: group.method, value: group.method, node: swatch(DATA.looks[group.look].colour) };
}

function resultColumns() {
  const words = [["method", methodCell], ...["task", "model", "pattern", "metric", "precision"].map((key) => [key, (group) => ({ text: String(group[key] ?? "-") })])];
  const telling = words.filter(([key]) => key === "method" || new Set(DATA.groups.map((group) => group[key])).size > 1);
  return [
    ...telling.map(([name, cell]) => ({ name, left: true, cell })),
    { name: "shots", cell: (group) => ({ text: String(group.shots), value: group.shots }) },
    { name: "selection", left: true, kind: "selection", cell: (group) => ({ text: group.selection_name }) },
    ...DATA.columns
      .filter((column) => DATA.groups.some((group) => group.values[column.key]?.[0] > 0 || (column.spread && group.values[column.key])))
      .map((column) => ({ name: column.name, cell: (group) => scoreCell(column, group) })),
    { name: "runs", cell: (group) => ({ text: String(group.members.length), value: group.members.length }) },
  ];
}

/* The runs of a group, each with its seeds, values and links to the files of its record; and the deviations of their costs. */
function runsOf(group) {
  const { runs, points } = DATA;
  const cells = (kind, values) => element("tr", {}, ...values.map((value) => element(kind, kind === "th" ? { scope: "col" } : {}, value)));
  const domains = DATA.columns.filter((column) => column.spread && points[column.key].some(known));
  const members = [...group.members].sort((a, b) => runs.seed[points.run[a]] - runs.seed[points.run[b]]);
  const rows = members.map((member) => {
    const run = points.run[member];
    const folder = runs.link[run].split("/").map(encodeURIComponent).join("/");
    const files = ["config.json", "metrics.json", "cost.json", ...(runs.logged[run] ? ["train_log.jsonl"] : [])];
    const links = [element("a", { href: `${folder}/`, title: runs.link[run] }, runs.id[run])];
    const named = files.map((file) => element("a", { href: `${folder}/${file}` }, file));
    const numbers = domains.map((column) => fixed(points[column.key][member], 4));
    const costs = [fixed(runs.cpu_total_s[run], 1), fixed(runs.training_cpu_s[run], 1), fixed(runs.rss_peak_bytes[run] / 2 ** 20, 0)];
    const shown = [element("span", {}, ...links), String(runs.seed[run]), String(runs.data_seed[run]), ...numbers, ...costs, element("span", {}, ...named)];
    return cells("td", shown);
  });
  const head = cells("th", ["run", "seed", "data seed", ...domains.map((column) => column.name), "CPU s run", "CPU s training", "peak MiB", "record"]);
  const costs = DATA.columns.filter((column) => !column.spread).map((column) => [column.name, scoreCell(column, group).tip]);
  const spreads = costs.filter(([, tip]) => tip).map(([name, tip]) => `${name} ${tip}`).join(", ");
  return element("div", {}, element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)),
    spreads ? element("p", {}, `Mean ± standard deviation: ${spreads}`) : null);
}

function choices(select, first, values, names = (value) => value) {
  select.replaceChildren(...first.map(([value, text]) => element("option", { value }, text)));
  for (const value of values) select.append(element("option", { value: `=${value}` }, names(value)));
  select.parentElement.hidden = values.length < 2;
}

function results() {
  const table = new SortedTable(byId("results-table"), resultColumns(), { detail: runsOf, label: "Results" });
  const distinct = (key) => [...new Set(DATA.groups.map((group) => group[key]))];
  const selections = distinct("selection_name");
  byId("precisions").hidden = distinct("precision").length < 2;
  choices(byId("by-task"), [["", "all"]], distinct("task"));
  choices(byId("by-method"), [["", "all"]], distinct("look"), (look) => DATA.looks[look].name);
  choices(byId("by-model"), [["", "all"]], distinct("model"));
  choices(byId("by-selection"), [["judged", "final ones"], ["", "all"]], selections);
  const words = new Map(DATA.groups.map((group) => [group, [group.task, group.model, group.name, group.shots, group.pattern, group.metric, group.precision, group.selection_name,
    ...group.members.map((member) => DATA.runs.id[DATA.points.run[member]])].join(" ").toLowerCase()]));
  const apply = () => {
    const wantedWords = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = [["by-task", "task"], ["by-method", "look"], ["by-model", "model"], ["by-selection", "selection_name"]];
    const fits = (group) => wanted.every(([id, key]) => {
      const value = byId(id).value;
      return value === "" || (value === "judged" ? group.judged : value === `=${group[key]}`);
    });
    const shown = DATA.groups.filter((group) => fits(group) && wantedWords.every((word) => words.get(group).includes(word)));
    const runs = new Set(shown.flatMap((group) => group.members.map((member) => DATA.points.run[member]))).size;
    byId("count").textContent = `${shown.length} of ${DATA.groups.length} rows, ${runs} of ${DATA.runs.id.length} runs`;
    byId("results-table").classList.toggle("final", byId("by-selection").value === "judged");
    table.show(shown);
  };
  let waiting = 0;
  const soon = () => {
    clearTimeout(waiting);
    waiting = setTimeout(apply, 120);
  };
  byId("search").addEventListener("input", soon);
  byId("filters").addEventListener("change", apply);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("reset", () => setTimeout(apply));
  apply();
}

/* A table of the data at `place`, with a search field if it is long. */
function plainTable(place, { title, notes, columns, rows }) {
  const below = element("div");
  const shown = columns.map((column, number) => ({
    ...column,
    cell: (row) => {
      const cell = row[number];
      if (!Array.isArray(cell)) return { text: cell };
      const [text, value, mark] = cell;
      return { text, value, mark };
    },
  }));
  const table = new SortedTable(below, shown, { label: title });
  place.replaceChildren(below, ...notes.map((note) => element("p", { class: "note" }, note)));
  if (rows.length > 12) {
    const words = rows.map((row) => row.map((cell) => (Array.isArray(cell) ? cell[0] : cell)).join("\n").toLowerCase());
    const search = element("input", { type: "search", placeholder: "words in a row", oninput: () => {
      const wantedWords = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      table.show(rows.filter((_, number) => wantedWords.every((word) => words[number].includes(word))));
    } });
    below.before(element("form", { onsubmit: (event) => event.preventDefault() }, element("label", { class: "wide" }, "Search ", search)));
  }
  table.show(rows);
}

/* One of many tables, chosen by the parts of its title before and after the first colon. */
function chosenTable(place, tables) {
  const parts = (table) => [table.title.split(": ", 1)[0], table.title.split(": ").slice(1).join(": ")];
  const [where, what] = [element("select"), element("select")];
  const heading = element("h3", { "aria-live": "polite" });
  const below = element("div");
  const named = (select) => select.selectedOptions[0]?.textContent;
  const options = (select, names) => {
    const before = named(select);
    select.replaceChildren(...names.map((name, number) => element("option", { value: number }, name)));
    select.selectedIndex = Math.max(0, names.indexOf(before));
    select.parentElement.hidden = names.length < 2;
  };
  const ofTask = () => tables.filter((table) => parts(table)[0] === named(where));
  const choose = () => {
    const table = ofTask()[what.selectedIndex];
    heading.textContent = table.title;
    plainTable(below, table);
  };
  const chooseTask = () => {
    options(what, ofTask().map((table) => parts(table)[1]));
    choose();
  };
  where.addEventListener("change", chooseTask);
  what.addEventListener("change", choose);
  place.append(
    element("form", { onsubmit: (event) => event.preventDefault() },
      element("label", {}, "Task and set ", where), element("label", { class: "long" }, "Methods ", what)),
    heading, below,
  );
  options(where, [...new Set(tables.map((table) => parts(table)[0]))]);
  chooseTask();
}

function otherTables() {
  for (const { name, title, tables } of DATA.sections) {
    const place = element("div");
    byId("tables").append(element("section", { id: `table-${name}` }, element("h2", {}, title), place));
    if (tables.length > 1 || tables[0].title !== title) chosenTable(place, tables);
    else plainTable(place, tables[0]);
  }
}

/* Arguments that all settings of a method share: below all results. */
function shared() {
  byId("shared").hidden = !DATA.shared.length;
  byId("shared").querySelector("ul").append(...DATA.shared.map((line) => element("li", {}, line)));
}

/* Shows one sheet of a figure with several sheets, chosen by name. */
function sheets() {
  for (const figure of document.querySelectorAll("figure")) {
    const all = [...figure.querySelectorAll(".sheet")];
    if (all.length < 2) continue;
    const options = all.map((sheet, number) => element("option", {}, `${number + 1} of ${all.length}: ${sheet.dataset.name}`));
    const select = element("select", {}, ...options);
    const choose = () => all.forEach((sheet, number) => (sheet.hidden = number !== select.selectedIndex));
    select.addEventListener("change", choose);
    all[0].before(element("form", { onsubmit: (event) => event.preventDefault() }, element("label", { class: "long" }, "Shown ", select)));
    choose();
  }
}

/* The marks of a sheet are one stop of the tab key, and the arrow keys go from one to the next; what they say is the page's own tip. */
function marks() {
  const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  for (const sheet of document.querySelectorAll(".sheet")) {
    const all = [...sheet.querySelectorAll("[role=img]")];
    all.forEach((mark, number) => {
      const title = mark.querySelector("title");
      mark.setAttribute("data-tip", title.textContent);
      mark.setAttribute("aria-label", title.textContent.replaceAll("\n", "; "));
      mark.setAttribute("tabindex", number ? "-1" : "0");
      title.remove();
    });
    sheet.addEventListener("keydown", (event) => {
      const next = all.includes(event.target) && all[all.indexOf(event.target) + (steps[event.key] ?? NaN)];
      if (!next) return;
      event.preventDefault();
      next.focus();
    });
    sheet.addEventListener("focusin", (event) => {
      if (!all.includes(event.target)) return;
      sheet.querySelector("[role=img][tabindex='0']").setAttribute("tabindex", "-1");
      event.target.setAttribute("tabindex", "0");
    });
  }
}

/* The only tooltip: the text of the element that is pointed at or focused. */
function showTips() {
  const tip = document.getElementById("tip");
  const tipped = (node) => node.closest?.("[data-tip]") ?? null;
  const show = (target) => {
    tip.hidden = !target;
    if (!target) return;
    tip.textContent = target.getAttribute("data-tip");
    const box = target.getBoundingClientRect();
    const [wide, high] = [tip.offsetWidth, tip.offsetHeight];
    tip.style.left = `${Math.max(6, Math.min(innerWidth - wide - 6, box.left + box.width / 2 - wide / 2))}px`;
    tip.style.top = `${box.top - high - 8 < 4 ? box.bottom + 8 : box.top - high - 8}px`;
  };
  document.addEventListener("pointerover", (event) => show(tipped(event.target)));
  document.addEventListener("focusin", (event) => show(tipped(event.target)));
  document.addEventListener("focusout", () => (tip.hidden = true));
  // an element focused by keyboard may scroll into view; its tooltip moves with it
  document.addEventListener("scroll", () => tip.hidden || show(tipped(document.activeElement)), { passive: true, capture: true });
  document.addEventListener("keydown", (event) => event.key === "Escape" && (tip.hidden = true));
}

summary();
results();
sheets();
marks();
examples();
otherTables();
shared();
contents();
showTips();
