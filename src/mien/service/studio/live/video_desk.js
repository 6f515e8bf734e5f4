/** Workspace of one video: options, analysis with progress, player and results. */

import { createTracker, formatTime } from "../../mien-web/analysis/index.js";
import { fill, h, isFocusLost, newId } from "../components/dom.js";
import { icon } from "../components/icons.js";
import { askToken } from "../components/token_dialog.js";
import { createEngine, engineKey } from "../engine.js";
import { createSession, indexAt, openSessions } from "../session.js";
import { counted, format } from "../strings.js";
import { frameCount, videoFrames } from "./frames.js";
import { pageKeys } from "./keys.js";
import { createPlayer } from "./player.js";
import { createReading } from "./reading.js";
import { createSessionPanel } from "./session_panel.js";
import { createStage } from "./stage.js";
import { createWhereLine } from "../components/where.js";

const RATES = [2, 5, 10, 25, null]; // frames per second; null for all frames
const DEFAULT_RATE = 10;
const MAX_FRAMES = 50_000;
const ASSUMED_RATE = 60; // of files whose frame rate is unknown, to check MAX_FRAMES
const CUT_PX = 64; // width of the pictures for cut detection
const CUT_WITHIN_S = 0.25; // as in the tracker, which detects no cuts between frames further apart

/** Workspace of one video. */
export class VideoDesk {
  #context;
  #text;
  #file;
  #video;
  #onReplace;
  #session = null;
  #panel = null;
  #abort = null; // AbortController of the running analysis
  #isClosed = false;

