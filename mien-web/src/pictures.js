/**
 * Pixel operations: resize, crop, rotate and convert to grey, bit-exact with OpenCV.
 *
 * @typedef {object} Picture
 * @property {Uint8Array | Uint8ClampedArray} data row by row, channels interleaved
 * @property {number} width
 * @property {number} height
 * @property {1 | 3 | 4} channels grey, RGB, or RGB and an ignored byte
 */

const f = Math.fround; // OpenCV computes in 32-bit floats

/** Round half to even, as Python and OpenCV do. */
export function roundEven(value) {
  const below = Math.floor(value);
  const rest = value - below;
  if (rest !== 0.5) return rest < 0.5 ? below : below + 1;
  return below % 2 === 0 ? below : below + 1;
}

/** Drop the fourth channel. @returns {Picture} a copy if there was one, else the picture itself. */
export function dropFourthChannel(picture) {
  if (picture.channels !== 4) return picture;
  const { width, height } = picture;
  const data = new Uint8Array(width * height * 3);
  const from = picture.data;
  for (let to = 0, at = 0; to < data.length; to += 3, at += 4) {
    data[to] = from[at];
    data[to + 1] = from[at + 1];
    data[to + 2] = from[at + 2];
  }
  return { data, width, height, channels: 3 };
}

/**
 * Crop a rectangle; beyond the border, edge pixels are repeated.
 *
 * @param {Picture} picture
 * @returns {Picture} grey or RGB
 */
export function crop(picture, left, top, right, bottom) {
  const { width, height, channels } = picture;
  const kept = channels === 4 ? 3 : channels;
  const [wide, high] = [right - left, bottom - top];
  const data = new Uint8Array(wide * high * kept);
  const columns = Int32Array.from({ length: wide }, (_, x) => clamp(left + x, width) * channels);
  let to = 0;
  for (let y = top; y < bottom; y += 1) {
    const row = clamp(y, height) * width * channels;
    for (let x = 0; x < wide; x += 1) {
      const at = row + columns[x];
      for (let c = 0; c < kept; c += 1) data[to++] = picture.data[at + c];
    }
  }
  return { data, width: wide, height: high, channels: kept };
}

/** Rotate counterclockwise by quarter turns (np.rot90). */
export function rot90(picture, quarters) {
  if (quarters % 4 === 0) return picture;
  const { width, height, channels, data: from } = picture;
  const upright = quarters % 2 === 0;
  const [wide, high] = upright ? [width, height] : [height, width];
  const data = new Uint8Array(from.length);
  // Index of the new pixel (0, 0) in the old picture, and the steps to its neighbours.
  const [start, across, down] = {
    1: [width - 1, width, -1],
    2: [width * height - 1, -1, -width],
    3: [(height - 1) * width, -width, 1],
  }[quarters];
  let to = 0;
  for (let y = 0; y < high; y += 1) {
    let at = (start + y * down) * channels;
    for (let x = 0; x < wide; x += 1, at += across * channels) {
      for (let c = 0; c < channels; c += 1) data[to++] = from[at + c];
    }
  }
  return { data, width: wide, height: high, channels };
}

/** Convert to grey with the weights of ITU-R BT.601 in 15 bits. @returns {Picture} */
export function toGrey(picture) {
  const { width, height, channels, data: from } = picture;
  if (channels === 1) return picture;
  const data = new Uint8Array(width * height);
  for (let to = 0, at = 0; to < data.length; to += 1, at += channels) {
    data[to] = (9798 * from[at] + 19235 * from[at + 1] + 3735 * from[at + 2] + 16384) >> 15;
  }
  return { data, width, height, channels: 1 };
}

// ---------------------------------------------------------------- resizing
/**
 * Shrink by area averaging (cv2.INTER_AREA); neither side may grow.
 *
 * @param {Picture} picture
 * @returns {Picture} grey or RGB
 */
