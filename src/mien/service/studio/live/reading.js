/** Panel with the current reading of one person; updated many times per second. */

import { valence } from "../../mien-web/analysis/index.js";
import { fill, h } from "../components/dom.js";
import { createBars, faceName, readingText, shownReading } from "../components/faces.js";
import { signed } from "../components/timeline/paint.js";
import { format } from "../strings.js";

/**
 * Create the panel.
 *
 * @param {object} options
 * @param {object} options.strings
 * @param {Record<string, string>} options.palette
 * @param {(track: number) => void} [options.onPerson] called when a person is selected
 */
export function createReading({ strings, palette, onPerson = () => {} }) {
  const text = strings.reading;
  let track = null;
  let shown = null;
  let bars = null;

  const people = h("div.people.row", { role: "group", "aria-label": text.people, hidden: true });
  const title = h("h2");
  const flags = h("p.reading-flags.row");
  const scores = h("div.reading-scores");
  const needle = h("span.valence-needle");
  const valenceText = h("span.valence-value");
  const meter = h("div.valence", { title: strings.face.valenceHint }, h("span", null, strings.face.valence), h("span.valence-track", { "aria-hidden": "true" }, needle), valenceText);
  const placeholder = h("p.hint", null, text.nobody);
  const body = h("div.reading-body", null, h("header.panel-head.row", null, title, flags), scores, meter);
  const element = h("section.panel.reading", { "aria-label": text.title }, people, body, placeholder);

  function show(result) {
    shown = result;
    const faces = result?.faces ?? [];
    const face = faces.find(({ track_id: id }) => id === track) ?? largest(faces);
    body.hidden = !face;
    placeholder.hidden = Boolean(face);
    placeholder.textContent = result ? text.nobody : text.nothing;
    drawPeople(faces);
    if (!face) return;
    track = face.track_id;
    title.textContent = format(text.readsAs, { person: faceName(face), reading: readingText(face) });
    const notes = face.quality.flags.map((flag) => strings.face.flags[flag] ?? flag);
    if (face.uncertain) notes.unshift(strings.face.uncertain);
    if (flags.textContent !== notes.join("")) fill(flags, notes.map((note) => h("span.chip", null, note)));
    drawBars(face);
    drawValence(valence(shownReading(face).scores));
  }

  function drawBars(face) {
    const emotions = Object.keys(face.scores);
    const both = face.corrected != null;
    if (bars?.key !== `${emotions}|${both}`) bars = makeBars(emotions, both);
    const smoothed = face.smoothed ?? face;
    bars.read.set(smoothed.scores, smoothed.emotion);
    bars.corrected?.set(face.corrected.scores, face.corrected.emotion);
  }

  function makeBars(emotions, both) {
    const read = createBars({ palette, emotions, label: text.asRead });
    const corrected = both ? createBars({ palette, emotions, label: text.corrected }) : null;
    fill(
      scores,
      h("div", null, both && h("h3.hint", null, text.asRead), read.element),
      both && h("div", null, h("h3.hint", null, text.corrected), corrected.element),
    );
    scores.dataset.both = String(both);
    return { key: `${emotions}|${both}`, read, corrected };
  }

  function drawValence(value) {
    meter.hidden = value === null;
    if (value === null) return;
    needle.style.setProperty("--valence", value);
    valenceText.textContent = signed(value);
  }

  function drawPeople(faces) {
    const ids = faces.map((face) => face.track_id).sort((a, b) => a - b);
    people.hidden = ids.length < 2;
    if (people.dataset.ids !== ids.join()) {
      people.dataset.ids = ids.join();
      const focused = Number(people.contains(document.activeElement) ? document.activeElement.dataset.track : NaN);
      fill(people, ids.map(personButton));
      people.querySelector(`[data-track="${focused}"]`)?.focus();
    }
    for (const button of people.children) button.setAttribute("aria-pressed", String(Number(button.dataset.track) === track));
  }

  function personButton(id) {
    const click = () => {
      select(id);
      onPerson(id);
    };
    return h("button.button", { type: "button", data: { track: id }, onclick: click }, faceName({ track_id: id }));
  }

  function select(id) {
    track = id;
    if (shown) show(shown);
  }

  show(null);
  return { element, show, select, track: () => track };
}

function largest(faces) {
  return faces.reduce((best, face) => (best && best.box.w * best.box.h >= face.box.w * face.box.h ? best : face), null);
}
