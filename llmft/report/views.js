"use strict";
// The figures of the page, each drawn from the groups that the filters leave. A figure without anything to show is left out.

const VIEWS = ["domains", "size", "cost", "memory", "training", "gap"];
const MOST_PANELS = 6;
const MOST_LINES = 14;
const MOST_MARKS = 1500;
const DOMAINS = [["in_domain", "in-domain"], ["out_of_domain", "out-of-domain"]];
const DOMAIN_LOOKS = { in_domain: { colour: "#1b6ca8", marker: "o" }, out_of_domain: { colour: "#d1603d", marker: "D" } };
const known = (value) => typeof value === "number";
const fixed = (value, digits) => (known(value) ? value.toFixed(digits) : "-");

class Views {
  constructor(data, place) {
    this.data = data;
    this.place = place;
    this.whole = new Set();
    this.patterns = new Set(data.groups.map((group) => group.pattern)).size;
  }

  mean(group, key) {
    return group.values[key]?.[0] ?? null;
  }

  point(member, key) {
    return this.data.points[key][member];
  }

  who(group) {
    const several = this.data.models.length > 1;
    return `${this.label(group)}${several ? `, ${group.model}` : ""}\n${group.task}, ${group.selection_name}`;
  }

  /* A group within its panel; with its pattern where there are several. */
  label(group) {
    return group.name + (this.patterns > 1 && group.pattern ? `, ${group.pattern}` : "");
  }

  said(group) {
    const lines = [this.who(group)];
    for (const [key, name] of DOMAINS) {
      const [mean, sd] = group.values[key] ?? [];
      if (known(mean)) lines.push(`${name} ${fixed(mean, 3)}${known(sd) ? ` ± ${fixed(sd, 3)}` : ""}`);
    }
    return [...lines, `${group.members.length} run${group.members.length > 1 ? "s" : ""}`].join("\n");
  }

  saidOfRun(group, member) {
    const run = this.data.points.run[member];
    const seeds = `seed ${this.data.runs.seed[run]}, data seed ${this.data.runs.data_seed[run]}`;
    const values = DOMAINS.map(([key, name]) => (known(this.point(member, key)) ? `\n${name} ${fixed(this.point(member, key), 3)}` : ""));
    return `${this.who(group)}\nrun ${this.data.runs.id[run]}, ${seeds}${values.join("")}`;
  }

  /* The first panels by task and model, each [title, its first rows], unless all of a figure were asked for; and how many panels
     and rows there are in all. `share`: rows of all panels together, where a figure has a row a group. */
  panels(view, groups, { keys = ["task", "model"], share = Infinity } = {}) {
    const title = (group) => keys.filter((key) => key !== "model" || this.data.models.length > 1).map((key) => group[key]).join(", ");
    const all = grouped(groups, (group) => keys.map((name) => group[name])).map((members) => [title(members[0]), members]);
    const each = Math.max(8, Math.floor(share / Math.min(all.length, MOST_PANELS)));
    const first = all.slice(0, MOST_PANELS).map(([title, members]) => [title, share < Infinity ? this.some(members, each) : members]);
    const count = (parts) => parts.reduce((sum, [, members]) => sum + members.length, 0);
    const left = { panels: all.length - first.length, rows: count(all) - count(first) };
    const said = !left.rows ? "" : left.panels && share === Infinity ? `Show all ${all.length} panels` : `Show all ${count(all)} rows`;
    return [this.whole.has(view) ? all : first, said];
  }

  /* At most that many of the groups (or lines), in their order: the first ones of every method, then the second ones, and so on. */
  some(groups, most, lookOf = (group) => group.look) {
    const seen = new Map();
    const turns = groups.map((group) => {
      seen.set(lookOf(group), (seen.get(lookOf(group)) ?? 0) + 1);
      return [seen.get(lookOf(group)), group];
    });
    const chosen = new Set(turns.sort(([a], [b]) => a - b).slice(0, most).map(([, group]) => group));
    return groups.filter((group) => chosen.has(group));
  }

  figure(view, title, caption, more, draw, kind = "") {
    const panels = element("div", { class: `panels ${kind}` });
    const parts = [element("h3", {}, title), panels, element("figcaption", {}, caption)];
    if (more) {
      const text = this.whole.has(view) ? "Show fewer" : more;
      parts.push(element("button", { type: "button", class: "more", onclick: () => this.switch(view) }, text));
    }
    this.slots[view].append(element("figure", { id: `fig-${view}` }, ...parts));
    draw(panels);
  }

