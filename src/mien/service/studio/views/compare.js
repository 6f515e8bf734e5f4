/** Comparison of sessions: timelines with a common time scale, and tables. */

import * as analysis from "../../mien-web/analysis/index.js";
import { fill, h } from "../components/dom.js";
import { download } from "../components/download.js";
import { emotionName, faceName } from "../components/faces.js";
import { icon } from "../components/icons.js";
import { createTimeline } from "../components/timeline.js";
import { signed } from "../components/timeline/paint.js";
import { acceptFiles } from "../live/drop.js";
import { confirmDiscard, saveMenu } from "../live/session_panel.js";
import { createSession, openSessions, peopleOf } from "../session.js";
import { counted, decimal, format, percent } from "../strings.js";

/** @param {object} context */
export function createView(context) {
  const { strings, palette, announce, notify } = context;
  const text = strings.compare;
  const element = h("div.compare.stack");
  const input = h("input", { type: "file", accept: ".json,application/json", multiple: true, hidden: true, onchange: choose });
  const selectedTracks = new Map(); // session → track id of its timeline
  let timelines = [];
  let visible = false;

  function choose() {
    const files = [...input.files];
    input.value = "";
    load(files);
  }

  async function load(files) {
    for (const file of files) {
      try {
        openSessions.add(openSession(await file.text(), file.name, text));
      } catch (error) {
        notify("error", format(text.notOpened, { name: file.name, error: error.message }));
      }
    }
    announce(counted(text.openNow, openSessions.all().length));
  }

  function draw() {
    if (!visible) return;
    for (const timeline of timelines) timeline.destroy();
    timelines = [];
    const sessions = openSessions.all().filter((session) => session.results.length > 0);
    if (sessions.length === 0) fill(element, input, invitation());
    else fill(element, input, head(sessions), kindsNotice(strings, sessions), lanes(sessions), comparisonTables(strings, sessions));
  }

  function head(sessions) {
    const save = () => {
      const rows = analysis.compare(sessions, { labels: emotionsOf(sessions) });
      download(text.fileName, analysis.comparisonToCsv(rows), "text/csv");
      announce(format(strings.download.saved, { name: text.fileName }));
    };
    return h(
      "header.view-head.row",
      null,
      h("div.grow", null, h("h1", null, text.heading), h("p.hint", null, text.hint)),
      openButton(),
      h("button.button", { type: "button", onclick: save }, icon("download"), text.save),
    );
  }

  function openButton(className = "") {
    return h("button.button", { type: "button", class: className, onclick: () => input.click() }, icon("upload"), text.open);
  }

  function lanes(sessions) {
    const end = Math.max(1, ...sessions.map((session) => session.results.at(-1).time_s));
    return h("div.stack", null, sessions.map((session) => lane(session, end)));
  }

  function lane(session, end) {
    const timeline = createTimeline({ palette, strings });
    timelines.push(timeline);
    const people = peopleOf(session.results);
    const selected = selectedTracks.get(session);
    const track = people.some((person) => person.track === selected) ? selected : (people[0]?.track ?? null);
    timeline.set(session.results, { markers: session.markers, track, baseline: session.baseline, title: session.name, domain: [0, end] });
    timeline.onSeek((seconds) => timelines.forEach((other) => other.cursor(seconds)));
    return h(
      "section.panel.lane",
      { "aria-label": session.name },
      h("header.panel-head.row", null, h("h2", null, session.name), people.length > 1 && personChoice(session, people, track), saveMenu(context, session, timeline), closeButton(session)),
      timeline.element,
    );
  }

  function personChoice(session, people, track) {
    const pick = ({ target }) => {
      selectedTracks.set(session, Number(target.value));
      draw();
      element.querySelectorAll(".lane select").forEach((select) => select.getAttribute("aria-label") === label && select.focus());
    };
    const label = format(text.personIn, { name: session.name });
    const option = (person) => h("option", { value: person.track, selected: person.track === track }, format(strings.session.personOf, { number: person.track, seconds: analysis.formatTime(person.seconds) }));
    return h("select.input", { "aria-label": label, onchange: pick }, people.map(option));
  }

  function closeButton(session) {
    const close = async () => {
      if (!(await confirmDiscard(context, session))) return;
      openSessions.remove(session);
      announce(format(text.removed, { name: session.name }));
      element.querySelector("button").focus();
    };
    return h("button.button.quiet.round", { type: "button", "aria-label": format(text.remove, { name: session.name }), onclick: close }, icon("close"));
  }

  function invitation() {
    return h(
      "div.drop-place",
      null,
      icon("compare"),
      h("h1", null, text.emptyHeading),
      h("p", null, text.empty),
      openButton("primary"),
      h("div.row", null, h("a.button.quiet", { href: "#webcam" }, icon("webcam"), text.toWebcam), h("a.button.quiet", { href: "#video" }, icon("video"), text.toVideo)),
    );
  }

  acceptFiles(element, load);
  openSessions.subscribe(draw);
  return {
    id: "compare",
    title: text.title,
    element,
    show() {
      visible = true;
      draw();
    },
    hide: () => void (visible = false),
  };
}

