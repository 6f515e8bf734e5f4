/** Panel of a session: timeline, events, baseline, report and saving. */

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
const MAX_PEOPLE = 12; // offered for selection, by time visible

/**
 * Create the panel.
 *
 * @param {object} context
 * @param {import("../session.js").Session} session
 * @param {object} [options]
 * @param {HTMLElement} [options.timelinePlace] container of the timeline; by default the panel
 * @param {boolean} [options.hasPlayer] whether there is a player, so that events can be marked by key
 * @param {(seconds: number) => void} [options.onSeek]
 * @param {(track: number|null) => void} [options.onPerson] called when a person is selected
 * @param {() => void} [options.onChange] called when scores or events change
 * @param {() => void} [options.onDiscard]
 */
export function createSessionPanel(context, session, { timelinePlace = null, hasPlayer = true, onSeek = () => {}, onPerson = () => {}, onChange = () => {}, onDiscard = () => {} } = {}) {
  const { strings, palette, announce } = context;
  const text = strings.session;
  let track = null;
  let moment = 0;
  let timer = null;
  let cost = 0; // duration of drawing the timeline in milliseconds

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
  timeline.onSelect(baseline.setSpan);
  const people = h("div.people.row", { role: "group", "aria-label": text.person });
  const report = h("div.report-place");
  const saved = h("span.chip", { title: text.unsavedHint });
  const running = h("div.panel", null, people, timeline.element);
  timelinePlace?.replaceChildren(running);
  const element = h(
    "section.session.stack",
    { "aria-label": session.name, tabIndex: -1 },
    h(
      "header.session-head.row",
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
    if (await confirmDiscard(context, session)) openSessions.remove(session);
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
    const hasFaces = session.results.some((result) => result.faces.length > 0);
    fill(report, hasFaces && renderReport(session.results, { markers: session.markers, emotions: session.emotions, strings, palette }));
    showSaved();
  }

  function showSaved() {
    saved.textContent = session.saved ? text.saved : text.unsaved;
    saved.className = session.saved ? "chip accent" : "chip warn";
  }

  function drawPeople() {
    const all = peopleOf(session.results).slice(0, MAX_PEOPLE);
    if (!all.some((person) => person.track === track)) select(all[0]?.track ?? null);
    people.hidden = all.length < 2;
    const focused = people.contains(document.activeElement);
    fill(people, all.map(personButton));
    if (focused) people.querySelector("[aria-pressed=true]")?.focus();
  }

  function personButton({ track: id, seconds }) {
    const click = () => {
      select(id);
      draw();
    };
    const label = format(text.personOf, { number: id, seconds: analysis.formatTime(seconds) });
    return h("button.button", { type: "button", "aria-pressed": String(id === track), onclick: click }, label);
  }

  function select(id) {
    track = id;
    onPerson(track);
  }

  let isOpen = openSessions.all().includes(session);
  const unsubscribe = openSessions.subscribe(() => {
    const wasOpen = isOpen;
    isOpen = openSessions.all().includes(session);
    if (wasOpen && !isOpen) onDiscard(); // removed here or in Compare
    else showSaved();
  });
  if (session.markers.length > 0) markers.set(session.markers);
  else draw();
  return {
    element,
    draw,
    /** Redraw the timeline after results were added, throttled by the time that drawing takes. */
    refresh: () => void (timer ??= setTimeout(drawTimeline, Math.max(REDRAW_MS, 9 * cost))),
    /** Handle a key; returns true if it marks an event. */
    key: markers.key,
    /** Move the cursor to a time in seconds. */
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

/** Ask for confirmation to discard a session if it is not saved. */
export async function confirmDiscard(context, session) {
  if (session.saved || session.results.length === 0) return true;
  const { askTitle, ask, discard, keep } = context.strings.session;
  return new Promise((resolve) => {
    let answer = false;
    const confirm = (close) => {
      answer = true;
      close();
    };
    openDialog({
      title: askTitle,
      content: h("p", null, format(ask, { name: session.name })),
      actions: [
        { label: discard, action: confirm },
        { label: keep, primary: true, action: (close) => close() },
      ],
      onClose: () => resolve(answer),
    });
  });
}

// ---------------------------------------------------------------- files
/** Menu of the file formats that a session can be saved as. */
export function saveMenu(context, session, timeline, className = "") {
  const { files, save: label } = context.strings.session;
  const { download: words } = context.strings;
  const formats = [
    { ...files.csv, iconName: "table", suffix: ".csv", type: "text/csv", isComplete: true, make: () => analysis.toCsv(session.results, { labels: session.emotions }) },
    { ...files.json, iconName: "code", suffix: ".json", type: "application/json", isComplete: true, make: () => analysis.toJson(session) },
    { ...files.events, iconName: "flag", suffix: ".events.csv", type: "text/csv", make: () => eventsCsv(session) },
    { ...files.png, iconName: "picture", suffix: ".png", type: "image/png", make: () => timeline.toPng() },
    { ...files.svg, iconName: "picture", suffix: ".svg", type: "image/svg+xml", make: () => timeline.toSvg() },
  ];
  const save = async ({ suffix, type, make, isComplete = false }) => {
    const name = fileName(session.name, suffix);
    try {
      download(name, await make(), type);
    } catch (error) {
      return context.notify("error", format(words.failed, { name, error: error.message }));
    }
    if (isComplete) openSessions.touch(session, { saved: true });
    return context.announce(format(words.saved, { name }));
  };
  const items = formats.map((file) => ({ label: file.name, hint: file.hint, iconName: file.iconName, action: () => save(file) }));
  return createMenu({ label, iconName: "download", items, className });
}

function eventsCsv({ name, results, markers, emotions }) {
  return analysis.markersToCsv(analysis.markerTable(results, markers, { labels: emotions }), name);
}

// ---------------------------------------------------------------- events from a file
function markerTools(context, onLoad) {
  const text = context.strings.markers;
  const load = async ({ target }) => {
    const [file] = target.files;
    if (!file) return;
    try {
      const markers = analysis.readMarkers(await file.text());
      onLoad(markers);
      context.notify("info", counted(text.loaded, markers.length));
    } catch (error) {
      context.notify("error", format(text.notLoaded, { name: file.name, error: error.message }));
    }
    target.value = "";
  };
  const input = h("input", { type: "file", accept: ".csv,.tsv,.txt,text/csv", hidden: true, onchange: load });
  return [input, h("button.button.quiet", { type: "button", title: text.loadHint, onclick: () => input.click() }, icon("upload"), text.load)];
}

// ---------------------------------------------------------------- baseline
/** Panel to measure a baseline in a span of the session. */
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
    h("header.panel-head.row", null, h("h2", null, text.title)),
    state,
    h("div.row", null, from.row, to.row),
    h("div.row", null, h("button.button", { type: "button", onclick: set }, icon("face"), text.set), reset),
  );
  return {
    element,
    setSpan({ start, end }) {
      from.input.value = start.toFixed(2);
      to.input.value = end.toFixed(2);
    },
  };
}

/** Correct results by a baseline, or remove corrected scores if it is null. */
export function withBaseline(results, baseline) {
  if (baseline) return analysis.applyBaseline(results, baseline);
  return results.map((result) => ({ ...result, faces: result.faces.map(({ corrected, ...face }) => face) }));
}
