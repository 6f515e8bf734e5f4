/** Camera access. */

/** Requested size in pixels: enough for faces across a desk, and fast to analyse. */
const SIZE = { width: { ideal: 640 }, height: { ideal: 480 } };

/** The camera cannot be opened; `code` is "insecure", "refused", "missing", "in-use" or "failed". */
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
 * Open a camera.
 *
 * @param {string} [id] from `listCameras`; by default the browser chooses.
 * @returns {Promise<MediaStream>}
 * @throws {CameraError}
 */
export async function openCamera(id) {
  if (!window.isSecureContext || !navigator.mediaDevices) throw new CameraError("insecure");
  const device = id ? { deviceId: { exact: id } } : {};
  try {
    const video = { ...SIZE, ...device, frameRate: { ideal: 30 } };
    return await navigator.mediaDevices.getUserMedia({ video, audio: false });
  } catch (error) {
    throw new CameraError(CODES[error.name] ?? "failed", error.message);
  }
}

/** List the cameras; labels are empty until camera access was granted. */
export async function listCameras() {
  const devices = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
  return devices
    .filter((device) => device.kind === "videoinput")
    .map(({ deviceId, label }) => ({ id: deviceId, label }));
}

/** Stop a camera. */
export function closeCamera(stream) {
  for (const track of stream?.getTracks() ?? []) track.stop();
}

/**
 * Pass new frames of a playing video to a callback, skipping frames while too many are pending.
 *
 * @param {HTMLVideoElement} video
 * @param {(image: ImageBitmap, now: number) => Promise<void>} read receives a frame and the time it
 *   was shown, in milliseconds as `performance.now()`.
 * @param {{maxPending?: number}} [options] number of frames that may be pending.
 * @returns {{pause: (paused: boolean) => void, stop: () => void}}
 */
export function onFrames(video, read, { maxPending = 1 } = {}) {
  let paused = false;
  let stopped = false;
  let pending = 0;
  const request = "requestVideoFrameCallback" in video
    ? (callback) => video.requestVideoFrameCallback(callback)
    : (callback) => requestAnimationFrame(callback);
  const next = () => !stopped && request(onFrame);
  async function onFrame(now) {
    next();
    if (paused || stopped || document.hidden || pending >= maxPending || !video.videoWidth) return;
    pending += 1;
    try {
      await read(await createImageBitmap(video), now);
    } finally {
      pending -= 1;
    }
  }
  next();
  return {
    pause: (value) => void (paused = value),
    stop: () => void (stopped = true),
  };
}
