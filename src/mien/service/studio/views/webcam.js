/** The webcam: faces are read as they come, and recorded where that is asked for. */

import { applyBaseline, createTracker, formatTime } from "../../mien-web/analysis/index.js";
import { fill, h, isFocusLost, newId } from "../components/dom.js";
import { faceName } from "../components/faces.js";
import { icon } from "../components/icons.js";
import { createTimeline } from "../components/timeline.js";
import { closeCamera, eachPicture, listCameras, openCamera } from "../live/camera.js";
import { pageKeys } from "../live/keys.js";
import { createMarkers, markersWithin } from "../live/markers.js";
import { createReading } from "../live/reading.js";
import { measureAtRest } from "../live/rest.js";
import { createSessionPanel, withBaseline } from "../live/session_panel.js";
import { createStage } from "../live/stage.js";
import { engineOf } from "../engine.js";
import { createSession, openSessions } from "../session.js";
import { LANGUAGE, format } from "../strings.js";
import { whereRead } from "../components/where.js";

const SHOWN_S = 60; // of the running timeline
const TIMELINE_MS = 200;
const RETRY_MS = 2000;
const PATIENCE_MS = 3000; // after which an answer is late
const AT_ONCE = 2; // one picture is read, the next one is ready
const MOST_RECORDED = 90_000; // results: an hour at 25 a second
const RATE_MEMORY = 0.9; // of the mean time between two results

/** @param {object} context the page's */
export function createView(context) {
  return new WebcamView(context);
}

class WebcamView {
  id = "webcam";
  #context;
  #text;
  #visible = false;
  #attempt = 0; // the number of the last start: an earlier one that is still under way comes to nothing
  #live = null; // what there is from the camera's start to its end; times are seconds since then
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
    settings.subscribe((_, changed) => ["side", "model", "labels"].some((name) => changed.includes(name)) && this.#otherEngine());
    this.#showOff();
  }

