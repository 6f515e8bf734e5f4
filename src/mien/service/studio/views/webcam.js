/** Webcam view: live analysis and recordings. */

import { applyBaseline, createTracker, formatTime } from "../../mien-web/analysis/index.js";
import { fill, h, isFocusLost, newId } from "../components/dom.js";
import { faceName } from "../components/faces.js";
import { icon } from "../components/icons.js";
import { createTimeline } from "../components/timeline.js";
import { closeCamera, listCameras, onFrames, openCamera } from "../live/camera.js";
import { pageKeys } from "../live/keys.js";
import { createMarkers, markersWithin } from "../live/markers.js";
import { createReading } from "../live/reading.js";
import { measureAtRest } from "../live/rest.js";
import { createSessionPanel, withBaseline } from "../live/session_panel.js";
import { createStage } from "../live/stage.js";
import { engineKey } from "../engine.js";
import { createSession, openSessions } from "../session.js";
import { LANGUAGE, format } from "../strings.js";
import { createWhereLine } from "../components/where.js";

const WINDOW_S = 60; // of the running timeline
const TIMELINE_MS = 200;
const RETRY_MS = 2000;
const LATE_MS = 3000; // time without a result after which a message is shown
const MAX_PENDING = 2; // one frame is analysed while the next one is ready
const MAX_RECORDED = 90_000; // results: an hour at 25 per second
const RATE_SMOOTHING = 0.9; // weight of the previous mean interval

/** @param {object} context */
export function createView(context) {
  return new WebcamView(context);
}

class WebcamView {
  id = "webcam";
  #context;
  #text;
  #visible = false;
  #attempt = 0; // number of the last start, which cancels earlier ones
  #live = null; // state while the camera runs; times are seconds since its start
  #paused = false;
  #recording = null;

