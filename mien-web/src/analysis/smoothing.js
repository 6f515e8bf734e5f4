/** Temporal smoothing of scores, and tracking with smoothing. Port of mien/video/tracker.py and analysis.py. */

import { likeliest } from "./emotions.js";
import { CutFinder, Tracker, memoryFor } from "./tracker.js";

/** Default time constant in seconds: a change of expression has come through by 63 % after it. */
export const SMOOTHING_S = 0.5;

/**
 * Exponential smoothing of each person's scores by elapsed time: scores from t seconds ago have the
 * weight exp(-t / constant), independent of the frame rate.
 */
export class Smoother {
  #constant;
  #people = new Map();

  /** @param {number} [constant] time constant in seconds, 0 for no smoothing. */
  constructor(constant = SMOOTHING_S) {
    if (!(Number.isFinite(constant) && constant >= 0)) {
      throw new Error(`expected smoothing over 0 seconds or more, got ${constant}`);
    }
    this.#constant = constant;
  }

  /**
   * Add a person's scores and return the smoothed reading.
   *
   * @param {number} time in seconds.
   * @param {number} track track id.
   * @param {Record<string, number>} scores
   */
  update(time, track, scores) {
    const last = this.#people.get(track);
    let mean = { ...scores };
    if (last !== undefined && this.#constant > 0) {
      const share = 1 - Math.exp(-Math.max(0, time - last.time) / this.#constant);
      mean = Object.fromEntries(
        Object.entries(last.mean).map(([name, old]) => [name, old + share * (scores[name] - old)]),
      );
    }
    this.#people.set(track, { time, mean });
    return likeliest(mean);
  }

  /** Drop people last seen before a time in seconds. */
  forgetBefore(time) {
    for (const [track, last] of this.#people) {
      if (last.time < time) this.#people.delete(track);
    }
  }
}

/**
 * Create a tracker that adds track ids and smoothed scores to the faces of consecutive frames, as
 * `mien predict VIDEO` does by default.
 *
 * @param {object} [options]
 * @param {number | null} [options.every] seconds between analysed frames, if frames are skipped.
 * @param {number} [options.smooth] time constant of the smoothing in seconds, 0 for no smoothing.
 */
export function createTracker({ every = null, smooth = SMOOTHING_S } = {}) {
  const memory = memoryFor(every);
  const tracker = new Tracker(memory);
  const smoother = new Smoother(smooth);
  const cuts = new CutFinder();
  let size = null;

  return {
    /**
     * Return the result with `track_id` and `smoothed` in its faces; a result with an error is
     * returned unchanged.
     *
     * @param {object} result with a `time_s` later than the previous one.
     * @param {ImageData} [pixels] of the frame, for cut detection: track ids end at a cut.
     */
    update(result, pixels) {
      if (result.error != null) return result;
      if (!Number.isFinite(result.time_s)) {
        throw new Error("expected a frame result with time_s, got one without");
      }
      if (pixels !== undefined && cuts.isCut(result.time_s, pixels)) tracker.forget();
      if (size !== null && (result.width !== size[0] || result.height !== size[1])) {
        tracker.rescale(result.width / size[0], result.height / size[1]);
      }
      size = [result.width, result.height];
      const ids = tracker.update(result.time_s, result.faces.map((face) => face.box));
      const faces = result.faces.map((face, index) => ({
        ...face,
        track_id: ids[index],
        smoothed: smoother.update(result.time_s, ids[index], face.scores),
      }));
      smoother.forgetBefore(result.time_s - memory);
      return { ...result, faces };
    },

    /** Start new tracks with the next frame, as after a cut. */
    forget() {
      tracker.forget();
    },
  };
}
