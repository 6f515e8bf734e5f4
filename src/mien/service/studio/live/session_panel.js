/** What came of a session: timeline, events, baseline, report, and the files that it can be saved as. */

import * as analysis from "../../mien-web/analysis/index.js";
import { openDialog } from "../components/dialog.js";
import { fill, h, newId } from "../components/dom.js";
import { download } from "../components/download.js";
import { icon } from "../components/icons.js";
import { createMenu } from "../components/menu.js";
import { renderReport } from "../components/report.js";
import { createTimeline } from "../components/timeline.js";
import { fileName, openSessions, peopleOf } from "../session.js";
import { counted, format } from "../strings.js";
import { createMarkers } from "./markers.js";

const REDRAW_MS = 500;
const MOST_PEOPLE = 12; // to choose from, those who are seen longest

/**
 * Make the panel of a session.
 *
 * @param {object} context the page's
 * @param {import("../session.js").Session} session
 * @param {object} [options]
 * @param {HTMLElement} [options.timelinePlace] where the timeline goes; into the panel unless given
 * @param {boolean} [options.hasPlayer] whether moments can be looked at, and events marked by key
 * @param {(seconds: number) => void} [options.onSeek] somebody goes to a moment
 * @param {(track: number|null) => void} [options.onPerson] somebody is chosen
 * @param {() => void} [options.onChange] scores, events or the name are not what they were
 * @param {() => void} [options.onDiscard] the session was thrown away
 */
export function createSessionPanel(context, session, { timelinePlace = null, hasPlayer = true, onSeek = () => {}, onPerson = () => {}, onChange = () => {}, onDiscard = () => {} } = {}) {
  const { strings, palette, announce } = context;
  const text = strings.session;
  let track = null;
  let moment = 0;
  let timer = null;
  let cost = 0; // milliseconds of drawing the timeline

  const timeline = createTimeline({ palette, strings });
  timeline.onSeek(seek);
  const markers = createMarkers({
    strings,
    announce,
    now: () => (session.results.length > 0 ? moment : null),
    hasKeys: hasPlayer,
    onSeek: seek,
    onChange: (list) => {
      session.markers = list;
      changed();
    },
    tools: markerTools(context, (loaded) => markers.set([...session.markers, ...loaded])),
  });
  const baseline = createBaseline(context, session, { moment: () => moment, onChange: changed });
  timeline.onSelect(baseline.span);
  const people = h("div.people", { role: "group", "aria-label": text.person });
  const report = h("div.report-place");
  const saved = h("span.chip", { title: text.unsavedHint });
  const running = h("div.panel", null, people, timeline.element);
  timelinePlace?.replaceChildren(running);
  const element = h(
    "section.session.stack",
    { "aria-label": session.name, tabIndex: -1 },
    h(
      "header.session-head",
      null,
      nameField(text, session, () => element.setAttribute("aria-label", session.name)),
      saved,
      saveMenu(context, session, timeline, "primary"),
      h("button.button.quiet", { type: "button", onclick: discard }, icon("trash"), text.discard),
    ),
    !timelinePlace && running,
    h("div.session-columns", null, markers.element, baseline.element),
    report,
  );

  function seek(seconds) {
    moment = seconds;
    timeline.cursor(seconds);
    onSeek(seconds);
  }

  function changed() {
    openSessions.touch(session);
    draw();
    onChange();
  }

  async function discard() {
    if (await mayDiscard(context, session)) openSessions.remove(session);
  }

  function drawTimeline() {
    clearTimeout(timer);
    timer = null;
    const began = performance.now();
    drawPeople();
    timeline.set(session.results, { markers: session.markers, track, baseline: session.baseline, title: session.name });
    timeline.cursor(moment);
    cost = performance.now() - began;
  }

  function draw() {
    drawTimeline();
    const isRead = session.results.some((result) => result.faces.length > 0);
    fill(report, isRead && renderReport(session.results, { markers: session.markers, emotions: session.emotions, strings, palette }));
    showSaved();
  }

  function showSaved() {
    saved.textContent = session.saved ? text.saved : text.unsaved;
    saved.className = session.saved ? "chip accent" : "chip warn";
  }

  function drawPeople() {
    const all = peopleOf(session.results).slice(0, MOST_PEOPLE);
    if (!all.some((person) => person.track === track)) choose(all[0]?.track ?? null);
    people.hidden = all.length < 2;
    const focused = people.contains(document.activeElement);
    fill(people, all.map(personButton));
    if (focused) people.querySelector("[aria-pressed=true]")?.focus();
  }

  function personButton({ track: number, seconds }) {
    const click = () => {
      choose(number);
      draw();
    };
    const label = format(text.personOf, { number, seconds: analysis.formatTime(seconds) });
    return h("button.button", { type: "button", "aria-pressed": String(number === track), onclick: click }, label);
  }

  function choose(number) {
    track = number;
    onPerson(track);
  }

  let isOpen = openSessions.all().includes(session);
  const unsubscribe = openSessions.subscribe(() => {
    const wasOpen = isOpen;
    isOpen = openSessions.all().includes(session);
    if (wasOpen && !isOpen) onDiscard(); // here or in Compare
    else showSaved();
  });
  if (session.markers.length > 0) markers.set(session.markers);
  else draw();
  return {
    element,
    draw,
    /** Draw the timeline soon, and seldom enough where it is long: results were added. */
    refresh: () => void (timer ??= setTimeout(drawTimeline, Math.max(REDRAW_MS, 9 * cost))),
    /** Take a key of the page; true where it is one of an event. */
    key: markers.key,
    /** Move the cursor to a moment, in seconds. */
    cursor(seconds) {
      moment = seconds;
      timeline.cursor(seconds);
    },
    destroy() {
      clearTimeout(timer);
      unsubscribe();
      timeline.destroy();
      running.remove();
    },
  };
}