export function resizeArea(picture, width, height) {
  const [across, down] = [picture.width / width, picture.height / height];
  if (across === 1 && down === 1) return dropFourthChannel(picture);
  if (Number.isInteger(across) && Number.isInteger(down)) {
    return averageBlocks(picture, width, height, across, down);
  }
  const { data: from, channels } = picture;
  const kept = channels === 4 ? 3 : channels;
  const columns = areaWeights(picture.width, width);
  const rows = areaWeights(picture.height, height);
  const data = new Uint8Array(width * height * kept);
  const line = new Float32Array(width * kept);
  const sum = new Float32Array(width * kept);
  const stride = picture.width * channels;
  const [firsts, ends, parts] = [columns.starts, columns.sources, columns.weights];
  for (let y = 0; y < height; y += 1) {
    sum.fill(0);
    for (let k = rows.starts[y]; k < rows.starts[y + 1]; k += 1) {
      const row = rows.sources[k] * stride;
      const weight = rows.weights[k];
      if (kept === 3) {
        for (let x = 0, to = 0; x < width; x += 1, to += 3) {
          let [r, g, b] = [0, 0, 0];
          for (let i = firsts[x]; i < firsts[x + 1]; i += 1) {
            const at = row + ends[i] * channels;
            const part = parts[i];
            r = f(r + f(from[at] * part));
            g = f(g + f(from[at + 1] * part));
            b = f(b + f(from[at + 2] * part));
          }
          line[to] = r;
          line[to + 1] = g;
          line[to + 2] = b;
        }
      } else {
        for (let x = 0; x < width; x += 1) {
          let value = 0;
          for (let i = firsts[x]; i < firsts[x + 1]; i += 1) {
            value = f(value + f(from[row + ends[i]] * parts[i]));
          }
          line[x] = value;
        }
      }
      for (let i = 0; i < sum.length; i += 1) sum[i] += f(weight * line[i]);
    }
    const to = y * sum.length;
    for (let i = 0; i < sum.length; i += 1) data[to + i] = byte(sum[i]);
  }
  return { data, width, height, channels: kept };
}

/** Source pixels of each pixel of a shrunk line, and their weights. */
function areaWeights(length, count) {
  const scale = 1 / (count / length);
  const starts = new Int32Array(count + 1);
  const sources = [];
  const weights = [];
  const add = (source, weight) => {
    sources.push(source);
    weights.push(weight);
  };
  for (let index = 0; index < count; index += 1) {
    const begin = index * scale;
    const end = begin + scale;
    const cell = Math.min(scale, length - begin);
    const last = Math.min(Math.floor(end), length - 1);
    const first = Math.min(Math.ceil(begin), last);
    if (first - begin > 1e-3) add(first - 1, (first - begin) / cell);
    for (let source = first; source < last; source += 1) add(source, 1 / cell);
    if (end - last > 1e-3) add(last, Math.min(Math.min(end - last, 1), cell) / cell);
    starts[index + 1] = sources.length;
  }
  return { starts, sources: Int32Array.from(sources), weights: Float32Array.from(weights) };
}

function averageBlocks(picture, width, height, across, down) {
  const { data: from, channels } = picture;
  const kept = channels === 4 ? 3 : channels;
  const stride = picture.width * channels;
  const data = new Uint8Array(width * height * kept);
  const isHalf = across === 2 && down === 2;
  const share = f(1 / (across * down));
  let to = 0;
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      const corner = y * down * stride + x * across * channels;
      for (let c = 0; c < kept; c += 1) {
        if (isHalf) {
          const at = corner + c;
          const sum = from[at] + from[at + channels] + from[at + stride] + from[at + stride + channels];
          data[to++] = (sum + 2) >> 2;
          continue;
        }
        let sum = 0;
        for (let j = 0; j < down; j += 1) {
          const row = corner + j * stride + c;
          for (let i = 0; i < across; i += 1) sum += from[row + i * channels];
        }
        data[to++] = byte(f(sum * share));
      }
    }
  }
  return { data, width, height, channels: kept };
}

/**
 * Resize bilinearly (cv2.INTER_LINEAR, in fixed point with 11 bits).
 *
 * @param {Picture} picture
 * @returns {Picture} grey or RGB
 */
