/** Events of a video, and how each person's face reads in them. Port of mien/video/summary.py. */

import { labelsOf, reading, valence } from "./emotions.js";
import { csvLine, parseCsv, round6, scoreColumns } from "./tables.js";
import { MEMORY_S } from "./tracker.js";

const FIRST_STEP_S = 0.04; // duration of a video's only frame
const CLOCK = /^(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:\.\d+)?)$/;
const SECONDS = /^(\d+(?:\.\d*)?|\.\d+) ?s?$/;

/**
 * Build a table with one row per marker and person; a marker without a face has one row, too.
 *
 * A frame lasts until the next one, but at most `gap`. Scores are time-weighted means, shares are
 * shares of time. Numbers have six decimals, as in the tables of `mien predict --events`.
 *
 * @param {object[]} results frame results in order.
 * @param {{start: number, end: number | null, label: string}[]} markers times in seconds; `end` is
 *   null while the event continues.
 * @param {object} [options]
 * @param {string[]} [options.labels] the model's emotions; by default those of the faces.
 * @param {number} [options.gap] in seconds.
 * @param {boolean} [options.byPerson] one row per person, or one for all people together.
 * @param {boolean} [options.corrected] add the columns `corrected_…`; by default if any face has
 *   corrected scores.
 * @returns {Record<string, string | number | null>[]} with the keys `label`, `start_s`, `end_s`,
 *   `track_id`, `seconds`, `frames`, `valence`, one per emotion, and `share_…` of each.
 */
export function markerTable(results, markers, options = {}) {
  const { labels = labelsOf(results), gap = MEMORY_S, byPerson = true } = options;
  const corrected = options.corrected ?? hasCorrected(results);
  const spans = markers.map(({ start, end }) => ({ start, end: end ?? Infinity }));
  const totals = timeTotals(results, spans, { gap, byPerson });
  return markers.flatMap(({ label, start, end }, index) => {
    const people = [...totals[index]].sort(([a], [b]) => (a ?? 0) - (b ?? 0));
    const rows = people.length > 0 ? people : [[null, new Totals()]];
    return rows.map(([track, total]) => ({
      label,
      start_s: start,
      end_s: Number.isFinite(end) ? end : null,
      track_id: track,
      seconds: round6(total.raw.seconds),
      frames: total.frames,
      ...cells(total.raw, labels),
      ...(corrected ? cells(total.corrected, labels, "corrected_") : {}),
    }));
  });
}

/** Whether any face has scores corrected by a baseline. */
export function hasCorrected(results) {
  return results.some((result) => result.faces.some((face) => face.corrected != null));
}

// No prototype, because a custom model may have a class named "constructor".
const noTotals = () => ({ seconds: 0, sums: Object.create(null), shares: Object.create(null) });

/** Sums over time of one event and person. */
class Totals {
  raw = noTotals();
  corrected = noTotals();
  frames = 0;
}

/**
 * Sum readings over time for each span, by track id (null: all people together).
 *
 * @returns {Map<number | null, Totals>[]}
 */
export function timeTotals(results, spans, { gap = MEMORY_S, byPerson = true } = {}) {
  const totals = spans.map(() => new Map());
  const frames = results.filter((result) => result.error == null && result.time_s != null);
  let step = FIRST_STEP_S;
  frames.forEach((result, at) => {
    const next = frames[at + 1];
    if (next !== undefined) step = Math.min(next.time_s - result.time_s, gap);
    spans.forEach(({ start, end }, index) => {
      const seconds = Math.min(result.time_s + step, end) - Math.max(result.time_s, start);
      if (seconds > 0) addFrame(totals[index], result, seconds, byPerson);
    });
  });
  return totals;
}

function addFrame(totals, result, seconds, byPerson) {
  const keys = new Set();
  for (const face of result.faces) {
    const key = byPerson ? (face.track_id ?? null) : null;
    if (!totals.has(key)) totals.set(key, new Totals());
    keys.add(key);
    for (const kind of ["raw", "corrected"]) {
      const { scores, emotion } = reading(face, kind) ?? {};
      if (scores === undefined) continue;
      const total = totals.get(key)[kind];
      total.seconds += seconds;
      for (const [name, score] of Object.entries(scores)) {
        total.sums[name] = (total.sums[name] ?? 0) + seconds * score;
      }
      total.shares[emotion] = (total.shares[emotion] ?? 0) + seconds;
    }
  }
  for (const key of keys) totals.get(key).frames += 1;
}

/**
 * Time-weighted mean scores, shares of time and valence; null if no face was seen. Labels that the
 * model does not have are left out.
 */
