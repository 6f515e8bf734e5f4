/** Saved sessions: the results of a recording with its markers and baseline, as one JSON file. */

import { labelsOf } from "./emotions.js";
import { round6 } from "./tables.js";

/** Name and version of the file format; changes with every incompatible change. */
export const SESSION_SCHEMA = "mien-session/1";

const VIDEO_SCHEMA = "mien-video/1"; // format of `mien predict VIDEO --output FILE.json`
const RESULT_SCHEMA = "mien/1";
const MAX_TIME_S = 1e9; // thirty years, as in mien.video.frames
const MAX_SHIFT = 10; // of log scores; scores of 0 and 1 give at most 5
const STATUSES = ["ok", "no_face", "unreadable", "error"];

/**
 * Serialize a session as JSON, one result per line; scores have six decimals.
 *
 * @param {object} session `name`, `created` (ISO 8601), `labels`, `model`, `markers`, `baseline`,
 *   `results`.
 */
export function toJson(session) {
  const { name, created, labels, model, markers = [], baseline = null, results } = session;
  const head = { schema: SESSION_SCHEMA, name, created, labels, model, markers, baseline };
  const lines = results.map((result) => JSON.stringify(rounded(result)));
  return `${JSON.stringify(head).slice(0, -1)},"results":[\n${lines.join(",\n")}\n]}\n`;
}

/** A result with its numbers rounded as in mien's JSON. */
function rounded(result) {
  const round = (reading) => ({
    emotion: reading.emotion,
    confidence: round6(reading.confidence),
    scores: Object.fromEntries(Object.entries(reading.scores).map(([label, score]) => [label, round6(score)])),
  });
  return {
    ...result,
    time_s: result.time_s == null ? null : round6(result.time_s),
    faces: result.faces.map((face) => ({
      ...face,
      ...round(face),
      ...(face.smoothed == null ? {} : { smoothed: round(face.smoothed) }),
      ...(face.corrected == null ? {} : { corrected: round(face.corrected) }),
    })),
  };
}

/**
 * Parse a session: the output of `toJson`, or the JSON that `mien predict VIDEO` writes.
 *
 * @param {string} text
 * @returns {object} the argument of `toJson`.
 * @throws {Error} with a one-line message that says what is wrong with the file.
 */
export function fromJson(text) {
  let content;
  try {
    content = JSON.parse(text);
  } catch {
    throw new Error("this is not a saved session: expected JSON, but the file is damaged or of another type");
  }
  const schema = isObject(content) ? content.schema : undefined;
  if (schema === VIDEO_SCHEMA) return fromVideo(content);
  if (schema !== SESSION_SCHEMA) {
    const isLater = typeof schema === "string" && /^mien-(session|video)\//.test(schema);
    throw new Error(isLater
      ? `this session was saved by a newer version of mien: expected ${SESSION_SCHEMA}, got ${schema}`
      : `this is not a saved session: expected "schema": "${SESSION_SCHEMA}", got ${excerpt(schema)}`);
  }
  const session = {
    name: textOf(content, "name"),
    created: textOf(content, "created"),
    labels: textOf(content, "labels"),
    model: checkModel(content.model),
    markers: listOf(content, "markers").map(checkMarker),
    results: checkResults(listOf(content, "results")),
  };
  return { ...session, baseline: checkBaseline(content.baseline ?? null, labelsOf(session.results)) };
}

