/**
 * Face tracking: each person keeps a track id over frames. Port of mien/video/tracker.py.
 *
 * Positions are extrapolated from position and speed; faces are assigned to tracks by distance and
 * size. All thresholds are in seconds, not frames.
 */

/** A face that was absent for longer than this, in seconds, gets a new track id. */
export const MEMORY_S = 1.0;

/** A face of the last frame keeps its track id over a gap of up to this long between frames, in seconds. */
export const STALL_S = 5.0;

const MEMORY_STEPS = 2.0;
// Largest distance from the predicted position, in face sizes: at first, and growth per second.
const REACH = 0.5;
const REACH_PER_SECOND = 1.5;
const MAX_REACH = 1.25;
const MAX_GROWTH = Math.log(2); // largest change of size: double or half
const SPEED_TIME_S = 0.2; // time constant of the smoothed speed
const MAX_AHEAD_S = 0.3; // longest extrapolation

/**
 * Seconds after which an absent face gets a new track id: `MEMORY_S`, or more if few frames are analysed.
 *
 * @param {number | null} [every] seconds between analysed frames.
 */
export function memoryFor(every) {
  return Math.max(MEMORY_S, MEMORY_STEPS * (every ?? 0));
}

/** Last position, size (pixels) and speed (pixels per second) of a face. */
class Track {
  constructor(id, time, { x, y, size }) {
    Object.assign(this, { id, time, x, y, size, speedX: 0, speedY: 0 });
  }

  /** Cost of assigning a face to this track; Infinity if it cannot be the same face. */
  cost(time, { x, y, size }) {
    const elapsed = time - this.time;
    const ahead = Math.min(elapsed, MAX_AHEAD_S);
    const pixels = Math.hypot(x - this.x - this.speedX * ahead, y - this.y - this.speedY * ahead);
    const distance = pixels / Math.sqrt(size * this.size);
    const growth = Math.abs(Math.log(size / this.size));
    const reach = Math.min(MAX_REACH, REACH + REACH_PER_SECOND * elapsed);
    return growth > MAX_GROWTH || distance > reach ? Infinity : distance + growth;
  }

  move(time, { x, y, size }) {
    const elapsed = time - this.time;
    if (elapsed > 0) {
      const weight = 1 - Math.exp(-elapsed / SPEED_TIME_S);
      this.speedX += weight * ((x - this.x) / elapsed - this.speedX);
      this.speedY += weight * ((y - this.y) / elapsed - this.speedY);
    }
    Object.assign(this, { time, x, y, size });
  }
}

/** Assigns track ids to the faces of consecutive frames. */
export class Tracker {
  #memory;
  #tracks = [];
  #next = 0;
  #last = -Infinity;

  /** @param {number} [memory] seconds after which an absent face gets a new track id. */
  constructor(memory = MEMORY_S) {
    this.#memory = memory;
  }