function nameField(text, session, onRename) {
  const rename = ({ target }) => {
    session.name = target.value.trim() || session.name;
    target.value = session.name;
    openSessions.touch(session);
    onRename();
  };
  return h("input.input.session-name", { type: "text", value: session.name, maxLength: 120, "aria-label": text.name, onchange: rename });
}

/** Ask whether an unsaved session may go; one that is saved may. */
export async function mayDiscard(context, session) {
  if (session.saved || session.results.length === 0) return true;
  const { askTitle, ask, discard, keep } = context.strings.session;
  return new Promise((resolve) => {
    let answer = false;
    const yes = (close) => {
      answer = true;
      close();
    };
    openDialog({
      title: askTitle,
      content: h("p", null, format(ask, { name: session.name })),
      actions: [
        { label: discard, action: yes },
        { label: keep, primary: true, action: (close) => close() },
      ],
      onClose: () => resolve(answer),
    });
  });
}

// ---------------------------------------------------------------- files
/** The menu of what a session can be saved as; figures are those of its timeline. */
export function saveMenu(context, session, timeline, className = "") {
  const { files, save: label } = context.strings.session;
  const { download: words } = context.strings;
  const kinds = [
    { ...files.csv, iconName: "table", suffix: ".csv", type: "text/csv", isAll: true, make: () => analysis.toCsv(session.results, { labels: session.emotions }) },
    { ...files.json, iconName: "code", suffix: ".json", type: "application/json", isAll: true, make: () => analysis.toJson(session) },
    { ...files.events, iconName: "flag", suffix: ".events.csv", type: "text/csv", make: () => eventsCsv(session) },
    { ...files.png, iconName: "picture", suffix: ".png", type: "image/png", make: () => timeline.toPng() },
    { ...files.svg, iconName: "picture", suffix: ".svg", type: "image/svg+xml", make: () => timeline.toSvg() },
  ];
  const save = async ({ suffix, type, make, isAll = false }) => {
    const name = fileName(session.name, suffix);
    try {
      download(name, await make(), type);
    } catch (error) {
      return context.notify("error", format(words.failed, { name, error: error.message }));
    }
    if (isAll) openSessions.touch(session, { saved: true });
    return context.announce(format(words.saved, { name }));
  };
  const items = kinds.map((kind) => ({ label: kind.name, hint: kind.hint, iconName: kind.iconName, action: () => save(kind) }));
  return createMenu({ label, iconName: "download", items, className });
}

