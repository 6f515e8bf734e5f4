/** Layout and drawing of a timeline, with either pen. */

import { formatTime } from "../../../mien-web/analysis/index.js";
import { format, percent } from "../../strings.js";
import { colourOf, emotionName, readableOn } from "../faces.js";
import { truncate, widthOf } from "./pens.js";
import { runs, sampled, stretches } from "./series.js";

const TICKS_S = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400];
const TICK_PX = 74; // smallest distance between ticks
const MARKER_PX = 18;
const MARKER_ROWS = 2;
const MIN_UNCERTAIN_PX = 3; // shorter uncertain stretches are not marked
const DENSE_POINTS = 400; // from this number on, lines are thinner
const AXIS_PX = 26;
const MINUS = "\u2212";

/** Colours for figures on white; on the page, the theme's colours are used. */
export const LIGHT = {
  ground: "#ffffff", lane: "#f4f6f5", ink: "#14201f", soft: "#55625f", rule: "#dfe3e1", hatch: "#848e8b",
  accent: "#0b6b62", wash: "#e2f1ee", edge: "#14201f",
};

/** Format a valence such as "+0.42" or "−0.10". */
export function signed(value) {
  const text = Math.abs(value).toFixed(2);
  return Number(text) === 0 ? "0.00" : `${value < 0 ? MINUS : "+"}${text}`;
}

// ---------------------------------------------------------------- layout
/**
 * Lay out the parts of a timeline, in pixels.
 *
 * @param {object} view
 * @param {number} view.width
 * @param {string[]} view.labels
 * @param {boolean} view.hasValence
 * @param {number} view.markerRows
 * @param {[number, number]} view.domain
 * @param {string} view.valence label of the valence lane
 * @param {number} [view.lane] height of a lane
 * @param {number} [view.top]
 */
function layoutOf({ width, labels, hasValence, markerRows, domain, valence, lane = 26, top = 0 }) {
  const size = width < 480 ? 12 : 13;
  const names = [...labels.map(emotionName), valence];
  const widest = Math.max(...names.map((name) => widthOf(name, { size })));
  const left = Math.min(Math.ceil(widest) + 14, Math.floor(width / 3));
  const right = width - (width < 480 ? 42 : 52);
  const strip = { top: top + markerRows * MARKER_PX, height: 24 };
  const first = strip.top + strip.height + 8;
  const lanes = labels.map((label, index) => ({ label, top: first + index * (lane + 5), height: lane }));
  const after = first + labels.length * (lane + 5) + 5;
  const valenceLane = hasValence ? { top: after, height: 2 * lane } : null;
  const bottom = hasValence ? after + 2 * lane : after - 5;
  const [from, to] = domain;
  return {
    width, size, left, right, top, strip, lanes, valence: valenceLane, bottom, height: bottom + AXIS_PX, domain,
    plot: right - left,
    x: (time) => left + ((time - from) / (to - from)) * (right - left),
    time: (x) => from + ((x - left) / (right - left)) * (to - from),
  };
}

/** Place the names of markers in two rows without overlap; those that do not fit get row -1. */
function placeMarkers(markers, x, right) {
  const free = [-Infinity, -Infinity];
  return markers
    .map((marker) => ({ ...marker, left: x(marker.start), right: x(marker.end) }))
    .sort((a, b) => a.left - b.left)
    .map((marker) => {
      const room = Math.min(widthOf(marker.label, { size: 12, weight: 600 }) + 14, 180);
      const end = Math.max(marker.right, Math.min(marker.left + room, right));
      const row = free.findIndex((edge) => edge <= marker.left);
      if (row < 0 || row >= MARKER_ROWS) return { ...marker, row: -1, room: 0 };
      free[row] = end + 4;
      return { ...marker, row, room: end - marker.left };
    });
}

/** Lay out a timeline with the rows needed for its markers; `layout.markers` are the visible ones. */
export function layoutWithMarkers(view, markers) {
  const bare = layoutOf({ ...view, markerRows: 0 });
  const placed = placeMarkers(markers, bare.x, bare.right).filter(({ left, right }) => right >= bare.left && left <= bare.right);
  return { ...layoutOf({ ...view, markerRows: Math.max(0, ...placed.map(({ row }) => row + 1)) }), markers: placed };
}

