/** Annotated pictures for saving: boxes, labels and score charts, as mien draws them in Python. */

import { colourOf, emotionName, fontFamily, intersect, readableOn, readingText, shownReading } from "./faces.js";

const MIN_SIDE = 640; // smaller pictures are enlarged by an integer factor, so that labels are legible
const MAX_SIDE = 16_384; // limit of canvases in browsers
const DARK = [16, 20, 26];

/**
 * Draw a picture with its faces.
 *
 * @param {ImageBitmap} picture
 * @param {object[]} faces of its result
 * @param {{palette: Record<string, string>, charts?: boolean}} options
 * @returns {Promise<Blob>} a PNG
 */
export function annotatedPng(picture, faces, { palette, charts = true }) {
  const longer = Math.max(picture.width, picture.height);
  const scale = longer > MAX_SIDE ? MAX_SIDE / longer : Math.max(1, Math.ceil(MIN_SIDE / longer));
  const canvas = new OffscreenCanvas(Math.max(1, Math.floor(picture.width * scale)), Math.max(1, Math.floor(picture.height * scale)));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.fillStyle = "white"; // the background on which transparent pictures are analysed
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  const items = faces.map((face) => {
    const box = { left: face.box.x * scale, top: face.box.y * scale, width: face.box.w * scale, height: face.box.h * scale };
    return { face, box, style: styleOf(canvas, box), colour: colourOf(palette, shownReading(face).emotion, Object.keys(face.scores)) };
  });
  const occupied = items.map(({ box }) => box);
  for (const item of items) drawBox(context, item);
  for (const item of items) occupied.push(drawLabel(context, item));
  for (const item of charts ? items : []) drawChart(context, item, palette, occupied);
  return canvas.convertToBlob({ type: "image/png" });
}

/** Text size, line width and padding for a face, in pixels. */
function styleOf({ width, height }, box) {
  const longer = Math.max(width, height);
  const text = Math.round(Math.min(Math.max(box.width / 6.5, Math.max(12, longer / 75)), Math.max(16, longer / 32), Math.max(8, width / 8)));
  return { text, line: Math.max(2, Math.round(text / 7)), pad: Math.max(3, Math.round(text / 3.2)) };
}

function rounded(context, { left, top, width, height }, radius) {
  context.beginPath();
  context.roundRect(left, top, width, height, radius);
}

function drawBox(context, { box, style, colour }) {
  // A dark edge keeps the box visible on a background of the same colour.
  for (const [stroke, line] of [[`rgb(${DARK.join(" ")} / 59%)`, style.line + 2], [colour, style.line]]) {
    rounded(context, box, 2 * style.line);
    context.strokeStyle = stroke;
    context.lineWidth = line;
    context.stroke();
  }
}

function drawLabel(context, { face, box, style, colour }) {
  const number = face.track_id === null ? "" : `#${face.track_id} `;
  const text = number + readingText(face);
  context.font = `600 ${style.text}px ${fontFamily()}`;
  const width = Math.ceil(context.measureText(text).width) + 2 * style.pad;
  const height = Math.round(1.25 * style.text) + style.pad;
  const label = { left: Math.max(0, Math.min(box.left, context.canvas.width - width)), top: box.top >= height ? box.top - height : box.top, width, height };
  rounded(context, label, style.line);
  context.fillStyle = colour;
  context.fill();
  context.fillStyle = readableOn(colour);
  context.textBaseline = "middle";
  context.textAlign = "left";
  context.fillText(text, label.left + style.pad, label.top + 0.53 * height);
  return label;
}

function drawChart(context, { face, box, style }, palette, occupied) {
  const { scores, emotion } = shownReading(face);
  const names = Object.keys(scores);
  const text = Math.max(10, Math.round(0.72 * style.text));
  context.font = `${text}px ${fontFamily()}`;
  const [row, pad, bar] = [Math.round(1.3 * text), style.pad, 5 * text];
  const widest = Math.ceil(Math.max(...names.map((name) => context.measureText(emotionName(name)).width)));
  const size = { width: widest + bar + 3 * pad, height: row * names.length + 2 * pad };
  if (size.height > 1.25 * box.height) return; // larger than the face
  const panel = freePosition(context.canvas, box, size, 2 * style.line, occupied);
  if (!panel) return;
  occupied.push(panel);
  rounded(context, panel, 2 * style.line);
  context.fillStyle = `rgb(${DARK.join(" ")} / 84%)`;
  context.fill();
  const start = panel.left + 2 * pad + widest;
  context.textBaseline = "middle";
  context.textAlign = "right";
  names.forEach((name, index) => {
    const middle = panel.top + pad + (index + 0.5) * row;
    context.fillStyle = name === emotion ? "#fff" : "rgb(255 255 255 / 67%)";
    context.fillText(emotionName(name), start - pad, middle + 0.04 * text);
    const radius = Math.max(1, Math.round(0.22 * row));
    for (const [share, fillStyle] of [[1, "rgb(255 255 255 / 15%)"], [scores[name], colourOf(palette, name, names)]]) {
      if (share * bar < 1) continue;
      rounded(context, { left: start, top: middle - radius, width: share * bar, height: 2 * radius }, radius);
      context.fillStyle = fillStyle;
      context.fill();
    }
  });
}

/** A rectangle next to or below a box that is inside the picture and covers nothing, or undefined. */
function freePosition(canvas, { left, top, width, height }, size, gap, occupied) {
  const [right, bottom] = [left + width, top + height];
  const corners = [
    [right + gap, top],
    [left - gap - size.width, top],
    [right + gap, bottom - size.height],
    [left - gap - size.width, bottom - size.height],
    [Math.floor((left + right - size.width) / 2), bottom + gap],
  ];
  const isFree = (rect) =>
    rect.left >= 0 &&
    rect.top >= 0 &&
    rect.left + rect.width < canvas.width &&
    rect.top + rect.height < canvas.height &&
    !occupied.some((other) => intersect(rect, other));
  return corners.map(([x, y]) => ({ left: x, top: y, ...size })).find(isFree);
}
