/** The heat map of one face: which places of it its score hangs on. Made on demand, in the browser. */

import { counted, format, strings } from "../strings.js";
import { emotionName, faceName, shownReading } from "./faces.js";
import { fill, h, newId } from "./dom.js";
import { icon } from "./icons.js";

const SIDE = 480; // of the canvas, in pixels
const FAINT = 0.05; // of the score; a map whose peak is lower is drawn dimmer in proportion

/**
 * @param {object} options
 * @param {{bitmap: ImageBitmap|null, blob: Blob}} options.picture
 * @param {object} options.face
 * @param {(text: string) => void} options.announce
 * @param {() => Promise<import("../engine.js").Engine>} options.engine
 */
export function createHeat({ picture, face, announce, engine }) {
  const words = strings.face;
  const { scores, emotion } = shownReading(face);
  const known = new Map(); // emotion → explanation
  const id = newId("heat");
  const body = h("div.stack.heat", { id, hidden: true });
  const button = h("button.button", { type: "button", "aria-expanded": false, "aria-controls": id, onClick: toggle }, icon("heat"), words.heatShow);
  const choice = h(
    "select.select",
    { id: newId("heat-emotion"), onChange: () => draw(choice.value) },
    Object.keys(scores).map((name) => h("option", { value: name, selected: name === emotion }, emotionName(name))),
  );
  const place = h("div.heat-place");

  function toggle() {
    body.hidden = !body.hidden;
    button.setAttribute("aria-expanded", String(!body.hidden));
    if (!body.hidden) draw(choice.value);
  }

  async function draw(name) {
    fill(place, h("p.soft", null, words.heatWorking), h("div.progress.unknown", null, h("span")));
    try {
      const reader = await engine();
      if (!reader.explains) {
        fill(place, h("div.message", null, icon("info"), h("p", null, words.heatServer)));
        return;
      }
      if (!known.has(name)) known.set(name, await reader.explain(picture.blob, face, { emotion: name }));
      if (choice.value !== name) return; // another one was chosen meanwhile
      const label = format(words.heatAlt, { name: faceName(face), emotion: emotionName(name) });
      const found = known.get(name);
      fill(place, heatCanvas(picture.bitmap, face, found, label), h("p.small", null, peakText(found, name)), h("p.small.soft", null, words.heatText));
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

/** The face as the network sees it, in grey, with the heat over it: as strong as `mien explain` draws it. */
function heatCanvas(bitmap, face, { size, values, peak, square }, label) {
  const canvas = h("canvas.heat-canvas", { width: SIDE, height: SIDE, role: "img", "aria-label": label });
  const context = canvas.getContext("2d");
  const { x, y, w, turn } = square;
  if (bitmap) {
    context.save();
    context.filter = "grayscale(1)";
    context.imageSmoothingQuality = "high";
    context.translate(SIDE / 2, SIDE / 2);
    context.scale(SIDE / w, SIDE / w);
    context.rotate((-turn * Math.PI) / 180);
    context.drawImage(bitmap, -x, -y);
    context.restore();
  }
  const dimmed = Math.min(1, peak / FAINT);
  drawGrid(context, size, (index) => heatColour(values[index] * dimmed));
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
const [COLDEST, HOTTEST] = [0.25, 0.8]; // how much of the picture is colour where the heat is 0 and 1, as mien explain draws it

/** The colours of Matplotlib's "inferno", whose lightness grows steadily with heat: red, green, blue, opacity, 0 to 255. */
function heatColour(value) {
  const heat = Math.min(1, Math.max(0, value));
  const place = heat * (INFERNO.length - 1);
  const at = Math.min(INFERNO.length - 2, Math.floor(place));
  const mixed = INFERNO[at].map((part, channel) => part + (place - at) * (INFERNO[at + 1][channel] - part));
  return [...mixed, 255 * (COLDEST + (HOTTEST - COLDEST) * heat)];
}
