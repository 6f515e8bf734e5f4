/**
 * Tracks faces over frames, so that each person keeps a number; a port of mien/video/tracker.py.
 *
 * A face is expected where its last place and speed lead; faces and expectations are paired by
 * distance and size. All is reckoned in seconds, not frames.
 */

/** A face that was away for longer than this, in seconds, gets a new number. */
export const MEMORY_S = 1.0;

/** A face of the last frame keeps its number over a gap of up to so many seconds between frames. */
export const STALL_S = 5.0;

const MEMORY_STEPS = 2.0;
// How far a face may be from where it is expected, in its own sizes: at once, and more a second.
const REACH = 0.5;
const REACH_A_SECOND = 1.5;
const MAX_REACH = 1.25;
const MAX_GROWTH = Math.log(2); // nor may it double or halve
const SPEED_TIME_S = 0.2; // time constant of the smoothed speed
const MAX_AHEAD_S = 0.3; // for how long a track is extrapolated

/**
 * `MEMORY_S`, or more where frames are looked at so rarely that it is not enough.
 *
 * @param {number | null} [every] seconds between two frames that are looked at.
 */
export function memoryFor(every) {
  return Math.max(MEMORY_S, MEMORY_STEPS * (every ?? 0));
}

/** One face's last place, size (pixels) and speed (pixels a second). */
class Track {
  constructor(number, time, { x, y, size }) {
    Object.assign(this, { number, time, x, y, size, speedX: 0, speedY: 0 });
  }

  /** How badly a face fits this track, Infinity where it cannot be the same. */
  cost(time, { x, y, size }) {
    const passed = time - this.time;
    const ahead = Math.min(passed, MAX_AHEAD_S);
    const away = Math.hypot(x - this.x - this.speedX * ahead, y - this.y - this.speedY * ahead);
    const distance = away / Math.sqrt(size * this.size);
    const growth = Math.abs(Math.log(size / this.size));
    const reach = Math.min(MAX_REACH, REACH + REACH_A_SECOND * passed);
    return growth > MAX_GROWTH || distance > reach ? Infinity : distance + growth;
  }

  move(time, { x, y, size }) {
    const passed = time - this.time;
    if (passed > 0) {
      const share = 1 - Math.exp(-passed / SPEED_TIME_S);
      this.speedX += share * ((x - this.x) / passed - this.speedX);
      this.speedY += share * ((y - this.y) / passed - this.speedY);
    }
    Object.assign(this, { time, x, y, size });
  }
}

/** Gives each face of a frame its person's number; frames come in order. */
export class Tracker {
  #memory;
  #tracks = [];
  #next = 0;
  #last = -Infinity;

  /** @param {number} [memory] as `MEMORY_S`. */
  constructor(memory = MEMORY_S) {
    this.#memory = memory;
  }

  /**
   * The number of each box's face; a new face gets a new one.
   *
   * @param {number} time the frame's moment in seconds, later than the last one's.
   * @param {{x: number, y: number, w: number, h: number}[]} boxes in pixels of the upright picture.
   * @returns {number[]}
   */
  update(time, boxes) {
    this.#tracks = this.#tracks.filter((track) => this.#isCurrent(track, time));
    this.#last = time;
    const places = boxes.map(({ x, y, w, h }) => (
      { x: x + w / 2, y: y + h / 2, size: Math.sqrt(w * h) }
    ));
    const costs = this.#tracks.map((track) => places.map((place) => track.cost(time, place)));
    const found = new Map(assign(costs).map(([row, column]) => [column, this.#tracks[row]]));
    return places.map((place, column) => {
      let track = found.get(column);
      if (track === undefined) {
        track = new Track(this.#next, time, place);
        this.#tracks.push(track);
        this.#next += 1;
      }
      track.move(time, place);
      return track.number;
    });
  }

  #isCurrent(track, time) {
    // Nobody has left while no frame was read: a slow machine or connection is not an absence.
    const patience = track.time === this.#last ? STALL_S : 0;
    return time - track.time <= Math.max(this.#memory, patience);
  }

  /** Go on in pictures that are so many times as wide and as high. */
  rescale(across, down) {
    for (const track of this.#tracks) {
      track.x *= across;
      track.speedX *= across;
      track.y *= down;
      track.speedY *= down;
      track.size *= Math.sqrt(across * down);
    }
  }

  /** Forget all tracks, as at a cut. */
  forget() {
    this.#tracks = [];
  }
}

// ---------------------------------------------------------------- assignment
/**
 * Pair rows with columns: as many allowed pairs as can be, and of those the cheapest together.
 *
 * @param {number[][]} costs a row each; 0 or more, Infinity where a pair is not allowed.
 * @returns {[number, number][]} [row, column] of each pair, by rows.
 */
export function assign(costs) {
  if (costs.length === 0 || costs[0].length === 0) return [];
  const columns = costs[0].length;
  // Staying alone is dearer than all allowed pairs together, a pair that is not allowed dearer
  // still: so a pair is never given up to save a little.
  const alone = 1 + costs.flat().filter(Number.isFinite).reduce((sum, cost) => sum + cost, 0);
  const square = costs.map((row) => [
    ...row.map((cost) => (Number.isFinite(cost) ? cost : 2 * alone)),
    ...costs.map(() => alone),
  ]);
  return cheapest(square)
    .map((column, row) => /** @type {[number, number]} */ ([row, column]))
    .filter(([row, column]) => column < columns && Number.isFinite(costs[row][column]));
}

/**
 * Each row's column, in a table with at least as many columns as rows: the Hungarian method with
 * shortest augmenting paths (Jonker and Volgenant, 1987). Row and column 0 of its own tables stand
 * for "none".
 */
function cheapest(costs) {
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
      for (let each = 0; each <= columns; each += 1) {
        if (done[each]) {
          rowPrice[owner[each]] += step;
          columnPrice[each] -= step;
        } else {
          reach[each] -= step;
        }
      }
      column = nearest;
    }
    while (column !== 0) { // hand the columns along the path on, from its end to its start
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
// Grey levels, on average; frames that lie further apart differ as much without a cut.
const CUT_LEVELS = 32;
const CUT_WITHIN_S = 0.25;

/** Detects cuts, by how much of the picture changes at once. */
export class CutFinder {
  #last = null;
  #time = 0;

  /**
   * Whether there is a cut between the last frame and this one; never after more than a quarter of
   * a second, in which any scene changes much.
   *
   * @param {number} time in seconds.
   * @param {{data: ArrayLike<number>, width: number, height: number}} pixels RGBA, as ImageData.
   */
  isCut(time, pixels) {
    const small = shrunk(pixels);
    const last = this.#last;
    const passed = time - this.#time;
    this.#last = small;
    this.#time = time;
    if (last === null || passed > CUT_WITHIN_S) return false;
    const change = small.reduce((sum, level, at) => sum + Math.abs(level - last[at]), 0);
    return change / small.length > CUT_LEVELS;
  }
}

/** A sample of the picture's pixels, averaged to CUT_GRID × CUT_GRID × 3 levels. */
function shrunk({ data, width, height }) {
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
          for (let each = 0; each < 3; each += 1) sums[each] += high * wide * data[at + each];
        }
      }
      for (let each = 0; each < 3; each += 1) {
        small[(y * CUT_GRID + x) * 3 + each] = Math.round(sums[each] / total);
      }
    }
  }
  return small;
}

/** For each cell of the grid, the samples it covers and how much of each: [index, share][]. */
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