/** What each person's face said in each event. */
function eventsCsv({ name, results, markers, emotions }) {
  return analysis.markersToCsv(analysis.markerTable(results, markers, { labels: emotions }), name);
}

// ---------------------------------------------------------------- events from a file
function markerTools(context, take) {
  const text = context.strings.markers;
  const load = async ({ target }) => {
    const [file] = target.files;
    if (!file) return;
    try {
      const markers = analysis.readMarkers(await file.text());
      take(markers);
      context.notify("info", counted(text.loaded, markers.length));
    } catch (error) {
      context.notify("error", format(text.notLoaded, { name: file.name, error: error.message }));
    }
    target.value = "";
  };
  const input = h("input", { type: "file", accept: ".csv,.tsv,.txt,text/csv", hidden: true, onchange: load });
  return [input, h("button.button.quiet", { type: "button", title: text.loadHint, onclick: () => input.click() }, icon("upload"), text.load)];
}

// ---------------------------------------------------------------- the baseline
/** The panel that takes a baseline from a span of the session. */
function createBaseline(context, session, { moment, onChange }) {
  const text = context.strings.baseline;
  const field = (label, hereHint) => {
    const id = newId("baseline");
    const input = h("input.input", { id, type: "number", min: "0", step: "any", inputMode: "decimal" });
    const here = h("button.button.quiet", { type: "button", "aria-label": hereHint, title: hereHint, onclick: () => (input.value = moment().toFixed(1)) }, text.here);
    return { input, row: h("div.field.grow", null, h("label", { htmlFor: id }, label), h("div.field-row", null, input, here)) };
  };
  const [from, to] = [field(text.from, text.hereFrom), field(text.to, text.hereTo)];
  const state = h("p.hint", { role: "status" });
  const reset = h("button.button.quiet", { type: "button", onclick: () => apply(null) }, text.reset);

  function set() {
    const [start, end] = [from, to].map(({ input }) => Number.parseFloat(input.value));
    if (!(end > start)) return context.notify("error", text.order);
    try {
      return apply(analysis.measureBaseline(session.results, { start, end }));
    } catch {
      return context.notify("error", text.nobody);
    }
  }

  function apply(baseline) {
    session.baseline = baseline;
    session.results = withBaseline(session.results, baseline);
    show();
    onChange();
    context.announce(baseline ? text.done : text.gone);
  }

  function show() {
    const { baseline } = session;
    reset.hidden = !baseline;
    const span = baseline && { start: analysis.formatTime(baseline.start_s), end: analysis.formatTime(baseline.end_s) };
    state.textContent = !baseline ? text.hint : baseline.end_s > 0 ? format(text.isSet, span) : text.isSetBefore;
  }

  show();
  const element = h(
    "section.panel.baseline",
    null,
    h("header.panel-head", null, h("h2", null, text.title)),
    state,
    h("div.row", null, from.row, to.row),
    h("div.row", null, h("button.button", { type: "button", onclick: set }, icon("face"), text.set), reset),
  );
  return {
    element,
    /** Put a span into the fields. */
    span({ start, end }) {
      from.input.value = start.toFixed(2);
      to.input.value = end.toFixed(2);
    },
  };
}

/** Results with their corrected scores; without any where there is no baseline. */
export function withBaseline(results, baseline) {
  if (baseline) return analysis.applyBaseline(results, baseline);
  return results.map((result) => ({ ...result, faces: result.faces.map(({ corrected, ...face }) => face) }));
}
