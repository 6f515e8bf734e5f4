/** A baseline from a camera: some seconds to get ready, some in which the face is at rest. */

import { measureBaseline } from "../../mien-web/analysis/index.js";

const COUNTDOWN_S = 3;
const REST_S = 3;

/**
 * Begin to count down.
 *
 * @param {object} options
 * @param {(left: number) => void} options.onCount seconds that are left, 0 when the face is to be at rest
 * @param {(baseline: object|null) => void} options.onDone null where nobody was seen
 * @returns {{take: (result: object) => void, left: () => number, cancel: () => void}} `take` is given
 *   each result as it comes; `left` is as in `onCount`
 */
export function measureAtRest({ onCount, onDone }) {
  let left = COUNTDOWN_S;
  let seen = [];
  onCount(left);
  const timer = setInterval(() => {
    left -= 1;
    onCount(left);
    if (left === 0) clearInterval(timer);
  }, 1000);

  function take(result) {
    if (left > 0) return;
    seen.push(result);
    const start = seen[0].time_s;
    if (result.time_s - start >= REST_S) done(start, result.time_s);
  }

  function done(start, end) {
    let baseline = null;
    try {
      baseline = measureBaseline(seen, { start, end });
    } catch {
      // Nobody was seen: there is none.
    }
    seen = [];
    onDone(baseline);
  }

  return { take, left: () => left, cancel: () => clearInterval(timer) };
}