function ticksOf({ domain: [from, to], plot }) {
  const maxCount = Math.max(3, Math.floor(plot / TICK_PX));
  const last = TICKS_S.at(-1);
  const step = TICKS_S.find((candidate) => (to - from) / candidate <= maxCount) ?? last * Math.ceil((to - from) / last / maxCount);
  const ticks = [];
  for (let index = Math.max(0, Math.ceil(from / step - 1e-9)); index * step <= to + 1e-9; index += 1) ticks.push(index * step);
  return { ticks, digits: step < 1 ? 1 : 0 };
}

// ---------------------------------------------------------------- drawing
/**
 * Draw a timeline.
 *
 * @param {object} pen
 * @param {object} layout from `layoutWithMarkers`; a marker with `quiet` is drawn in grey
 * @param {object} view
 * @param {import("./series.js").Series} view.series
 * @param {object} view.theme colours as in `LIGHT`
 * @param {Record<string, string>} view.palette
 * @param {object} view.words strings.timeline
 */
export function paint(pen, layout, { series, theme, palette, words }) {
  const { markers } = layout;
  const { points, absent } = sampled(series, layout.domain, Math.max(1, Math.round(layout.plot)));
  const colours = Object.fromEntries(series.labels.map((label) => [label, colourOf(palette, label, series.labels)]));
  const segments = runs(points);
  paintGround(pen, layout, theme, absent, words);
  pen.group("events", () => markers.forEach((marker) => paintBand(pen, layout, marker, theme)));
  pen.clip(layout.left, 0, layout.plot, layout.height, () => {
    paintStrip(pen, layout, points, theme, colours);
    layout.lanes.forEach((lane, index) => pen.group(lane.label, () => paintLane(pen, layout, lane, segments, index, colours[lane.label], theme)));
    if (layout.valence !== null) pen.group("valence", () => paintValence(pen, layout, segments, theme));
  });
  pen.group("markers", () => {
    for (const marker of markers) paintEdges(pen, layout, marker, theme);
    for (const marker of markers) paintLabel(pen, layout, marker, theme);
  });
  paintNames(pen, layout, theme, words);
  paintAxis(pen, layout, theme);
}

function paintGround(pen, layout, theme, absent, words) {
  const { left, plot, strip, lanes, valence, bottom } = layout;
  for (const { top, height } of [strip, ...lanes, ...(valence === null ? [] : [valence])]) pen.rect(left, top, plot, height, theme.lane, { radius: 3 });
  pen.group("not seen", () => {
    for (const [start, end] of absent) {
      const [from, to] = [Math.max(left, layout.x(start)), Math.min(layout.right, layout.x(end))];
      if (to <= from) continue;
      pen.rect(from, strip.top, to - from, bottom - strip.top, theme.ground);
      pen.hatch(from, strip.top, to - from, bottom - strip.top, theme.hatch);
      const font = { size: 12, weight: 400 };
      const textWidth = widthOf(words.absent, font);
      if (textWidth + 24 > to - from) continue;
      const middle = (from + to) / 2;
      pen.rect(middle - textWidth / 2 - 8, strip.top + 2, textWidth + 16, strip.height - 4, theme.ground, { radius: 9 });
      pen.text(words.absent, middle, strip.top + strip.height / 2, { ...font, fill: theme.soft, align: "center" });
    }
  });
}

function paintStrip(pen, layout, points, theme, colours) {
  const { strip } = layout;
  pen.group("likeliest", () => {
    for (const { start, end, key, confidence } of stretches(points, (point) => point.emotion)) {
      const [from, to] = [Math.max(layout.left, layout.x(start)), Math.min(layout.right, layout.x(end))];
      if (to <= from) continue;
      pen.rect(from, strip.top, Math.max(1, to - from), strip.height, colours[key], { radius: to - from > 8 ? 3 : 0 });
      const font = { size: 12, weight: 600 };
      const text = [`${emotionName(key)} ${percent(confidence)}`, emotionName(key)].find((label) => widthOf(label, font) + 12 <= to - from);
      if (text !== undefined) pen.text(text, from + 6, strip.top + strip.height / 2, { ...font, fill: readableOn(colours[key]) });
    }
  });
  pen.group("uncertain", () => {
    for (const { start, end } of stretches(points, (point) => (point.uncertain ? "uncertain" : null))) {
      const [from, to] = [layout.x(start), layout.x(end)];
      if (to - from < MIN_UNCERTAIN_PX) continue;
      pen.rect(from, strip.top + strip.height - 6, Math.max(1, to - from), 6, theme.ground, { alpha: 0.9 });
      pen.line([[from, strip.top + strip.height - 3], [Math.max(from + 1.5, to), strip.top + strip.height - 3]], theme.ink, { width: 2, dash: [2, 3] });
    }
  });
}

