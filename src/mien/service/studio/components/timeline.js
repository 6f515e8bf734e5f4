/**
 * A person's emotions over time: a lane for each, valence below, the likeliest one and markers above.
 *
 * It is a slider: click, drag or use the keys to go to a moment. With more rows than pixels, a lane shows the mean
 * and, paler, the largest score of each column: no peak is hidden.
 */

import { formatTime } from "../../mien-web/analysis/index.js";
import { format, strings as pageStrings } from "../strings.js";
import { h } from "./dom.js";
import { icon } from "./icons.js";
import { figureSvg, paintFigure } from "./timeline/figure.js";
import { layoutOf, momentText, paint, paintMoment, paintSpan, paintValues, placeMarkers } from "./timeline/paint.js";
import { CanvasPen } from "./timeline/pens.js";
import { Series } from "./timeline/series.js";

const LEAST_WIDTH = 240; // pixels, below which nothing is drawn
const LEAST_SPAN_S = 1; // that can be zoomed into
const ZOOM = 1.6;
const LONG_S = 20; // from here on an arrow key moves by a second, not by a frame
const TOKENS = {
  ground: "--surface", lane: "--sunken", ink: "--ink", soft: "--ink-soft", rule: "--line", hatch: "--line-strong",
  accent: "--accent", wash: "--accent-wash", edge: "--ink",
};

/**
 * Make an empty timeline.
 *
 * @param {object} options
 * @param {Record<string, string>} options.palette a colour for each emotion
 * @param {object} [options.strings] the page's
 */
export function createTimeline(options) {
  return new Timeline(options);
}

class Timeline {
  #palette;
  #words;
  #series = new Series([]);
  #markers = [];
  #settings = { domain: null, window: null, title: null, baseline: null };
  #result = null; // the last one, for what a figure says of its source
  #zoom = null; // [from, to] seconds
  #cursor = null;
  #hover = null;
  #span = null;
  #isSelecting = false;
  #drag = null; // "seek", or the moment where a span begins
  #layout = null;
  #theme = null;
  #isStale = { base: true, over: true };
  #frame = 0;
  #seekCallbacks = new Set();
  #selectCallbacks = new Set();

