/** Tables and CSV with mien's columns and number format. Port of mien/core/results.py and formats.py. */

import { EMOTIONS, labelsOf, valence } from "./emotions.js";

const FACE_COLUMNS = [
  "source", "frame", "time_s", "face_id", "track_id", "status",
  "x", "y", "w", "h", "face_confidence",
  "emotion", "confidence", "uncertain",
];
const LAST_COLUMNS = ["error", "flags", "valence"];
const RESERVED = [
  ...FACE_COLUMNS, "truth", "right",
  "label", "start_s", "end_s", "seconds", "frames", "people",
  ...LAST_COLUMNS, "arousal", "labels", "model", "schema",
];
const INTEGER_COLUMNS = new Set([
  "frame", "face_id", "track_id", "x", "y", "w", "h", "frames", "people",
]);

/**
 * Round to six decimals, half to even, as Python does.
 *
 * @param {number} value
 */
export function round6(value) {
  const half = value * 128; // only odd multiples of 1/128 lie exactly between two values of six decimals
  if (Number.isInteger(half) && half % 2 !== 0) {
    const below = Math.floor(half * 7812.5);
    return (below % 2 === 0 ? below : below + 1) / 1e6;
  }
  return Number(value.toFixed(6));
}

const normalized = (name) => name.normalize("NFKC").trim().toLowerCase();

/**
 * The column of each label's score: its name, prefixed with `score_` if that is taken.
 *
 * @param {readonly string[]} labels
 * @returns {Record<string, string>}
 */
export function scoreColumns(labels) {
  const taken = new Set(RESERVED.map(normalized));
  return Object.fromEntries(labels.map((label) => {
    let name = label;
    const isTaken = (column) => taken.has(column) || /^(smoothed|corrected|share)_/.test(column);
    while (isTaken(normalized(name))) name = `score_${name}`;
    taken.add(normalized(name));
    return [label, name];
  }));
}

/**
 * The columns of a results table.
 *
 * @param {readonly string[]} [labels] the model's emotions.
 * @param {{smoothed?: boolean, corrected?: boolean}} [columns] include the columns of videos, of baselines.
 */
export function tableColumns(labels = EMOTIONS, { smoothed = false, corrected = false } = {}) {
  const scores = Object.values(scoreColumns(labels));
  const more = [["smoothed_", smoothed], ["corrected_", corrected]].flatMap(([prefix, isIncluded]) => (
    isIncluded ? ["emotion", "confidence", ...scores].map((name) => prefix + name) : []
  ));
  return [...FACE_COLUMNS, ...scores, ...more, ...LAST_COLUMNS];
}

/**
 * The rows of a result: one per face; a result without faces has one with empty fields.
 *
 * @param {object} result
 * @param {readonly string[]} [labels]
 * @returns {Record<string, string | number | boolean | null>[]}
 */
export function resultRows(result, labels = EMOTIONS) {
  const image = {
    source: result.source,
    frame: result.frame,
    time_s: result.time_s == null ? null : round6(result.time_s),
    status: result.status,
    error: result.error ?? null,
  };
  if (result.faces.length === 0) return [image];
  const columns = Object.entries(scoreColumns(labels));
  return result.faces.map((face) => {
    const faceValence = valence(face.scores);
    const row = {
      ...image,
      ...face.box,
      face_id: face.face_id,
      track_id: face.track_id,
      face_confidence: round6(face.face_confidence),
      uncertain: face.uncertain,
      flags: face.quality.flags.join(";"),
      valence: faceValence === null ? null : round6(faceValence),
    };
    for (const [prefix, reading] of [["", face], ["smoothed_", face.smoothed], ["corrected_", face.corrected]]) {
      if (reading == null) continue;
      row[`${prefix}emotion`] = reading.emotion;
      row[`${prefix}confidence`] = round6(reading.confidence);
      for (const [label, name] of columns) {
        row[prefix + name] = Object.hasOwn(reading.scores, label) ? round6(reading.scores[label]) : null;
      }
    }
    return row;
  });
}

/**
 * Format results as mien's CSV; see `resultRows`.
 *
 * @param {object[]} results
 * @param {object} [options]
 * @param {string[]} [options.labels] the model's emotions; by default those of the faces.
 * @param {boolean} [options.smoothed] include the columns of videos; by default if any result is of
 *   a frame.
 * @param {boolean} [options.corrected] include the columns of baselines; by default if any face has
 *   corrected scores.
 */
export function toCsv(results, options = {}) {
  const {
    labels = labelsOf(results),
    smoothed = results.some((result) => result.time_s != null),
    corrected = results.some((result) => result.faces.some((face) => face.corrected != null)),
  } = options;
  const columns = tableColumns(labels, { smoothed, corrected });
  return csvText(results.flatMap((result) => resultRows(result, labels)), columns);
}

/**
 * Format the rows of `markerTable` as the CSV of `mien predict --events`.
 *
 * @param {Record<string, string | number | null>[]} rows
 * @param {string} source the video's name.
 */
export function markersToCsv(rows, source) {
  const columns = ["source", ...Object.keys(rows[0] ?? {})];
  return csvText(rows.map((row) => ({ source, ...row })), columns);
}

/**
 * Format the rows of `compare` as the CSV of `mien predict --compare`; a value that is null or that a
 * row lacks leaves its cell empty.
 *
 * @param {Record<string, string | number | null>[]} rows
 */
export function comparisonToCsv(rows) {
  const columns = new Set(rows.flatMap((row) => Object.keys(row)));
  return csvText(rows, columns.size > 0 ? [...columns] : ["source"]);
}

// ---------------------------------------------------------------- CSV
function csvText(rows, columns) {
  const lines = rows.map((row) => csvLine(columns.map((name) => cellText(Object.hasOwn(row, name) ? (row[name] ?? null) : null, name))));
  return csvLine(columns) + lines.join("");
}

/** Format a line of CSV; cells are quoted if necessary. */
export function csvLine(cells) {
  const quoted = cells.map(String).map((text) => (
    /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text
  ));
  return `${quoted.join(",")}\n`;
}

function cellText(value, column) {
  if (value === null) return "";
  if (typeof value !== "number" || INTEGER_COLUMNS.has(column)) return String(value);
  return numberText(value);
}

/** Format a number as Python's `repr` of a float: `1.0`, `0.25`, `1e-06`. */
function numberText(value) {
  if (Object.is(value, -0)) return "-0.0";
  const magnitude = Math.abs(value);
  if (magnitude !== 0 && (magnitude < 1e-4 || magnitude >= 1e16)) {
    return value.toExponential().replace(/e([+-])(\d)$/, "e$10$2");
  }
  return Number.isInteger(value) ? `${value}.0` : String(value);
}

/** Parse CSV into rows, without empty lines. */
export function parseCsv(text, delimiter) {
  const rows = [];
  let row = [];
  let cell = "";
  let isQuoted = false;
  const endRow = () => {
    row.push(cell);
    if (row.length > 1 || cell !== "") rows.push(row);
    row = [];
    cell = "";
  };
  for (let at = 0; at < text.length; at += 1) {
    const char = text[at];
    if (isQuoted) {
      if (char !== '"') cell += char;
      else if (text[at + 1] === '"') {
        cell += '"';
        at += 1;
      } else isQuoted = false;
    } else if (char === '"' && cell === "") isQuoted = true;
    else if (char === delimiter) {
      row.push(cell);
      cell = "";
    } else if (char === "\n") endRow();
    else if (char !== "\r") cell += char;
  }
  endRow();
  return rows;
}
