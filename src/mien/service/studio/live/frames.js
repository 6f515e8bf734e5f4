/**
 * Frames of a video file, taken by seeking.
 *
 * Seeking gives the same frames at every run, however slow the machine is; playing does not, it
 * drops those it has no time for. The browser says of each frame which moment of the file it shows,
 * and a frame that was had before is left out.
 */

const SEEK_TIMEOUT_MS = 15_000;
const STALE_MS = 250; // for how long a frame may be the last one still
const PROBE_FRAMES = 4; // from which the step from frame to frame is taken
const PROBE_STEP_S = 1 / 120;
const LONGEST_STEP_S = 1;

/** A video that cannot be read; `code` is "format", "no-picture", "damaged" or "empty". */
export class VideoError extends Error {
  /** @param {string} code @param {string} [detail] */
  constructor(code, detail = "") {
    super(detail || code);
    this.code = code;
  }
}

/**
 * Open a video file in an element that is not shown.
 *
 * @param {Blob} file
 * @returns {Promise<{element: HTMLVideoElement, duration: number, width: number, height: number,
 *   close: () => void}>} the duration in seconds, the size in pixels as the video is shown.
 * @throws {VideoError} if the browser cannot play it.
 */
export async function openVideo(file) {
  if (file.size === 0) throw new VideoError("empty");
  const element = document.createElement("video");
  const address = URL.createObjectURL(file);
  const close = () => {
    element.removeAttribute("src");
    element.load();
    URL.revokeObjectURL(address);
  };
  Object.assign(element, { muted: true, playsInline: true, preload: "auto", src: address });
  try {
    await happens(element, "loadeddata");
    if (!element.videoWidth) throw new VideoError("no-picture");
    if (!Number.isFinite(element.duration)) await findDuration(element);
  } catch (error) {
    close();
    throw error;
  }
  const { duration, videoWidth: width, videoHeight: height } = element;
  return { element, duration, width, height, close };
}

/**
 * Yield frames of an open video in order.
 *
 * @param {{element: HTMLVideoElement, duration: number}} video as `openVideo` gives it.
 * @param {{rate: number | null, signal?: AbortSignal}} options `rate`: frames a second, null for
 *   every frame of the file.
 * @yields {{image: ImageBitmap, time_s: number, frame: number}} `time_s` is the moment that the
 *   frame has in the file; `frame` counts from 0. Whoever takes the image closes it.
 * @throws {VideoError} "damaged" where the file cannot be decoded; what came before is good.
 */
export async function* videoFrames(video, { rate, signal }) {
  const step = rate === null ? await frameStep(video) : 1 / rate;
  let last = -1;
  let frame = 0;
  for (let turn = 0, target = 0; target < video.duration && !signal?.aborted; turn += 1) {
    const time_s = await seek(video.element, target, last);
    if (time_s > last) {
      last = time_s;
      yield { image: await createImageBitmap(video.element), time_s, frame };
      frame += 1;
    }
    // Every frame: a little past the next one's start, whatever the rounding of its moment.
    target = rate === null ? Math.max(target + step / 2, last + 1.25 * step) : (turn + 1) * step;
  }
}

/** How many frames `videoFrames` will give at most; null if that is not known before. */
export function frameCount(duration, rate) {
  return rate === null ? null : Math.max(1, Math.ceil(duration * rate - 1e-6));
}

/** The shortest time between two of the first frames, in seconds. */
async function frameStep(video) {
  const moments = [];
  const end = Math.min(video.duration, LONGEST_STEP_S);
  for (let time = 0; time < end && moments.length < PROBE_FRAMES; time += PROBE_STEP_S) {
    const moment = await seek(video.element, time, moments.at(-1) ?? -1);
    if (moment !== moments.at(-1)) moments.push(moment);
  }
  const steps = moments.slice(1).map((moment, index) => moment - moments[index]);
  return steps.length > 0 ? Math.min(...steps) : LONGEST_STEP_S;
}

/**
 * Go to a moment; return that of the frame that is shown there, in seconds.
 *
 * A browser may say that it has arrived before it shows the frame. So one that cannot be right, or
 * was there before, is looked at again once a frame is presented.
 */
async function seek(element, target, last) {
  const presented = nextPresented(element);
  const arrived = happens(element, "seeked");
  element.currentTime = target;
  await arrived;
  const moment = momentOf(element, target);
  if (moment > last && moment <= target) return moment;
  await Promise.race([presented, new Promise((resolve) => setTimeout(resolve, STALE_MS))]);
  return momentOf(element, target);
}

function nextPresented(element) {
  if (!("requestVideoFrameCallback" in element)) return new Promise(() => {});
  return new Promise((resolve) => element.requestVideoFrameCallback(resolve));
}

/** The moment of the frame that is shown; the one that was asked for where a browser cannot say. */
function momentOf(element, asked) {
  if (typeof VideoFrame === "undefined") return asked;
  try {
    const shown = new VideoFrame(element);
    const moment = shown.timestamp / 1e6;
    shown.close();
    return moment;
  } catch {
    throw new VideoError("damaged");
  }
}

/** Recordings of browsers lack their duration: it is found by going past the end. */
async function findDuration(element) {
  const known = happens(element, "durationchange");
  element.currentTime = Number.MAX_SAFE_INTEGER;
  await known;
  if (!Number.isFinite(element.duration)) throw new VideoError("damaged");
}

/** Wait for an event of a media element. */
function happens(element, name) {
  return new Promise((resolve, reject) => {
    const done = () => {
      clearTimeout(timer);
      element.removeEventListener(name, good);
      element.removeEventListener("error", bad);
    };
    const good = () => (done(), resolve());
    const bad = () => (done(), reject(problem(element.error)));
    const timer = setTimeout(() => (done(), reject(new VideoError("damaged"))), SEEK_TIMEOUT_MS);
    element.addEventListener(name, good);
    element.addEventListener("error", bad);
  });
}

function problem(error) {
  const unplayable = error?.code === MediaError.MEDIA_ERR_SRC_NOT_SUPPORTED;
  return new VideoError(unplayable ? "format" : "damaged", error?.message);
}
