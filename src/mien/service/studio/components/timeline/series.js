/** Readings of one person over time, and downsampling to columns that keeps all peaks. */

import { correct, likeliest, valence } from "../../../mien-web/analysis/index.js";

const GAP_STEPS = 2.5; // frame intervals without a frame that make a gap
const MIN_GAP_S = 0.35;
const DENSE = 1.5; // rows per column above which rows are combined

/** Readings of one person, one row per frame. */
export class Series {
  #baseline;
  #steps = [];

  /**
   * @param {object[]} results frame results in order
   * @param {object} options
   * @param {number|null} [options.track] track id; by default that of the person seen most
   * @param {object|null} [options.baseline] from measureBaseline, to correct the scores
   */
  constructor(results, { track = null, baseline = null } = {}) {
    this.track = track ?? mostSeen(results);
    this.#baseline = baseline;
    this.rows = [];
    this.labels = [];
    this.step = 0;
    for (const result of results) this.add(result);
  }

  /** Append the result of the next frame; results with an error or without a later time are ignored. */
  add(result) {
    const last = this.rows.at(-1);
    if (result.error != null || result.time_s == null || result.time_s <= last?.time) return;
    if (this.track === null && result.faces.length > 0) this.track = result.faces[0].track_id;
    const face = result.faces.find(({ track_id: id }) => (id ?? null) === this.track);
    const row = { time: result.time_s, reading: null, valence: null, uncertain: false };
    if (face !== undefined) {
      row.reading = this.#readingOf(face);
      row.valence = valence(row.reading.scores);
      row.uncertain = face.uncertain;
      if (this.labels.length === 0) this.labels = Object.keys(face.scores);
    }
    if (last !== undefined) this.#addStep(row.time - last.time);
    this.rows.push(row);
  }

  #readingOf(face) {
    const reading = face.smoothed ?? face;
    if (this.#baseline === null) return reading;
    return likeliest(correct(reading.scores, this.#baseline, face.track_id));
  }

  #addStep(step) {
    if (this.#steps.length < 512) this.#steps.push(step);
    else this.#steps[this.rows.length % 512] = step;
    if (this.rows.length < 16 || this.rows.length % 32 === 0) {
      const sorted = this.#steps.toSorted((a, b) => a - b);
      this.step = sorted[sorted.length >> 1];
    }
  }

  get start() {
    return this.rows[0]?.time ?? 0;
  }

  get end() {
    return this.rows.length === 0 ? 0 : this.until(this.rows.length - 1);
  }

  /** End of a row: the start of the next one, or one frame interval before a gap. */
  until(index) {
    const { time } = this.rows[index];
    const next = this.rows[index + 1]?.time;
    const gap = Math.max(MIN_GAP_S, GAP_STEPS * this.step);
    return next !== undefined && next - time <= gap ? next : time + (this.step || 0.04);
  }

  /** Index of the last row at or before a time, -1 if there is none. */
  indexAt(time) {
    let [low, high] = [0, this.rows.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.rows[middle].time <= time) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  /** The row at a time, or null. */
  at(time) {
    const index = this.indexAt(time);
    return index >= 0 && time < this.until(index) ? this.rows[index] : null;
  }
}

/** Track id of the person in most results, or null. */
function mostSeen(results) {
  const counts = new Map();
  for (const { faces } of results) {
    for (const { track_id: track } of faces) counts.set(track ?? null, (counts.get(track ?? null) ?? 0) + 1);
  }
  return [...counts].sort(([, a], [, b]) => b - a)[0]?.[0] ?? null;
}

// ---------------------------------------------------------------- columns
/**
 * Downsample a series: one point per row, or one per column with mean and extremes if there are more rows than columns.
 *
 * @param {Series} series
 * @param {[number, number]} domain start and end in seconds
 * @param {number} columns
 * @returns {{points: Point[], absent: [number, number][]}} points in order of time, and spans without the person
 *
 * @typedef {object} Point
 * @property {number} start in seconds
 * @property {number} end in seconds; the start of the next point unless there is a gap
 * @property {number[]} mean score of each label
 * @property {number[]} high maximum score of each label
 * @property {{mean: number, low: number, high: number}|null} valence
 * @property {string} emotion that leads for most of the time
 * @property {number} confidence mean score of that emotion while it leads
 * @property {boolean} uncertain whether uncertain for most of the time
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
  points.forEach((point) => finishCell(point));
  return { points, absent: isDense ? absent.filter(([start, end]) => end - start >= width) : absent };
}

function inView(series, from, to) {
  return [Math.max(0, series.indexAt(from)), Math.min(series.rows.length - 1, series.indexAt(to) + 1)];
}

/** Whether `sampled` combines the rows of each column. */
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
  labels.forEach((label, index) => {
    cell.mean[index] += seconds * scores[label];
    cell.high[index] = Math.max(cell.high[index], scores[label]);
  });
  if (cell.valence !== null && row.valence !== null) {
    cell.valence.mean += seconds * row.valence;
    cell.valence.low = Math.min(cell.valence.low, row.valence);
    cell.valence.high = Math.max(cell.valence.high, row.valence);
  }
  const total = cell.emotions.get(emotion) ?? { seconds: 0, sum: 0 };
  cell.emotions.set(emotion, { seconds: total.seconds + seconds, sum: total.sum + seconds * confidence });
  if (row.uncertain) cell.uncertain += seconds;
}

function finishCell(cell) {
  cell.mean = cell.mean.map((sum) => sum / cell.seconds);
  if (cell.valence !== null) cell.valence.mean /= cell.seconds;
  let longest = 0;
  for (const [emotion, { seconds, sum }] of cell.emotions) {
    if (seconds <= longest) continue;
    longest = seconds;
    cell.emotion = emotion;
    cell.confidence = sum / seconds;
  }
  cell.uncertain = cell.uncertain > cell.seconds / 2;
}

/** Split points into runs without gaps. */
export function runs(points) {
  const list = [];
  for (const point of points) {
    const last = list.at(-1);
    if (last !== undefined && point.start - last.at(-1).end < 1e-6) last.push(point);
    else list.push([point]);
  }
  return list;
}

/**
 * Group consecutive points without gaps by a key.
 *
 * @param {Point[]} points
 * @param {(point: Point) => unknown} keyOf returns null for points that belong to no group
 * @returns {{start: number, end: number, key: unknown, confidence: number}[]}
 */
export function stretches(points, keyOf) {
  const list = [];
  let last = null;
  for (const point of points) {
    const key = keyOf(point);
    const seconds = point.end - point.start;
    if (key !== null && last?.key === key && point.start - last.end < 1e-6) {
      last.end = point.end;
      last.sum += seconds * point.confidence;
    } else {
      last = key === null ? null : { start: point.start, end: point.end, key, sum: seconds * point.confidence };
      if (last !== null) list.push(last);
    }
  }
  return list.map(({ sum, ...stretch }) => ({ ...stretch, confidence: sum / (stretch.end - stretch.start) }));
}
