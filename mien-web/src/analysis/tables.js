/** Tables and CSV with mien's columns and formatting: mien/core/results.py, core/formats.py. */

import { EMOTIONS, labelsOf, valence } from "./emotions.js";

const FACE_COLUMNS = [
  "source", "frame", "time_s", "face_id", "track_id", "status",
  "x", "y", "w", "h", "face_confidence",
  "emotion", "confidence", "uncertain",
];
const LAST_COLUMNS = ["error", "flags", "valence"];
const RESERVED = [
  ...FACE_COLUMNS, "truth", "right", ...LAST_COLUMNS, "arousal", "labels", "model", "schema",
];
const WHOLE_NUMBERS = new Set([
  "frame", "face_id", "track_id", "x", "y", "w", "h", "frames", "people",
]);

/**
 * A number with six decimals, halves to the even side, as Python rounds.
 *
 * @param {number} value
 */
export function round6(value) {
  const half = value * 128; // six decimals end in an exact half at odd multiples of 1/128 alone
  if (Number.isInteger(half) && half % 2 !== 0) {
    const below = Math.floor(half * 7812.5);
    return (below % 2 === 0 ? below : below + 1) / 1e6;
  }
  return Number(value.toFixed(6));
}

const folded = (name) => name.normalize("NFKC").trim().toLowerCase();

/**
 * The column of each label's score: its own name, or `score_` and the name where that is taken.
 *
 * @param {readonly string[]} labels
 * @returns {Record<string, string>}
 */
export function scoreColumns(labels) {
  const taken = new Set(RESERVED.map(folded));
  return Object.fromEntries(labels.map((label) => {
    let name = label;
    const isTaken = (one) => taken.has(one) || /^(smoothed|corrected)_/.test(one);
    while (isTaken(folded(name))) name = `score_${name}`;
    taken.add(folded(name));
    return [label, name];
  }));
}

/**
 * The columns of a table of results.
 *
 * @param {readonly string[]} [labels] the model's emotions.
 * @param {{smoothed?: boolean, corrected?: boolean}} [columns] with those of a video, of a baseline.
 */
export function tableColumns(labels = EMOTIONS, { smoothed = false, corrected = false } = {}) {
  const scores = Object.values(scoreColumns(labels));
  const more = [["smoothed_", smoothed], ["corrected_", corrected]].flatMap(([prefix, isThere]) => (
    isThere ? ["emotion", "confidence", ...scores].map((name) => prefix + name) : []
  ));
  return [...FACE_COLUMNS, ...scores, ...more, ...LAST_COLUMNS];
}

/**
 * The rows of a result: one a face, one with empty fields where there is none.
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
    const pleasant = valence(face.scores);
    const row = {
      ...image,
      ...face.box,
      face_id: face.face_id,
      track_id: face.track_id,
      face_confidence: round6(face.face_confidence),
      uncertain: face.uncertain,
      flags: face.quality.flags.join(";"),
      valence: pleasant === null ? null : round6(pleasant),
    };
    for (const [prefix, found] of [["", face], ["smoothed_", face.smoothed], ["corrected_", face.corrected]]) {
      if (found == null) continue;
      row[`${prefix}emotion`] = found.emotion;
      row[`${prefix}confidence`] = round6(found.confidence);
      for (const [label, name] of columns) {
        row[prefix + name] = label in found.scores ? round6(found.scores[label]) : null;
      }
    }
    return row;
  });
}

/**
 * Results as the CSV that mien writes: a row a face, one where there is none.
 *
 * @param {object[]} results
 * @param {object} [options]
 * @param {string[]} [options.labels] the model's emotions; those of the faces unless given.
 * @param {boolean} [options.smoothed] with the columns of a video; where results are of frames
 *   unless given.
 * @param {boolean} [options.corrected] with those of a baseline; where any face has them unless
 *   given.
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
 * The rows of `markerTable` as the CSV of `mien predict --events`.
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

/** A line of CSV; cells are quoted where they have to be. */
export function csvLine(cells) {
  const quoted = cells.map(String).map((text) => (
    /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text
  ));
  return `${quoted.join(",")}\n`;
}

function cellText(value, column) {
  if (value === null) return "";
  if (typeof value !== "number" || WHOLE_NUMBERS.has(column)) return String(value);
  return numberText(value);
}

/** A number as Python writes a float: `1.0`, `0.25`, `1e-06`. */
function numberText(value) {
  if (Object.is(value, -0)) return "-0.0";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-4 || size >= 1e16)) {
    return value.toExponential().replace(/e([+-])(\d)$/, "e$10$2");
  }
  return Number.isInteger(value) ? `${value}.0` : String(value);
}

/** The rows of a CSV text, empty lines left out. */
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
    const mark = text[at];
    if (isQuoted) {
      if (mark !== '"') cell += mark;
      else if (text[at + 1] === '"') {
        cell += '"';
        at += 1;
      } else isQuoted = false;
    } else if (mark === '"' && cell === "") isQuoted = true;
    else if (mark === delimiter) {
      row.push(cell);
      cell = "";
    } else if (mark === "\n") endRow();
    else if (mark !== "\r") cell += mark;
  }
  endRow();
  return rows;
}
