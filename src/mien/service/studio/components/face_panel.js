/** Panel of one face: emotion, score bars, quality, heat map and details. */

import { valence } from "../../mien-web/index.js";
import { decimal, format, percent, strings } from "../strings.js";
import { createBars, drawPortrait, emotionName, faceName, portrait, shownReading } from "./faces.js";
import { createHeat } from "./heat.js";
import { fill, h } from "./dom.js";
import { icon } from "./icons.js";

/**
 * Create the panel.
 *
 * @param {object} options
 * @param {Record<string, string>} options.palette
 * @param {(index: number) => void} options.onSelect
 * @param {(text: string) => void} options.announce
 * @param {() => Promise<import("../engine.js").Engine>} options.engine
 * @returns {{element: HTMLElement, show(picture: {bitmap: ImageBitmap|null, blob: Blob, result: object}): void,
 *   select(index: number): void}}
 */
export function createFacePanel({ palette, onSelect, announce, engine }) {
  const chooser = h("div.face-list.row", { role: "group", "aria-label": strings.picture.faceList });
  const body = h("div.stack");
  const element = h("div.stack", null, chooser, body);
  let shown = null; // {bitmap, blob, result}
  let choices = [];

  function show(picture) {
    shown = picture;
    const { faces } = picture.result;
    choices = faces.map((face, index) =>
      h("button.face-choice", { type: "button", "aria-label": choiceLabel(face), onClick: () => onSelect(index) }, thumbnail(face)),
    );
    fill(chooser, choices);
    chooser.hidden = faces.length < 2;
  }

  function thumbnail(face) {
    return shown.bitmap ? portrait(shown.bitmap, face.box, 96) : h("span", null, String(face.face_id + 1));
  }

  function select(index) {
    choices.forEach((choice, at) => choice.setAttribute("aria-pressed", String(at === index)));
    if (!chooser.hidden) choices[index]?.scrollIntoView({ block: "nearest", inline: "nearest" });
    fill(body, sections(shown, shown.result.faces[index], { palette, announce, engine }));
  }

  return { element, show, select };
}

function choiceLabel(face) {
  const { emotion, confidence } = shownReading(face);
  return `${faceName(face)}: ${emotionName(emotion)} ${percent(confidence)}${face.uncertain ? `, ${strings.face.uncertain.toLowerCase()}` : ""}`;
}

function sections(picture, face, { palette, announce, engine }) {
  const { result } = picture;
  const { scores, emotion } = shownReading(face);
  const bars = createBars({ palette, emotions: Object.keys(scores), label: format(strings.face.scoresOf, { name: faceName(face) }) });
  bars.set(scores, emotion);
  return [
    heading(picture, face, result.labels),
    face.uncertain && uncertainty(face, result.labels),
    bars.element,
    quality(face.quality),
    createHeat({ picture, face, announce, engine }),
    details(face, scores),
  ];
}

function heading({ bitmap }, face, labels) {
  const words = strings.face;
  const { emotion, confidence } = shownReading(face);
  const claim = { people: words.shareOfPeople, fer2013: words.shareOfLabels }[labels] ?? words.shareOfOwn;
  const canvas = h("canvas.face-portrait", { width: 192, height: 192, role: "img", "aria-label": format(words.cropAlt, { name: faceName(face) }) });
  if (bitmap) drawPortrait(canvas, bitmap, face.box);
  return h(
    "div.face-head",
    null,
    bitmap && canvas,
    h(
      "div",
      null,
      h("p.hint", null, faceName(face)),
      h("h2", null, format(words.readsAs, { emotion: emotionName(emotion) }), face.uncertain && h("span.chip.warn", null, words.uncertain)),
      h("p.small", null, format(claim, { count: Math.round(100 * confidence) })),
    ),
  );
}

function uncertainty(face, labels) {
  const words = strings.face;
  const reason = face.quality.flags.includes("turned_away") ? words.uncertainTurned : labels === "people" ? words.uncertainScore : words.uncertainLabels;
  return h("div.message.warn", null, icon("question"), h("p", null, reason));
}

function quality({ flags }) {
  const words = strings.face;
  if (!flags.length) return null;
  return h(
    "section",
    null,
    h("h3", null, words.quality),
    h(
      "ul.flags",
      null,
      flags.map((flag) => h("li", null, h("span.chip.warn", null, words.flags[flag] ?? flag), h("span.hint", null, words.flagHints[flag] ?? ""))),
    ),
  );
}

function details(face, scores) {
  const words = strings.face;
  const rows = [
    [words.box, format(words.boxValue, face.box)],
    [words.faceConfidence, decimal(face.face_confidence)],
    [words.blur, decimal(face.quality.blur)],
  ];
  const faceValence = valence(scores);
  if (faceValence !== null) rows.push([words.valence, decimal(faceValence), words.valenceHint]);
  return h(
    "details.details",
    null,
    h("summary", null, words.details),
    h("dl", null, rows.map(([term, value, hint]) => h("div", null, h("dt", null, term), h("dd.number", null, value, hint && h("span.hint", null, hint))))),
  );
}