  switch(view) {
    if (!this.whole.delete(view)) this.whole.add(view);
    this.slots[view].replaceChildren();
    this[view](this.groups);
    this.slots[view].querySelector(".more").focus({ preventScroll: this.whole.has(view) });
  }

  draw(groups) {
    this.groups = groups;
    this.slots = Object.fromEntries(VIEWS.map((view) => [view, element("div")]));
    for (const view of VIEWS) this[view](groups);
    const drawn = Object.values(this.slots).filter((slot) => slot.children.length);
    this.place.replaceChildren(...drawn);
    if (!drawn.length) this.place.append(element("p", { class: "note" }, "No figure has anything to show for these rows."));
  }

  domains(groups) {
    const both = groups.filter((group) => DOMAINS.every(([key]) => known(this.mean(group, key))));
    if (!both.length) return;
    const [panels, more] = this.panels("domains", both);
    const marks = panels.flatMap(([, members]) => members).reduce((sum, group) => sum + group.members.length, 0);
    const caption = "A small marker a run, a large one the mean of seeds. Dashed: always answering the largest class.";
    const sparse = marks > MOST_MARKS ? " There are too many runs to draw each: filter to see them." : "";
    this.figure("domains", "In-domain and out-of-domain accuracy", caption + sparse, more, (place) => {
      for (const [title, members] of panels) {
        const each = marks <= MOST_MARKS;
        const values = (key) => members.flatMap((group) => (each ? group.members.map((member) => this.point(member, key)) : [this.mean(group, key)]));
        const every = [...values("in_domain"), ...values("out_of_domain"), ...(this.data.majority[members[0].task] ?? [])].filter(known);
        const [low, high] = [Math.min(...every) - 0.02, Math.min(1, Math.max(...every) + 0.02)];
        const axis = (label) => ({ values: [], low, high, label });
        const panel = plot(place, title, axis("in-domain accuracy"), axis("out-of-domain accuracy"), 330);
        panel.path([[low, low], [high, high]], { class: "grid" });
        const [inside, outside] = this.data.majority[members[0].task] ?? [];
        if (known(inside)) panel.lineUp(inside);
        if (known(outside)) panel.lineAcross(outside);
        const at = (x, y, ...rest) => marker(panel.svg, panel.x(x), panel.y(y), ...rest);
        for (const group of each ? members : []) {
          for (const member of group.members) {
            const [x, y] = DOMAINS.map(([key]) => this.point(member, key));
            if (known(x) && known(y)) at(x, y, this.data.looks[group.look], 4, "small", this.saidOfRun(group, member));
          }
        }
        for (const group of members) {
          at(this.mean(group, "in_domain"), this.mean(group, "out_of_domain"), this.data.looks[group.look], members.length > 12 ? 4.5 : 6.5, "ring", this.said(group));
        }
      }
    });
  }

  size(groups) {
    const linesOf = (members) => grouped(members, (group) => [group.task, group.family, group.name, group.pattern, group.selection])
      .filter((line) => new Set(line.map((group) => group.weights)).size > 1);
    const sized = new Set(linesOf(groups.filter((group) => known(group.weights))).flat());
    if (!sized.size) return;
    const [panels, more] = this.panels("size", groups.filter((group) => sized.has(group)), { keys: ["task"] });
    const most = Math.max(...panels.map(([, members]) => linesOf(members).length));
    const all = more || (most > MOST_LINES ? `Show all ${most} lines` : "");
    this.figure("size", "Accuracy against model size", "Means over seeds; a line a family of models, method, number of shots and pattern.", all, (place) => {
      for (const [title, members] of panels) {
        for (const [key, name] of DOMAINS) {
          const found = linesOf(members.filter((group) => known(this.mean(group, key))));
          if (!found.length) continue;
          const lines = this.whole.has("size") ? found : this.some(found, MOST_LINES, ([first]) => first.look);
          const here = lines.flat();
          const x = { values: here.map((group) => group.weights), log: true, label: "weights" };
          const panel = plot(place, `${title}, ${name}`, x, { values: here.map((group) => this.mean(group, key)), label: "accuracy" });
          const [kind, size] = lines.length > 8 ? ["look curve", 3] : ["look curve thick", 4.5];
          for (const line of lines) {
            line.sort((a, b) => a.weights - b.weights);
            const look = this.data.looks[line[0].look];
            panel.path(line.map((group) => [group.weights, this.mean(group, key)]), { class: kind }, look);
            for (const group of line) marker(panel.svg, panel.x(group.weights), panel.y(this.mean(group, key)), look, size, "", this.said(group));
          }
        }
      }
    }, "pairs");
  }

