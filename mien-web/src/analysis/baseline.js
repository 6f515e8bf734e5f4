/**
 * Baseline correction: scores relative to how a person's own face reads when it is neutral. A constant
 * shift of the log scores maps their geometric mean at rest to a neutral face. Port of
 * mien/video/tracker.py.
 */

import { likeliest } from "./emotions.js";

const NEUTRAL_SHARE = 0.76; // target score of neutral at rest
const ADDED_SHARE = 0.01; // added to scores before the logarithm: ratios of smaller scores are noise
const NEUTRAL_NAMES = ["neutral", "calm", "neutrality"];

const log = (share) => Math.log(share + ADDED_SHARE);

/** Target scores of a face at rest. */
function neutralScores(labels) {
  const normalized = labels.map((label) => label.normalize("NFC").trim().toLowerCase());
  const neutral = NEUTRAL_NAMES.map((name) => normalized.indexOf(name)).find((index) => index >= 0);
  if (neutral === undefined || labels.length < 2) {
    throw new Error(`a baseline needs a model with neutral and other classes, got ${labels.join(", ")}`);
  }
  const rest = (1 - NEUTRAL_SHARE) / (labels.length - 1);
  return Object.fromEntries(labels.map((label, index) => [label, index === neutral ? NEUTRAL_SHARE : rest]));
}

/** Shift of each label's log score that maps a person's scores at rest to the target. */
function shiftToNeutral(samples) {
  const target = neutralScores(Object.keys(samples[0]));
  return Object.fromEntries(Object.entries(target).map(([label, share]) => {
    const sum = samples.reduce((total, scores) => total + log(scores[label]), 0);
    return [label, log(share) - sum / samples.length];
  }));
}

/**
 * Measure how each person's face reads at rest.
 *
 * @param {object[]} results frame results in order, with `track_id` in their faces.
 * @param {object} span time in which faces are neutral.
 * @param {number} span.start in seconds.
 * @param {number} span.end in seconds, exclusive.
 * @param {number} [span.track] track id of one person; everyone by default.
 * @returns {{start_s: number, end_s: number, frames: Record<string, number>,
 *   shifts: Record<string, Record<string, number>>}} `frames` and `shifts` by track id.
 * @throws {Error} if no face was seen in the span, or the model has no class neutral.
 */
export function measureBaseline(results, { start, end, track }) {
  if (!(end > start)) throw new Error(`expected an end after the start (${start} s), got ${end}`);
  const samples = new Map(); // track id → scores
  for (const { error, time_s: time, faces } of results) {
    if (error != null || time >= end) break;
    if (time < start) continue;
    for (const face of faces) {
      if (face.track_id == null || (track !== undefined && face.track_id !== track)) continue;
      if (!samples.has(face.track_id)) samples.set(face.track_id, []);
      samples.get(face.track_id).push(face.scores);
    }
  }
  if (samples.size === 0) {
    const who = track === undefined ? "no face is" : `person ${track} is not`;
    throw new Error(`${who} seen from ${start} to ${end} s: expected a span with a neutral face`);
  }
  return {
    start_s: start,
    end_s: end,
    frames: Object.fromEntries([...samples].map(([id, scores]) => [id, scores.length])),
    shifts: Object.fromEntries([...samples].map(([id, scores]) => [id, shiftToNeutral(scores)])),
  };
}

/**
 * Correct the scores of one face by its person's baseline.
 *
 * @param {Record<string, number>} scores
 * @param {{shifts: Record<string, Record<string, number>>}} baseline
 * @param {number} [track] track id; by default that of the baseline's only person.
 * @returns {Record<string, number>} corrected scores; `scores` itself if the person has no baseline.
 */
export function correct(scores, baseline, track) {
  const { shifts } = baseline;
  const known = Object.keys(shifts);
  const id = track ?? (known.length === 1 ? known[0] : undefined);
  if (id === undefined || !Object.hasOwn(shifts, id)) return scores;
  const shift = shifts[id];
  const powers = Object.entries(scores).map(([label, score]) => [label, Math.exp(log(score) + shift[label])]);
  const total = powers.reduce((sum, [, power]) => sum + power, 0);
  return Object.fromEntries(powers.map(([label, power]) => [label, power / total]));
}

/**
 * Add `corrected` to the faces of people who have a baseline, and remove it from all others.
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
