/**
 * A person's baseline: scores corrected by how their own face reads when it is neutral. A constant
 * shift of log scores takes the geometric mean at rest to a neutral face; mien/video/tracker.py.
 */

import { likeliest } from "./emotions.js";

const NEUTRAL_SHARE = 0.76; // the score of neutral that a baseline is taken to
const ADDED_SHARE = 0.01; // below that, ratios are those of noise
const NEUTRAL_NAMES = ["neutral", "calm", "neutrality"];

const log = (share) => Math.log(share + ADDED_SHARE);

/** The scores that a baseline is taken to. */
function neutralScores(labels) {
  const plain = labels.map((label) => label.normalize("NFC").trim().toLowerCase());
  const neutral = NEUTRAL_NAMES.map((name) => plain.indexOf(name)).find((at) => at >= 0);
  if (neutral === undefined || labels.length < 2) {
    throw new Error(
      `a baseline needs a model with the class neutral and others: this one has ${labels.join(", ")}`,
    );
  }
  const rest = (1 - NEUTRAL_SHARE) / (labels.length - 1);
  return Object.fromEntries(labels.map((label, at) => [label, at === neutral ? NEUTRAL_SHARE : rest]));
}

/** What to add to each label's log score, from a person's scores at rest, one or more. */
function shiftToNeutral(seen) {
  const target = neutralScores(Object.keys(seen[0]));
  return Object.fromEntries(Object.entries(target).map(([label, share]) => {
    const sum = seen.reduce((total, scores) => total + log(scores[label]), 0);
    return [label, log(share) - sum / seen.length];
  }));
}

/**
 * Measure how each person's face reads at rest.
 *
 * @param {object[]} results of frames, in order, with `track_id` in their faces.
 * @param {object} span
 * @param {number} span.start seconds, from which on everybody is neutral.
 * @param {number} span.end seconds, up to which (exclusive).
 * @param {number} [span.track] one person's number; everybody unless given.
 * @returns {{start_s: number, end_s: number, frames: Record<string, number>,
 *   shifts: Record<string, Record<string, number>>}} by person's number.
 */
export function measureBaseline(results, { start, end, track }) {
  if (!(end > start)) throw new Error(`expected an end after the start (${start} s), got ${end}`);
  const seen = new Map();
  for (const { error, time_s: time, faces } of results) {
    if (error != null || time >= end) break;
    if (time < start) continue;
    for (const face of faces) {
      if (face.track_id == null || (track !== undefined && face.track_id !== track)) continue;
      if (!seen.has(face.track_id)) seen.set(face.track_id, []);
      seen.get(face.track_id).push(face.scores);
    }
  }
  if (seen.size === 0) {
    const who = track === undefined ? "nobody is" : `person ${track} is not`;
    throw new Error(
      `${who} seen from ${start} to ${end} s: expected a span with a neutral face`,
    );
  }
  return {
    start_s: start,
    end_s: end,
    frames: Object.fromEntries([...seen].map(([number, each]) => [number, each.length])),
    shifts: Object.fromEntries([...seen].map(([number, each]) => [number, shiftToNeutral(each)])),
  };
}

/**
 * One face's scores, corrected by its person's baseline.
 *
 * @param {Record<string, number>} scores
 * @param {{shifts: Record<string, Record<string, number>>}} baseline
 * @param {number} [track] whose; the baseline's only person unless given.
 * @returns {Record<string, number>} the scores as they are where the person is not in the baseline.
 */
export function correct(scores, baseline, track) {
  const { shifts } = baseline;
  const known = Object.keys(shifts);
  const number = track ?? (known.length === 1 ? known[0] : undefined);
  if (number === undefined || !Object.hasOwn(shifts, number)) return scores;
  const shift = shifts[number];
  const powers = Object.entries(scores).map(([label, score]) => [
    label, Math.exp(log(score) + shift[label]),
  ]);
  const total = powers.reduce((sum, [, power]) => sum + power, 0);
  return Object.fromEntries(powers.map(([label, power]) => [label, power / total]));
}

/**
 * Results with `corrected` in the faces of those who were seen in the baseline, and in no others.
 *
 * @param {object[]} results
 * @param {{shifts: Record<string, Record<string, number>>}} baseline
 */
export function applyBaseline(results, baseline) {
  return results.map((result) => ({
    ...result,
    faces: result.faces.map(({ corrected, ...face }) => (
      face.track_id != null && Object.hasOwn(baseline.shifts, face.track_id)
        ? { ...face, corrected: likeliest(correct(face.scores, baseline, face.track_id)) }
        : face
    )),
  }));
}
