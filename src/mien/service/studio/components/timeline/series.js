/** One person's readings over time, and what a number of columns shows of them without hiding a peak. */

import { correct, likeliest, valence } from "../../../mien-web/analysis/index.js";

const GAP_STEPS = 2.5; // so many usual steps without a frame, and nothing is known of the time between
const LEAST_GAP_S = 0.35;
const DENSE = 1.5; // rows a column from which on rows are gathered by columns

/** The readings of one person: a row a frame, in order of time. */
export class Series {
  #baseline;
  #steps = [];

  /**
   * @param {object[]} results of frames, in order
   * @param {object} options
   * @param {number|null} [options.track] whose; whoever is seen most unless given
   * @param {object|null} [options.baseline] as measureBaseline gives it; scores are corrected by it
   */
  constructor(results, { track = null, baseline = null } = {}) {
    this.track = track ?? mostSeen(results);
    this.#baseline = baseline;
    this.rows = [];
    this.labels = [];
    this.step = 0;
    for (const result of results) this.add(result);
  }

  /** Take the result of the next frame; one that is of no frame, or not later, changes nothing. */
  add(result) {
    const last = this.rows.at(-1);
    if (result.error != null || result.time_s == null || result.time_s <= last?.time) return;
    if (this.track === null && result.faces.length > 0) this.track = result.faces[0].track_id;
    const face = result.faces.find((one) => (one.track_id ?? null) === this.track);
    const row = { time: result.time_s, reading: null, valence: null, uncertain: false };
    if (face !== undefined) {
      row.reading = this.#read(face);
      row.valence = valence(row.reading.scores);
      row.uncertain = face.uncertain;
      if (this.labels.length === 0) this.labels = Object.keys(face.scores);
    }
    if (last !== undefined) this.#addStep(row.time - last.time);
    this.rows.push(row);
  }

