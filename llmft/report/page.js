"use strict";
// The page: its words, the table of results with its filters and figures, and all other tables.

const DATA = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

function summary() {
  byId("summary").append(
    ...DATA.summary.map((line) => element("p", {}, line)),
    element("ul", {}, ...DATA.findings.map((line) => element("li", {}, line))),
  );
  const sections = [["results", "Results"], ["figures", "Figures"], ...DATA.tables.map((table) => [`table-${table.name}`, table.title])];
  byId("contents").append(...sections.slice(0, 12).map(([id, title]) => element("a", { href: `#${id}` }, title)));
}

function legend() {
  for (const look of Object.values(DATA.looks)) {
    const swatch = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    swatch.setAttribute("viewBox", "0 0 16 16");
    swatch.setAttribute("class", "swatch");
    swatch.setAttribute("aria-hidden", "true");
    marker(swatch, 8, 8, look, 5.5, "", null);
    byId("legend").append(element("li", {}, swatch, look.name));
  }
}

function scoreCell(column, group) {
  const [mean, sd] = group.values[column.key] ?? [];
  if (!known(mean)) return { text: "-", value: null };
  const star = group.selected[column.key] ? "*" : "";
  const scale = column.scale ?? 1;
  const spread = known(sd) ? ` ± ${fixed(sd / scale, column.digits)}` : "";
  const text = fixed(mean / scale, column.digits);
  return column.spread ? { text: text + spread + star, value: mean } : { text, value: mean, tip: spread && text + spread };
}

function methodCell(group) {
  const swatch = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  swatch.setAttribute("viewBox", "0 0 16 16");
  swatch.setAttribute("class", "swatch");
  swatch.setAttribute("aria-hidden", "true");
  marker(swatch, 8, 8, DATA.looks[group.look], 5.5, "", null);
  return { text: group.method, value: group.method, node: swatch };
}

function resultColumns() {
  const words = [["method", methodCell], ...["task", "model", "pattern"].map((key) => [key, (group) => ({ text: String(group[key] ?? "-") })])];
  const telling = words.filter(([key]) => key === "method" || new Set(DATA.groups.map((group) => group[key])).size > 1);
  return [
    ...telling.map(([name, cell]) => ({ name, left: true, cell })),
    { name: "shots", cell: (group) => ({ text: String(group.shots), value: group.shots }) },
    { name: "selection", left: true, cell: (group) => ({ text: group.selection_name }) },
    ...DATA.columns
      .filter((column) => DATA.groups.some((group) => known(group.values[column.key]?.[0])))
      .map((column) => ({ name: column.name, cell: (group) => scoreCell(column, group) })),
    { name: "runs", cell: (group) => ({ text: String(group.members.length), value: group.members.length }) },
  ];
}

/* The runs of a group, each with its seeds, values and links to the files of its record. */
function runsOf(group) {
  const { runs, points } = DATA;
  const cells = (kind, values) => element("tr", {}, ...values.map((value) => element(kind, kind === "th" ? { scope: "col" } : {}, value)));
  const members = [...group.members].sort((a, b) => runs.seed[points.run[a]] - runs.seed[points.run[b]]);
  const rows = members.map((member) => {
    const run = points.run[member];
    const folder = runs.link[run].split("/").map(encodeURIComponent).join("/");
    const files = ["config.json", "metrics.json", "cost.json", ...(runs.logged[run] ? ["train_log.jsonl"] : [])];
    const links = [element("a", { href: `${folder}/`, title: runs.link[run] }, runs.id[run])];
    const named = files.map((file) => element("a", { href: `${folder}/${file}` }, file));
    const numbers = [points.in_domain[member], points.out_of_domain[member]].map((value) => fixed(value, 4));
    const costs = [fixed(runs.cpu_total_s[run], 1), fixed(runs.training_cpu_s[run], 1), fixed(runs.rss_peak_bytes[run] / 2 ** 20, 0)];
    const shown = [element("span", {}, ...links), String(runs.seed[run]), String(runs.data_seed[run]), ...numbers, ...costs, element("span", {}, ...named)];
    return cells("td", shown);
  });
  const head = cells("th", ["run", "seed", "data seed", "in-domain", "out-of-domain", "CPU s run", "CPU s training", "peak MiB", "record"]);
  return element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows));
}

function choices(select, first, values, names = (value) => value) {
  select.replaceChildren(...first.map(([value, text]) => element("option", { value }, text)));
  for (const value of values) select.append(element("option", { value: `=${value}` }, names(value)));
  select.parentElement.hidden = values.length < 2;
}

function results() {
  const table = new SortedTable(byId("results-table"), resultColumns(), { detail: runsOf, label: "Results" });
  const views = new Views(DATA, byId("charts"));
  const distinct = (key) => [...new Set(DATA.groups.map((group) => group[key]))];
  const selections = distinct("selection_name");
  choices(byId("by-task"), [["", "all"]], distinct("task"));
  choices(byId("by-method"), [["", "all"]], distinct("look"), (look) => DATA.looks[look].name);
  choices(byId("by-model"), [["", "all"]], distinct("model"));
  choices(byId("by-selection"), [["judged", "final ones"], ["", "all"]], selections);
  const words = new Map(DATA.groups.map((group) => [group, [group.task, group.model, group.name, group.shots, group.pattern, group.selection_name,
    ...group.members.map((member) => DATA.runs.id[DATA.points.run[member]])].join(" ").toLowerCase()]));
  const apply = () => {
    const asked = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = [["by-task", "task"], ["by-method", "look"], ["by-model", "model"], ["by-selection", "selection_name"]];
    const fits = (group) => wanted.every(([id, key]) => {
      const value = byId(id).value;
      return value === "" || (value === "judged" ? group.judged : value === `=${group[key]}`);
    });
    const found = DATA.groups.filter((group) => fits(group) && asked.every((word) => words.get(group).includes(word)));
    const runs = new Set(found.flatMap((group) => group.members.map((member) => DATA.points.run[member]))).size;
    byId("count").textContent = `${found.length} of ${DATA.groups.length} rows, ${runs} of ${DATA.runs.id.length} runs`;
    table.show(found);
    views.draw(found);
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

function otherTables() {
  for (const { name, title, notes, columns, rows } of DATA.tables) {
    const place = element("div");
    const parts = [element("h2", {}, title), place, ...notes.map((note) => element("p", { class: "note" }, note))];
    const section = element("section", { id: `table-${name}` }, ...parts);
    byId("tables").append(section);
    const shown = columns.map((column, number) => ({
      ...column,
      cell: (row) => {
        const cell = row[number];
        if (!Array.isArray(cell)) return { text: cell };
        const [text, value, mark] = cell;
        return { text, value, mark };
      },
    }));
    const table = new SortedTable(place, shown, { step: 60, label: title });
    if (rows.length > 12) {
      const search = element("input", { type: "search", placeholder: "words in a row", oninput: () => {
        const asked = search.value.toLowerCase().split(/\s+/).filter(Boolean);
        table.show(rows.filter((row) => asked.every((word) => row.some((cell) => String(Array.isArray(cell) ? cell[0] : cell).toLowerCase().includes(word)))));
      } });
      place.before(element("form", { onsubmit: (event) => event.preventDefault() }, element("label", { class: "wide" }, "Search ", search)));
    }
    table.show(rows);
  }
}

summary();
legend();
results();
otherTables();
showTips();
