"use strict";
// Text answers, row by row: choose a run, and filter its rows by set, by outcome, and by words in them.

const MOST_LETTERS = 180;

/* A text; for a long one its beginning, which can be opened. */
function words(text) {
  if (!text) return element("span", { class: "soft" }, "(nothing)");
  if (text.length <= MOST_LETTERS) return element("span", { class: "words" }, text);
  return element("details", { class: "words" }, element("summary", {}, element("span", {}, `${text.slice(0, MOST_LETTERS - 20)}…`)), text);
}

function answerCell(run, row, stage) {
  const answer = row.answers[stage];
  if (!answer) return { text: "-", value: null };
  const [text, score, measures] = answer;
  const changed = { "from wrong to right": "better", better: "better", "from right to wrong": "worse", worse: "worse" }[row.outcome];
  const node = element("div", {}, words(text), element("small", {}, `${run.metric} ${Number(score.toFixed(2))}`));
  return { text: "", value: score, node, mark: (stage === run.final && changed) || "", tip: measures };
}

function exampleColumns(run) {
  const several = new Set(run.rows.map((row) => row.document)).size > 1;
  const place = (row) => element("div", {}, `${row.set} ${row.idx}`, element("small", {}, row.outcome),
    several ? element("small", {}, `document ${row.document.slice(0, 60)}`) : null);
  const reference = ([first, ...others]) => element("div", {}, words(first), others.length ? element("small", {}, `or: ${others.join(" | ")}`) : null);
  const column = (name, cell, kind = "text answer") => ({ name, left: true, kind, cell });
  return [
    column("row", (row) => ({ text: "", value: `${row.set} ${row.idx}`, node: place(row) }), "text row"),
    column("query", (row) => ({ text: "", value: row.query, node: words(row.query) })),
    column("reference", (row) => ({ text: "", value: row.reference[0], node: reference(row.reference) })),
    ...run.stages.map((name, stage) => column(name, (row) => answerCell(run, row, stage))),
  ];
}

function examples() {
  const { runs, left_out } = DATA.examples;
  const section = byId("examples");
  section.hidden = !runs.length;
  if (!runs.length) return;
  const select = byId("example-run");
  select.replaceChildren(...runs.map((run, number) => element("option", { value: number }, run.title)));
  select.value = Math.max(0, runs.findIndex((run) => run.stages.includes("teacher")));
  const fields = ["example-set", "example-outcome", "example-search"].map(byId);
  const [bySet, byOutcome, search] = fields;
  let run, table, texts;
  const apply = () => {
    const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (row, number) => (!bySet.value || bySet.value === `=${row.set}`) && (!byOutcome.value || byOutcome.value === `=${row.outcome}`) &&
      wanted.every((word) => texts[number].includes(word));
    const shown = run.rows.filter(fits);
    const counts = run.counts.map(([name, count]) => `${count} ${name}`).join(", ");
    const rest = run.left_out ? `; ${run.left_out} more rows are in the run's predictions.parquet` : "";
    byId("example-count").textContent = `${shown.length} of ${run.rows.length} rows. The run has ${counts}${rest}.`;
    table.show(shown);
  };
  const choose = () => {
    run = runs[select.value];
    texts = run.rows.map((row) => [row.set, row.idx, row.document, row.query, ...row.reference, ...row.answers.map((answer) => answer?.[0] ?? "")].join("\n").toLowerCase());
    choices(bySet, [["", "all"]], [...new Set(run.rows.map((row) => row.set))]);
    choices(byOutcome, [["", "all"]], run.counts.map(([name]) => name).filter((name) => run.rows.some((row) => row.outcome === name)));
    table = new SortedTable(byId("example-table"), exampleColumns(run), { label: "Examples" });
    apply();
  };
  select.parentElement.hidden = runs.length < 2;
  select.addEventListener("change", choose);
  for (const field of fields) field.addEventListener("input", apply);
  byId("example-filters").addEventListener("submit", (event) => event.preventDefault());
  byId("example-note").append(left_out ? ` ${left_out} more runs are not in the page; \`python -m llmft.report show RUN --examples N\` prints their examples.` : "");
  choose();
}
