/** What is read of one person at the moment that is shown; it is brought up to date many times a second. */

import { valence } from "../../mien-web/analysis/index.js";
import { fill, h } from "../components/dom.js";
import { createBars, faceName, readingText, shownReading } from "../components/faces.js";
import { signed } from "../components/timeline/paint.js";
import { format } from "../strings.js";

/**
 * Make the panel.
 *
 * @param {object} options
 * @param {object} options.strings the page's
 * @param {Record<string, string>} options.palette
 * @param {(track: number) => void} [options.onPerson] called when somebody is chosen
 */
export function createReading({ strings, palette, onPerson = () => {} }) {
  const text = strings.reading;
  let track = null;
  let shown = null;
  let bars = null;

  const people = h("div.people", { role: "group", "aria-label": text.people, hidden: true });
  const title = h("h2");
  const flags = h("p.reading-flags");
  const scores = h("div.reading-scores");
  const needle = h("span.valence-needle");
  const pleasant = h("span.valence-value");
  const meter = h("div.valence", { title: strings.face.valenceHint }, h("span", null, strings.face.valence), h("span.valence-track", { "aria-hidden": "true" }, needle), pleasant);
  const nobody = h("p.hint", null, text.nobody);
  const body = h("div.reading-body", null, h("header.panel-head", null, title, flags), scores, meter);
  const element = h("section.panel.reading", { "aria-label": text.title }, people, body, nobody);

  function show(result) {
    shown = result;
    const faces = result?.faces ?? [];
    const face = faces.find((each) => each.track_id === track) ?? largest(faces);
    body.hidden = !face;
    nobody.hidden = Boolean(face);
    nobody.textContent = result ? text.nobody : text.nothing;
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
      h("div", null, both && h("h3", null, text.asRead), read.element),
      both && h("div", null, h("h3", null, text.corrected), corrected.element),
    );
    scores.dataset.both = String(both);
    return { key: `${emotions}|${both}`, read, corrected };
  }

  function drawValence(value) {
    meter.hidden = value === null;
    if (value === null) return;
    needle.style.setProperty("--valence", value);
    pleasant.textContent = signed(value);
  }

  function drawPeople(faces) {
    const numbers = faces.map((face) => face.track_id).sort((a, b) => a - b);
    people.hidden = numbers.length < 2;
    if (people.dataset.numbers !== numbers.join()) {
      people.dataset.numbers = numbers.join();
      const focused = Number(people.contains(document.activeElement) ? document.activeElement.dataset.track : NaN);
      fill(people, numbers.map((number) => personButton(number)));
      people.querySelector(`[data-track="${focused}"]`)?.focus();
    }
    for (const button of people.children) button.setAttribute("aria-pressed", String(Number(button.dataset.track) === track));
  }

  function personButton(number) {
    const click = () => {
      choose(number);
      onPerson(number);
    };
    return h("button.button", { type: "button", data: { track: number }, onclick: click }, faceName({ track_id: number }));
  }

  function choose(number) {
    track = number;
    if (shown) show(shown);
  }

  show(null);
  return { element, show, choose, track: () => track };
}

function largest(faces) {
  return faces.reduce((best, face) => (best && best.box.w * best.box.h >= face.box.w * face.box.h ? best : face), null);
}
