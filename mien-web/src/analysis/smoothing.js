/** Smoothed scores, and the tracker that gives frames both: mien/video/tracker.py, analysis.py. */

import { likeliest } from "./emotions.js";
import { CutFinder, Tracker, memoryFor } from "./tracker.js";

/** Seconds in which a change of expression has come through by 63 %. */
export const SMOOTHING_S = 0.5;

/**
 * Exponential smoothing of each person's scores, by the time that has passed: what was seen t
 * seconds ago counts exp(-t / constant), whatever the frame rate.
 */
export class Smoother {
  #constant;
  #people = new Map();

  /** @param {number} [constant] the time constant in seconds, 0 for none. */
  constructor(constant = SMOOTHING_S) {
    if (!(Number.isFinite(constant) && constant >= 0)) {
      throw new Error(`expected smoothing over 0 seconds or more, got ${constant}`);
    }
    this.#constant = constant;
  }

  /**
   * Take a person's scores at a moment and return the smoothed ones.
   *
   * @param {number} time
   * @param {number} track
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

  /** Forget people last seen before this moment. */
  forgetBefore(time) {
    for (const [track, known] of this.#people) {
      if (known.time < time) this.#people.delete(track);
    }
  }
}

/**
 * Gives the faces of frames, in order, their person's number and smoothed scores, as
 * `mien predict VIDEO` does by default.
 *
 * @param {object} [options]
 * @param {number | null} [options.every] seconds between two frames that are looked at, where some
 *   are left out.
 * @param {number} [options.smooth] the time constant of smoothing in seconds, 0 for none.
 */
export function createTracker({ every = null, smooth = SMOOTHING_S } = {}) {
  const memory = memoryFor(every);
  const tracker = new Tracker(memory);
  const smoother = new Smoother(smooth);
  const cuts = new CutFinder();
  let size = null;

  return {
    /**
     * The result with `track_id` and `smoothed` in its faces; one of no frame is returned as it is.
     *
     * @param {object} result with `time_s`, later than the last one's.
     * @param {ImageData} [pixels] the frame, for cuts to be found: nobody keeps a number over one.
     */
    update(result, pixels) {
      if (result.error != null) return result;
      if (!Number.isFinite(result.time_s)) {
        throw new Error("expected a frame's result with time_s, got one without");
      }
      if (pixels !== undefined && cuts.isCut(result.time_s, pixels)) tracker.forget();
      if (size !== null && (result.width !== size[0] || result.height !== size[1])) {
        tracker.rescale(result.width / size[0], result.height / size[1]);
      }
      size = [result.width, result.height];
      const numbers = tracker.update(result.time_s, result.faces.map((face) => face.box));
      const faces = result.faces.map((face, index) => ({
        ...face,
        track_id: numbers[index],
        smoothed: smoother.update(result.time_s, numbers[index], face.scores),
      }));
      smoother.forgetBefore(result.time_s - memory);
      return { ...result, faces };
    },

    /** Give everybody a new number from here on, as at a cut. */
    forget() {
      tracker.forget();
    },
  };
}
