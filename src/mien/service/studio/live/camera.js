/** The camera: opened when somebody asks for it, and what is wrong where it cannot be. */

/** The size that is asked for, in pixels: enough for faces across a desk, little to read. */
const SIZE = { width: { ideal: 640 }, height: { ideal: 480 } };

/** A camera that cannot be had; `code` is "insecure", "refused", "missing", "in-use" or "failed". */
export class CameraError extends Error {
  /** @param {string} code @param {string} [detail] */
  constructor(code, detail = "") {
    super(detail || code);
    this.code = code;
  }
}

const CODES = {
  NotAllowedError: "refused",
  SecurityError: "refused",
  NotFoundError: "missing",
  OverconstrainedError: "missing",
  NotReadableError: "in-use",
  AbortError: "in-use",
};

/**
 * Ask for a camera.
 *
 * @param {string} [id] which one, as `listCameras` has it; else the browser chooses.
 * @returns {Promise<MediaStream>}
 * @throws {CameraError}
 */
export async function openCamera(id) {
  if (!window.isSecureContext || !navigator.mediaDevices) throw new CameraError("insecure");
  const chosen = id ? { deviceId: { exact: id } } : {};
  try {
    const video = { ...SIZE, ...chosen, frameRate: { ideal: 30 } };
    return await navigator.mediaDevices.getUserMedia({ video, audio: false });
  } catch (error) {
    throw new CameraError(CODES[error.name] ?? "failed", error.message);
  }
}

/** The cameras that there are; their names are known once one was allowed. */
export async function listCameras() {
  const devices = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
  return devices
    .filter((device) => device.kind === "videoinput")
    .map(({ deviceId, label }) => ({ id: deviceId, label }));
}

/** Switch a camera off. */
export function closeCamera(stream) {
  for (const track of stream?.getTracks() ?? []) track.stop();
}

/**
 * Hand each new picture of a playing video on, as long as those before it leave room.
 *
 * @param {HTMLVideoElement} video
 * @param {(image: ImageBitmap, now: number) => Promise<void>} read takes a picture and the moment
 *   it was shown, in milliseconds as `performance.now()` has them.
 * @param {{atOnce?: number}} [options] how many pictures may be on their way.
 * @returns {{pause: (paused: boolean) => void, stop: () => void}}
 */
export function eachPicture(video, read, { atOnce = 1 } = {}) {
  let paused = false;
  let stopped = false;
  let reading = 0;
  const ask = "requestVideoFrameCallback" in video
    ? (callback) => video.requestVideoFrameCallback(callback)
    : (callback) => requestAnimationFrame(callback);
  const next = () => !stopped && ask(take);
  async function take(now) {
    next();
    if (paused || stopped || document.hidden || reading >= atOnce || !video.videoWidth) return;
    reading += 1;
    try {
      await read(await createImageBitmap(video), now);
    } finally {
      reading -= 1;
    }
  }
  next();
  return {
    pause: (value) => void (paused = value),
    stop: () => void (stopped = true),
  };
}