  /**
   * @param {object} context
   * @param {File} file
   * @param {object|null} video from `openVideo`; null if only the server can read it
   * @param {() => void} onReplace called to open another video
   */
  constructor(context, file, video, onReplace) {
    this.#context = context;
    this.#text = context.strings.video;
    this.#file = file;
    this.#video = video;
    this.#onReplace = onReplace;
    this.options = createOptions(context, video, (rate) => this.#read(rate));
    this.progress = createProgress(this.#text, () => this.#abort?.abort());
    this.place = h("div");
    this.element = h("div.stack", null, this.#head(), video ? this.#withPlayer() : h("div.live-side.stack", null, this.options.element, this.progress.element), this.place);
  }

  #head() {
    const { width, height, duration } = this.#video ?? {};
    const facts = this.#video ? format(this.#text.facts, { width, height, time: formatTime(duration) }) : this.#text.noPlayer;
    return h(
      "header.view-head.row",
      null,
      h("div.grow", null, h("h1", null, this.#file.name), h("p.hint", null, facts)),
      h("button.button", { type: "button", onclick: this.#onReplace }, icon("upload"), this.#text.other),
    );
  }

  #withPlayer() {
    const { strings, palette } = this.#context;
    this.stage = createStage({ palette, label: this.#file.name });
    this.stage.setSize(this.#video.width, this.#video.height);
    this.player = createPlayer(this.#text, this.stage.video, this.#file, { onMoment: (seconds) => this.#showMoment(seconds) });
    this.reading = createReading({ strings, palette, onPerson: () => this.#showMoment() });
    this.reading.element.hidden = true;
    this.keys = pageKeys((key) => this.#key(key));
    this.timelinePlace = h("div.timeline-place");
    const side = h("div.live-side.stack", null, this.options.element, this.progress.element, this.reading.element);
    return h("div.live-main", null, h("div.live-left.stack", null, this.stage.element, this.player.element, this.timelinePlace), side);
  }

  show() {
    this.keys?.listen();
  }

  hide() {
    this.keys?.ignore();
    this.player?.pause();
  }

  /** Release the video; its session stays open. */
  close() {
    this.#isClosed = true;
    this.#abort?.abort();
    this.keys?.ignore();
    this.player?.close();
    this.stage?.destroy();
    this.#panel?.destroy();
    if (!this.#abort) this.#video?.close();
  }

  #key(key) {
    if (key !== " ") return this.#panel?.key(key) ?? false;
    this.player.toggle();
    return true;
  }

  // ---------------------------------------------------------------- analysis
  async #read(rate) {
    const { announce, notify, settings } = this.#context;
    const key = engineKey(settings.get());
    const { signal } = (this.#abort = new AbortController());
    const hadFocus = this.element.contains(document.activeElement);
    this.options.element.hidden = true;
    this.progress.begin(this.#text.loading);
    if (hadFocus) this.progress.focus();
    try {
      const engine = this.#video ? await this.#context.engine() : await createEngine({ side: "server", askToken });
      this.#begin(engine);
      if (engine.video) await this.#readOnServer(engine, rate, signal);
      else await this.#readInBrowser(engine, rate, signal);
      announce(counted(this.#text.done, this.#session.results.length));
    } catch (error) {
      if (signal.aborted) announce(this.#text.cancelled);
      else if (this.#video && engineKey(settings.get()) !== key) notify("info", this.#text.modelChanged);
      else notify("error", this.#errorMessage(error));
    }
    this.#abort = null;
    const hasFocus = this.element.contains(document.activeElement);
    this.progress.end();
    this.#finish();
    if (hasFocus && isFocusLost()) (this.#panel?.element ?? this.options).focus();
  }

  #errorMessage(error) {
    const known = this.#text.errors[error.code];
    if (known) return format(`${known.title}. ${known.text}`, { name: this.#file.name });
    return format(this.#session?.results.length ? this.#text.failed : this.#text.failedAtOnce, { error: error.message });
  }

  #begin({ labels, emotions, model }) {
    this.#session = createSession({ kind: "video", name: this.#file.name, labels, emotions, model });
    const withPlayer = this.player && {
      timelinePlace: this.timelinePlace,
      onSeek: (seconds) => this.player.seek(seconds),
      onPerson: (track) => this.reading.select(track),
      onChange: () => this.#showMoment(),
    };
    this.#panel = createSessionPanel(this.#context, this.#session, { hasPlayer: Boolean(this.player), ...withPlayer, onDiscard: () => this.#startOver() });
    fill(this.place, this.#panel.element);
    if (this.reading) this.reading.element.hidden = false;
  }

  /** Analyse frame by frame in the browser. */
  async #readInBrowser(engine, rate, signal) {
    const total = frameCount(this.#video.duration, rate);
    const tracker = createTracker({ every: rate === null ? null : 1 / rate });
    const cutPixels = createCutSampler();
    const frames = videoFrames(this.#video, { rate, signal });
    for (let next = frames.next(); ; ) {
      const { value, done } = await next;
      if (done) return signal.throwIfAborted();
      next = frames.next(); // seek the next frame while this one is analysed
      next.catch(() => {}); // handled when awaited above
      const { image, time_s, frame } = value;
      const pixels = cutPixels(image, time_s);
      const result = await engine.analyze(image, { source: this.#file.name, signal });
      image.close();
      this.#add(tracker.update({ ...result, frame, time_s }, pixels));
      this.progress.update(time_s / this.#video.duration, this.#session.results.length, total);
    }
  }

  /** Analyse on the server, which tracks and smooths as `mien predict` does. */
  async #readOnServer(engine, rate, signal) {
    const { host } = this.#context;
    this.progress.begin(format(this.#text.uploading, { host }));
    for await (const event of engine.video(this.#file, { every: rate === null ? null : 1 / rate, signal })) {
      if (event.event === "progress") this.progress.update(event.share, this.#session.results.length, null);
      else if (event.event !== "done") this.#add({ ...event, source: this.#file.name });
    }
  }

  #add(result) {
    if (result.error) throw new Error(result.error);
    this.#session.labels ||= result.labels;
    this.#session.model ??= result.model;
    this.#session.results.push(result);
    this.#panel.refresh();
  }

  #finish() {
    if (this.#isClosed) this.#video?.close();
    const results = this.#session?.results ?? [];
    if (results.length === 0) return this.#startOver();
    openSessions.add(this.#session);
    if (this.#isClosed) return undefined;
    this.#panel.draw();
    this.#showMoment();
    if (!results.some((result) => result.faces.length > 0)) this.#context.notify("info", this.#text.nobody);
    return undefined;
  }

  /** Return to the options without a session. */
  #startOver() {
    const hadFocus = this.element.contains(document.activeElement);
    this.#panel?.destroy();
    this.#panel = this.#session = null;
    fill(this.place);
    this.stage?.clear();
    if (this.reading) this.reading.element.hidden = true;
    this.options.element.hidden = false;
    if (hadFocus && isFocusLost()) this.options.focus();
  }

  #showMoment(seconds = this.player?.moment()) {
    if (!this.#session || !this.player) return;
    this.#panel.cursor(seconds);
    const result = interpolateAt(this.#session.results, seconds);
    this.reading.show(result);
    if (result) this.stage.show(result, this.reading.track());
    else this.stage.clear();
  }
}

/** The last result before a time, with boxes interpolated towards the next result. */
function interpolateAt(results, seconds) {
  const index = indexAt(results, seconds + 1e-3);
  const [result, next] = [results[index], results[index + 1]];
  if (!result || !next) return result ?? null;
  const share = Math.min(1, Math.max(0, (seconds - result.time_s) / (next.time_s - result.time_s)));
  const later = new Map(next.faces.map((face) => [face.track_id, face.box]));
  const faces = result.faces.map((face) => {
    const to = later.get(face.track_id) ?? face.box;
    const box = Object.fromEntries(Object.entries(face.box).map(([side, from]) => [side, from + share * (to[side] - from)]));
    return { ...face, box };
  });
  return { ...result, faces };
}

/** Create a function that downscales frames for cut detection, or returns undefined for frames too far apart. */
function createCutSampler() {
  let last = -Infinity;
  let canvas = null;
  return (image, time_s) => {
    const isNear = time_s - last <= CUT_WITHIN_S || last === -Infinity;
    last = time_s;
    if (!isNear) return undefined;
    canvas ??= h("canvas", { width: CUT_PX, height: Math.max(1, Math.round((CUT_PX * image.height) / image.width)) });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    return context.getImageData(0, 0, canvas.width, canvas.height);
  };
}

// ---------------------------------------------------------------- parts
function createOptions({ strings, settings }, video, start) {
  const text = strings.video;
  const { duration, hasTimestamps } = video ?? { duration: null };
  const id = newId("rate");
  const hint = h("p.hint", { role: "status" });
  const option = (rate) => h("option", { value: rate ?? "", selected: rate === DEFAULT_RATE }, rate === null ? text.everyFrame : format(text.rate, { rate }));
  const select = h("select.input", { id, onchange: show }, RATES.map(option));
  const button = h("button.button.primary", { type: "button", onclick: () => start(rate()) }, icon("play"), text.read);
  const element = h("section.panel.stack", { "aria-label": text.options }, h("h2", null, text.options), h("div.field", null, h("label", { htmlFor: id }, text.howMany), select), hint, h("div.row", null, button), createWhereLine(settings, text, duration === null ? "server" : null));
  const rate = () => Number(select.value) || null;

  function show() {
    const count = duration === null ? null : frameCount(duration, rate());
    const isLong = (count ?? ASSUMED_RATE * duration) > MAX_FRAMES;
    const cannot = rate() === null && hasTimestamps === false && settings.get().side === "browser";
    button.disabled = isLong || cannot;
    if (cannot) hint.textContent = text.noTimestamps;
    else if (isLong) hint.textContent = format(text.tooLong, { most: MAX_FRAMES });
    else if (count !== null) hint.textContent = counted(text.frames, count);
    else hint.textContent = rate() === null ? text.everyFrameHint : "";
  }

  const unsubscribe = settings.subscribe(() => (element.isConnected ? show() : unsubscribe()));
  show();
  return { element, focus: () => (button.disabled ? select : button).focus() };
}

function createProgress(text, cancel) {
  const bar = h("div.progress", { role: "progressbar", "aria-label": text.progress, "aria-valuemin": "0", "aria-valuemax": "100" }, h("span"));
  const status = h("p.hint.number");
  const element = h("section.panel.stack", { hidden: true, tabIndex: -1, "aria-label": text.progress }, h("h2", null, text.reading), bar, status, h("div.row", null, h("button.button", { type: "button", onclick: cancel }, icon("stop"), text.cancel)));
  let began = 0;

  function set(share) {
    bar.style.setProperty("--share", share);
    bar.setAttribute("aria-valuenow", String(Math.round(100 * share)));
  }

  return {
    element,
    begin(message) {
      element.hidden = false;
      began = 0;
      set(0);
      status.textContent = message;
    },
    /**
     * @param {number|null} share of the video
     * @param {number} done number of frames
     * @param {number|null} total number of frames
     */
    update(share, done, total) {
      began ||= performance.now(); // not in begin(), because the first frame waits for the model
      set(share ?? 0);
      const frames = total === null ? format(text.framesSoFar, { done }) : format(text.framesOf, { done, total });
      const seconds = (((performance.now() - began) / 1000) * (1 - share)) / Math.max(share, 1e-3);
      status.textContent = share !== null && share > 0.02 ? `${frames} · ${format(text.left, { time: formatTime(Math.max(1, seconds), 0) })}` : frames;
    },
    end: () => void (element.hidden = true),
    focus: () => element.focus(),
  };
}
