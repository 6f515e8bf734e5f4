/** Video element with face boxes over it. */

import { drawFaces } from "../components/faces.js";
import { clearCanvas, fill, h } from "../components/dom.js";

/**
 * Create a stage: a video, boxes over it, and a message that can replace it.
 *
 * @param {object} options
 * @param {Record<string, string>} options.palette
 * @param {string} options.label of the video
 * @param {boolean} [options.mirrored] mirror the video; labels stay readable
 */
export function createStage({ palette, label, mirrored = false }) {
  const video = h("video.live-video", { muted: true, playsInline: true, "aria-label": label, tabIndex: -1 });
  const canvas = h("canvas.live-boxes", { "aria-hidden": "true" });
  const badge = h("p.live-badge", { hidden: true });
  const message = h("div.live-message");
  const element = h("div.live-stage", { data: { mirrored: String(mirrored) } }, video, canvas, badge, message);
  let shown = null;
  let selectedTrack = null;

  function draw() {
    const context = clearCanvas(canvas, element.clientWidth, element.clientHeight);
    if (!shown?.faces.length) return;
    const { faces } = mirrored ? mirror(shown) : shown;
    const selected = faces.findIndex((face) => face.track_id === selectedTrack);
    drawFaces(context, faces, { palette, scale: canvas.width / shown.width, ratio: devicePixelRatio || 1, selected: selected < 0 ? null : selected });
  }

  const observer = new ResizeObserver(draw);
  observer.observe(element);
  return {
    element,
    video,
    /** Draw the boxes of a result; the person `track` is highlighted. */
    show(result, track = null) {
      shown = result;
      selectedTrack = track;
      draw();
    },
    clear() {
      shown = null;
      draw();
    },
    /** Show a short text in the corner; an empty text hides it. */
    setBadge(text) {
      badge.hidden = !text;
      if (badge.textContent !== text) badge.textContent = text;
    },
    /** Show a message instead of the video; without arguments, show the video again. */
    setMessage(...children) {
      fill(message, ...children);
      element.dataset.message = String(message.childNodes.length > 0);
    },
    /** Set the aspect ratio. */
    setSize(width, height) {
      element.style.setProperty("--stage-ratio", `${width} / ${height}`);
      element.style.setProperty("--stage-ratio-number", width / height);
    },
    destroy: () => observer.disconnect(),
  };
}

/** Mirror the boxes of a result. */
function mirror(result) {
  const faces = result.faces.map((face) => ({ ...face, box: { ...face.box, x: result.width - face.box.x - face.box.w } }));
  return { ...result, faces };
}