export function means({ seconds, sums, shares }, labels) {
  if (!(seconds > 0)) return null;
  const known = labels.filter((label) => label in sums);
  const by = (values) => Object.fromEntries(known.map((label) => [label, (values[label] ?? 0) / seconds]));
  const scores = by(sums);
  return { valence: valence(scores), scores, shares: by(shares) };
}

/**
 * Table cells of valence, mean scores and shares of time, with six decimals; null where no face was
 * seen or the model does not have the label.
 */
export function cells(totals, labels, prefix = "") {
  const columns = Object.entries(scoreColumns(labels));
  const { valence: meanValence = null, scores = {}, shares = {} } = means(totals, labels) ?? {};
  const values = [
    ["valence", meanValence],
    ...columns.map(([label, name]) => [name, Object.hasOwn(scores, label) ? scores[label] : null]),
    ...columns.map(([label, name]) => [`share_${name}`, Object.hasOwn(shares, label) ? shares[label] : null]),
  ];
  return Object.fromEntries(values.map(([name, value]) => [prefix + name, value === null ? null : round6(value)]));
}

// ---------------------------------------------------------------- files of markers
/**
 * Parse a time such as `90`, `1.5s`, `1:30` or `1:02:03.5` into seconds.
 *
 * @param {string} text
 * @throws {Error} if it is none of these.
 */
export function parseTime(text) {
  const clock = CLOCK.exec(text.trim());
  if (clock && Number(clock[3]) < 60 && (clock[1] === undefined || Number(clock[2]) < 60)) {
    return 3600 * Number(clock[1] ?? 0) + 60 * Number(clock[2]) + Number(clock[3]);
  }
  const seconds = SECONDS.exec(text.trim());
  if (seconds) return Number(seconds[1]);
  throw new Error(`expected a time as seconds, mm:ss or h:mm:ss, got ${JSON.stringify(text)}`);
}

/**
 * Format a time as players show it: `0:04.2`, `12:00.0`, `1:02:03.0`.
 *
 * @param {number} seconds
 * @param {number} [digits] decimals of the seconds.
 */
export function formatTime(seconds, digits = 1) {
  const ticks = Math.round(seconds * 10 ** digits);
  const whole = Math.floor(ticks / 10 ** digits);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  const pad = (value) => String(value).padStart(2, "0");
  const clock = hours > 0 ? `${hours}:${pad(minutes)}:${pad(whole % 60)}` : `${minutes}:${pad(whole % 60)}`;
  return digits > 0 ? `${clock}.${String(ticks % 10 ** digits).padStart(digits, "0")}` : clock;
}

/**
 * Read the events of a CSV file with the columns `start`, `end` and `label`, in any order, separated
 * by commas, semicolons or tabs.
 *
 * @param {string} text
 * @returns {{start: number, end: number, label: string}[]}
 * @throws {Error} with a one-line message if the file is not such a table.
 */
export function readMarkers(text) {
  const head = text.split(/\r?\n/, 1)[0];
  const count = (separator) => head.split(separator).length;
  const delimiter = [",", ";", "\t"].reduce((best, separator) => (count(separator) > count(best) ? separator : best));
  const [names, ...rows] = parseCsv(text.replace(/^\uFEFF/, ""), delimiter);
  const columns = (names ?? []).map((name) => name.trim().toLowerCase());
  const missing = ["start", "end", "label"].find((name) => !columns.includes(name));
  if (missing !== undefined) {
    throw new Error(`expected a table of markers with start, end, label: ${missing} is missing`);
  }
  const markers = rows.map((row, index) => {
    const cell = (name) => row[columns.indexOf(name)] ?? "";
    const place = `marker ${index + 1}`;
    let start, end;
    try {
      [start, end] = [parseTime(cell("start")), parseTime(cell("end"))];
    } catch (error) {
      throw new Error(`${place}: ${error.message}`);
    }
    if (!(end > start)) throw new Error(`${place}: expected an end after the start, got ${end}`);
    return { start, end, label: cell("label").trim() };
  });
  if (markers.length === 0) throw new Error("the table of markers is empty: expected one line per event");
  return markers;
}

/**
 * Write markers as a CSV file for `readMarkers` and `mien predict --markers`.
 *
 * @param {{start: number, end: number | null, label: string}[]} markers
 * @param {number} end of the recording in seconds, used for events that have not ended.
 */
export function writeMarkers(markers, end) {
  const rows = markers.map((marker) => [marker.start, marker.end ?? end, marker.label]);
  return [["start", "end", "label"], ...rows].map((row) => csvLine(row)).join("");
}
