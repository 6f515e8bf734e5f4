/** Episodes: stretches of time in which a person shows one emotion. Port of mien/video/summary.py. */

import { MEMORY_S } from "./tracker.js";

/**
 * Find the stretches of time in which a person's smoothed scores are led by the same emotion.
 *
 * An episode ends where the next one begins, or one frame after the person was last seen.
 *
 * @param {object[]} results frame results in order, with `track_id` and `smoothed` in their faces.
 * @param {object} [options]
 * @param {number} [options.gap] longest absence within an episode, in seconds.
 * @returns {{track_id: number, start_s: number, end_s: number, emotion: string,
 *   confidence: number, peak: number, frames: number}[]} sorted by person, then time; `confidence` is
 *   the mean of the emotion's smoothed score, `peak` its maximum.
 */
export function episodes(results, { gap = MEMORY_S } = {}) {
  const tracks = new Map();
  let last = null;
  let step = 0;
  for (const { error, time_s: time, faces } of results) {
    if (error != null || time == null) continue;
    if (last !== null && time > last && time - last <= gap) step = time - last;
    last = time;
    for (const face of faces) {
      if (face.track_id != null && face.smoothed != null) addFace(tracks, time, face, gap, step);
    }
  }
  return [...tracks].sort(([a], [b]) => a - b).flatMap(([id, track]) => [...track.past, toEpisode(id, track, track.last + step)]);
}

/**
 * List all people with their episodes, as the JSON of `mien predict VIDEO` does.
 *
 * @param {object[]} results as for `episodes`.
 * @param {object} [options] as for `episodes`.
 */
export function people(results, options) {
  const byTrack = new Map();
  for (const { track_id: id, ...episode } of episodes(results, options)) {
    if (!byTrack.has(id)) byTrack.set(id, []);
    byTrack.get(id).push(episode);
  }
  return [...byTrack].map(([id, list]) => ({
    track_id: id,
    frames: list.reduce((sum, episode) => sum + episode.frames, 0),
    start_s: list[0].start_s,
    end_s: list.at(-1).end_s,
    episodes: list,
  }));
}

function addFace(tracks, time, face, gap, step) {
  const { emotion, confidence } = face.smoothed;
  const fresh = { start: time, last: time, emotion, total: 0, peak: 0, frames: 0 };
  let track = tracks.get(face.track_id);
  if (track === undefined) {
    track = { ...fresh, past: [] };
    tracks.set(face.track_id, track);
  }
  const lost = time - track.last > gap;
  if (lost || track.emotion !== emotion) {
    track.past.push(toEpisode(face.track_id, track, lost ? track.last + step : time));
    Object.assign(track, fresh);
  }
  track.last = time;
  track.total += confidence;
  track.peak = Math.max(track.peak, confidence);
  track.frames += 1;
}

function toEpisode(id, track, end) {
  return {
    track_id: id,
    start_s: track.start,
    end_s: end,
    emotion: track.emotion,
    confidence: track.total / track.frames,
    peak: track.peak,
    frames: track.frames,
  };
}
