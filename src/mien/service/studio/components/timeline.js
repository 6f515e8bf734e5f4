/**
 * Timeline of a person's emotions: markers, the leading emotion, a lane per emotion, and valence.
 *
 * It is a slider: click, drag or use the keys to seek. With more frames than pixels, a lane shows the mean and, in a
 * paler colour, the maximum of each column, so that no peak is hidden.
 */

import { formatTime } from "../../mien-web/analysis/index.js";
import { format, strings as pageStrings } from "../strings.js";
import { clearCanvas, h } from "./dom.js";
import { iconButton } from "./icons.js";
import { figureSvg, paintFigure } from "./timeline/figure.js";
import { layoutWithMarkers, momentText, paint, paintMoment, paintSpan, paintValues } from "./timeline/paint.js";
import { CanvasPen } from "./timeline/pens.js";
import { Series } from "./timeline/series.js";

const MIN_WIDTH = 240; // pixels; narrower timelines are not drawn
const MIN_SPAN_S = 1; // when zoomed in
const ZOOM_STEP = 1.6;
const LONG_S = 20; // from this duration on, an arrow key moves by a second instead of a frame
const TOKENS = {
  ground: "--surface", lane: "--sunken", ink: "--ink", soft: "--ink-soft", rule: "--line", hatch: "--line-strong",
  accent: "--accent", wash: "--accent-wash", edge: "--ink",
};