  /* What a group cost; how it was before training, and its teacher, have no cost of training. */
  costOf(group, cost) {
    return cost === "training_cpu_s" && ["before", "teacher"].includes(group.selection) ? null : this.mean(group, cost);
  }

  cost(groups) {
    const costs = [["cpu_ms_per_query", "CPU ms per query", 3], ["training_cpu_s", "CPU s of training and teacher", 1]];
    const shown = costs.filter(([key]) => groups.some((group) => this.costOf(group, key) > 0));
    if (!shown.length) return;
    const [panels, more] = this.panels("cost", groups);
    const caption = "Filled: in-domain, hollow: out-of-domain. The lines (dashed: out-of-domain) are Pareto fronts: nothing cheaper is as accurate.";
    this.figure("cost", "Accuracy against cost", caption, more, (place) => {
      for (const [title, all] of panels) {
        for (const [cost, label, digits] of shown) {
          const members = all.filter((group) => known(this.costOf(group, cost)));
          if (!members.length) continue;
          const accuracies = members.flatMap((group) => DOMAINS.map(([key]) => this.mean(group, key))).filter(known);
          const x = { values: members.map((group) => this.mean(group, cost)), log: true, label };
          const panel = plot(place, title, x, { values: accuracies, label: "accuracy" });
          for (const [key, name] of DOMAINS) {
            const here = members.filter((group) => known(this.mean(group, key)));
            const line = front(here.map((group) => [this.mean(group, cost), this.mean(group, key)]));
            panel.path(line, key === "in_domain" ? { class: "axis", fill: "none" } : { class: "dash" }, null, true);
            for (const group of here) {
              const tip = `${this.said(group)}\n${name} marker; ${label}: ${fixed(this.mean(group, cost), digits)}`;
              const [size, kind] = key === "in_domain" ? [5.5, ""] : [3.6, "hollow"];
              marker(panel.svg, panel.x(this.mean(group, cost)), panel.y(this.mean(group, key)), this.data.looks[group.look], size, kind, tip);
            }
          }
        }
      }
    }, "pairs");
  }

  memory(groups) {
    const judged = groups.filter((group) => group.judged);
    const runsOf = (group) => group.members.map((member) => this.data.points.run[member]).sort((a, b) => a - b);
    const runs = judged.length ? judged : grouped(groups, runsOf).map(([first]) => first); // selections of the same runs cost the same
    const kinds = [["rss", "memory of the processes"], ["gpu", "GPU memory"]];
    const shown = kinds.filter(([kind]) => runs.some((group) => known(this.mean(group, `${kind}_peak_bytes`))));
    if (!shown.length) return;
    const [panels, more] = this.panels("memory", runs, { share: MOST_ROWS });
    const caption = "Wide and pale: peak, with its value; narrow: mean over time. Of whole runs, means over seeds.";
    this.figure("memory", "Memory", caption, more, (place) => {
      for (const [title, all] of panels) {
        for (const [kind, name] of shown) {
          const rows = all.filter((group) => known(this.mean(group, `${kind}_peak_bytes`)));
          if (!rows.length) continue;
          const mib = (group, how) => {
            const bytes = this.mean(group, `${kind}_${how}_bytes`);
            return known(bytes) ? bytes / 2 ** 20 : null;
          };
          const x = { values: [], low: 0, high: Math.max(...rows.map((group) => mib(group, "peak"))), label: `${name}, MiB` };
          const named = rows.map((group) => ({ label: this.label(group), group }));
          rowPlot(place, title, named, x, (svg, { group }, y, at) => {
            const tip = `${this.said(group)}\npeak ${fixed(mib(group, "peak"), 0)} MiB, mean ${fixed(mib(group, "mean"), 0)} MiB`;
            for (const [how, high, pale] of [["peak", 14, "pale"], ["mean", 6, ""]]) {
              if (!known(mib(group, how))) continue;
              const width = Math.max(0, at(mib(group, how)) - at(0));
              const shape = { x: at(0), y: y + 7 - high / 2, width, height: high, rx: 1.5, class: `look mark bar ${pale}` };
              const bar = drawn("rect", shape, svg);
              bar.style.setProperty("--look", this.data.looks[group.look].colour);
              pointable(bar, tip, how === "peak");
            }
            written(svg, at(mib(group, "peak")) + 5, y + 11, fixed(mib(group, "peak"), 0));
          });
        }
      }
    }, "rows");
  }

