/** Baseline measurement with the camera: a countdown, then some seconds with the face at rest. */

import { measureBaseline } from "../../mien-web/analysis/index.js";

const COUNTDOWN_S = 3;
const REST_S = 3;

/**
 * Start the countdown.
 *
 * @param {object} options
 * @param {(seconds: number) => void} options.onCount receives the remaining seconds, 0 when measuring starts
 * @param {(baseline: object|null) => void} options.onDone receives null if no face was seen
 * @returns {{add: (result: object) => void, remaining: () => number, cancel: () => void}} `add` must be
 *   called with each result
 */
export function measureAtRest({ onCount, onDone }) {
  let remaining = COUNTDOWN_S;
  let results = [];
  onCount(remaining);
  const timer = setInterval(() => {
    remaining -= 1;
    onCount(remaining);
    if (remaining === 0) clearInterval(timer);
  }, 1000);

  function add(result) {
    if (remaining > 0) return;
    results.push(result);
    const start = results[0].time_s;
    if (result.time_s - start >= REST_S) finish(start, result.time_s);
  }

  function finish(start, end) {
    let baseline = null;
    try {
      baseline = measureBaseline(results, { start, end });
    } catch {
      // No face was seen.
    }
    results = [];
    onDone(baseline);
  }

  return { add, remaining: () => remaining, cancel: () => clearInterval(timer) };
}
