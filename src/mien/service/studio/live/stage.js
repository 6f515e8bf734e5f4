/** A playing picture with the boxes of its faces over it. */

import { drawFaces } from "../components/faces.js";
import { fill, h } from "../components/dom.js";

/**
 * Make a stage: a video, boxes over it, and a place for what has to be said in its stead.
 *
 * @param {object} options
 * @param {Record<string, string>} options.palette
 * @param {string} options.label of the video
 * @param {boolean} [options.mirrored] shown as in a mirror; boxes and their words stay readable
 */
export function createStage({ palette, label, mirrored = false }) {
  const video = h("video.live-video", { muted: true, playsInline: true, "aria-label": label, tabIndex: -1 });
  const canvas = h("canvas.live-boxes", { "aria-hidden": "true" });
  const badge = h("p.live-badge", { hidden: true });
  const message = h("div.live-message");
  const element = h("div.live-stage", { data: { mirrored: String(mirrored) } }, video, canvas, badge, message);
  let shown = null;
  let chosen = null;

  function draw() {
    const { clientWidth: width, clientHeight: height } = element;
    const ratio = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    const context = canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!shown?.faces.length) return;
    const { faces } = mirrored ? flipped(shown) : shown;
    const selected = faces.findIndex((face) => face.track_id === chosen);
    drawFaces(context, faces, { palette, scale: canvas.width / shown.width, ratio, selected: selected < 0 ? null : selected });
  }

  const observer = new ResizeObserver(draw);
  observer.observe(element);
  return {
    element,
    video,
    /** Draw the boxes of a result; `track` is the person to be told from the others. */
    show(result, track = null) {
      shown = result;
      chosen = track;
      draw();
    },
    clear() {
      shown = null;
      draw();
    },
    /** A short remark in the corner; none without text. */
    remark(text) {
      badge.hidden = !text;
      if (badge.textContent !== text) badge.textContent = text;
    },
    /** Say something in the picture's place; nothing gives the picture back. */
    say(...children) {
      fill(message, ...children);
      element.dataset.message = String(message.childNodes.length > 0);
    },
    /** The place takes the shape of a picture. */
    shape(width, height) {
      element.style.setProperty("--stage-ratio", `${width} / ${height}`);
      element.style.setProperty("--stage-ratio-number", width / height);
    },
    destroy: () => observer.disconnect(),
  };
}

/** A result as a mirror shows it. */
function flipped(result) {
  const faces = result.faces.map((face) => ({ ...face, box: { ...face.box, x: result.width - face.box.x - face.box.w } }));
  return { ...result, faces };
}
