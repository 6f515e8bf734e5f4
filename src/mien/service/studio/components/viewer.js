/** A picture with its faces on a canvas: zoom by wheel, pinch, buttons and keys; a face is chosen by click or arrow keys. */

import { format, percent, strings } from "../strings.js";
import { drawFaces, faceAt } from "./faces.js";
import { h } from "./dom.js";
import { icon } from "./icons.js";

const MOST = 16; // canvas pixels for a pixel of the picture, at most
const STEP = 1.4;
const CLICK = 6; // pixels that a click may move

/**
 * @param {object} options
 * @param {Record<string, string>} options.palette
 * @param {(index: number) => void} options.onSelect a face was chosen on the picture
 * @returns {{element: HTMLElement, show(picture: {name: string, summary: string, bitmap: ImageBitmap|null, faces: object[]}): void,
 *   select(index: number|null): void, focus(): void, destroy(): void}}
 */
export function createViewer({ palette, onSelect }) {
  const words = strings.picture;
  let picture = { name: "", bitmap: null, faces: [] };
  let selected = null;
  let boxes = true;
  let view = { scale: 1, x: 0, y: 0 }; // of the picture on the canvas, in screen pixels
  let fitted = true;
  let queued = false;
  const pointers = new Map();

  const canvas = h("canvas.stage-canvas", { role: "img" });
  const empty = h("div.stage-empty", null, icon("picture"));
  const zoomText = h("span.number.stage-zoom", { "aria-hidden": true });
  const boxButton = tool("face", words.boxesHint, () => {
    boxes = !boxes;
    boxButton.setAttribute("aria-pressed", String(boxes));
    paint();
  });
  boxButton.setAttribute("aria-pressed", "true");
  const tools = h(
    "div.stage-tools",
    null,
    boxButton,
    tool("minus", words.zoomOut, () => zoomBy(1 / STEP)),
    zoomText,
    tool("plus", words.zoomIn, () => zoomBy(STEP)),
    tool("fit", words.fit, fit),
  );
  const surface = h("div.stage-surface", { tabIndex: 0, role: "group", onKeydown: onKey }, canvas, empty);
  const element = h("div.stage", null, surface, tools);
  const resized = new ResizeObserver(() => (fitted ? fit() : paint()));
  resized.observe(surface);

  surface.addEventListener("wheel", onWheel, { passive: false });
  surface.addEventListener("pointerdown", onDown);
  surface.addEventListener("pointermove", onMove);
  surface.addEventListener("pointerup", onUp);
  surface.addEventListener("pointercancel", ({ pointerId }) => pointers.delete(pointerId));
  surface.addEventListener("dblclick", (event) => (fitted ? zoomBy(2.5, at(event)) : fit()));

  function tool(name, label, onClick) {
    return h("button.button.quiet.round", { type: "button", "aria-label": label, title: label, onClick }, icon(name));
  }

  // ------------------------------------------------ where the picture is
  function fitScale() {
    const { clientWidth, clientHeight } = surface;
    const { width, height } = picture.bitmap;
    return Math.min(clientWidth / width, clientHeight / height, 3);
  }

  function fit() {
    if (!picture.bitmap) return paint();
    const scale = fitScale();
    const { width, height } = picture.bitmap;
    view = { scale, x: (surface.clientWidth - width * scale) / 2, y: (surface.clientHeight - height * scale) / 2 };
    fitted = true;
    return paint();
  }

  function zoomBy(factor, centre = { x: surface.clientWidth / 2, y: surface.clientHeight / 2 }) {
    if (!picture.bitmap) return;
    const scale = Math.min(Math.max(view.scale * factor, fitScale()), Math.max(MOST, fitScale()));
    if (scale <= fitScale() * 1.001) {
      fit();
      return;
    }
    const by = scale / view.scale;
    view = { scale, x: centre.x - (centre.x - view.x) * by, y: centre.y - (centre.y - view.y) * by };
    fitted = false;
    keepInside();
    paint();
  }

  function moveBy(dx, dy) {
    view = { ...view, x: view.x + dx, y: view.y + dy };
    keepInside();
    paint();
  }

  function keepInside() {
    const within = (place, size, room) => (size <= room ? (room - size) / 2 : Math.min(0, Math.max(room - size, place)));
    view.x = within(view.x, picture.bitmap.width * view.scale, surface.clientWidth);
    view.y = within(view.y, picture.bitmap.height * view.scale, surface.clientHeight);
  }

  // ------------------------------------------------ drawing
  function paint() {
    if (queued) return;
    queued = true;
    requestAnimationFrame(() => {
      queued = false;
      draw();
    });
  }

  function draw() {
    const { bitmap, faces } = picture;
    surface.classList.toggle("zoomed", !fitted);
    zoomText.textContent = bitmap ? format(words.zoom, { percent: percent(view.scale) }) : "";
    if (!bitmap || !surface.clientWidth) return;
    const ratio = devicePixelRatio || 1;
    const [width, height] = [surface.clientWidth, surface.clientHeight].map((side) => Math.round(side * ratio));
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    const place = { scale: view.scale * ratio, x: view.x * ratio, y: view.y * ratio };
    context.clearRect(0, 0, width, height);
    context.imageSmoothingEnabled = place.scale < 4;
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, place.x, place.y, bitmap.width * place.scale, bitmap.height * place.scale);
    if (boxes) drawFaces(context, faces, { palette, ...place, ratio, selected });
  }

  // ------------------------------------------------ hands
  function at(event) {
    const edge = surface.getBoundingClientRect();
    return { x: event.clientX - edge.left, y: event.clientY - edge.top };
  }

  function onWheel(event) {
    if (!picture.bitmap || (fitted && event.deltaY > 0)) return; // nothing to zoom out of: the page scrolls
    event.preventDefault();
    zoomBy(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0016)), at(event));
  }

  function onDown(event) {
    if (event.button !== 0) return;
    surface.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, { ...at(event), from: at(event), moved: false });
  }

  function onMove(event) {
    const pointer = pointers.get(event.pointerId);
    const now = at(event);
    if (!pointer) {
      surface.classList.toggle("over", hit(now) !== null);
      return;
    }
    const before = spread();
    const [dx, dy] = [now.x - pointer.x, now.y - pointer.y];
    Object.assign(pointer, now, { moved: pointer.moved || Math.hypot(now.x - pointer.from.x, now.y - pointer.from.y) > CLICK });
    const after = spread();
    if (before && after) zoomBy(after.span / before.span, after);
    else if (!fitted && pointer.moved) moveBy(dx, dy);
  }

  function onUp(event) {
    const pointer = pointers.get(event.pointerId);
    pointers.delete(event.pointerId);
    if (!pointer || pointer.moved || pointers.size) return;
    const face = hit(at(event));
    if (face !== null) onSelect(face);
  }

  /** Middle of two fingers and how far they are apart; null for one. */
  function spread() {
    const [one, other] = pointers.values();
    if (!other) return null;
    return { x: (one.x + other.x) / 2, y: (one.y + other.y) / 2, span: Math.max(1, Math.hypot(one.x - other.x, one.y - other.y)) };
  }

  function hit({ x, y }) {
    return faceAt(picture.faces, (x - view.x) / view.scale, (y - view.y) / view.scale);
  }

  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = 60;
    const pans = { ArrowLeft: [step, 0], ArrowRight: [-step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
    const turns = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 };
    if (event.shiftKey && event.key in pans) moveBy(...(picture.bitmap && !fitted ? pans[event.key] : [0, 0]));
    else if (event.key in turns && picture.faces.length) {
      const count = picture.faces.length;
      onSelect(selected === null ? 0 : (selected + turns[event.key] + count) % count);
    } else if (event.key === "+" || event.key === "=") zoomBy(STEP);
    else if (event.key === "-") zoomBy(1 / STEP);
    else if (event.key === "0") fit();
    else return;
    event.preventDefault();
  }

  return {
    element,
    show(next) {
      picture = next;
      selected = null;
      canvas.hidden = !next.bitmap;
      empty.hidden = Boolean(next.bitmap);
      tools.hidden = !next.bitmap;
      canvas.setAttribute("aria-label", format(words.canvas, { name: next.name, summary: next.summary }));
      surface.setAttribute("aria-label", format(words.stage, { name: next.name }));
      fit();
    },
    select(index) {
      selected = index;
      paint();
    },
    focus: () => surface.focus({ preventScroll: true }),
    destroy: () => resized.disconnect(),
  };
}