function fromVideo(content) {
  const results = checkResults(listOf(content, "frames"));
  const first = results[0] ?? {};
  return {
    name: textOf(content, "source"),
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
const isScore = (value) => Number.isFinite(value) && value >= 0 && value <= 1;
const isTime = (value) => Number.isFinite(value) && value >= 0 && value <= MAX_TIME_S;
const isInteger = (value, min) => Number.isInteger(value) && value >= min && value < 2 ** 31;
const isShift = (value) => Number.isFinite(value) && Math.abs(value) <= MAX_SHIFT;
const isTextOrNull = (value) => value == null || typeof value === "string";

function excerpt(value) {
  const text = JSON.stringify(value) ?? "nothing";
  return text.length > 40 ? `${text.slice(0, 40)}…` : text;
}

function check(isValid, what, expected, value) {
  if (!isValid) throw new Error(`the session is damaged: expected ${what} as ${expected}, got ${excerpt(value)}`);
}

function textOf(content, key) {
  check(typeof content[key] === "string", key, "text", content[key]);
  return content[key];
}

function listOf(content, key) {
  check(Array.isArray(content[key]), key, "a list", content[key]);
  return content[key];
}

function checkModel(model) {
  if (model === null || model === undefined) return null;
  const isValid = isObject(model) && ["name", "version", "sha256"].every((key) => typeof model[key] === "string");
  check(isValid, "model", "name, version and sha256", model);
  return model;
}

function checkMarker(marker, index) {
  const what = `marker ${index + 1}`;
  check(isObject(marker) && typeof marker.label === "string", what, "start, end and label", marker);
  check(isTime(marker.start), `${what}'s start`, "seconds", marker.start);
  const { end } = marker;
  check(end === null || (isTime(end) && end >= marker.start), `${what}'s end`, "seconds after it", end);
  return marker;
}

function checkBaseline(baseline, labels) {
  if (baseline === null) return null;
  const isValid = isObject(baseline) && isTime(baseline.start_s) && isTime(baseline.end_s)
    && isObject(baseline.shifts)
    && Object.values(baseline.shifts).every((shift) => (
      isObject(shift) && labels.every((label) => isShift(shift[label]))
    ));
  check(isValid, "baseline", "start_s, end_s, and shifts of each label", baseline);
  return baseline;
}

function checkResults(results) {
  let last = 0;
  let labels = null;
  results.forEach((result, index) => {
    const what = `result ${index + 1}`;
    check(isObject(result) && result.schema === RESULT_SCHEMA, what, RESULT_SCHEMA, result?.schema);
    check(STATUSES.includes(result.status), `${what}'s status`, STATUSES.join(", "), result.status);
    check(isTextOrNull(result.source), `${what}'s source`, "text", result.source);
    check(isTextOrNull(result.labels), `${what}'s labels`, "text", result.labels);
    check(result.frame == null || isInteger(result.frame, 0), `${what}'s frame`, "a number", result.frame);
    checkModel(result.model);
    check(Array.isArray(result.faces), `${what}'s faces`, "a list", result.faces);
    check((result.status === "ok") === (result.faces.length > 0), what, "ok exactly with faces", result.status);
    if (result.status === "unreadable" || result.status === "error") {
      check(typeof result.error === "string", `${what}'s error`, "text", result.error);
      return;
    }
    check(result.error == null, `${what}'s error`, "absent", result.error);
    check(isTime(result.time_s) && result.time_s >= last, `${what}'s time_s`, `${last} or later`, result.time_s);
    check(isInteger(result.width, 1) && isInteger(result.height, 1), `${what}'s size`, "pixels", result.width);
    last = result.time_s;
    for (const face of result.faces) {
      labels ??= Object.keys(face?.scores ?? {});
      checkFace(face, what, labels);
    }
  });
  return results;
}

function checkFace(face, what, labels) {
  check(isObject(face) && isObject(face.box), `${what}'s face`, "an object with a box", face);
  const { x, y, w, h } = face.box;
  check(isInteger(x, 0) && isInteger(y, 0) && isInteger(w, 1) && isInteger(h, 1), `${what}'s box`, "pixels", face.box);
  check(face.track_id == null || isInteger(face.track_id, 0), `${what}'s track_id`, "a number", face.track_id);
  check(isInteger(face.face_id, 0), `${what}'s face_id`, "a number", face.face_id);
  check(isScore(face.face_confidence), `${what}'s face_confidence`, "0 to 1", face.face_confidence);
  check(typeof face.uncertain === "boolean", `${what}'s uncertain`, "true or false", face.uncertain);
  const { flags } = face.quality ?? {};
  const isTextList = Array.isArray(flags) && flags.every((flag) => typeof flag === "string");
  check(isTextList, `${what}'s quality`, "an object with flags", face.quality);
  checkReading(face, what, labels);
  for (const kind of ["smoothed", "corrected"]) {
    if (face[kind] != null) checkReading(face[kind], `${what}'s ${kind}`, labels);
  }
}

function checkReading(reading, what, labels) {
  const { scores, emotion, confidence } = reading;
  const isValid = isObject(scores) && labels.length > 0
    && Object.keys(scores).length === labels.length
    && labels.every((label) => isScore(scores[label]));
  check(isValid, `${what}'s scores`, `0 to 1 for each of ${labels.join(", ")}`, scores);
  check(labels.includes(emotion), `${what}'s emotion`, labels.join(", "), emotion);
  check(isScore(confidence), `${what}'s confidence`, "0 to 1", confidence);
}