  #layout() {
    this.running = h("section.panel", { "aria-label": this.#text.timeline }, h("h2.running-head", null, this.#text.timeline), this.timeline.element);
    this.side = h("div.live-side", null, this.reading.element, this.baseline.element, this.markers.element);
    this.recordings = h("div.stack");
    this.heading = h("h1.visually-hidden", null, this.title);
    const left = h("div.live-left", null, this.heading, this.stage.element, this.controls.element, this.running);
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
    this.stage.remark(document.hidden ? this.#text.hidden : "");
  }

  #key(key) {
    if (!this.#live) return false;
    if (key !== " ") return this.markers.key(key);
    this.#pause(!this.#paused);
    return true;
  }

  // ---------------------------------------------------------------- the camera
  #now() {
    return this.#live && (performance.now() - this.#live.origin) / 1000;
  }

  async #start(id) {
    const hadFocus = this.element.contains(document.activeElement);
    if (this.#live) this.#stop();
    const attempt = (this.#attempt += 1);
    this.stage.say(h("p.invitation", { role: "status" }, this.#text.asking));
    let stream = null;
    try {
      stream = await openCamera(id);
      if (attempt !== this.#attempt) return closeCamera(stream);
      this.stage.say(h("p.invitation", { role: "status" }, this.#text.loading));
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
    this.stage.shape(video.videoWidth, video.videoHeight);
    this.stage.say();
    this.#live = { stream, origin: performance.now(), tracker: createTracker(), recent: [], frame: 0, last: 0, gap: null, drawn: 0, answered: performance.now(), baseline: null, measuring: null };
    this.#live.watch = setInterval(() => this.#watch(), PATIENCE_MS / 3);
    this.#live.pictures = eachPicture(video, (image, now) => this.#read(image, now), { atOnce: AT_ONCE });
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
    this.stage.remark("");
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
    this.stage.remark(value ? this.#text.paused : "");
    this.#showControls();
    this.#context.announce(value ? this.#text.paused : this.#text.resumed);
  }

  /** Say how to start in the picture's place, or what is wrong and how to mend it. */
  #showOff(wrong = null) {
    const text = this.#text;
    const { settings } = this.#context;
    for (const part of [this.heading, this.side, this.running, this.controls.element]) part.hidden = true;
    const { title, text: words } = wrong ?? { title: text.heading, text: text.lead };
    this.stage.say(
      h(
        "div.invitation",
        wrong && { role: "alert" },
        icon(wrong ? "warn" : "webcam"),
        h("h1", null, title),
        h("p", null, words),
        h("button.button.primary", { type: "button", onclick: () => this.#start() }, icon("webcam"), wrong ? text.again : text.start),
        whereRead(settings, text),
      ),
    );
  }

  #firstButton() {
    return [...this.element.querySelectorAll("button")].find((button) => button.checkVisibility());
  }

  #showControls() {
    this.controls.show({ paused: this.#paused, recording: this.#recording !== null });
  }

  // ---------------------------------------------------------------- what is read
  async #read(image, now) {
    const live = this.#live;
    const time_s = live && (now - live.origin) / 1000;
    const asked = engineOf(this.#context.settings.get());
    const isPast = () => this.#live !== live || engineOf(this.#context.settings.get()) !== asked;
    try {
      const engine = await this.#context.engine();
      const result = await engine.frame(image, time_s);
      if (!result || isPast() || this.#paused || time_s <= live.last) return;
      if (result.error) throw new Error(result.error);
      this.#take({ ...result, source: this.#text.source, frame: live.frame, time_s });
    } catch (error) {
      if (isPast()) return; // an engine that another one has taken the place of is closed
      live.gap = null;
      this.stage.remark(navigator.onLine ? format(this.#text.failing, { error: error.message }) : this.#text.offline);
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    } finally {
      image.close();
    }
  }

  #take(result) {
    const live = this.#live;
    const passed = result.time_s - live.last;
    live.gap = live.gap === null || passed > 1 ? passed : RATE_MEMORY * live.gap + (1 - RATE_MEMORY) * passed;
    live.last = result.time_s;
    live.answered = performance.now();
    live.frame += 1;
    const tracked = live.tracker.update(result);
    const [read] = live.baseline ? applyBaseline([tracked], live.baseline) : [tracked];
    live.recent.push(read);
    while (live.recent[0].time_s < read.time_s - SHOWN_S) live.recent.shift();
    live.measuring?.take(read);
    if (this.#recording?.push(read) >= MOST_RECORDED) {
      this.#endRecording();
      this.#context.notify("info", format(this.#text.recordedMost, { most: MOST_RECORDED }));
    }
    this.reading.show(read);
    this.stage.show(read, this.reading.track());
    this.stage.remark(this.#remark(read));
    this.#drawTimeline();
  }

  /** Say that answers are late: a server is asked again and again until it is back. */
  #watch() {
    const isLate = performance.now() - this.#live.answered > PATIENCE_MS;
    if (!isLate || this.#paused || document.hidden) return;
    this.#live.gap = null;
    this.stage.remark(this.#context.settings.get().side === "server" ? this.#text.away : this.#text.slow);
  }

  #remark({ faces, time_s }) {
    const text = this.#text;
    const { measuring, gap } = this.#live;
    if (measuring) return measuring.left() > 0 ? format(text.baseline.countdown, { seconds: measuring.left() }) : text.baseline.hold;
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
    const end = Math.max(SHOWN_S, live.last);
    this.timeline.set(live.recent, { markers: this.markers.until(live.last), track: this.reading.track(), baseline: live.baseline, domain: [end - SHOWN_S, end] });
    this.timeline.cursor(live.last);
  }

  #otherEngine() {
    if (!this.#live) return this.#visible && this.#showOff();
    if (this.#recording) {
      this.#endRecording();
      this.#context.notify("info", this.#text.modelChanged);
    }
    this.#live.measuring?.cancel();
    Object.assign(this.#live, { tracker: createTracker(), measuring: null });
    return this.#setBaseline(null, { isQuiet: true });
  }

  // ---------------------------------------------------------------- the baseline
  #measure() {
    const live = this.#live;
    if (live.measuring) return;
    const { announce, notify } = this.#context;
    const { baseline: text } = this.#text;
    const onCount = (left) => {
      const words = left > 0 ? format(text.countdown, { seconds: left }) : text.hold;
      this.stage.remark(words);
      announce(words);
    };
    const onDone = (baseline) => {
      live.measuring = null;
      if (baseline) this.#setBaseline(baseline);
      else notify("error", text.nobody);
    };
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
    const session = this.#sessionOf(results);
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

  /** A recording as a session: its times are seconds from its start. */
  #sessionOf(results) {
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

/** The model's emotions, as the first face has them. */
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
  const element = h("section.panel.baseline", { "aria-label": text.title }, h("header.panel-head", null, h("h2", null, text.title)), state, h("div.row", null, setButton, resetButton));
  return {
    element,
    show(baseline) {
      resetButton.hidden = !baseline;
      const people = Object.keys(baseline?.shifts ?? {}).map((number) => faceName({ track_id: number }));
      state.textContent = baseline ? format(text.isSet, { people: people.join(", ") }) : text.hint;
    },
  };
}