  #read(face) {
    const reading = face.smoothed ?? face;
    if (this.#baseline === null) return reading;
    return likeliest(correct(reading.scores, this.#baseline, face.track_id));
  }

  #addStep(step) {
    if (this.#steps.length < 512) this.#steps.push(step);
    else this.#steps[this.rows.length % 512] = step;
    if (this.rows.length < 16 || this.rows.length % 32 === 0) {
      const sorted = this.#steps.toSorted((one, other) => one - other);
      this.step = sorted[sorted.length >> 1];
    }
  }

  get start() {
    return this.rows[0]?.time ?? 0;
  }

  get end() {
    return this.rows.length === 0 ? 0 : this.until(this.rows.length - 1);
  }

  /** Until when a row holds: until the next one, before a gap for the usual step. */
  until(index) {
    const { time } = this.rows[index];
    const next = this.rows[index + 1]?.time;
    const gap = Math.max(LEAST_GAP_S, GAP_STEPS * this.step);
    return next !== undefined && next - time <= gap ? next : time + (this.step || 0.04);
  }

  /** The place of the last row at or before a moment, -1 for none. */
  place(time) {
    let [low, high] = [0, this.rows.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.rows[middle].time <= time) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  /** The row that holds at a moment, or null. */
  at(time) {
    const place = this.place(time);
    return place >= 0 && time < this.until(place) ? this.rows[place] : null;
  }
}

/** The number of whoever is in most results, or null for nobody. */
function mostSeen(results) {
  const counts = new Map();
  for (const { faces } of results) {
    for (const { track_id: track } of faces) counts.set(track ?? null, (counts.get(track ?? null) ?? 0) + 1);
  }
  return [...counts].sort((one, other) => other[1] - one[1])[0]?.[0] ?? null;
}

// ---------------------------------------------------------------- columns
/**
 * What is drawn of a series: a point a row, or a point a column where there are more rows than columns; then
 * a point has the least and greatest of its rows, too.
 *
 * @param {Series} series
 * @param {[number, number]} domain seconds, from and to
 * @param {number} columns
 * @returns {{points: Point[], absent: [number, number][]}} points in order of time
 *
 * @typedef {object} Point
 * @property {number} start seconds
 * @property {number} end seconds; the next point begins there unless there is a gap
 * @property {number[]} mean of each label's score
 * @property {number[]} high
 * @property {{mean: number, low: number, high: number}|null} valence
 * @property {string} emotion that most of the time is read
 * @property {number} confidence the mean of its scores where it is read
 * @property {boolean} uncertain most of the time
 */
export function sampled(series, [from, to], columns) {
  const [first, last] = inView(series, from, to);
  const width = (to - from) / columns;
  const isDense = areDense(series, [from, to], columns);
  const points = [];
  const absent = [];
  let cell = null;
  for (let index = first; index <= last; index += 1) {
    const row = series.rows[index];
    const end = series.until(index);
    const next = series.rows[index + 1]?.time ?? end;
    if (row.reading === null) addSpan(absent, row.time, next);
    else {
      if (next > end) addSpan(absent, end, next);
      const column = Math.floor((row.time - from) / width);
      if (!isDense || cell === null || cell.column !== column) {
        cell = newCell(row, column, series.labels, isDense ? { start: from + column * width, end: from + (column + 1) * width } : { start: row.time, end });
        points.push(cell);
      }
      addRow(cell, row, end - row.time, series.labels);
    }
  }
  points.forEach((point) => finish(point));
  return { points, absent: isDense ? absent.filter(([start, end]) => end - start >= width) : absent };
}

function inView(series, from, to) {
  return [Math.max(0, series.place(from)), Math.min(series.rows.length - 1, series.place(to) + 1)];
}

/** Whether a point stands for the rows of a column, rather than for one. */
export function areDense(series, [from, to], columns) {
  const [first, last] = inView(series, from, to);
  return last - first + 1 > DENSE * columns;
}

function addSpan(spans, start, end) {
  const last = spans.at(-1);
  if (last !== undefined && start <= last[1] + 1e-9) last[1] = end;
  else if (end > start) spans.push([start, end]);
}

function newCell(row, column, labels, span) {
  return {
    ...span,
    column,
    seconds: 0,
    mean: new Array(labels.length).fill(0),
    high: new Array(labels.length).fill(0),
    valence: row.valence === null ? null : { mean: 0, low: Infinity, high: -Infinity },
    emotions: new Map(),
    uncertain: 0,
  };
}

function addRow(cell, row, seconds, labels) {
  const { scores, emotion, confidence } = row.reading;
  cell.seconds += seconds;
  labels.forEach((label, at) => {
    cell.mean[at] += seconds * scores[label];
    cell.high[at] = Math.max(cell.high[at], scores[label]);
  });
  if (cell.valence !== null && row.valence !== null) {
    cell.valence.mean += seconds * row.valence;
    cell.valence.low = Math.min(cell.valence.low, row.valence);
    cell.valence.high = Math.max(cell.valence.high, row.valence);
  }
  const seen = cell.emotions.get(emotion) ?? { seconds: 0, sum: 0 };
  cell.emotions.set(emotion, { seconds: seen.seconds + seconds, sum: seen.sum + seconds * confidence });
  if (row.uncertain) cell.uncertain += seconds;
}

function finish(cell) {
  cell.mean = cell.mean.map((sum) => sum / cell.seconds);
  if (cell.valence !== null) cell.valence.mean /= cell.seconds;
  let most = 0;
  for (const [emotion, { seconds, sum }] of cell.emotions) {
    if (seconds <= most) continue;
    most = seconds;
    cell.emotion = emotion;
    cell.confidence = sum / seconds;
  }
  cell.uncertain = cell.uncertain > cell.seconds / 2;
}

/** Points in runs without a gap. */
export function runs(points) {
  const found = [];
  for (const point of points) {
    const last = found.at(-1);
    if (last !== undefined && point.start - last.at(-1).end < 1e-6) last.push(point);
    else found.push([point]);
  }
  return found;
}

/**
 * Stretches of points without a gap that have something in common.
 *
 * @param {Point[]} points
 * @param {(point: Point) => unknown} keyOf what they have in common; null for a point that belongs to none
 * @returns {{start: number, end: number, key: unknown, confidence: number}[]}
 */
export function stretches(points, keyOf) {
  const found = [];
  let last = null;
  for (const point of points) {
    const key = keyOf(point);
    const seconds = point.end - point.start;
    if (key !== null && last?.key === key && point.start - last.end < 1e-6) {
      last.end = point.end;
      last.sum += seconds * point.confidence;
    } else {
      last = key === null ? null : { start: point.start, end: point.end, key, sum: seconds * point.confidence };
      if (last !== null) found.push(last);
    }
  }
  return found.map(({ sum, ...one }) => ({ ...one, confidence: sum / (one.end - one.start) }));
}