const MAX_NAME_LENGTH = 120; // as in the name field of a session

/** Create a session from a saved file. */
function openSession(json, fileName, text) {
  const saved = analysis.fromJson(json);
  if (saved.results.length === 0) throw new Error(text.noResults);
  return createSession({ ...saved, kind: "file", name: (saved.name || fileName).slice(0, MAX_NAME_LENGTH), emotions: analysis.labelsOf(saved.results), saved: true });
}

/** Warning if sessions were analysed with different models or readings. */
function kindsNotice({ compare: text, readings }, sessions) {
  const kinds = new Set(sessions.map(({ model, labels }) => format(text.kind, { model: model ? `${model.name} ${model.version ?? ""}`.trim() : "–", reading: readings[labels] ?? labels })));
  return kinds.size > 1 && h("div.message.warn", null, icon("warn"), h("p", null, format(text.mixed, { kinds: [...kinds].join("; ") })));
}

// ---------------------------------------------------------------- tables
/** Tables per session, per person and per event. */
function comparisonTables({ compare: text }, sessions) {
  const { columns } = text;
  const emotions = emotionsOf(sessions);
  const all = analysis.compare(sessions, { labels: emotions }).map((row) => ({ head: [row.source], ...figuresOf(row, emotions) }));
  const people = sessions.flatMap(({ name, results, emotions: labels }) =>
    analysis.summary(results, { labels }).map((person) => {
      const { valence, scores, shares } = person.corrected ?? person;
      return { head: [name, faceName(person)], seconds: person.seconds, valence, means: byEmotion(scores), shares: byEmotion(shares) };
    }),
  );
  const events = sessions.flatMap(({ name, results, markers, emotions: labels }) =>
    analysis.markerTable(results, markers, { labels }).map((row) => ({ head: [name, row.label, row.track_id === null ? "–" : faceName(row)], ...figuresOf(row, labels ?? analysis.labelsOf(results)) })),
  );
  return h(
    "div.stack",
    null,
    shareTable(text.overview, [columns.session], all, emotions, text),
    people.length > sessions.length && shareTable(text.people, [columns.session, columns.person], people, emotions, text),
    events.length > 0 && shareTable(text.events, [columns.session, columns.event, columns.person], events, emotions, text),
  );
}

/** All emotions that any session's model has, in the order of the sessions. */
function emotionsOf(sessions) {
  return [...new Set(sessions.flatMap(({ emotions, results }) => emotions ?? analysis.labelsOf(results)))];
}

const byEmotion = (figures) => new Map(Object.entries(figures));

/** Figures of a row of `compare` or `markerTable` by emotion; corrected values if available. */
function figuresOf(row, labels) {
  const columns = Object.entries(analysis.scoreColumns(labels));
  const value = (name) => row[`corrected_${name}`] ?? row[name];
  const of = (prefix) => new Map(columns.map(([label, name]) => [label, value(prefix + name)]));
  return { seconds: row.seconds, valence: value("valence"), means: of(""), shares: of("share_") };
}

/** Table of mean scores with the shares of time below. */
function shareTable(title, heads, rows, emotions, text) {
  const cell = ({ means, shares }, emotion) => {
    const [mean, share] = [means.get(emotion) ?? null, shares.get(emotion) ?? null];
    return h("td.figure", null, mean === null ? "–" : h("span.cell-mean", null, percent(mean)), share !== null && h("span.cell-share", null, percent(share)));
  };
  const line = (row) =>
    h(
      "tr",
      null,
      row.head.map((name, index) => (index === 0 ? h("th", { scope: "row" }, name) : h("td", null, name))),
      h("td.figure", null, decimal(row.seconds ?? 0, 1)),
      h("td.figure", null, row.valence == null ? "–" : signed(row.valence)),
      emotions.map((emotion) => cell(row, emotion)),
    );
  const names = [...heads.map((name) => h("th", { scope: "col" }, name)), ...[text.columns.seconds, text.columns.valence, ...emotions.map(emotionName)].map((name) => h("th.figure", { scope: "col" }, name))];
  return h(
    "section.panel",
    null,
    h("header.panel-head.row", null, h("h2", null, title), h("p.hint", null, text.cells)),
    h("div.scroll", { tabIndex: 0, role: "region", "aria-label": title }, h("table.table.compare-table", null, h("thead", null, h("tr", null, names)), h("tbody", null, rows.map(line)))),
  );
}
