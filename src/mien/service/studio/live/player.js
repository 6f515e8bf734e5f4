/** Playback controls of a video file. */

import { formatTime } from "../../mien-web/analysis/index.js";
import { h } from "../components/dom.js";
import { icon } from "../components/icons.js";

const SCRUBBER_STEPS = 1000;

/**
 * Create the controls of a video element.
 *
 * @param {object} text strings.video
 * @param {HTMLVideoElement} video
 * @param {File} file
 * @param {{onMoment: (seconds: number) => void}} options `onMoment` is called when the time changes
 */
export function createPlayer(text, video, file, { onMoment }) {
  const url = URL.createObjectURL(file);
  const play = h("button.button.quiet.round", { type: "button", "aria-keyshortcuts": "Space", onclick: toggle });
  const sound = h("button.button.quiet", { type: "button", "aria-pressed": "false", onclick: toggleSound }, text.sound);
  const scrubber = h("input.scrubber", { type: "range", min: 0, max: SCRUBBER_STEPS, value: 0, "aria-label": text.moment, oninput: () => seek((scrubber.value / SCRUBBER_STEPS) * video.duration) });
  const time = h("span.number.small");
  const element = h("div.player", { role: "group", "aria-label": text.player }, play, scrubber, time, sound);
  let frame = null;

  function toggle() {
    if (video.paused) video.play().catch(() => {}); // errors are reported when the file is opened
    else video.pause();
  }

  function toggleSound() {
    video.muted = !video.muted;
    sound.setAttribute("aria-pressed", String(!video.muted));
  }

  function seek(seconds) {
    video.currentTime = Math.min(Math.max(0, seconds), video.duration || 0);
    show();
  }

  function show() {
    const { currentTime, duration } = video;
    if (!Number.isFinite(duration)) return;
    scrubber.value = String(Math.round((SCRUBBER_STEPS * currentTime) / duration));
    scrubber.setAttribute("aria-valuetext", formatTime(currentTime));
    time.textContent = `${formatTime(currentTime)} / ${formatTime(duration)}`;
    onMoment(currentTime);
  }

  function tick() {
    show();
    frame = video.paused ? null : requestAnimationFrame(tick);
  }

  function updateState() {
    play.replaceChildren(icon(video.paused ? "play" : "pause"));
    play.setAttribute("aria-label", video.paused ? text.play : text.pause);
    if (frame === null) tick();
  }

  for (const name of ["play", "pause", "ended"]) video.addEventListener(name, updateState);
  for (const name of ["seeked", "loadedmetadata"]) video.addEventListener(name, show);
  Object.assign(video, { src: url, preload: "auto" });
  updateState();
  return {
    element,
    toggle,
    seek,
    moment: () => video.currentTime,
    pause: () => video.pause(),
    close() {
      video.pause();
      video.removeAttribute("src");
      video.load();
      URL.revokeObjectURL(url);
    },
  };
}
