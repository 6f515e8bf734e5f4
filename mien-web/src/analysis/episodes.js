/** What each person of a video felt from when to when; a port of mien/video/summary.py. */

import { MEMORY_S } from "./tracker.js";

/**
 * Stretches of time in which a person's smoothed scores say the same emotion.
 *
 * An episode ends where the next one begins, or one frame after the person was last seen.
 *
 * @param {object[]} results of frames, in order, with `track_id` and `smoothed` in their faces.
 * @param {object} [options]
 * @param {number} [options.gap] how long, in seconds, a person may be unseen within one episode.
 * @returns {{track_id: number, start_s: number, end_s: number, emotion: string,
 *   confidence: number, peak: number, frames: number}[]} by people, then in order; `confidence` is
 *   the mean of the emotion's smoothed score, `peak` its largest.
 */
export function episodes(results, { gap = MEMORY_S } = {}) {
  const tracks = new Map();
  let last = null;
  let tick = 0;
  for (const { error, time_s: time, faces } of results) {
    if (error != null || time == null) continue;
    if (last !== null && time > last && time - last <= gap) tick = time - last;
    last = time;
    for (const face of faces) {
      if (face.track_id != null && face.smoothed != null) addFace(tracks, time, face, gap, tick);
    }
  }
  const numbers = [...tracks.keys()].sort((one, other) => one - other);
  return numbers.flatMap((number) => {
    const track = tracks.get(number);
    return [...track.past, present(number, track, track.last + tick)];
  });
}

/**
 * Everybody, by number, with their episodes, as the JSON of `mien predict VIDEO` lists them.
 *
 * @param {object[]} results as for `episodes`.
 * @param {object} [options] as for `episodes`.
 */
export function people(results, options) {
  const found = new Map();
  for (const { track_id: number, ...episode } of episodes(results, options)) {
    if (!found.has(number)) found.set(number, []);
    found.get(number).push(episode);
  }
  return [...found].map(([number, theirs]) => ({
    track_id: number,
    frames: theirs.reduce((sum, episode) => sum + episode.frames, 0),
    start_s: theirs[0].start_s,
    end_s: theirs[theirs.length - 1].end_s,
    episodes: theirs,
  }));
}

function addFace(tracks, time, face, gap, tick) {
  const { emotion, confidence } = face.smoothed;
  const fresh = { start: time, last: time, emotion, total: 0, peak: 0, frames: 0 };
  let track = tracks.get(face.track_id);
  if (track === undefined) {
    track = { ...fresh, past: [] };
    tracks.set(face.track_id, track);
  }
  const lost = time - track.last > gap;
  if (lost || track.emotion !== emotion) {
    track.past.push(present(face.track_id, track, lost ? track.last + tick : time));
    Object.assign(track, fresh);
  }
  track.last = time;
  track.total += confidence;
  track.peak = Math.max(track.peak, confidence);
  track.frames += 1;
}

function present(number, track, end) {
  return {
    track_id: number,
    start_s: track.start,
    end_s: end,
    emotion: track.emotion,
    confidence: track.total / track.frames,
    peak: track.peak,
    frames: track.frames,
  };
}
