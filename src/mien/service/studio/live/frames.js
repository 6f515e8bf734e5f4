/**
 * Frames of a video file, by seeking.
 *
 * Seeking gives the same frames in every run, however slow the machine is, while playback drops
 * frames. The browser reports the timestamp of each frame, and repeated frames are skipped.
 */

const SEEK_TIMEOUT_MS = 15_000;
const PRESENT_TIMEOUT_MS = 5_000; // a busy machine presents a frame long after "seeked"
const NOT_PRESENTED_MS = 250; // the wait in a tab that presents none, because it is hidden
const PROBE_FRAMES = 4; // to measure the frame interval
const PROBE_STEP_S = 1 / 120;
const MAX_STEP_S = 1;

/** The video cannot be read; `code` is "format", "no-picture", "damaged" or "empty". */
export class VideoError extends Error {
  /** @param {string} code @param {string} [detail] */
  constructor(code, detail = "") {
    super(detail || code);
    this.code = code;
  }
}

/**
 * Open a video file in a detached element.
 *
 * @param {Blob} file
 * @returns {Promise<{element: HTMLVideoElement, duration: number, width: number, height: number,
 *   close: () => void}>} duration in seconds, display size in pixels.
 * @throws {VideoError} if the browser cannot play it.
 */
export async function openVideo(file) {
  if (file.size === 0) throw new VideoError("empty");
  const element = document.createElement("video");
  const url = URL.createObjectURL(file);
  const close = () => {
    element.removeAttribute("src");
    element.load();
    URL.revokeObjectURL(url);
  };
  Object.assign(element, { muted: true, playsInline: true, preload: "auto", src: url });
  try {
    await eventOf(element, "loadeddata");
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
 * @param {{element: HTMLVideoElement, duration: number}} video from `openVideo`.
 * @param {{rate: number | null, signal?: AbortSignal}} options `rate` in frames per second, null for
 *   all frames.
 * @yields {{image: ImageBitmap, time_s: number, frame: number}} `time_s` is the timestamp in the file;
 *   `frame` counts from 0. The caller closes the image.
 * @throws {VideoError} "damaged" if the file cannot be decoded further.
 */
export async function* videoFrames(video, { rate, signal }) {
  const seek = createSeek(video.element);
  const step = rate === null ? await frameStep(seek, video.duration) : 1 / rate;
  let last = -1;
  let frame = 0;
  for (let count = 1, target = 0; target < video.duration && !signal?.aborted; count += 1) {
    const time_s = await seek(target);
    if (time_s > last) {
      last = time_s;
      yield { image: await createImageBitmap(video.element), time_s, frame };
      frame += 1;
    }
    // For all frames, seek slightly past the start of the next one, because timestamps are rounded.
    target = rate === null ? Math.max(target + step / 2, last + 1.25 * step) : count * step;
  }
}

/** Largest number of frames that `videoFrames` yields; null if unknown. */
export function frameCount(duration, rate) {
  return rate === null ? null : Math.max(1, Math.ceil(duration * rate - 1e-6));
}

/** Shortest interval between the first frames, in seconds. */
async function frameStep(seek, duration) {
  const times = [];
  const end = Math.min(duration, MAX_STEP_S);
  for (let time = 0; time < end && times.length < PROBE_FRAMES; time += PROBE_STEP_S) {
    const shown = await seek(time);
    if (shown !== times.at(-1)) times.push(shown);
  }
  const steps = times.slice(1).map((shown, index) => shown - times[index]);
  return steps.length > 0 ? Math.min(...steps) : MAX_STEP_S;
}

/**
 * Create a function that seeks to a time and returns the timestamp of the frame shown, in seconds.
 *
 * A browser may fire "seeked" before it presents the frame, so both are awaited. A frame that is the
 * same again is presented, too. In a hidden tab none is: after one vain wait, waits are short.
 */
function createSeek(element) {
  let patience = PRESENT_TIMEOUT_MS;
  return async (target) => {
    const presented = nextPresented(element);
    const seeked = eventOf(element, "seeked");
    element.currentTime = target;
    await seeked;
    const timeout = new Promise((resolve) => setTimeout(resolve, patience, "timeout"));
    if ((await Promise.race([presented, timeout])) === "timeout") patience = NOT_PRESENTED_MS;
    return timestampOf(element, target);
  };
}

function nextPresented(element) {
  if (!("requestVideoFrameCallback" in element)) return new Promise(() => {});
  return new Promise((resolve) => element.requestVideoFrameCallback(resolve));
}

/** Timestamp of the frame shown, in seconds; `target` if the browser does not support VideoFrame. */
function timestampOf(element, target) {
  if (typeof VideoFrame === "undefined") return target;
  try {
    const frame = new VideoFrame(element);
    const time = frame.timestamp / 1e6;
    frame.close();
    return time;
  } catch {
    throw new VideoError("damaged");
  }
}

/** Find the duration by seeking past the end, because recordings made by browsers do not contain it. */
async function findDuration(element) {
  const known = eventOf(element, "durationchange");
  element.currentTime = Number.MAX_SAFE_INTEGER;
  await known;
  if (!Number.isFinite(element.duration)) throw new VideoError("damaged");
}

/** Wait for an event of a media element. */
function eventOf(element, name) {
  return new Promise((resolve, reject) => {
    const cleanUp = () => {
      clearTimeout(timer);
      element.removeEventListener(name, onEvent);
      element.removeEventListener("error", onError);
    };
    const onEvent = () => (cleanUp(), resolve());
    const onError = () => (cleanUp(), reject(toVideoError(element.error)));
    const timer = setTimeout(() => (cleanUp(), reject(new VideoError("damaged"))), SEEK_TIMEOUT_MS);
    element.addEventListener(name, onEvent);
    element.addEventListener("error", onError);
  });
}

function toVideoError(error) {
  const unplayable = error?.code === MediaError.MEDIA_ERR_SRC_NOT_SUPPORTED;
  return new VideoError(unplayable ? "format" : "damaged", error?.message);
}
