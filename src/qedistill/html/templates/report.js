"use strict";
// Queries and documents are untrusted: whatever comes from them is set as text, never as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const WORD = /[\p{L}\p{N}_]+(?:[.'’][\p{L}\p{N}_]+)*/gu;
const SAME = 1e-6;
const narrow = matchMedia("(max-width: 40rem)");
const state = { test: data.tests[0], student: null, sort: "query", up: true };

function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}
const signed = (x, digits = 3) => (x > 0 ? "+" : x < 0 ? "−" : "±") + Math.abs(x).toFixed(digits);
const has = (system) => system !== undefined && state.test.systems.includes(system);
const kind = (system) => (data.students.includes(system) ? "student" : system.startsWith("teacher") ? "teacher" : "");

function columns() {
  const { student } = state, teacher = data.teacher;
  const less = (other) => (q) => q.ndcg[student] - q.ndcg[other];
  const all = [
    { key: "text", name: "query", value: (q) => q.text, className: "query" },
    has("query") && { key: "ndcg-query", name: "original", value: (q) => q.ndcg.query, className: "number", wide: true },
    { key: "ndcg-student", name: "student", value: (q) => q.ndcg[student], className: "number" },
    has(teacher) && { key: "ndcg-teacher", name: "teacher", value: (q) => q.ndcg[teacher], className: "number", wide: true },
    has("query") && student !== "query" &&
      { key: "query", name: "−\u00a0original", value: less("query"), className: "number", difference: true },
    has(teacher) && student !== teacher &&
      { key: "teacher", name: "−\u00a0teacher", value: less(teacher), className: "number", difference: true },
  ];
  return all.filter((column) => column && !(narrow.matches && column.wide));
}

function keeps(q) {
  const score = q.ndcg[state.student];
  const [verb, other] = $("filter").value.split("-");
  if (verb === "nothing") return score < SAME;
  if (verb === "all") return true;
  const rival = other === "query" ? "query" : data.teacher;
  if (!has(rival)) return false;
  const gain = score - q.ndcg[rival];
  return verb === "lost" ? gain < -SAME : gain > SAME;
}

function draw() {
  const shown = columns();
  const sorted = shown.find((c) => c.key === state.sort) || shown[0];
  const head = $("table").tHead.rows[0];
  head.replaceChildren(...shown.map((column) => {
    const button = make("button", "", column.name + (column === sorted ? (state.up ? " ▲" : " ▼") : ""));
    button.type = "button";
    button.onclick = () => {
      state.up = state.sort === column.key ? !state.up : true;
      state.sort = column.key;
      draw();
    };
    const cell = make("th", column.className, button);
    cell.scope = "col";
    if (column === sorted) cell.ariaSort = state.up ? "ascending" : "descending";
    return cell;
  }));
  const wanted = $("search").value.trim().toLowerCase();
  const queries = state.test.queries
    .filter((q) => keeps(q) && (!wanted || q.text.toLowerCase().includes(wanted) || q.id.toLowerCase() === wanted))
    .map((q) => [sorted.value(q), q])
    .sort(([a], [b]) => (typeof a === "string" ? a.localeCompare(b) : a - b) * (state.up ? 1 : -1));
  $("table").tBodies[0].replaceChildren(...queries.map(([, q]) => row(q, shown)));
  $("count").textContent = `${queries.length} of ${state.test.queries.length} queries`;
}

function row(q, shown) {
  const line = make("tr", "row");
  line.dataset.id = q.id;
  for (const column of shown) {
    const cell = make("td", column.className);
    const value = column.value(q);
    if (column.className === "query") {
      if (q.top) {
        const button = make("button", "", q.text);
        button.type = "button";
        button.ariaExpanded = "false";
        cell.append(button);
      } else cell.append(q.text);
      cell.append(make("span", "id", q.id));
    } else if (column.difference) {
      cell.append(make("span", value < -SAME ? "loss" : value > SAME ? "win" : "", signed(value)));
    } else cell.append(value.toFixed(3));
    line.append(cell);
  }
  if (q.top) line.onclick = () => toggle(line, q, shown.length);
  return line;
}

