/** Faces as they are shown: boxes on a canvas, bars, small portraits, and the words for them. */

import { counted, format, percent, strings } from "../strings.js";
import { h } from "./dom.js";

const DARK = "#10141a";
const LIGHT = "#ffffff";

// ---------------------------------------------------------------- words and colours
/** An emotion's word; a class of a model of its own is its own word. */
export function emotionName(emotion) {
  return Object.hasOwn(strings.emotions, emotion) ? strings.emotions[emotion] : emotion;
}

/** What is shown of a face: its corrected scores where there are any, else the smoothed ones, else those of the picture. */
export function shownReading(face) {
  return face.corrected ?? face.smoothed ?? face;
}

/** "happy 91%", with a question mark where it is uncertain. */
export function readingText(face) {
  const { emotion, confidence } = shownReading(face);
  const template = face.uncertain ? strings.face.labelUncertain : strings.face.label;
  return format(template, { emotion: emotionName(emotion), percent: percent(confidence) });
}

/** "Person 2" in a video, "Face 1" in a picture. */
export function faceName(face) {
  if (face.track_id !== null && face.track_id !== undefined) return format(strings.face.person, { number: face.track_id });
  return format(strings.face.number, { number: face.face_id + 1 });
}

/** "2 faces: happy 91%, sad? 44%", or that there is none. */
export function resultSummary(result) {
  if (result.status !== "ok") return strings.picture.status[result.status];
  const emotions = result.faces.map(readingText).join(", ");
  return format(strings.picture.summaryOk, { faces: counted(strings.picture.faces, result.faces.length), emotions });
}

/** The colour of a class: an emotion's own, else one of those that are left, by its place among the classes. */
export function colourOf(palette, emotion, emotions = Object.keys(palette)) {
  if (Object.hasOwn(palette, emotion)) return palette[emotion];
  const free = Object.keys(palette).filter((name) => !emotions.includes(name));
  const names = free.length ? free : Object.keys(palette);
  const others = emotions.filter((name) => !Object.hasOwn(palette, name));
  return palette[names[Math.max(0, others.indexOf(emotion)) % names.length]];
}

/** Dark or light, whichever can be read on a colour "#rrggbb". */
export function readableOn(colour) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  return 0.299 * red + 0.587 * green + 0.114 * blue > 110 ? DARK : LIGHT;
}

// ---------------------------------------------------------------- boxes
/**
 * Draw boxes and labels. Lines and letters keep their size whatever the scale is.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {object[]} faces of a result
 * @param {object} options
 * @param {Record<string, string>} options.palette
 * @param {number} [options.scale] canvas pixels for a pixel of the picture
 * @param {number} [options.x] where the picture's left edge is on the canvas
 * @param {number} [options.y] where its upper edge is
 * @param {number} [options.ratio] canvas pixels for a pixel of the screen
 * @param {number|null} [options.selected] index of the chosen face
 * @param {boolean} [options.labels]
 */
export function drawFaces(context, faces, { palette, scale = 1, x = 0, y = 0, ratio = 1, selected = null, labels = true }) {
  const many = faces.length > 1;
  const places = faces.map(({ box }) => ({ left: x + box.x * scale, top: y + box.y * scale, width: box.w * scale, height: box.h * scale }));
  context.save();
  faces.forEach((face, index) => {
    const dim = many && selected !== null && index !== selected;
    drawBox(context, places[index], faceColour(palette, face), ratio * (index === selected && many ? 3.5 : 2.25), dim);
  });
  const order = faces.map((_, index) => index).sort((one, other) => (one === selected) - (other === selected)); // the chosen on top
  for (const index of labels ? order : []) drawLabel(context, places[index], faces[index], palette, ratio);
  context.restore();
}

function faceColour(palette, face) {
  const { emotion, scores } = shownReading(face);
  return colourOf(palette, emotion, Object.keys(scores));
}