/** Outline of a run of points from left to right. */
function outline(layout, run, yOf) {
  if (run.length === 1) return [[layout.x(run[0].start), yOf(run[0])], [Math.max(layout.x(run[0].end), layout.x(run[0].start) + 1), yOf(run[0])]];
  const last = run.at(-1);
  return [...run.map((point) => [layout.x(point.start), yOf(point)]), [layout.x(last.end), yOf(last)]];
}

function paintLane(pen, layout, { top, height }, segments, index, colour, theme) {
  const bottom = top + height;
  const y = (score) => bottom - Math.min(1, score) * height;
  for (const run of segments) {
    const mean = outline(layout, run, (point) => y(point.mean[index]));
    const high = outline(layout, run, (point) => y(point.high[index]));
    const closed = (points) => [[points[0][0], bottom], ...points, [points.at(-1)[0], bottom]];
    pen.area(closed(high), colour, { alpha: 0.42 });
    pen.area(closed(mean), colour);
    pen.line(mean, theme.edge, { width: run.length > DENSE_POINTS ? 0.5 : 1, alpha: 0.4 });
  }
}

function paintValence(pen, layout, segments, theme) {
  const { top, height } = layout.valence;
  const middle = top + height / 2;
  const y = (value) => middle - (value * height) / 2;
  pen.line([[layout.left, middle], [layout.right, middle]], theme.hatch, { width: 1, alpha: 0.6 });
  for (const run of segments) {
    if (run.some((point) => point.valence === null)) continue;
    const low = outline(layout, run, (point) => y(point.valence.low));
    const high = outline(layout, run, (point) => y(point.valence.high));
    const mean = outline(layout, run, (point) => y(point.valence.mean));
    pen.area([...high, ...low.reverse()], theme.accent, { alpha: 0.3 });
    pen.area([[mean[0][0], middle], ...mean, [mean.at(-1)[0], middle]], theme.accent, { alpha: 0.14 });
    pen.line(mean, theme.accent, { width: run.length > DENSE_POINTS ? 1.1 : 1.75 });
  }
}

/** Background of an event. */
function paintBand(pen, layout, { start, end, left, right, quiet }, theme) {
  const from = Math.max(layout.left, left);
  const to = Math.min(layout.right, right);
  if (end <= start || to < from) return;
  const colour = quiet ? theme.soft : theme.accent;
  pen.rect(from, layout.strip.top, Math.max(1, to - from), layout.bottom - layout.strip.top, colour, { alpha: 0.1 });
}

function paintEdges(pen, layout, { start, end, left, right, row, quiet }, theme) {
  const colour = quiet ? theme.soft : theme.accent;
  const top = row < 0 ? layout.strip.top : layout.top + row * MARKER_PX;
  const dash = quiet ? [3, 3] : [];
  if (left >= layout.left) pen.line([[left, top], [left, layout.bottom]], colour, { width: 1.5, dash });
  if (end > start && right <= layout.right) pen.line([[right, top], [right, layout.bottom]], colour, { width: 1, dash, alpha: 0.7 });
}

/** Name of an event, on a strip as long as the event. */
function paintLabel(pen, layout, { start, end, label, left, right, row, room, quiet }, theme) {
  if (row < 0) return;
  const from = Math.max(layout.left, left);
  const to = Math.min(layout.right, right);
  const top = layout.top + row * MARKER_PX;
  const height = MARKER_PX - 3;
  const font = { size: 12, weight: 600 };
  const text = truncate(label, Math.min(room, layout.right - from) - 6, font);
  const textWidth = text === "" ? 0 : widthOf(text, font) + 8;
  pen.rect(from + 1, top, Math.max(textWidth, to - from - 2), height, theme.ground);
  if (end > start) pen.rect(from + 1, top, Math.max(1, to - from - 2), height, theme.wash, { radius: 2 });
  if (text !== "") pen.text(text, from + 5, top + height / 2, { ...font, fill: quiet ? theme.soft : theme.accent });
}