  /**
   * Assign track ids to the faces of the next frame; new faces get new ids.
   *
   * @param {number} time of the frame in seconds, later than the previous one.
   * @param {{x: number, y: number, w: number, h: number}[]} boxes in pixels of the upright image.
   * @returns {number[]} the track id of each box.
   */
  update(time, boxes) {
    this.#tracks = this.#tracks.filter((track) => this.#isCurrent(track, time));
    this.#last = time;
    const faces = boxes.map(({ x, y, w, h }) => ({ x: x + w / 2, y: y + h / 2, size: Math.sqrt(w * h) }));
    const costs = this.#tracks.map((track) => faces.map((face) => track.cost(time, face)));
    const assigned = new Map(assign(costs).map(([row, column]) => [column, this.#tracks[row]]));
    return faces.map((face, column) => {
      let track = assigned.get(column);
      if (track === undefined) {
        track = new Track(this.#next, time, face);
        this.#tracks.push(track);
        this.#next += 1;
      }
      track.move(time, face);
      return track.id;
    });
  }

  #isCurrent(track, time) {
    // A gap without frames (a slow machine or connection) is not an absence.
    const stall = track.time === this.#last ? STALL_S : 0;
    return time - track.time <= Math.max(this.#memory, stall);
  }

  /** Scale all tracks to frames of another size, by the ratios of width and height. */
  rescale(scaleX, scaleY) {
    for (const track of this.#tracks) {
      track.x *= scaleX;
      track.speedX *= scaleX;
      track.y *= scaleY;
      track.speedY *= scaleY;
      track.size *= Math.sqrt(scaleX * scaleY);
    }
  }

  /** Drop all tracks, as at a cut. */
  forget() {
    this.#tracks = [];
  }
}

// ---------------------------------------------------------------- assignment
/**
 * Assign rows to columns: as many allowed pairs as possible, at the lowest total cost.
 *
 * @param {number[][]} costs 0 or more, Infinity for pairs that are not allowed.
 * @returns {[number, number][]} [row, column] of each pair, by row.
 */
export function assign(costs) {
  if (costs.length === 0 || costs[0].length === 0) return [];
  const columns = costs[0].length;
  // Leaving a row unassigned costs more than all allowed pairs together, and a forbidden pair costs
  // even more, so the number of pairs is maximized first.
  const unassigned = 1 + costs.flat().filter(Number.isFinite).reduce((sum, cost) => sum + cost, 0);
  const square = costs.map((row) => [
    ...row.map((cost) => (Number.isFinite(cost) ? cost : 2 * unassigned)),
    ...costs.map(() => unassigned),
  ]);
  return hungarian(square)
    .map((column, row) => /** @type {[number, number]} */ ([row, column]))
    .filter(([row, column]) => column < columns && Number.isFinite(costs[row][column]));
}

/**
 * The Hungarian algorithm with shortest augmenting paths (Jonker and Volgenant, 1987), for tables
 * with at least as many columns as rows. Internally, row and column 0 stand for "none".
 *
 * @returns {number[]} the column of each row.
 */
function hungarian(costs) {
  const rows = costs.length;
  const columns = costs[0].length;
  const rowPrice = new Float64Array(rows + 1);
  const columnPrice = new Float64Array(columns + 1);
  const owner = new Int32Array(columns + 1);
  for (let row = 1; row <= rows; row += 1) {
    owner[0] = row;
    let column = 0;
    const reach = new Float64Array(columns + 1).fill(Infinity);
    const cameFrom = new Int32Array(columns + 1);
    const done = new Uint8Array(columns + 1);
    while (owner[column] !== 0) {
      done[column] = 1;
      const at = owner[column];
      let nearest = -1;
      for (let next = 1; next <= columns; next += 1) {
        if (done[next]) continue;
        const step = costs[at - 1][next - 1] - rowPrice[at] - columnPrice[next];
        if (step < reach[next]) {
          reach[next] = step;
          cameFrom[next] = column;
        }
        if (nearest < 0 || reach[next] < reach[nearest]) nearest = next;
      }
      const step = reach[nearest];
      for (let index = 0; index <= columns; index += 1) {
        if (done[index]) {
          rowPrice[owner[index]] += step;
          columnPrice[index] -= step;
        } else {
          reach[index] -= step;
        }
      }
      column = nearest;
    }
    while (column !== 0) { // shift the assignments along the path, from its end to its start
      owner[column] = owner[cameFrom[column]];
      column = cameFrom[column];
    }
  }
  const chosen = new Array(rows);
  for (let column = 1; column <= columns; column += 1) {
    if (owner[column] !== 0) chosen[owner[column] - 1] = column - 1;
  }
  return chosen;
}

// ---------------------------------------------------------------- cuts
const CUT_GRID = 16;
const CUT_LEVELS = 32; // mean absolute difference of grey levels
const CUT_WITHIN_S = 0.25; // frames further apart differ that much without a cut

/** Cut detection by the change between consecutive frames. */
export class CutFinder {
  #last = null;
  #time = 0;

  /**
   * Return true if there is a cut between the previous frame and this one; always false if they are
   * more than a quarter of a second apart.
   *
   * @param {number} time in seconds.
   * @param {{data: ArrayLike<number>, width: number, height: number}} pixels RGBA, as ImageData.
   */
  isCut(time, pixels) {
    const small = downsample(pixels);
    const last = this.#last;
    const elapsed = time - this.#time;
    this.#last = small;
    this.#time = time;
    if (last === null || elapsed > CUT_WITHIN_S) return false;
    const change = small.reduce((sum, level, index) => sum + Math.abs(level - last[index]), 0);
    return change / small.length > CUT_LEVELS;
  }
}

/** Average a sample of the pixels to CUT_GRID × CUT_GRID × 3 levels. */
function downsample({ data, width, height }) {
  const step = Math.max(1, Math.floor(Math.min(width, height) / (4 * CUT_GRID)));
  const across = spans(Math.ceil(width / step));
  const down = spans(Math.ceil(height / step));
  const small = new Float64Array(CUT_GRID * CUT_GRID * 3);
  for (let y = 0; y < CUT_GRID; y += 1) {
    for (let x = 0; x < CUT_GRID; x += 1) {
      const sums = [0, 0, 0];
      let total = 0;
      for (const [row, high] of down[y]) {
        for (const [column, wide] of across[x]) {
          const at = 4 * (row * step * width + column * step);
          total += high * wide;
          for (let channel = 0; channel < 3; channel += 1) sums[channel] += high * wide * data[at + channel];
        }
      }
      for (let channel = 0; channel < 3; channel += 1) {
        small[(y * CUT_GRID + x) * 3 + channel] = Math.round(sums[channel] / total);
      }
    }
  }
  return small;
}

/** The samples that each cell of the grid covers, and the covered share of each: [index, share][]. */
function spans(count) {
  return Array.from({ length: CUT_GRID }, (_, cell) => {
    const start = (cell * count) / CUT_GRID;
    const end = ((cell + 1) * count) / CUT_GRID;
    const covered = [];
    for (let index = Math.floor(start); index < Math.min(count, Math.ceil(end)); index += 1) {
      covered.push([index, Math.min(index + 1, end) - Math.max(index, start)]);
    }
    return covered.filter(([, share]) => share > 1e-9);
  });
}