  constructor({ palette, strings = pageStrings }) {
    this.#palette = palette;
    this.#words = strings.timeline;
    this.base = h("canvas.timeline-canvas", { "aria-hidden": "true" });
    this.over = h("canvas.timeline-canvas", { "aria-hidden": "true" });
    this.plot = h("div.timeline-plot", { role: "slider", tabIndex: 0, "aria-orientation": "horizontal", hidden: true }, this.base, this.over);
    this.empty = h("p.timeline-empty.soft", null, this.#words.empty);
    this.tools = h(
      "div.timeline-tools",
      { hidden: true },
      h("p.hint.grow", null, this.#words.hint),
      this.#tool("minus", this.#words.zoomOut, () => this.#zoomBy(1 / ZOOM)),
      this.#tool("plus", this.#words.zoomIn, () => this.#zoomBy(ZOOM)),
      this.#tool("fit", this.#words.whole, () => this.#zoomTo(null)),
    );
    this.element = h("div.timeline", null, this.plot, this.empty, this.tools);
    this.#listen();
  }

  #tool(name, label, onClick) {
    return h("button.button.quiet.round", { type: "button", "aria-label": label, title: label, onClick }, icon(name));
  }

  // ---------------------------------------------------------------- what is shown
  /**
   * Show results, in place of what was shown.
   *
   * @param {object[]} results of frames, in order
   * @param {object} [options]
   * @param {{start: number, end: number|null, label: string}[]} [options.markers]
   * @param {number|null} [options.track] whose; whoever is seen most unless given
   * @param {object|null} [options.baseline] as measureBaseline gives it: scores are corrected by it
   * @param {[number, number]|null} [options.domain] seconds that are shown; all unless given
   * @param {number|null} [options.window] while results are appended, only the last seconds are shown
   * @param {string|null} [options.title] of figures; the results' source unless given
   */
  set(results, { markers = [], track = null, baseline = null, domain = null, window = null, title = null } = {}) {
    this.#series = new Series(results, { track, baseline });
    this.#markers = markers;
    this.#settings = { domain, window, title, baseline };
    this.#result = results.findLast((result) => result.error == null) ?? null;
    if (results.length === 0) this.#zoom = this.#span = null;
    this.#changed();
  }

  /** Show the result of one more frame. */
  append(result) {
    this.#series.add(result);
    if (result.error == null) this.#result = result;
    this.#changed();
  }

  /** Show the cursor at a moment, in seconds; null hides it. */
  cursor(seconds) {
    this.#cursor = seconds;
    if (seconds !== null && this.#zoom !== null && this.#drag === null) {
      const [from, to] = this.#zoom;
      if (seconds < from || seconds > to) this.#zoomTo([seconds - (to - from) / 2, seconds + (to - from) / 2]);
    }
    this.#describe();
    this.#draw("over");
  }

  /** Mark a span as chosen, or none. */
  select(span) {
    this.#span = span;
    this.#draw("over");
  }

  /** Let the next drag choose a span, as a drag with Shift does. */
  selecting(isOn) {
    this.#isSelecting = isOn;
    this.plot.classList.toggle("selecting", isOn);
  }

  /**
   * Be told when somebody goes to a moment.
   *
   * @param {(seconds: number) => void} callback
   * @returns {() => void} takes it back
   */
  onSeek(callback) {
    this.#seekCallbacks.add(callback);
    return () => this.#seekCallbacks.delete(callback);
  }

  /**
   * Be told when somebody chooses a span: Shift and drag, or the keys [ and ] at its ends.
   *
   * @param {(span: {start: number, end: number}) => void} callback
   * @returns {() => void} takes it back
   */
  onSelect(callback) {
    this.#selectCallbacks.add(callback);
    return () => this.#selectCallbacks.delete(callback);
  }

  // ---------------------------------------------------------------- figures
  /** The timeline as a figure of its own, on white, with title, source and legend. */
  toSvg() {
    return figureSvg(this.#figure());
  }

  /** The same as PNG, at twice the size. */
  async toPng() {
    const canvas = document.createElement("canvas");
    paintFigure(canvas, this.#figure(), 2);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
    if (blob === null) throw new Error("the picture could not be made");
    return blob;
  }

  #figure() {
    const title = this.#settings.title ?? this.#result?.source ?? this.#words.label;
    const { baseline } = this.#settings;
    return {
      series: this.#series, markers: this.#shownMarkers(), domain: this.#domain(), palette: this.#palette,
      words: this.#words, title, baseline, result: this.#result,
    };
  }

  destroy() {
    cancelAnimationFrame(this.#frame);
    this.sizes.disconnect();
    this.themes.disconnect();
    this.#seekCallbacks.clear();
    this.#selectCallbacks.clear();
    this.element.remove();
  }

  // ---------------------------------------------------------------- drawing
  #changed() {
    const isEmpty = this.#series.rows.length === 0;
    this.plot.hidden = isEmpty;
    this.empty.hidden = !isEmpty;
    const { domain, window } = this.#settings;
    this.tools.hidden = isEmpty || domain !== null || window !== null;
    this.#describe();
    this.#draw("base");
  }

  #draw(what) {
    this.#isStale[what] = true;
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#paint();
    });
  }

  #domain() {
    const { domain, window } = this.#settings;
    const { start, end } = this.#series;
    if (domain !== null) return domain[1] > domain[0] ? domain : [domain[0], domain[0] + 1e-3];
    if (window !== null) return [Math.max(start, end - window), Math.max(end, start + window)];
    if (this.#zoom !== null) return this.#zoom;
    return [start, Math.max(end, start + 1e-3)];
  }

  #shownMarkers() {
    const { start_s: start, end_s: end } = this.#settings.baseline ?? {};
    const shown = this.#markers.map((marker) => ({ ...marker, end: marker.end ?? this.#series.end }));
    return end > start ? [...shown, { start, end, label: this.#words.baseline, quiet: true }] : shown;
  }

  #paint() {
    const width = this.plot.clientWidth;
    if (width < LEAST_WIDTH || this.#series.rows.length === 0) return;
    if (this.#isStale.base) this.#paintBase(width);
    const pen = this.#penOf(this.over);
    const theme = this.#theme;
    if (this.#span !== null) paintSpan(pen, this.#layout, this.#span, theme);
    if (this.#cursor !== null) paintMoment(pen, this.#layout, { time: this.#cursor, theme });
    if (this.#hover !== null && this.#drag === null) paintMoment(pen, this.#layout, { time: this.#hover, theme, isHover: true });
    const time = this.#hover ?? this.#cursor;
    const row = time === null ? this.#series.rows.at(-1) : this.#series.at(time);
    if (row?.reading) paintValues(pen, this.#layout, { ...row.reading, valence: row.valence, theme });
    this.#isStale = { base: false, over: false };
  }

  #paintBase(width) {
    const look = getComputedStyle(this.element);
    this.#theme = Object.fromEntries(Object.entries(TOKENS).map(([name, token]) => [name, look.getPropertyValue(token).trim() || "#808080"]));
    const { labels, rows } = this.#series;
    const hasValence = rows.some((row) => row.valence !== null) || labels.length === 0;
    const shape = { width, labels: labels.length > 0 ? labels : Object.keys(this.#palette), hasValence, domain: this.#domain(), valence: this.#words.valence };
    const bare = layoutOf({ ...shape, markerRows: 0 });
    const markers = placeMarkers(this.#shownMarkers(), bare.x, bare.right);
    const inView = markers.filter((marker) => marker.right >= bare.left && marker.left <= bare.right);
    this.#layout = layoutOf({ ...shape, markerRows: Math.max(0, ...inView.map((marker) => marker.row + 1)) });
    for (const canvas of [this.base, this.over]) canvas.style.height = `${this.#layout.height}px`;
    this.plot.style.height = `${this.#layout.height}px`;
    const view = { series: this.#series, markers: inView, theme: this.#theme, palette: this.#palette, words: this.#words };
    paint(this.#penOf(this.base), this.#layout, view);
  }

  /** A pen for a canvas that is as large as the layout, and blank. */
  #penOf(canvas) {
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [Math.round(this.#layout.width * ratio), Math.round(this.#layout.height * ratio)];
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    return new CanvasPen(context);
  }

  #describe() {
    const { start, end, track } = this.#series;
    const [from, to] = this.#settings.domain ?? [start, end];
    const time = Math.min(to, Math.max(from, this.#cursor ?? end));
    const values = { time: formatTime(time), end: formatTime(end), what: momentText(this.#series.at(Math.min(time, end - 1e-6)), this.#words) };
    const name = track === null ? this.#words.label : format(this.#words.labelOf, { number: track });
    for (const [attribute, value] of Object.entries({
      "aria-label": name,
      "aria-valuemin": from.toFixed(2),
      "aria-valuemax": to.toFixed(2),
      "aria-valuenow": time.toFixed(2),
      "aria-valuetext": format(this.#words.valueText, values),
    })) this.plot.setAttribute(attribute, value);
  }

  // ---------------------------------------------------------------- what people do
  #listen() {
    const { plot } = this;
    plot.addEventListener("pointerdown", (event) => this.#press(event));
    plot.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) plot.addEventListener(name, () => this.#release());
    plot.addEventListener("pointerleave", () => {
      this.#hover = null;
      this.#draw("over");
    });
    plot.addEventListener("keydown", (event) => this.#key(event));
    plot.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    this.sizes = new ResizeObserver(() => this.#draw("base"));
    this.sizes.observe(this.plot);
    this.themes = new MutationObserver(() => this.#draw("base"));
    this.themes.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
  }

  #timeAt(event) {
    const [from, to] = this.#domain();
    const time = this.#layout.time(event.clientX - this.plot.getBoundingClientRect().left);
    return Math.min(to, Math.max(from, time));
  }

  #press(event) {
    if (event.button !== 0 || this.#layout === null) return;
    this.plot.setPointerCapture(event.pointerId);
    const time = this.#timeAt(event);
    const isSpan = (event.shiftKey || this.#isSelecting) && this.#selectCallbacks.size > 0;
    this.#drag = isSpan ? time : "seek";
    if (!isSpan) this.#seek(time);
  }

  #move(event) {
    if (this.#layout === null) return;
    const time = this.#timeAt(event);
    this.#hover = event.pointerType === "mouse" ? time : null;
    if (this.#drag === "seek") this.#seek(time);
    else if (this.#drag !== null) this.#span = { start: Math.min(this.#drag, time), end: Math.max(this.#drag, time) };
    this.#draw("over");
  }

  #release() {
    const isSpan = typeof this.#drag === "number";
    this.#drag = null;
    if (isSpan) this.#chose();
  }

  #chose() {
    this.selecting(false);
    const span = this.#span;
    if (span !== null && span.end > span.start) for (const callback of this.#selectCallbacks) callback(span);
  }

  #seek(time) {
    this.cursor(time);
    for (const callback of this.#seekCallbacks) callback(time);
  }

  #key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const { start, end, step } = this.#series;
    const [from, to] = this.#settings.domain ?? [start, end];
    const time = this.#cursor ?? to;
    const one = event.shiftKey || to - from < LONG_S ? Math.max(step, 0.01) : 1;
    const many = Math.max(one, (to - from) / 20);
    const moments = {
      ArrowRight: time + one, ArrowUp: time + one, ArrowLeft: time - one, ArrowDown: time - one,
      PageUp: time + many, PageDown: time - many, Home: from, End: to,
    };
    const actions = { "+": () => this.#zoomBy(ZOOM), "-": () => this.#zoomBy(1 / ZOOM), 0: () => this.#zoomTo(null), "[": () => this.#mark("start"), "]": () => this.#mark("end") };
    if (event.key in moments) this.#seek(Math.min(to, Math.max(from, moments[event.key])));
    else if (event.key in actions && !(this.tools.hidden && "+-0".includes(event.key))) actions[event.key]();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** One end of a span is at the cursor. */
  #mark(edge) {
    if (this.#selectCallbacks.size === 0 || this.#cursor === null) return;
    const other = this.#span?.[edge === "start" ? "end" : "start"] ?? this.#cursor;
    this.#span = { start: Math.min(this.#cursor, other), end: Math.max(this.#cursor, other) };
    this.#draw("over");
    this.#chose();
  }

  #wheel(event) {
    if (this.tools.hidden || this.#layout === null) return;
    if (event.ctrlKey) this.#zoomBy(Math.exp(-event.deltaY / 200), this.#timeAt(event));
    else if (this.#zoom !== null && Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      const [from, to] = this.#zoom;
      const by = (event.deltaX / this.#layout.plot) * (to - from);
      this.#zoomTo([from + by, to + by]);
    } else return;
    event.preventDefault();
  }

  #zoomBy(factor, around = this.#cursor) {
    const [from, to] = this.#domain();
    const middle = around !== null && around >= from && around <= to ? around : (from + to) / 2;
    const share = (middle - from) / (to - from);
    const width = (to - from) / factor;
    this.#zoomTo([middle - share * width, middle + (1 - share) * width]);
  }

  #zoomTo(domain) {
    const { start, end } = this.#series;
    const width = domain === null ? end - start : Math.max(domain[1] - domain[0], LEAST_SPAN_S);
    const from = domain === null ? start : Math.min(Math.max(start, domain[0]), end - width);
    this.#zoom = width >= end - start ? null : [from, from + width];
    this.#draw("base");
  }
}
