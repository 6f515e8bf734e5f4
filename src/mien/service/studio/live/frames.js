/**
 * Frames of a video file, by seeking.
 *
 * Seeking gives the same frames in every run, however slow the machine is, while playback drops
 * frames. If the browser reports the timestamp of each frame, repeated frames are skipped.
 */

const SEEK_TIMEOUT_MS = 15_000;
const PRESENT_TIMEOUT_MS = 5_000; // a busy machine presents a frame long after "seeked"
const UNTOLD_MS = 250; // the wait if the browser does not tell, or the tab is hidden
const FIRST_FRAME_S = [0.001, 0.002]; // times within the first frame
const LATER_S = [0.1, 0.3, 1, 3, 10, 30]; // of which one is within another frame, unless the video is shorter
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
 *   hasTimestamps: boolean, close: () => void}>} duration in seconds, display size in pixels;
 *   `hasTimestamps` if the browser reports those of frames.
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
    (await createImageBitmap(element)).close(); // WebKitGTK's first one may be black
    const { duration, videoWidth: width, videoHeight: height } = element;
    return { element, duration, width, height, hasTimestamps: await reportsTimestamps(element), close };
  } catch (error) {
    close();
    throw error;
  }
}

/**
 * Yield frames of an open video in order.
 *
 * @param {{element: HTMLVideoElement, duration: number, hasTimestamps: boolean}} video from `openVideo`.
 * @param {{rate: number | null, signal?: AbortSignal}} options `rate` in frames per second; null for
 *   all frames, which needs timestamps.
 * @yields {{image: ImageBitmap, time_s: number, frame: number}} `time_s` is the timestamp in the file, or
 *   the time sought if the browser does not report timestamps; `frame` counts from 0. The caller closes
 *   the image.
 * @throws {VideoError} "damaged" if the file cannot be decoded further.
 */
export async function* videoFrames(video, { rate, signal }) {
  const step = rate === null ? await frameStep(video) : 1 / rate;
  let last = -1;
  let frame = 0;
  for (let count = 1, target = 0; target < video.duration && !signal?.aborted; count += 1) {
    await seek(video.element, target);
    const time_s = video.hasTimestamps ? timestampOf(video.element) : target;
    const hasFrame = video.element.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA; // Firefox may have none at the end
    if (hasFrame && time_s > last) {
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
async function frameStep({ element, duration }) {
  const times = [];
  const end = Math.min(duration, MAX_STEP_S);
  for (let time = 0; time < end && times.length < PROBE_FRAMES; time += PROBE_STEP_S) {
    await seek(element, time);
    const shown = timestampOf(element);
    if (shown !== times.at(-1)) times.push(shown);
  }
  const steps = times.slice(1).map((shown, index) => shown - times[index]);
  return steps.length > 0 ? Math.min(...steps) : MAX_STEP_S;
}

/**
 * Seek to a time and wait until the frame there is shown.
 *
 * A browser may fire "seeked" before it presents the frame, so both are awaited. It presents none for the
 * time that it already shows, and perhaps none in a hidden tab.
 */
async function seek(element, target) {
  if (element.currentTime === target) return;
  const presented = new Promise((resolve) => element.requestVideoFrameCallback?.(resolve));
  const seeked = eventOf(element, "seeked");
  element.currentTime = target;
  await seeked;
  const isTold = !document.hidden && "requestVideoFrameCallback" in element;
  await Promise.race([presented, new Promise((resolve) => setTimeout(resolve, isTold ? PRESENT_TIMEOUT_MS : UNTOLD_MS))]);
}

/**
 * Whether the browser reports true timestamps: one all through the first frame, and higher ones later.
 * Firefox 140 reports the whole seconds of the time sought as microseconds, and WebKitGTK 2.50 the time sought.
 */
async function reportsTimestamps(element) {
  const at = async (time) => (await seek(element, time), timestampOf(element));
  try {
    const first = await at(FIRST_FRAME_S[0]);
    if ((await at(FIRST_FRAME_S[1])) !== first) return false;
    for (const time of [...LATER_S, 0.9 * element.duration].filter((each) => each < element.duration)) {
      const shown = await at(time);
      if (shown !== first) return shown > time / 100;
    }
  } catch {
    // No VideoFrame, or none to be had; a damaged file is reported when it is read.
  }
  return false;
}

/** Timestamp of the frame shown, in seconds. */
function timestampOf(element) {
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
      clearInterval(timer);
      element.removeEventListener(name, onEvent);
      element.removeEventListener("error", onError);
    };
    const onTimeout = () => document.hidden || (cleanUp(), reject(new VideoError("damaged"))); // a hidden tab may load nothing
    const onEvent = () => (cleanUp(), resolve());
    const onError = () => (cleanUp(), reject(toVideoError(element.error)));
    const timer = setInterval(onTimeout, SEEK_TIMEOUT_MS);
    element.addEventListener(name, onEvent);
    element.addEventListener("error", onError);
  });
}

function toVideoError(error) {
  const unplayable = error?.code === MediaError.MEDIA_ERR_SRC_NOT_SUPPORTED;
  return new VideoError(unplayable ? "format" : "damaged", error?.message);
}
