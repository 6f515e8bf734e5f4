/** A saved session: results of a recording with its markers and baseline, as one JSON file. */

import { labelsOf } from "./emotions.js";
import { round6 } from "./tables.js";

/** Name and version of the form; it changes when a reader would have to. */
export const SESSION_SCHEMA = "mien-session/1";

const VIDEO_SCHEMA = "mien-video/1"; // what `mien predict VIDEO --output FILE.json` writes
const RESULT_SCHEMA = "mien/1";
const MAX_TIME_S = 1e9; // thirty years, as mien.video.frames has it
const MAX_SHIFT = 10; // of a logarithm; scores of 0 and 1 give no more than 5
const STATUSES = ["ok", "no_face", "unreadable", "error"];

/**
 * A session as JSON, a line for each result; scores have six decimals.
 *
 * @param {object} session `name`, `created` (ISO 8601), `labels`, `model`, `markers`, `baseline`,
 *   `results`.
 */
export function toJson(session) {
  const { name, created, labels, model, markers = [], baseline = null, results } = session;
  const head = { schema: SESSION_SCHEMA, name, created, labels, model, markers, baseline };
  const lines = results.map((result) => JSON.stringify(written(result)));
  return `${JSON.stringify(head).slice(0, -1)},"results":[\n${lines.join(",\n")}\n]}\n`;
}

/** A result with its numbers as mien's JSON has them. */
function written(result) {
  const rounded = (reading) => ({
    emotion: reading.emotion,
    confidence: round6(reading.confidence),
    scores: Object.fromEntries(
      Object.entries(reading.scores).map(([label, score]) => [label, round6(score)]),
    ),
  });
  return {
    ...result,
    time_s: result.time_s == null ? null : round6(result.time_s),
    faces: result.faces.map((face) => ({
      ...face,
      ...rounded(face),
      ...(face.smoothed == null ? {} : { smoothed: rounded(face.smoothed) }),
      ...(face.corrected == null ? {} : { corrected: rounded(face.corrected) }),
    })),
  };
}

/**
 * The session that a file holds: one of `toJson`, or the JSON that `mien predict VIDEO` writes.
 *
 * @param {string} text
 * @returns {object} as `toJson` takes.
 * @throws {Error} one line that says what is wrong with the file, and what was expected.
 */
export function fromJson(text) {
  let read;
  try {
    read = JSON.parse(text);
  } catch {
    throw new Error("this is no saved session: expected JSON, and the file is damaged or of another kind");
  }
  const schema = isObject(read) ? read.schema : undefined;
  if (schema === VIDEO_SCHEMA) return fromVideo(read);
  if (schema !== SESSION_SCHEMA) {
    const isLater = typeof schema === "string" && /^mien-(session|video)\//.test(schema);
    throw new Error(isLater
      ? `this session was saved by a later mien: expected ${SESSION_SCHEMA}, got ${schema}`
      : `this is no saved session: expected "schema": "${SESSION_SCHEMA}", got ${shown(schema)}`);
  }
  const session = {
    name: textOf(read, "name"),
    created: textOf(read, "created"),
    labels: textOf(read, "labels"),
    model: modelOf(read.model),
    markers: listOf(read, "markers").map(checkedMarker),
    results: checkedResults(listOf(read, "results")),
  };
  return { ...session, baseline: checkedBaseline(read.baseline ?? null, labelsOf(session.results)) };
}

function fromVideo(read) {
  const results = checkedResults(listOf(read, "frames"));
  const first = results[0] ?? {};
  return {
    name: textOf(read, "source"),
    created: "",
    labels: first.labels ?? "",
    model: first.model ?? null,
    markers: [],
    baseline: null,
    results,
  };
}

// ---------------------------------------------------------------- checks
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isShare = (value) => Number.isFinite(value) && value >= 0 && value <= 1;
const isTime = (value) => Number.isFinite(value) && value >= 0 && value <= MAX_TIME_S;
const isWhole = (value, least) => Number.isInteger(value) && value >= least && value < 2 ** 31;
const isShift = (value) => Number.isFinite(value) && Math.abs(value) <= MAX_SHIFT;
const isTextOrNone = (value) => value == null || typeof value === "string";

function shown(value) {
  const text = JSON.stringify(value) ?? "nothing";
  return text.length > 40 ? `${text.slice(0, 40)}…` : text;
}

function need(isRight, what, expected, value) {
  if (!isRight) throw new Error(`the session is damaged: expected ${what} as ${expected}, got ${shown(value)}`);
}