function paintNames(pen, layout, theme, words) {
  const { size, left, strip } = layout;
  pen.text(truncate(words.strip, left - 8, { size }), 0, strip.top + strip.height / 2, { size, fill: theme.soft });
  for (const { label, top, height } of layout.lanes) {
    pen.text(truncate(emotionName(label), left - 8, { size }), 0, top + height / 2, { size, fill: theme.ink });
  }
  if (layout.valence === null) return;
  const { top, height } = layout.valence;
  pen.text(words.valence, 0, top + height / 2, { size, fill: theme.ink });
  for (const [text, y] of [["+1", top + 5], [`${MINUS}1`, top + height - 5]]) {
    pen.text(text, left - 5, y, { size: 11, fill: theme.soft, align: "right" });
  }
}

/** Ticks of the time axis: their position, and the text with its centre and half its width. */
function tickLabels(layout) {
  const { ticks, digits } = ticksOf(layout);
  return ticks.map((tick) => {
    const [x, text] = [layout.x(tick), formatTime(tick, digits)];
    const half = widthOf(text, { size: 12 }) / 2;
    return { x, text, half, centre: Math.max(half, Math.min(x, layout.width - half)) };
  });
}

function paintAxis(pen, layout, theme) {
  pen.group("time", () => {
    for (const { x, text, centre } of tickLabels(layout)) {
      pen.line([[x, layout.bottom + 3], [x, layout.bottom + 8]], theme.soft);
      pen.text(text, centre, layout.bottom + 17, { size: 12, fill: theme.soft, align: "center" });
    }
  });
}

// ---------------------------------------------------------------- overlay
/**
 * Draw a cursor: a line with its time.
 *
 * @param {object} pen
 * @param {object} layout from `layoutWithMarkers`
 * @param {object} view
 * @param {number} view.time seconds
 * @param {object} view.theme
 * @param {boolean} [view.isHover] whether it follows the pointer
 */
export function paintMoment(pen, layout, { time, theme, isHover = false }) {
  const x = layout.x(time);
  if (x < layout.left - 0.5 || x > layout.right + 0.5) return;
  const colour = isHover ? theme.soft : theme.accent;
  pen.line([[x, layout.strip.top - 2], [x, layout.bottom + 3]], theme.ground, { width: isHover ? 3 : 5, alpha: 0.7 });
  pen.line([[x, layout.strip.top - 2], [x, layout.bottom + 3]], colour, { width: isHover ? 1 : 2 });
  const text = formatTime(time);
  const font = { size: 12, weight: 600 };
  const half = widthOf(text, font) / 2 + 7;
  const centre = Math.max(half, Math.min(x, layout.width - half));
  for (const tick of tickLabels(layout)) {
    if (Math.abs(tick.centre - centre) > tick.half + half + 2) continue;
    pen.rect(tick.centre - tick.half, layout.bottom + 9, 2 * tick.half, AXIS_PX - 9, theme.ground); // not half a label
  }
  pen.rect(centre - half, layout.bottom + 6, 2 * half, AXIS_PX - 7, colour, { radius: 9 });
  pen.text(text, centre, layout.bottom + 6 + (AXIS_PX - 7) / 2, { ...font, fill: theme.ground, align: "center" });
}

/** Write scores and valence into the right margin. */
export function paintValues(pen, layout, { scores, valence, emotion, theme }) {
  const look = (isFirst) => ({ size: layout.size - 1, weight: isFirst ? 700 : 400, fill: isFirst ? theme.ink : theme.soft, align: "right" });
  for (const { label, top, height } of layout.lanes) {
    pen.text(percent(scores[label]), layout.width, top + height / 2, look(label === emotion));
  }
  if (layout.valence !== null && valence !== null) {
    pen.text(signed(valence), layout.width, layout.valence.top + layout.valence.height / 2, look(false));
  }
}

/** Draw the selected span. */
export function paintSpan(pen, layout, { start, end }, theme) {
  const from = Math.max(layout.left, layout.x(start));
  const to = Math.min(layout.right, layout.x(end));
  if (to < from) return;
  pen.rect(from, layout.strip.top, to - from, layout.bottom - layout.strip.top, theme.accent, { alpha: 0.18 });
  for (const x of [from, to]) pen.line([[x, layout.strip.top], [x, layout.bottom]], theme.accent, { width: 1.5, dash: [4, 3] });
}

/** Text for screen readers about a row of the series. */
export function momentText(row, words) {
  if (row === null || row.reading === null) return words.absent;
  const { emotion, confidence } = row.reading;
  const parts = [format(words.readsAs, { emotion: emotionName(emotion), percent: percent(confidence) })];
  if (row.uncertain) parts.push(words.uncertain);
  if (row.valence !== null) parts.push(format(words.valenceIs, { value: signed(row.valence) }));
  return parts.join(", ");
}
