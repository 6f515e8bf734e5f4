/** What a person's face said over all of a video, and several videos beside one another. */

import { applyBaseline } from "./baseline.js";
import { EMOTIONS, labelsOf } from "./emotions.js";
import { cells, hasCorrected, means, timeTotals } from "./markers.js";
import { round6 } from "./tables.js";
import { MEMORY_S } from "./tracker.js";

const WHOLE = [{ start: 0, end: Infinity }];

/**
 * Everybody, by number: how long each was seen, and mean scores, shares of time and valence over it,
 * as `mien predict --events` has them for an event that lasts as long as the video.
 *
 * @param {object[]} results of frames, in order, with `track_id` in their faces.
 * @param {object} [options]
 * @param {string[]} [options.labels] the model's emotions; those of the faces unless given.
 * @param {number} [options.gap] a frame lasts until the next one, but no longer, in seconds.
 * @returns {object[]} `track_id`, `start_s`, `end_s`, `seconds`, `frames`, `uncertain` (share of
 *   frames), `valence`, `scores`, `shares`, and `corrected` with the last three where there is a
 *   baseline.
 */
export function summary(results, { labels = labelsOf(results), gap = MEMORY_S } = {}) {
  const [totals] = timeTotals(results, WHOLE, { gap });
  const seen = moments(results);
  const numbers = [...totals.keys()].filter((number) => number !== null);
  return numbers.sort((one, other) => one - other).map((number) => {
    const found = totals.get(number);
    const { start, end, frames, uncertain } = seen.get(number);
    const corrected = means(found.corrected, labels);
    return {
      track_id: number,
      start_s: start,
      end_s: end,
      seconds: found.raw.seconds,
      frames: found.frames,
      uncertain: uncertain / frames,
      ...means(found.raw, labels),
      ...(corrected === null ? {} : { corrected }),
    };
  });
}

/** When each person was first and last seen, and how many of their faces are uncertain. */
function moments(results) {
  const seen = new Map();
  for (const { time_s: time, faces } of results) {
    for (const face of faces) {
      if (face.track_id == null) continue;
      const one = seen.get(face.track_id) ?? { start: time, end: time, frames: 0, uncertain: 0 };
      one.end = time;
      one.frames += 1;
      one.uncertain += face.uncertain ? 1 : 0;
      seen.set(face.track_id, one);
    }
  }
  return seen;
}

/**
 * A row for each session, as the table of `mien predict --compare`.
 *
 * @param {{name: string, results: object[], baseline?: object | null}[]} sessions
 * @param {object} [options]
 * @param {string[]} [options.labels] the emotions of the table; by default those of all sessions.
 * @param {number} [options.gap] as for `summary`.
 * @returns {Record<string, string | number | null>[]} with the keys `source`, `people`, `seconds`,
 *   `frames`, `valence`, one per emotion, `share_…` of each, and `corrected_…` if any session has a
 *   baseline. An emotion that a session's model does not have is null in its row.
 */
export function compare(sessions, { labels, gap = MEMORY_S } = {}) {
  const read = sessions.map(({ results, baseline }) => (
    baseline == null ? results : applyBaseline(results, baseline)
  ));
  const withFaces = read.filter((results) => results.some((result) => result.faces.length > 0));
  const names = labels ?? (withFaces.length > 0 ? [...new Set(withFaces.flatMap((results) => labelsOf(results)))] : EMOTIONS);
  const corrected = read.some(hasCorrected);
  return sessions.map(({ name }, index) => {
    const results = read[index];
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
      ...(corrected ? cells(all?.corrected ?? none, names, "corrected_") : {}),
    };
  });
}
