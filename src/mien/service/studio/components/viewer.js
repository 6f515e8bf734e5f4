/** Picture viewer with face boxes. Zoom by wheel, pinch, buttons and keys; select faces by click or arrow keys. */

import { format, percent, strings } from "../strings.js";
import { drawFaces, faceAt } from "./faces.js";
import { clearCanvas, h } from "./dom.js";
import { icon, iconButton } from "./icons.js";

const MAX_SCALE = 16; // canvas pixels per picture pixel
const ZOOM_STEP = 1.4;
const CLICK_PX = 6; // largest movement of a click

/**
 * Create a viewer.
 *
 * @param {object} options
 * @param {Record<string, string>} options.palette
 * @param {(index: number) => void} options.onSelect called when a face is selected in the picture
 * @returns {{element: HTMLElement, show(picture: {name: string, summary: string, bitmap: ImageBitmap|null, faces: object[]}): void,
 *   select(index: number|null): void, focus(): void, destroy(): void}}
 */
export function createViewer({ palette, onSelect }) {
  const words = strings.picture;
  let picture = { name: "", bitmap: null, faces: [] };
  let selected = null;
  let boxes = true;
  let view = { scale: 1, x: 0, y: 0 }; // of the picture on the canvas, in CSS pixels
  let fitted = true;
  let queued = false;
  const pointers = new Map();

  const canvas = h("canvas.stage-canvas", { role: "img" });
  const empty = h("div.stage-empty", null, icon("picture"));
  const zoomText = h("span.number.stage-zoom", { "aria-hidden": true });
  const boxButton = iconButton("face", words.boxesHint, () => {
    boxes = !boxes;
    boxButton.setAttribute("aria-pressed", String(boxes));
    paint();
  });
  boxButton.setAttribute("aria-pressed", "true");
  const tools = h(
    "div.stage-tools",
    null,
    boxButton,
    iconButton("minus", words.zoomOut, () => zoomBy(1 / ZOOM_STEP)),
    zoomText,
    iconButton("plus", words.zoomIn, () => zoomBy(ZOOM_STEP)),
    iconButton("fit", words.fit, fit),
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
  surface.addEventListener("dblclick", (event) => (fitted ? zoomBy(2.5, pointOf(event)) : fit()));

  // ------------------------------------------------ position
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
    const scale = Math.min(Math.max(view.scale * factor, fitScale()), Math.max(MAX_SCALE, fitScale()));
    if (scale <= fitScale() * 1.001) {
      fit();
      return;
    }
    const ratio = scale / view.scale;
    view = { scale, x: centre.x - (centre.x - view.x) * ratio, y: centre.y - (centre.y - view.y) * ratio };
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
    const clamp = (offset, size, room) => (size <= room ? (room - size) / 2 : Math.min(0, Math.max(room - size, offset)));
    view.x = clamp(view.x, picture.bitmap.width * view.scale, surface.clientWidth);
    view.y = clamp(view.y, picture.bitmap.height * view.scale, surface.clientHeight);
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
    const context = clearCanvas(canvas, surface.clientWidth, surface.clientHeight);
    const position = { scale: view.scale * ratio, x: view.x * ratio, y: view.y * ratio };
    context.imageSmoothingEnabled = position.scale < 4;
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, position.x, position.y, bitmap.width * position.scale, bitmap.height * position.scale);
    if (boxes) drawFaces(context, faces, { palette, ...position, ratio, selected });
  }

  // ------------------------------------------------ input
  function pointOf(event) {
    const edge = surface.getBoundingClientRect();
    return { x: event.clientX - edge.left, y: event.clientY - edge.top };
  }

  function onWheel(event) {
    if (!picture.bitmap || (fitted && event.deltaY > 0)) return; // fully zoomed out, so scroll the page
    event.preventDefault();
    zoomBy(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0016)), pointOf(event));
  }

  function onDown(event) {
    if (event.button !== 0) return;
    surface.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, { ...pointOf(event), from: pointOf(event), moved: false });
  }

  function onMove(event) {
    const pointer = pointers.get(event.pointerId);
    const now = pointOf(event);
    if (!pointer) {
      surface.classList.toggle("over", hit(now) !== null);
      return;
    }
    const before = spread();
    const [dx, dy] = [now.x - pointer.x, now.y - pointer.y];
    Object.assign(pointer, now, { moved: pointer.moved || Math.hypot(now.x - pointer.from.x, now.y - pointer.from.y) > CLICK_PX });
    const after = spread();
    if (before && after) zoomBy(after.span / before.span, after);
    else if (!fitted && pointer.moved) moveBy(dx, dy);
  }

  function onUp(event) {
    const pointer = pointers.get(event.pointerId);
    pointers.delete(event.pointerId);
    if (!pointer || pointer.moved || pointers.size) return;
    const face = hit(pointOf(event));
    if (face !== null) onSelect(face);
  }

  /** Centre and distance of two fingers; null if there are fewer. */
  function spread() {
    const [a, b] = pointers.values();
    if (!b) return null;
    return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, span: Math.max(1, Math.hypot(a.x - b.x, a.y - b.y)) };
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
    } else if (event.key === "+" || event.key === "=") zoomBy(ZOOM_STEP);
    else if (event.key === "-") zoomBy(1 / ZOOM_STEP);
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
