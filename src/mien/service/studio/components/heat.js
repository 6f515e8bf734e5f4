/** Heat map of one face: regions on which its score depends. Computed on demand in the browser. */

import { counted, format, strings } from "../strings.js";
import { emotionName, faceName, shownReading } from "./faces.js";
import { fill, h, newId } from "./dom.js";
import { icon } from "./icons.js";

const SIDE = 480; // of the canvas, in pixels
const FAINT_PEAK = 0.05; // maps with a lower peak are drawn proportionally fainter

/**
 * Create the section with a button that shows the heat map.
 *
 * @param {object} options
 * @param {{bitmap: ImageBitmap|null, blob: Blob}} options.picture
 * @param {object} options.face
 * @param {(text: string) => void} options.announce
 * @param {() => Promise<import("../engine.js").Engine>} options.engine
 */
export function createHeat({ picture, face, announce, engine }) {
  const words = strings.face;
  const { scores, emotion } = shownReading(face);
  const cache = new Map(); // emotion → explanation
  const id = newId("heat");
  const body = h("div.stack.heat", { id, hidden: true });
  const label = h("span", null, words.heatShow);
  const button = h("button.button", { type: "button", "aria-controls": id, onClick: toggle }, icon("heat"), label);
  const choice = h(
    "select.input",
    { id: newId("heat-emotion"), onChange: () => draw(choice.value) },
    Object.keys(scores).map((name) => h("option", { value: name, selected: name === emotion }, emotionName(name))),
  );
  const place = h("div.heat-place");

  function toggle() {
    body.hidden = !body.hidden;
    label.textContent = body.hidden ? words.heatShow : words.heatHide;
    if (!body.hidden) draw(choice.value);
  }

  async function draw(name) {
    fill(place, h("p.soft", null, words.heatWorking), h("div.progress.unknown", null, h("span")));
    try {
      const current = await engine();
      if (!current.explains) {
        fill(place, h("div.message", null, icon("info"), h("p", null, words.heatServer)));
        return;
      }
      if (!cache.has(name)) cache.set(name, await current.explain(picture.blob, face, { emotion: name }));
      if (choice.value !== name) return; // the choice has changed meanwhile
      const label = format(words.heatAlt, { name: faceName(face), emotion: emotionName(name) });
      const explanation = cache.get(name);
      fill(place, heatCanvas(picture.bitmap, face, explanation, label), h("p.small", null, peakText(explanation, name)), h("p.hint", null, words.heatText));
      announce(label);
    } catch (error) {
      fill(place, h("div.message.error", { role: "alert" }, icon("warn"), h("p", null, format(words.heatFailed, { error: error.message }))));
    }
  }

  fill(body, h("div.field", null, h("label", { htmlFor: choice.id }, words.heatFor), choice), place);
  return h("section.stack", null, h("div", null, button), body);
}

function peakText({ peak }, name) {
  const words = strings.face;
  const points = Math.round(100 * peak);
  return points < 1 ? format(words.heatNothing, { emotion: emotionName(name) }) : counted(words.heatPeak, points);
}

/** The grey face crop with the heat map over it, as `mien explain` draws it. */
function heatCanvas(bitmap, face, { size, values, peak, square }, label) {
  const canvas = h("canvas.heat-canvas", { width: SIDE, height: SIDE, role: "img", "aria-label": label });
  const context = canvas.getContext("2d", { willReadFrequently: true }); // as in drawPortrait
  const { x, y, w, turn } = square;
  if (bitmap) {
    context.save();
    context.imageSmoothingQuality = "high";
    context.translate(SIDE / 2, SIDE / 2);
    context.scale(SIDE / w, SIDE / w);
    context.rotate((-turn * Math.PI) / 180);
    context.drawImage(bitmap, -x, -y);
    context.globalCompositeOperation = "saturation"; // Safari has no context.filter
    context.fillStyle = "grey";
    context.fillRect(-x, -y, bitmap.width, bitmap.height);
    context.restore();
  }
  const strength = Math.min(1, peak / FAINT_PEAK);
  drawGrid(context, size, (index) => heatColour(values[index] * strength));
  return canvas;
}

function drawGrid(context, size, colour) {
  const small = new OffscreenCanvas(size, size);
  const data = new ImageData(size, size);
  for (let index = 0; index < size * size; index += 1) data.data.set(colour(index), 4 * index);
  small.getContext("2d").putImageData(data, 0, 0);
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, SIDE, SIDE);
}

const INFERNO = [[0, 0, 4], [40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21], [250, 193, 39], [252, 255, 164]];
const [MIN_OPACITY, MAX_OPACITY] = [0.25, 0.8]; // of the heat map at 0 and 1, as in mien explain

/** RGBA colour from Matplotlib's colormap "inferno", 0 to 255. */
function heatColour(value) {
  const heat = Math.min(1, Math.max(0, value));
  const position = heat * (INFERNO.length - 1);
  const index = Math.min(INFERNO.length - 2, Math.floor(position));
  const rgb = INFERNO[index].map((value, channel) => value + (position - index) * (INFERNO[index + 1][channel] - value));
  return [...rgb, 255 * (MIN_OPACITY + (MAX_OPACITY - MIN_OPACITY) * heat)];
}