function drawBox(context, { left, top, width, height }, colour, line, dim) {
  const radius = Math.min(3 * line, width / 4);
  for (const [style, thickness, alpha] of [
    [DARK, line + 2, 0.55],
    [colour, line, dim ? 0.75 : 1],
  ]) {
    context.beginPath();
    context.roundRect(left, top, width, height, radius);
    context.globalAlpha = alpha;
    context.strokeStyle = style;
    context.lineWidth = thickness;
    context.stroke();
  }
  context.globalAlpha = 1;
}

function drawLabel(context, { left, top, width }, face, palette, ratio) {
  const size = ratio * (width < 56 * ratio ? 11 : 13);
  const pad = 0.5 * size;
  const number = face.track_id === null || face.track_id === undefined ? "" : `#${face.track_id} `;
  const text = number + readingText(face);
  context.font = `600 ${size}px ${fontFamily()}`;
  const span = context.measureText(text).width + 2 * pad;
  const tall = 1.7 * size;
  const at = Math.max(0, Math.min(left - ratio, context.canvas.width - span));
  const over = top - tall - 2 * ratio;
  const colour = faceColour(palette, face);
  context.beginPath();
  context.roundRect(at, over >= 0 ? over : Math.max(top, 0) + 2 * ratio, span, tall, 0.4 * size);
  context.fillStyle = colour;
  context.fill();
  context.fillStyle = readableOn(colour);
  context.textBaseline = "middle";
  context.fillText(text, at + pad, (over >= 0 ? over : Math.max(top, 0) + 2 * ratio) + 0.53 * tall);
}

let family = null;

/** The page's font, for canvases. */
export function fontFamily() {
  family ??= getComputedStyle(document.body).fontFamily;
  return family;
}

/** Index of the smallest face whose box a point of the picture is in, or null. */
export function faceAt(faces, x, y) {
  const inside = faces
    .map(({ box }, index) => ({ box, index }))
    .filter(({ box }) => x >= box.x && y >= box.y && x < box.x + box.w && y < box.y + box.h)
    .sort((one, other) => one.box.w * one.box.h - other.box.w * other.box.h);
  return inside[0]?.index ?? null;
}

// ---------------------------------------------------------------- portraits and bars
/**
 * A square portrait of a face, with a little of what is around it.
 *
 * @param {CanvasImageSource} source the picture
 * @param {{x: number, y: number, w: number, h: number}} box
 * @param {number} side of the canvas, in pixels
 */
export function portrait(source, box, side, margin = 0.18) {
  const canvas = h("canvas", { width: side, height: side });
  drawPortrait(canvas, source, box, margin);
  return canvas;
}

/** Draw a face's square on a canvas that is there. */
export function drawPortrait(canvas, source, box, margin = 0.18) {
  const span = Math.max(box.w, box.h) * (1 + 2 * margin);
  const [left, top] = [box.x + box.w / 2 - span / 2, box.y + box.h / 2 - span / 2];
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(source, left, top, span, span, 0, 0, canvas.width, canvas.height);
}

/**
 * The scores of one face as bars, in the model's order.
 *
 * @param {{palette: Record<string, string>, emotions: string[], label?: string}} options
 * @returns {{element: HTMLElement, set: (scores: Record<string, number>, emotion?: string) => void}}
 */
export function createBars({ palette, emotions, label = strings.face.scores }) {
  const rows = emotions.map((emotion) => {
    const value = h("span.bar-value");
    const fillElement = h("span", { style: { "--color": colourOf(palette, emotion, emotions) } });
    const row = h("li.bar", null, h("span", null, emotionName(emotion)), h("span.bar-track", { "aria-hidden": true }, fillElement), value);
    return { emotion, row, value, fillElement };
  });
  const element = h("ul.bars", { "aria-label": label }, rows.map(({ row }) => row));
  return {
    element,
    set(scores, first) {
      for (const { emotion, row, value, fillElement } of rows) {
        const score = scores?.[emotion] ?? 0;
        value.textContent = scores ? percent(score) : "–";
        fillElement.style.setProperty("--share", score);
        row.classList.toggle("first", emotion === first);
      }
    },
  };
}