  constructor(context) {
    const { strings, palette, announce, settings } = context;
    this.#context = context;
    this.#text = strings.webcam;
    this.title = this.#text.title;
    this.stage = createStage({ palette, label: this.#text.video, mirrored: true });
    this.timeline = createTimeline({ palette, strings });
    this.markers = createMarkers({ strings, announce, now: () => this.#now(), onChange: () => this.#drawTimeline(true) });
    this.reading = createReading({ strings, palette, onPerson: () => this.#drawTimeline(true) });
    this.controls = createControls(this.#text, {
      start: (id) => this.#start(id),
      stop: () => this.#stop(),
      pause: () => this.#pause(!this.#paused),
      record: () => this.#record(),
    });
    this.baseline = createBaselineControls(this.#text.baseline, { set: () => this.#measure(), reset: () => this.#setBaseline(null) });
    this.keys = pageKeys((key) => this.#key(key));
    this.element = this.#layout();
    document.addEventListener("visibilitychange", () => this.#onVisibility());
    settings.subscribe((_, changed) => ["side", "model", "labels"].some((name) => changed.includes(name)) && this.#onEngineChange());
    this.#showOff();
  }

  #layout() {
    this.running = h("section.panel", { "aria-label": this.#text.timeline }, h("h2.running-head", null, this.#text.timeline), this.timeline.element);
    this.side = h("div.live-side.stack", null, this.reading.element, this.baseline.element, this.markers.element);
    this.recordings = h("div.stack");
    this.heading = h("h1.visually-hidden", null, this.title);
    const left = h("div.live-left.stack", null, this.heading, this.stage.element, this.controls.element, this.running);
    return h("div.stack.webcam", null, h("div.live-main", null, left, this.side), this.recordings);
  }

  show() {
    this.#visible = true;
    this.keys.listen();
    if (!this.#live) this.#showOff();
  }

  hide() {
    this.#visible = false;
    this.#attempt += 1;
    this.keys.ignore();
    if (this.#live) this.#stop();
  }

  #onVisibility() {
    if (!this.#live || this.#paused) return;
    this.#live.answered = performance.now();
    this.stage.setBadge(document.hidden ? this.#text.hidden : "");
  }

  #key(key) {
    if (!this.#live) return false;
    if (key !== " ") return this.markers.key(key);
    this.#pause(!this.#paused);
    return true;
  }

  // ---------------------------------------------------------------- camera
  #now() {
    return this.#live && (performance.now() - this.#live.origin) / 1000;
  }

  async #start(id) {
    const hadFocus = this.element.contains(document.activeElement);
    if (this.#live) this.#stop();
    const attempt = (this.#attempt += 1);
    this.stage.setMessage(h("p.invitation", { role: "status" }, this.#text.asking));
    let stream = null;
    try {
      stream = await openCamera(id);
      if (attempt !== this.#attempt) return closeCamera(stream);
      this.stage.setMessage(h("p.invitation", { role: "status" }, this.#text.loading));
      await this.#context.engine();
      if (attempt !== this.#attempt) return closeCamera(stream);
      this.stage.video.srcObject = stream;
      await this.stage.video.play();
      if (attempt !== this.#attempt) return closeCamera(stream);
      await this.#begin(stream);
    } catch (error) {
      closeCamera(stream);
      if (attempt !== this.#attempt) return undefined;
      const { errors } = this.#text;
      this.#showOff(errors[error.code] ?? { title: errors.engine.title, text: format(errors.engine.text, { error: error.message }) });
    }
    if (hadFocus && isFocusLost()) this.#firstButton()?.focus();
    return undefined;
  }

  async #begin(stream) {
    const { video } = this.stage;
    this.stage.setSize(video.videoWidth, video.videoHeight);
    this.stage.setMessage();
    this.#live = { stream, origin: performance.now(), tracker: createTracker(), recent: [], frame: 0, last: 0, gap: null, drawn: 0, answered: performance.now(), baseline: null, measuring: null };
    this.#live.watch = setInterval(() => this.#watch(), LATE_MS / 3);
    this.#live.pictures = onFrames(video, (image, now) => this.#read(image, now), { maxPending: MAX_PENDING });
    const [track] = stream.getVideoTracks();
    track.addEventListener("ended", () => this.#live?.stream === stream && this.#stop(this.#text.errors.lost));
    this.#paused = false;
    this.#showControls();
    this.baseline.show(null);
    for (const part of [this.heading, this.side, this.running]) part.hidden = false;
    this.#context.announce(this.#text.started);
    this.controls.cameras(await listCameras(), track.getSettings().deviceId);
  }

  #stop(reason = null) {
    const wasRecording = this.#recording !== null;
    const hadFocus = this.element.contains(document.activeElement);
    if (wasRecording) this.#endRecording();
    const { pictures, stream, measuring, watch } = this.#live;
    pictures.stop();
    clearInterval(watch);
    measuring?.cancel();
    closeCamera(stream);
    this.#live = null;
    this.stage.video.srcObject = null;
    this.stage.clear();
    this.stage.setBadge("");
    this.reading.show(null);
    this.markers.set([]);
    this.#showOff(reason);
    if (hadFocus && isFocusLost()) this.#firstButton().focus();
    if (!reason) this.#context.announce(wasRecording ? this.#text.keptRecording : this.#text.stopped);
  }

  #pause(value) {
    this.#paused = value;
    this.#live.pictures.pause(value);
    if (value) this.stage.video.pause();
    else this.stage.video.play();
    this.#live.gap = null;
    this.#live.answered = performance.now();
    this.stage.setBadge(value ? this.#text.paused : "");
    this.#showControls();
    this.#context.announce(value ? this.#text.paused : this.#text.resumed);
  }

  /** Show instructions instead of the video, or what is wrong. */
  #showOff(problem = null) {
    const text = this.#text;
    const { settings } = this.#context;
    for (const part of [this.heading, this.side, this.running, this.controls.element]) part.hidden = true;
    const { title, text: words } = problem ?? { title: text.heading, text: text.lead };
    this.stage.setMessage(
      h(
        "div.invitation",
        problem && { role: "alert" },
        icon(problem ? "warn" : "webcam"),
        h("h1", null, title),
        h("p", null, words),
        h("button.button.primary", { type: "button", onclick: () => this.#start() }, icon("webcam"), problem ? text.again : text.start),
        createWhereLine(settings, text),
      ),
    );
  }

  #firstButton() {
    return [...this.element.querySelectorAll("button")].find((button) => button.checkVisibility());
  }

  #showControls() {
    this.controls.show({ paused: this.#paused, recording: this.#recording !== null });
  }

  // ---------------------------------------------------------------- analysis
  async #read(image, now) {
    const live = this.#live;
    const time_s = live && (now - live.origin) / 1000;
    const key = engineKey(this.#context.settings.get());
    const isObsolete = () => this.#live !== live || engineKey(this.#context.settings.get()) !== key;
    try {
      const engine = await this.#context.engine();
      const result = await engine.frame(image, time_s);
      if (!result || isObsolete() || this.#paused || time_s <= live.last) return;
      if (result.error) throw new Error(result.error);
      this.#add({ ...result, source: this.#text.source, frame: live.frame, time_s });
    } catch (error) {
      if (isObsolete()) return; // the engine was replaced and closed
      live.gap = null;
      this.stage.setBadge(navigator.onLine ? format(this.#text.failing, { error: error.message }) : this.#text.offline);
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    } finally {
      image.close();
    }
  }

  #add(result) {
    const live = this.#live;
    const elapsed = result.time_s - live.last;
    live.gap = live.gap === null || elapsed > 1 ? elapsed : RATE_SMOOTHING * live.gap + (1 - RATE_SMOOTHING) * elapsed;
    live.last = result.time_s;
    live.answered = performance.now();
    live.frame += 1;
    const tracked = live.tracker.update(result);
    const [final] = live.baseline ? applyBaseline([tracked], live.baseline) : [tracked];
    live.recent.push(final);
    while (live.recent[0].time_s < final.time_s - WINDOW_S) live.recent.shift();
    live.measuring?.add(final);
    if (this.#recording?.push(final) >= MAX_RECORDED) {
      this.#endRecording();
      this.#context.notify("info", format(this.#text.recordedMost, { most: MAX_RECORDED }));
    }
    this.reading.show(final);
    this.stage.show(final, this.reading.track());
    this.stage.setBadge(this.#badgeText(final));
    this.#drawTimeline();
  }

  /** Report late results, for example of a server that is unreachable. */
  #watch() {
    const isLate = performance.now() - this.#live.answered > LATE_MS;
    if (!isLate || this.#paused || document.hidden) return;
    this.#live.gap = null;
    this.stage.setBadge(this.#context.settings.get().side === "server" ? this.#text.away : this.#text.slow);
  }

  #badgeText({ faces, time_s }) {
    const text = this.#text;
    const { measuring, gap } = this.#live;
    if (measuring) return measuring.remaining() > 0 ? format(text.baseline.countdown, { seconds: measuring.remaining() }) : text.baseline.hold;
    const since = this.#recording?.[0]?.time_s;
    const parts = [
      since !== undefined && format(text.recordingFor, { time: formatTime(time_s - since, 0) }),
      faces.length === 0 && text.nobody,
      format(text.rate, { rate: Math.round(1 / gap) }),
    ];
    return parts.filter(Boolean).join(" · ");
  }

  #drawTimeline(isDue = false) {
    const live = this.#live;
    if (!live || (!isDue && performance.now() - live.drawn < TIMELINE_MS)) return;
    live.drawn = performance.now();
    const end = Math.max(WINDOW_S, live.last);
    this.timeline.set(live.recent, { markers: this.markers.until(live.last), track: this.reading.track(), baseline: live.baseline, domain: [end - WINDOW_S, end] });
    this.timeline.cursor(live.last);
  }

  #onEngineChange() {
    if (!this.#live) return this.#visible && this.#showOff();
    if (this.#recording) {
      this.#endRecording();
      this.#context.notify("info", this.#text.modelChanged);
    }
    this.#live.measuring?.cancel();
    Object.assign(this.#live, { tracker: createTracker(), measuring: null });
    return this.#setBaseline(null, { isQuiet: true });
  }

  // ---------------------------------------------------------------- baseline
  #measure() {
    const live = this.#live;
    if (live.measuring) return;
    const { announce, notify } = this.#context;
    const { baseline: text } = this.#text;
    const onCount = (seconds) => {
      const words = seconds > 0 ? format(text.countdown, { seconds }) : text.hold;
      this.stage.setBadge(words);
      announce(words);
    };
    const onDone = (baseline) => {
      live.measuring = null;
      if (baseline) this.#setBaseline(baseline);
      else notify("error", text.nobody);
    };
    this.stage.element.scrollIntoView({ block: "nearest" }); // with the countdown, on a phone
    live.measuring = measureAtRest({ onCount, onDone });
  }

  #setBaseline(baseline, { isQuiet = false } = {}) {
    const { done, gone } = this.#text.baseline;
    this.#live.baseline = baseline;
    if (!baseline) this.#live.recent = withBaseline(this.#live.recent, null);
    this.baseline.show(baseline);
    this.#drawTimeline(true);
    if (!isQuiet) this.#context.announce(baseline ? done : gone);
  }

  // ---------------------------------------------------------------- recordings
  #record() {
    if (this.#recording) return this.#endRecording();
    this.#recording = [];
    this.#showControls();
    return this.#context.announce(this.#text.recordingStarted);
  }

  #endRecording() {
    const results = this.#recording;
    this.#recording = null;
    this.#showControls();
    if (results.length === 0) return this.#context.notify("info", this.#text.recordedNothing);
    const session = this.#toSession(results);
    openSessions.add(session);
    const panel = createSessionPanel(this.#context, session, {
      hasPlayer: false,
      onDiscard: () => {
        const hadFocus = panel.element.contains(document.activeElement);
        panel.destroy();
        panel.element.remove();
        if (hadFocus) this.#firstButton().focus();
      },
    });
    this.recordings.prepend(panel.element);
    panel.element.focus();
    return this.#context.announce(this.#text.recorded);
  }

  /** Convert a recording to a session; times become relative to its start. */
  #toSession(results) {
    const start = results[0].time_s;
    const end = results.at(-1).time_s;
    const { baseline } = this.#live;
    const since = (time_s) => Math.max(0, time_s - start);
    const time = new Intl.DateTimeFormat(LANGUAGE, { dateStyle: "medium", timeStyle: "medium" }).format(new Date());
    return createSession({
      kind: "webcam",
      name: format(this.#text.recordingName, { time }),
      labels: results[0].labels,
      emotions: emotionsOf(results),
      model: results[0].model,
      results: withBaseline(results, baseline).map((result, frame) => ({ ...result, frame, time_s: result.time_s - start })),
      markers: markersWithin(this.markers.until(end), start, end),
      baseline: baseline && { ...baseline, start_s: since(baseline.start_s), end_s: since(baseline.end_s) },
    });
  }
}

/** Emotions of the model, from the first face. */
function emotionsOf(results) {
  const face = results.find((result) => result.faces.length > 0)?.faces[0];
  return face && Object.keys(face.scores);
}

// ---------------------------------------------------------------- buttons
function createControls(text, { start, stop, pause, record }) {
  const pauseButton = h("button.button", { type: "button", "aria-keyshortcuts": "Space", onclick: pause });
  const recordButton = h("button.button.record", { type: "button", onclick: record });
  const power = h("button.button.quiet", { type: "button", onclick: stop }, icon("close"), text.stop);
  const id = newId("camera");
  const select = h("select.input", { id, onchange: () => start(select.value) });
  const choice = h("div.camera-choice.row", { hidden: true }, h("label", { htmlFor: id }, text.camera), select);
  const element = h("div.live-controls.row", { role: "group", "aria-label": text.controls }, pauseButton, recordButton, choice, power);
  return {
    element,
    show({ paused, recording }) {
      element.hidden = false;
      fill(pauseButton, icon(paused ? "play" : "pause"), h("span", null, paused ? text.resume : text.pause), h("kbd", { "aria-hidden": "true" }, text.space));
      fill(recordButton, icon(recording ? "stop" : "record"), h("span", null, recording ? text.recordStop : text.record));
      recordButton.dataset.on = String(recording);
    },
    cameras(list, current) {
      choice.hidden = list.length < 2;
      const name = (camera, index) => camera.label || format(text.cameraNumber, { number: index + 1 });
      fill(select, list.map((camera, index) => h("option", { value: camera.id, selected: camera.id === current }, name(camera, index))));
    },
  };
}

function createBaselineControls(text, { set, reset }) {
  const state = h("p.hint");
  const setButton = h("button.button", { type: "button", onclick: set }, icon("face"), text.set);
  const resetButton = h("button.button.quiet", { type: "button", onclick: () => (setButton.focus(), reset()) }, text.reset);
  const element = h("section.panel.baseline", { "aria-label": text.title }, h("header.panel-head.row", null, h("h2", null, text.title)), state, h("div.row", null, setButton, resetButton));
  return {
    element,
    show(baseline) {
      resetButton.hidden = !baseline;
      const people = Object.keys(baseline?.shifts ?? {}).map((number) => faceName({ track_id: number }));
      state.textContent = baseline ? format(text.isSet, { people: people.join(", ") }) : text.hint;
    },
  };
}