function textOf(read, key) {
  need(typeof read[key] === "string", key, "text", read[key]);
  return read[key];
}

function listOf(read, key) {
  need(Array.isArray(read[key]), key, "a list", read[key]);
  return read[key];
}

function modelOf(model) {
  if (model === null || model === undefined) return null;
  const isRight = isObject(model) && ["name", "version", "sha256"].every((key) => typeof model[key] === "string");
  need(isRight, "model", "name, version and sha256", model);
  return model;
}

function checkedMarker(marker, index) {
  const what = `marker ${index + 1}`;
  need(isObject(marker) && typeof marker.label === "string", what, "start, end and label", marker);
  need(isTime(marker.start), `${what}'s start`, "seconds", marker.start);
  const { end } = marker;
  need(end === null || (isTime(end) && end >= marker.start), `${what}'s end`, "seconds after it", end);
  return marker;
}

function checkedBaseline(baseline, labels) {
  if (baseline === null) return null;
  const isRight = isObject(baseline) && isTime(baseline.start_s) && isTime(baseline.end_s)
    && isObject(baseline.shifts)
    && Object.values(baseline.shifts).every((shift) => (
      isObject(shift) && labels.every((label) => isShift(shift[label]))
    ));
  need(isRight, "baseline", "start_s, end_s, and shifts of each label", baseline);
  return baseline;
}

function checkedResults(results) {
  let last = 0;
  let labels = null;
  results.forEach((result, index) => {
    const what = `result ${index + 1}`;
    need(isObject(result) && result.schema === RESULT_SCHEMA, what, RESULT_SCHEMA, result?.schema);
    need(STATUSES.includes(result.status), `${what}'s status`, STATUSES.join(", "), result.status);
    need(isTextOrNone(result.source), `${what}'s source`, "text", result.source);
    need(isTextOrNone(result.labels), `${what}'s labels`, "text", result.labels);
    need(result.frame == null || isWhole(result.frame, 0), `${what}'s frame`, "a number", result.frame);
    modelOf(result.model);
    need(Array.isArray(result.faces), `${what}'s faces`, "a list", result.faces);
    need((result.status === "ok") === (result.faces.length > 0), what, "ok exactly with faces", result.status);
    if (result.status === "unreadable" || result.status === "error") {
      need(typeof result.error === "string", `${what}'s error`, "text", result.error);
      return;
    }
    need(result.error == null, `${what}'s error`, "absent", result.error);
    need(isTime(result.time_s) && result.time_s >= last, `${what}'s time_s`, `${last} or later`, result.time_s);
    need(isWhole(result.width, 1) && isWhole(result.height, 1), `${what}'s size`, "pixels", result.width);
    last = result.time_s;
    for (const face of result.faces) {
      labels ??= Object.keys(face?.scores ?? {});
      checkFace(face, what, labels);
    }
  });
  return results;
}

function checkFace(face, what, labels) {
  need(isObject(face) && isObject(face.box), `${what}'s face`, "an object with a box", face);
  const { x, y, w, h } = face.box;
  need(isWhole(x, 0) && isWhole(y, 0) && isWhole(w, 1) && isWhole(h, 1), `${what}'s box`, "pixels", face.box);
  need(face.track_id == null || isWhole(face.track_id, 0), `${what}'s track_id`, "a number", face.track_id);
  need(isWhole(face.face_id, 0), `${what}'s face_id`, "a number", face.face_id);
  need(isShare(face.face_confidence), `${what}'s face_confidence`, "0 to 1", face.face_confidence);
  need(typeof face.uncertain === "boolean", `${what}'s uncertain`, "true or false", face.uncertain);
  const { flags } = face.quality ?? {};
  const areWords = Array.isArray(flags) && flags.every((flag) => typeof flag === "string");
  need(areWords, `${what}'s quality`, "an object with flags", face.quality);
  checkReading(face, what, labels);
  for (const kind of ["smoothed", "corrected"]) {
    if (face[kind] != null) checkReading(face[kind], `${what}'s ${kind}`, labels);
  }
}

function checkReading(reading, what, labels) {
  const { scores, emotion, confidence } = reading;
  const isRight = isObject(scores) && labels.length > 0
    && Object.keys(scores).length === labels.length
    && labels.every((label) => isShare(scores[label]));
  need(isRight, `${what}'s scores`, `0 to 1 for each of ${labels.join(", ")}`, scores);
  need(labels.includes(emotion), `${what}'s emotion`, labels.join(", "), emotion);
  need(isShare(confidence), `${what}'s confidence`, "0 to 1", confidence);
}