  training(groups) {
    const chosen = new Set(groups.flatMap((group) => group.members.map((member) => this.data.points.run[member])));
    const curves = this.data.curves.filter((curve) => chosen.has(curve.runs[0].run)); // a curve is of the runs of one group
    if (!curves.length) return;
    const [panels, more] = this.panels("training", curves, { keys: ["task", "model", "kind"] });
    const caption = `A thin line a run, a thick one the mean of seeds.${this.data.curves_left_out}`;
    this.figure("training", "Training", caption, more, (place) => {
      for (const [title, members] of panels) {
        const runs = members.flatMap((curve) => curve.runs);
        const losses = runs.flatMap((run) => run.losses);
        const log = losses.every((loss) => loss > 0);
        const x = { values: runs.flatMap((run) => run.steps), label: "step" };
        const unit = members[0].unit;
        const panel = plot(place, title, x, { values: losses, log, label: log ? `${unit} (log)` : unit });
        for (const curve of members) {
          const look = this.data.looks[curve.look];
          const at = new Map();
          for (const run of curve.runs) {
            const tip = `${this.label(curve)}\nrun ${this.data.runs.id[run.run]}\nlast ${unit} ${short(run.losses.at(-1))} at step ${run.steps.at(-1)}`;
            pointable(panel.path(run.steps.map((step, place) => [step, run.losses[place]]), { class: "look curve" }, look), tip, false);
            run.steps.forEach((step, place) => at.set(step, [...(at.get(step) ?? []), run.losses[place]]));
          }
          const means = [...at].sort(([a], [b]) => a - b).map(([step, found]) => [step, found.reduce((a, b) => a + b) / found.length]);
          panel.path(means, { class: "look curve thick" }, look);
          for (const [step, loss] of means.filter((_, place) => place % Math.ceil(means.length / 12) === 0)) {
            const tip = `${this.label(curve)}\nmean ${unit} ${short(loss)} at step ${step}`;
            marker(panel.svg, panel.x(step), panel.y(loss), look, 3, "", tip);
          }
        }
      }
    }, "pairs");
  }

  gap(groups) {
    const keys = DOMAINS.map(([key, name]) => [`gap_recovered_${key}`, name, DOMAIN_LOOKS[key]]);
    const found = groups.filter((group) => keys.some(([key]) => known(this.mean(group, key))));
    if (!found.length) return;
    const [panels, more] = this.panels("gap", found, { share: MOST_ROWS });
    const caption = "0: as before training, 100: as the teacher with its context. A small marker a run, a large one their mean; "
      + "blue circles: in-domain, orange diamonds: out-of-domain. Values beyond -100 and 200 % are drawn there.";
    this.figure("gap", "Recovered gap", caption, more, (place) => {
      for (const [title, all] of panels) {
        const rows = all.map((group) => ({ label: this.label(group), group }));
        const cut = (value) => Math.max(-100, Math.min(200, 100 * value));
        const every = rows.flatMap(({ group }) => group.members.flatMap((member) => keys.map(([key]) => this.point(member, key))));
        const x = { values: [0, 100, ...every.filter(known).map(cut)], label: "gap recovered, %", marked: [0, 100] };
        rowPlot(place, title, rows, x, (svg, { group }, y, at) => {
          keys.forEach(([key, name, look], line) => {
            for (const member of group.members) {
              const value = this.point(member, key);
              if (known(value)) marker(svg, at(cut(value)), y + 3 + 9 * line, look, 3.2, "small", `${this.saidOfRun(group, member)}\n${name} gap recovered ${fixed(100 * value, 1)} %`);
            }
            const mean = this.mean(group, key);
            if (known(mean)) marker(svg, at(cut(mean)), y + 3 + 9 * line, look, 4.4, "ring", `${this.who(group)}\n${name} gap recovered ${fixed(100 * mean, 1)} %, mean`);
          });
        });
      }
    }, "rows");
  }
}
