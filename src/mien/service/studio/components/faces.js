/** Display of faces: boxes on a canvas, score bars, portraits and text. */

import { counted, format, percent, strings } from "../strings.js";
import { h } from "./dom.js";

const DARK = "#10141a";
const LIGHT = "#ffffff";

// ---------------------------------------------------------------- text and colours
/** Display name of an emotion; classes of custom models are shown as they are. */
export function emotionName(emotion) {
  return Object.hasOwn(strings.emotions, emotion) ? strings.emotions[emotion] : emotion;
}

/** The reading to show of a face: the corrected one, else the smoothed one, else that of the picture. */
export function shownReading(face) {
  return face.corrected ?? face.smoothed ?? face;
}

/** Text such as "happy 91%", with a question mark if uncertain. */
export function readingText(face) {
  const { emotion, confidence } = shownReading(face);
  const template = face.uncertain ? strings.face.labelUncertain : strings.face.label;
  return format(template, { emotion: emotionName(emotion), percent: percent(confidence) });
}

/** Text such as "Person 2" in a video or "Face 1" in a picture. */
export function faceName(face) {
  if (face.track_id !== null && face.track_id !== undefined) return format(strings.face.person, { number: face.track_id });
  return format(strings.face.number, { number: face.face_id + 1 });
}

/** Text such as "2 faces: happy 91%, sad? 44%", or the status of a result without faces. */
export function resultSummary(result) {
  if (result.status !== "ok") return strings.picture.status[result.status];
  const emotions = result.faces.map(readingText).join(", ");
  return format(strings.picture.summaryOk, { faces: counted(strings.picture.faces, result.faces.length), emotions });
}

/** Colour of a class; classes of custom models get the unused colours of the palette in order. */
export function colourOf(palette, emotion, emotions = Object.keys(palette)) {
  if (Object.hasOwn(palette, emotion)) return palette[emotion];
  const free = Object.keys(palette).filter((name) => !emotions.includes(name));
  const names = free.length ? free : Object.keys(palette);
  const others = emotions.filter((name) => !Object.hasOwn(palette, name));
  return palette[names[Math.max(0, others.indexOf(emotion)) % names.length]];
}

/** Text colour with sufficient contrast on a background "#rrggbb". */
export function readableOn(colour) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  return 0.299 * red + 0.587 * green + 0.114 * blue > 110 ? DARK : LIGHT;
}

// ---------------------------------------------------------------- boxes
/**
 * Draw boxes and labels. Line widths and text sizes do not depend on the scale. A label that would cover another
 * face or label is moved, or left out where there is no room, except that of the selected face.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {object[]} faces of a result
 * @param {object} options
 * @param {Record<string, string>} options.palette
 * @param {number} [options.scale] canvas pixels per picture pixel
 * @param {number} [options.x] left edge of the picture on the canvas
 * @param {number} [options.y] top edge of the picture on the canvas
 * @param {number} [options.ratio] canvas pixels per CSS pixel
 * @param {number|null} [options.selected] index of the selected face
 * @param {boolean} [options.labels]
 */
export function drawFaces(context, faces, { palette, scale = 1, x = 0, y = 0, ratio = 1, selected = null, labels = true }) {
  const many = faces.length > 1;
  const rects = faces.map(({ box }) => ({ left: x + box.x * scale, top: y + box.y * scale, width: box.w * scale, height: box.h * scale }));
  context.save();
  faces.forEach((face, index) => {
    const dim = many && selected !== null && index !== selected;
    drawBox(context, rects[index], faceColour(palette, face), ratio * (index === selected && many ? 3.5 : 2.25), dim);
  });
  const area = (index) => (index === selected ? Infinity : rects[index].width * rects[index].height);
  const order = faces.map((_, index) => index).sort((a, b) => area(b) - area(a));
  const drawn = [];
  for (const index of labels ? order : []) {
    const others = [...drawn, ...rects.filter((rect) => rect !== rects[index])];
    const places = labelPlaces(context, rects[index], faces[index], ratio);
    const label = places.find((place) => !others.some((other) => intersect(place, other))) ?? (index === selected && places[0]);
    if (!label) continue;
    drawLabel(context, label, faceColour(palette, faces[index]));
    drawn.push(label);
  }
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

/** A face's label in its possible places, best first: above its box (at the canvas's upper edge inside it), or below. */
function labelPlaces(context, box, face, ratio) {
  const size = ratio * (box.width < 56 * ratio ? 11 : 13);
  const pad = 0.5 * size;
  const number = face.track_id === null || face.track_id === undefined ? "" : `#${face.track_id} `;
  const text = number + readingText(face);
  context.font = `600 ${size}px ${fontFamily()}`;
  const [width, height] = [context.measureText(text).width + 2 * pad, 1.7 * size];
  const above = box.top - height - 2 * ratio;
  const tops = [above >= 0 ? above : Math.max(box.top, 0) + 2 * ratio, box.top + box.height + 2 * ratio];
  const lefts = [box.left - ratio, box.left + box.width + ratio - width].map((left) => Math.max(0, Math.min(left, context.canvas.width - width)));
  return tops.flatMap((top) => lefts.map((left) => ({ text, size, pad, left, top, width, height })));
}

function drawLabel(context, { text, size, pad, left, top, width, height }, colour) {
  context.font = `600 ${size}px ${fontFamily()}`;
  context.beginPath();
  context.roundRect(left, top, width, height, 0.4 * size);
  context.fillStyle = colour;
  context.fill();
  context.fillStyle = readableOn(colour);
  context.textBaseline = "middle";
  context.fillText(text, left + pad, top + 0.53 * height);
}

/** Whether two rectangles have an area in common. */
export function intersect(a, b) {
  return a.left < b.left + b.width && b.left < a.left + a.width && a.top < b.top + b.height && b.top < a.top + a.height;
}

let family = null;

/** The page's font, for canvases. */
export function fontFamily() {
  family ??= getComputedStyle(document.body).fontFamily;
  return family;
}

/** Index of the smallest face at a point of the picture, or null. */
export function faceAt(faces, x, y) {
  const inside = faces
    .map(({ box }, index) => ({ box, index }))
    .filter(({ box }) => x >= box.x && y >= box.y && x < box.x + box.w && y < box.y + box.h)
    .sort((a, b) => a.box.w * a.box.h - b.box.w * b.box.h);
  return inside[0]?.index ?? null;
}

// ---------------------------------------------------------------- portraits and bars
/**
 * Create a square portrait of a face with a margin.
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

/** Draw a portrait on an existing canvas. */
export function drawPortrait(canvas, source, box, margin = 0.18) {
  const span = Math.max(box.w, box.h) * (1 + 2 * margin);
  const [left, top] = [box.x + box.w / 2 - span / 2, box.y + box.h / 2 - span / 2];
  const context = canvas.getContext("2d", { willReadFrequently: true }); // else blank in WebKitGTK once it was hidden
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(source, left, top, span, span, 0, 0, canvas.width, canvas.height);
}

/**
 * Create bars for the scores of one face, in the model's order.
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