function toggle(line, q, width) {
  const open = line.classList.toggle("open");
  line.querySelector("button").ariaExpanded = String(open);
  if (!open) return line.nextSibling.remove();
  const cell = make("td", "", ...detail(q));
  cell.colSpan = width;
  line.after(make("tr", "detail", cell));
}

// The order of columns and cards: what is compared first.
function ordered() {
  const first = ["query", state.student, data.teacher].filter(has);
  return [...new Set([...first, ...state.test.systems])];
}

function detail(q) {
  const systems = ordered();
  return [
    make("h4", "", "Why"), make("ul", "why", ...why(q).map((parts) => make("li", "", ...parts))),
    make("h4", "", "Where the relevant documents rank"), make("div", "scroll", ranks(q, systems)),
    ...words(q),
    make("h4", "", "Expansions"),
    make("div", "cards", ...systems.filter((s) => q.expansions[s]).map((s) => card(s, q, expansion(q, s)))),
    make("h4", "", "The first ten documents"),
    make("div", "cards", ...systems.map((s) => card(s, q, [topTen(q, s)]))),
  ];
}

function why(q) {
  const s = state.student, t = data.teacher, name = data.names;
  const lines = [];
  const against = ["query", t].filter((other) => has(other) && other !== s)
    .map((other) => `${name[other]} ${q.ndcg[other].toFixed(3)} (${signed(q.ndcg[s] - q.ndcg[other])})`);
  lines.push([`nDCG@10: ${name[s]} ${q.ndcg[s].toFixed(3)}; `, against.join(", "), "."]);
  const good = q.relevant.filter(([, grade]) => grade >= data.level);
  const first = (system) => Math.min(...good.map(([, , rank]) => rank[system] ?? Infinity));
  const place = (system) => (Number.isFinite(first(system)) ? `rank ${first(system)}` : "not found");
  if (good.length) {
    const places = ["query", s, t].filter((x, i, all) => has(x) && all.indexOf(x) === i);
    lines.push([`First of the relevant documents listed below: ${places.map((x) => `${place(x)} by ${name[x]}`).join(", ")}.`]);
  }
  const mine = q.terms[s];
  if (mine) {
    const harm = mine.filter(([, , d]) => d < 0).reverse().slice(0, 4), help = mine.filter(([, , d]) => d > 0).slice(0, 4);
    if (harm.length) lines.push(["Words of the student that cost it: ", ...list(harm), "."]);
    if (help.length) lines.push(["Words of the student that help: ", ...list(help), "."]);
    if (!harm.length && !help.length) lines.push(["No single word of the student’s decides: leaving out any one changes no score."]);
  }
  const theirs = q.terms[t];
  if (theirs && s !== t && q.expansions[s]) {
    const own = new Set(q.expansions[s].join(" ").toLowerCase().match(WORD) || []);
    const missing = theirs.filter(([word, , d]) => d > 0 && !own.has(word)).slice(0, 4);
    if (missing.length) lines.push(["Words that help the teacher and that the student lacks: ", ...list(missing), "."]);
  }
  return lines;
}

const list = (terms) => terms.flatMap(([word, , d], i) =>
  [i ? ", " : null, make("b", "", word), ` (${signed(d)})`]);

function ranks(q, systems) {
  const table = make("table", "figures");
  const head = make("tr", "", make("th", "", "document"), make("th", "", "grade"));
  systems.forEach((s) => head.append(make("th", "", data.names[s])));
  table.append(make("thead", "", head));
  const body = make("tbody");
  for (const [doc, grade, rank] of q.relevant) {
    const line = make("tr", "", make("th", "", title(doc)), make("td", "", String(grade)));
    systems.forEach((s) => {
      const cell = make("td", "", rank[s] === null || rank[s] === undefined ? "–" : String(rank[s]));
      if (rank[s] && rank[s] <= 10) cell.style.fontWeight = "700";
      line.append(cell);
    });
    body.append(line);
  }
  table.append(body);
  return table;
}

