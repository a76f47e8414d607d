"use strict";
// Elements, and tables that can be sorted by their headings. Text of records only ever becomes textContent or an attribute's value.

function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class") made.className = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  if (typeof a === "number") return -1;
  if (typeof b === "number") return 1;
  return collator.compare(a, b);
}

const missing = (value) => value === null || value === undefined || value === "" || Number.isNaN(value);

const MOST_ROWS = 40;

/* A table below `place`. columns: {name, left, kind, cell: row -> {text, value, mark, tip, node}}; missing values are sorted to the end
   in both directions. detail: row -> element, shown on request. At most MOST_ROWS rows are drawn until all are requested. */
class SortedTable {
  constructor(place, columns, { detail = null, label = "" } = {}) {
    Object.assign(this, { columns, detail, rows: [], sorted: null, down: false, whole: false, open: new Set() });
    this.headings = columns.map((column, number) => {
      const button = element("button", { type: "button", onclick: () => this.sortBy(number) }, column.name);
      return element("th", { scope: "col", "aria-sort": "none", class: `${column.left ? "left" : ""} ${column.kind ?? ""}` }, button);
    });
    this.body = element("tbody");
    const head = element("thead", {}, element("tr", {}, ...this.headings));
    const table = element("table", { "aria-label": label }, head, this.body);
    this.more = element("button", { type: "button", class: "more", onclick: () => this.showAll() });
    place.replaceChildren(element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, table), this.more);
  }

  show(rows) {
    this.rows = rows;
    this.whole = false;
    this.draw();
  }

  sortBy(number) {
    this.down = this.sorted === number ? !this.down : false;
    this.sorted = number;
    this.headings.forEach((heading, other) => {
      heading.setAttribute("aria-sort", other !== number ? "none" : this.down ? "descending" : "ascending");
    });
    this.draw();
  }

  showAll() {
    this.whole = !this.whole;
    this.draw();
  }

  inOrder() {
    if (this.sorted === null) return this.rows;
    const column = this.columns[this.sorted];
    const keyed = this.rows.map((row) => {
      const cell = column.cell(row);
      return [cell.value === undefined ? cell.text : cell.value, row];
    });
    const sign = this.down ? -1 : 1;
    keyed.sort(([a], [b]) => (missing(a) || missing(b) ? missing(a) - missing(b) : sign * compare(a, b)));
    return keyed.map(([, row]) => row);
  }

  draw() {
    const rows = this.inOrder();
    const drawn = document.createDocumentFragment();
    for (const row of this.whole ? rows : rows.slice(0, MOST_ROWS)) {
      drawn.append(this.drawRow(row));
      if (this.open.has(row)) drawn.append(this.drawDetail(row));
    }
    this.body.replaceChildren(drawn);
    this.more.hidden = rows.length <= MOST_ROWS;
    this.more.textContent = this.whole ? `Show the first ${MOST_ROWS} of ${rows.length} rows` : `Show all ${rows.length} rows`;
  }

  drawRow(row) {
    const cells = this.columns.map((column) => {
      const { text, mark = "", tip = null, node = null } = column.cell(row);
      const kinds = [column.left ? "left" : "", column.kind, column.left && text.length > 40 ? "long" : "", mark].filter(Boolean).join(" ");
      const part = /^(.*?) \((p .*?)\)(.*)$/.exec(text);
      const cell = element("td", { class: kinds, "data-tip": tip ?? (part && `${part[2]}${mark && `: ${mark}`} (Welch's t-test)`) });
      if (node) cell.append(node);
      const spread = /^(.*?)( ± .*)$/.exec(text);
      if (part) cell.append(part[1] + part[3], element("small", {}, part[2]));
      else if (spread && !column.left) cell.append(spread[1], element("span", { class: "sd" }, spread[2]));
      else cell.append(text);
      return cell;
    });
    if (this.detail) {
      const open = this.open.has(row);
      const label = open ? "Hide runs" : "Show runs";
      const toggle = () => {
        this.open[this.open.has(row) ? "delete" : "add"](row);
        const place = [...this.body.querySelectorAll(".opener")].indexOf(opener);
        this.draw();
        this.body.querySelectorAll(".opener")[place].focus();
      };
      const opener = element("button", { type: "button", class: "opener", "aria-expanded": String(open), "aria-label": label, onclick: toggle });
      cells[0].prepend(opener);
    }
    return element("tr", {}, ...cells);
  }

  drawDetail(row) {
    return element("tr", { class: "detail" }, element("td", { colspan: String(this.columns.length) }, this.detail(row)));
  }
}
