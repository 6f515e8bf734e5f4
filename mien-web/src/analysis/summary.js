/** Per-person summary of a recording, and comparison of several recordings. */

import { applyBaseline } from "./baseline.js";
import { EMOTIONS, labelsOf } from "./emotions.js";
import { cells, hasCorrected, means, timeTotals } from "./markers.js";
import { round6 } from "./tables.js";
import { MEMORY_S } from "./tracker.js";

const WHOLE = [{ start: 0, end: Infinity }];

/**
 * Summarize each person: time visible, mean scores, shares of time and valence, as
 * `mien predict --events` does for an event as long as the video.
 *
 * @param {object[]} results frame results in order, with `track_id` in their faces.
 * @param {object} [options]
 * @param {string[]} [options.labels] the model's emotions; by default those of the faces.
 * @param {number} [options.gap] longest duration of a frame in seconds.
 * @returns {object[]} `track_id`, `start_s`, `end_s`, `seconds`, `frames`, `uncertain` (share of
 *   frames), `valence`, `scores`, `shares`, and `corrected` with the last three if the person has a
 *   baseline.
 */
export function summary(results, { labels = labelsOf(results), gap = MEMORY_S } = {}) {
  const [totals] = timeTotals(results, WHOLE, { gap });
  const appearances = appearancesOf(results);
  const ids = [...totals.keys()].filter((id) => id !== null);
  return ids.sort((a, b) => a - b).map((id) => {
    const total = totals.get(id);
    const { start, end, frames, uncertain } = appearances.get(id);
    const corrected = means(total.corrected, labels);
    return {
      track_id: id,
      start_s: start,
      end_s: end,
      seconds: total.raw.seconds,
      frames: total.frames,
      uncertain: uncertain / frames,
      ...means(total.raw, labels),
      ...(corrected === null ? {} : { corrected }),
    };
  });
}

/** First and last time of each person, and the numbers of their faces and uncertain ones. */
function appearancesOf(results) {
  const appearances = new Map();
  for (const { time_s: time, faces } of results) {
    for (const face of faces) {
      if (face.track_id == null) continue;
      const person = appearances.get(face.track_id) ?? { start: time, end: time, frames: 0, uncertain: 0 };
      person.end = time;
      person.frames += 1;
      person.uncertain += face.uncertain ? 1 : 0;
      appearances.set(face.track_id, person);
    }
  }
  return appearances;
}

/**
 * Build a table with one row per session, as `mien predict --compare` does.
 *
 * @param {{name: string, results: object[], baseline?: object | null}[]} sessions
 * @param {object} [options]
 * @param {string[]} [options.labels] the emotions of the table; by default those of all sessions.
 * @param {number} [options.gap] longest duration of a frame in seconds.
 * @returns {Record<string, string | number | null>[]} with the keys `source`, `people`, `seconds`,
 *   `frames`, `valence`, one per emotion, `share_…` of each, and `corrected_…` if any session has a
 *   baseline. An emotion that a session's model does not have is null in its row.
 */
export function compare(sessions, { labels, gap = MEMORY_S } = {}) {
  const corrected = sessions.map(({ results, baseline }) => (baseline == null ? results : applyBaseline(results, baseline)));
  const withFaces = corrected.filter((results) => results.some((result) => result.faces.length > 0));
  const names = labels ?? (withFaces.length > 0 ? [...new Set(withFaces.flatMap((results) => labelsOf(results)))] : EMOTIONS);
  const isCorrected = corrected.some(hasCorrected);
  return sessions.map(({ name }, index) => {
    const results = corrected[index];
    const [totals] = timeTotals(results, WHOLE, { gap, byPerson: false });
    const none = { seconds: 0, sums: {}, shares: {} };
    const all = totals.get(null);
    const faces = results.flatMap((result) => (result.error == null ? result.faces : []));
    const tracks = new Set(faces.filter((face) => face.smoothed != null).map((face) => face.track_id));
    return {
      source: name,
      people: tracks.size,
      seconds: round6(all?.raw.seconds ?? 0),
      frames: results.filter((result) => result.error == null && result.time_s != null).length,
      ...cells(all?.raw ?? none, names),
      ...(isCorrected ? cells(all?.corrected ?? none, names, "corrected_") : {}),
    };
  });
}