function words(q) {
  const systems = ordered().filter((s) => q.terms[s]);
  if (!systems.length) return [];
  return [make("h4", "", "Words that moved relevant documents"), make("div", "cards", ...systems.map((s) => {
    const moving = q.terms[s].filter(([, , d]) => d !== 0);
    const shown = [...moving.filter(([, , d]) => d > 0).slice(0, 6), ...moving.filter(([, , d]) => d < 0).slice(-6)];
    const lines = shown.map(([word, count, d, moves]) => {
      const line = make("li", "", make("b", d > 0 ? "win" : "loss", word), ` ${signed(d)}`, count > 1 ? `, stands ${count} times` : "");
      for (const [doc, grade, before, after] of moves.slice(0, 3)) {
        const at = (rank) => (rank === null ? "below 10" : `rank ${rank}`);
        line.append(make("span", "excerpt", badge(grade), `${title(doc)}: ${at(before)}, without it ${at(after)}`));
      }
      return line;
    });
    return card(s, q, [lines.length ? make("ul", "", ...lines) : make("p", "", "No word alone changes the score.")]);
  }))];
}

function card(system, q, content) {
  return make("div", `card ${kind(system)}`,
    make("h5", "", make("span", "", data.names[system]), make("span", "", q.ndcg[system].toFixed(3))), ...content);
}

function expansion(q, system) {
  const weight = new Map((q.terms[system] || []).map(([word, , d]) => [word, d]));
  return q.expansions[system].map((text) => {
    const line = make("p");
    let end = 0;
    for (const found of text.matchAll(WORD)) {
      const d = weight.get(found[0].toLowerCase());
      if (!d) continue;
      line.append(text.slice(end, found.index));
      const mark = make("mark", d > 0 ? "help" : "harm", found[0]);
      mark.title = `${signed(d)} of nDCG@10`;
      line.append(mark);
      end = found.index + found[0].length;
    }
    line.append(text.slice(end) || (text ? "" : "(nothing)"));
    return line;
  });
}

const title = (doc) => data.docs[doc][1] || data.docs[doc][0];
const badge = (grade) => make("span", "grade " + (grade >= data.level ? "good" : grade > 0 ? "some" : ""), grade === null ? "?" : String(grade));

function topTen(q, system) {
  if (!q.top[system].length) return make("p", "", "Nothing was found.");
  return make("ol", "", ...q.top[system].map(([doc, grade]) => {
    const [id, , excerpt] = data.docs[doc];
    const line = make("li", "", badge(grade), make("b", "", title(doc)), make("span", "excerpt", excerpt));
    line.title = id + (grade === null ? ": not judged" : `: grade ${grade}`);
    return line;
  }));
}

function options(select, values, names) {
  select.replaceChildren(...values.map((value, i) => Object.assign(make("option", "", names[i]), { value })));
}

function chooseTest() {
  state.test = data.tests.find((test) => test.name === $("test").value);
  // The students, and whatever else there is to look at, the furthest trained first.
  const students = [...data.students].reverse().filter(has);
  const systems = [...students, ...state.test.systems.filter((s) => !students.includes(s) && s !== "query")];
  const kept = systems.includes(state.student) ? state.student : systems[0] || "query";
  options($("student"), systems.length ? systems : ["query"], (systems.length ? systems : ["query"]).map((s) => data.names[s]));
  $("student").value = state.student = kept;
  draw();
}

options($("test"), data.tests.map((test) => test.name), data.tests.map((test) => test.name));
$("test").onchange = chooseTest;
narrow.onchange = draw;
$("student").onchange = () => { state.student = $("student").value; draw(); };
$("filter").onchange = draw;
$("search").oninput = draw;
$("controls").onsubmit = (event) => event.preventDefault();
$("controls").hidden = $("table").hidden = false;
chooseTest();