/**
 * Create an empty timeline.
 *
 * @param {object} options
 * @param {Record<string, string>} options.palette colour of each emotion
 * @param {object} [options.strings]
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
  #result = null; // the last one, for the source line of figures
  #zoom = null; // [from, to] seconds
  #cursor = null;
  #hover = null;
  #span = null;
  #isSelecting = false;
  #drag = null; // "seek", or the start of a selection in seconds
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
      iconButton("minus", this.#words.zoomOut, () => this.#zoomBy(1 / ZOOM_STEP)),
      iconButton("plus", this.#words.zoomIn, () => this.#zoomBy(ZOOM_STEP)),
      iconButton("fit", this.#words.whole, () => this.#zoomTo(null)),
    );
    this.element = h("div.timeline", null, this.plot, this.empty, this.tools);
    this.#listen();
  }

  // ---------------------------------------------------------------- data
  /**
   * Show results instead of the current ones.
   *
   * @param {object[]} results frame results in order
   * @param {object} [options]
   * @param {{start: number, end: number|null, label: string}[]} [options.markers]
   * @param {number|null} [options.track] track id; by default that of the person seen most
   * @param {object|null} [options.baseline] from measureBaseline, to correct the scores
   * @param {[number, number]|null} [options.domain] visible time span in seconds; by default all
   * @param {number|null} [options.window] show only this many seconds at the end, while results are appended
   * @param {string|null} [options.title] of figures; by default the results' source
   */
  set(results, { markers = [], track = null, baseline = null, domain = null, window = null, title = null } = {}) {
    this.#series = new Series(results, { track, baseline });
    this.#markers = markers;
    this.#settings = { domain, window, title, baseline };
    this.#result = results.findLast((result) => result.error == null) ?? null;
    if (results.length === 0) this.#zoom = this.#span = null;
    this.#changed();
  }

  /** Append the result of the next frame. */
  append(result) {
    this.#series.add(result);
    if (result.error == null) this.#result = result;
    this.#changed();
  }

  /** Move the cursor to a time in seconds; null hides it. */
  cursor(seconds) {
    this.#cursor = seconds;
    if (seconds !== null && this.#zoom !== null && this.#drag === null) {
      const [from, to] = this.#zoom;
      if (seconds < from || seconds > to) this.#zoomTo([seconds - (to - from) / 2, seconds + (to - from) / 2]);
    }
    this.#describe();
    this.#draw("over");
  }

  /** Highlight a span; null clears it. */
  select(span) {
    this.#span = span;
    this.#draw("over");
  }

  /** Let the next drag select a span, as Shift and drag does. */
  selecting(isOn) {
    this.#isSelecting = isOn;
    this.plot.classList.toggle("selecting", isOn);
  }

  /**
   * Subscribe to seeking.
   *
   * @param {(seconds: number) => void} callback
   * @returns {() => void} unsubscribes
   */
  onSeek(callback) {
    this.#seekCallbacks.add(callback);
    return () => this.#seekCallbacks.delete(callback);
  }

  /**
   * Subscribe to selections of a span (Shift and drag, or the keys [ and ] at its ends).
   *
   * @param {(span: {start: number, end: number}) => void} callback
   * @returns {() => void} unsubscribes
   */
  onSelect(callback) {
    this.#selectCallbacks.add(callback);
    return () => this.#selectCallbacks.delete(callback);
  }

  // ---------------------------------------------------------------- figures
  /** Render the timeline as a standalone SVG figure, on white, with title, source and legend. */
  toSvg() {
    return figureSvg(this.#figure());
  }

  /** Render the figure as PNG at twice the size. */
  async toPng() {
    const canvas = document.createElement("canvas");
    paintFigure(canvas, this.#figure(), 2);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
    if (blob === null) throw new Error("the picture could not be created");
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

  #draw(layer) {
    this.#isStale[layer] = true;
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
    if (width < MIN_WIDTH || this.#series.rows.length === 0) return;
    if (this.#isStale.base) this.#paintBase(width);
    const pen = this.#createPen(this.over);
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
    const style = getComputedStyle(this.element);
    this.#theme = Object.fromEntries(Object.entries(TOKENS).map(([name, token]) => [name, style.getPropertyValue(token).trim() || "#808080"]));
    const { labels, rows } = this.#series;
    const hasValence = rows.some((row) => row.valence !== null) || labels.length === 0;
    const content = { width, labels: labels.length > 0 ? labels : Object.keys(this.#palette), hasValence, domain: this.#domain(), valence: this.#words.valence };
    this.#layout = layoutWithMarkers(content, this.#shownMarkers());
    for (const canvas of [this.base, this.over]) canvas.style.height = `${this.#layout.height}px`;
    this.plot.style.height = `${this.#layout.height}px`;
    paint(this.#createPen(this.base), this.#layout, { series: this.#series, theme: this.#theme, palette: this.#palette, words: this.#words });
  }

  #createPen(canvas) {
    const context = clearCanvas(canvas, this.#layout.width, this.#layout.height);
    const ratio = devicePixelRatio || 1;
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

  // ---------------------------------------------------------------- input
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
    if (isSpan) this.#selected();
  }

  #selected() {
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
    const small = event.shiftKey || to - from < LONG_S ? Math.max(step, 0.01) : 1;
    const large = Math.max(small, (to - from) / 20);
    const times = {
      ArrowRight: time + small, ArrowUp: time + small, ArrowLeft: time - small, ArrowDown: time - small,
      PageUp: time + large, PageDown: time - large, Home: from, End: to,
    };
    const actions = { "+": () => this.#zoomBy(ZOOM_STEP), "-": () => this.#zoomBy(1 / ZOOM_STEP), 0: () => this.#zoomTo(null), "[": () => this.#mark("start"), "]": () => this.#mark("end") };
    if (event.key in times) this.#seek(Math.min(to, Math.max(from, times[event.key])));
    else if (event.key in actions && !(this.tools.hidden && "+-0".includes(event.key))) actions[event.key]();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** Set one end of the selection to the cursor. */
  #mark(edge) {
    if (this.#selectCallbacks.size === 0 || this.#cursor === null) return;
    const other = this.#span?.[edge === "start" ? "end" : "start"] ?? this.#cursor;
    this.#span = { start: Math.min(this.#cursor, other), end: Math.max(this.#cursor, other) };
    this.#draw("over");
    this.#selected();
  }

  #wheel(event) {
    if (this.tools.hidden || this.#layout === null) return;
    if (event.ctrlKey) this.#zoomBy(Math.exp(-event.deltaY / 200), this.#timeAt(event));
    else if (this.#zoom !== null && Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      const [from, to] = this.#zoom;
      const shift = (event.deltaX / this.#layout.plot) * (to - from);
      this.#zoomTo([from + shift, to + shift]);
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
    const width = domain === null ? end - start : Math.max(domain[1] - domain[0], MIN_SPAN_S);
    const from = domain === null ? start : Math.min(Math.max(start, domain[0]), end - width);
    this.#zoom = width >= end - start ? null : [from, from + width];
    this.#draw("base");
  }
}