export function resizeLinear(picture, width, height) {
  const { data: from, channels } = picture;
  const kept = channels === 4 ? 3 : channels;
  const columns = linearWeights(picture.width, width, true);
  const rows = linearWeights(picture.height, height, false);
  const data = new Uint8Array(width * height * kept);
  const lines = [0, 1].map(() => ({ source: -1, values: new Int32Array(width * kept) }));
  const stride = picture.width * channels;
  const fill = (line, source) => {
    if (line.source === source) return;
    line.source = source;
    const row = source * stride;
    for (let x = 0, to = 0; x < width; x += 1) {
      const first = row + columns.first[x] * channels;
      const second = row + columns.second[x] * channels;
      const [weight, rest] = [columns.weight[x], columns.rest[x]];
      for (let c = 0; c < kept; c += 1) line.values[to++] = from[first + c] * rest + from[second + c] * weight;
    }
  };
  for (let y = 0, to = 0; y < height; y += 1) {
    if (lines[1].source === rows.first[y]) lines.reverse();
    fill(lines[0], rows.first[y]);
    fill(lines[1], rows.second[y]);
    const [upper, lower] = [lines[0].values, lines[1].values];
    const [weight, rest] = [rows.weight[y], rows.rest[y]];
    for (let i = 0; i < upper.length; i += 1) {
      data[to++] = (((rest * (upper[i] >> 4)) >> 16) + ((weight * (lower[i] >> 4)) >> 16) + 2) >> 2;
    }
  }
  return { data, width, height, channels: kept };
}

/** The two source pixels of each pixel of a resized line, and their weights. */
function linearWeights(length, count, clampsWeights) {
  const scale = 1 / (count / length);
  const [first, second, weight, rest] = [0, 1, 2, 3].map(() => new Int32Array(count));
  for (let index = 0; index < count; index += 1) {
    let fraction = f((index + 0.5) * scale - 0.5);
    let source = Math.floor(fraction);
    fraction = f(fraction - source);
    if (clampsWeights && (source < 0 || source >= length - 1)) {
      fraction = 0;
      source = source < 0 ? 0 : length - 1;
    }
    first[index] = clamp(source, length);
    second[index] = clamp(source + 1, length);
    weight[index] = roundEven(f(fraction * 2048));
    rest[index] = roundEven(f(f(1 - fraction) * 2048));
  }
  return { first, second, weight, rest };
}

/** Resize a square picture: area averaging down, bilinear up. */
export function resizeSquare(square, side) {
  return square.height > side ? resizeArea(square, side, side) : resizeLinear(square, side, side);
}

// ---------------------------------------------------------------- rotated crops
/**
 * Sample a square with an affine transform (cv2.warpAffine with WARP_INVERSE_MAP): pixel (x, y) is
 * interpolated bilinearly at (m[0] x + m[1] y + m[2], m[3] x + m[4] y + m[5]); beyond the border, edge
 * pixels are repeated.
 *
 * @param {Picture} picture
 * @param {number[]} m
 * @param {number} size side of the square in pixels
 * @returns {Picture} grey or RGB
 */
export function warpAffine(picture, m, size) {
  const { data: from, width, height, channels } = picture;
  const kept = channels === 4 ? 3 : channels;
  const data = new Uint8Array(size * size * kept);
  // As in OpenCV, positions are in 1/1024 of a pixel and weights in 1/32.
  const fixed = (value) => roundEven(1024 * value);
  const across = Int32Array.from({ length: size }, (_, x) => fixed(m[0] * x));
  const down = Int32Array.from({ length: size }, (_, x) => fixed(m[3] * x));
  for (let y = 0, to = 0; y < size; y += 1) {
    const [startX, startY] = [fixed(m[1] * y + m[2]) + 16, fixed(m[4] * y + m[5]) + 16];
    for (let x = 0; x < size; x += 1) {
      const [fixedX, fixedY] = [(startX + across[x]) >> 5, (startY + down[x]) >> 5];
      const [left, top, right, below] = [fixedX >> 5, fixedY >> 5, fixedX & 31, fixedY & 31];
      const [x0, x1] = [clamp(left, width) * channels, clamp(left + 1, width) * channels];
      const [row0, row1] = [clamp(top, height) * width * channels, clamp(top + 1, height) * width * channels];
      for (let k = 0; k < kept; k += 1) {
        const upper = from[row0 + x0 + k] * (32 - right) + from[row0 + x1 + k] * right;
        const lower = from[row1 + x0 + k] * (32 - right) + from[row1 + x1 + k] * right;
        data[to++] = (upper * (32 - below) + lower * below + 512) >> 10;
      }
    }
  }
  return { data, width: size, height: size, channels: kept };
}

function clamp(index, length) {
  return index < 0 ? 0 : index >= length ? length - 1 : index;
}

function byte(value) {
  const rounded = roundEven(value);
  return rounded < 0 ? 0 : rounded > 255 ? 255 : rounded;
}
