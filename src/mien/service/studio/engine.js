/**
 * Engines that analyse pictures: mien-web in the browser, or the server of the page. Both return the same results.
 *
 * @typedef {import("../../../../mien-web/index.js").Result} Result
 * @typedef {object} Engine
 * @property {"browser"|"server"} side
 * @property {{name: string, version: string, sha256: string}|null} model null until a server has reported it
 * @property {string} labels the reading: "people", "fer2013" or "own"; "" until a server has reported it
 * @property {string[]} emotions
 * @property {number} threads in the browser; 0 on the server
 * @property {boolean} explains whether `explain` is supported
 * @property {(image: Blob|ImageBitmapSource, options?: {source?: string, minFace?: number, signal?: AbortSignal,
 *   onWait?: (seconds: number, reason: "busy"|"offline") => void}) => Promise<Result>} analyze
 * @property {(image: ImageBitmapSource, time_s: number) => Promise<Result|null>} frame analyses a live frame; null if it was
 *   superseded by a newer one
 * @property {(file: File, options?: {every?: number|null, signal?: AbortSignal}) => AsyncGenerator<object>} [video] server
 *   only: results of a whole video, with events of `mien-event/1` between them
 * @property {(image: Blob|ImageBitmapSource, face: object, options?: object) => Promise<{size: number, values: Float32Array}>} explain
 * @property {() => void} close
 */

const BASE = new URL("../", import.meta.url);

/** Host name of the server, for messages. */
export const HOST = BASE.host;

const FRAME_QUALITY = 0.85; // JPEG quality of live frames
const FRAME_SIDE = 1280; // longer side in pixels, at most
const MAX_WAIT_S = 30;

/** An engine cannot be started or used; `kind` is a key of strings.failure, or "token". */
export class EngineError extends Error {
  constructor(kind, message, options) {
    super(message, options);
    this.name = "EngineError";
    this.kind = kind;
  }
}

/** Key of the engine for the given settings; equal keys mean the same engine. */
export function engineKey({ side, model, labels }) {
  return side === "server" ? side : [side, model, labels].join(" ");
}

/**
 * Start an engine.
 *
 * @param {object} options
 * @param {"browser"|"server"} options.side
 * @param {string} options.model name of the model, in the browser
 * @param {string} options.labels reading, in the browser
 * @param {(state: {phase: "loading"|"ready"|"busy", share?: number, seconds?: number}) => void} [options.onState]
 * @param {(wrong: boolean) => Promise<string|null>} [options.askToken] asks the user for the server's token; null if cancelled
 * @returns {Promise<Engine>}
 * @throws {EngineError}
 */
export async function createEngine({ side, model, labels, onState = () => {}, askToken = async () => null }) {
  onState({ phase: "loading", share: null });
  const engine = side === "server" ? await serverEngine(onState, askToken) : await browserEngine(model, labels, onState);
  onState({ phase: "ready" });
  return engine;
}

// ---------------------------------------------------------------- browser
async function browserEngine(model, labels, onState) {
  if (typeof WebAssembly !== "object") throw new EngineError("wasm", "WebAssembly is missing");
  let recognizer;
  try {
    const { loadRecognizer } = await import(new URL("mien-web/index.js", BASE));
    recognizer = await loadRecognizer({
      model: new URL(`mien-web/models/${model}/`, BASE).href,
      labels,
      detector: "libface",
      runtime: new URL("mien-web/runtime/", BASE).href,
      onProgress: ({ loaded, total }) => onState({ phase: "loading", share: total ? loaded / total : null }),
    });
  } catch (error) {
    throw new EngineError("model", (await missingRuntime()) ?? String(error?.message ?? error), { cause: error });
  }
  const frame = newestWins((image, time_s) => recognizer.analyze(image).then((result) => ({ ...result, time_s })));
  return {
    side: "browser",
    model: recognizer.model,
    labels: recognizer.labels,
    emotions: recognizer.emotions,
    threads: recognizer.threads,
    explains: true,
    analyze: (image, { source, minFace, signal } = {}) => recognizer.analyze(image, { source, minFace, signal }),
    frame,
    explain: (image, face, options) => recognizer.explain(image, face, options),
    close: () => recognizer.close(),
  };
}

/** The server's message if it lacks onnxruntime-web, else null. */
async function missingRuntime() {
  const reply = await fetch(new URL("mien-web/runtime/ort.wasm.min.mjs", BASE)).catch(() => null);
  const body = reply?.status === 404 ? await reply.json().catch(() => null) : null;
  return body?.code === "no_runtime" ? body.error : null;
}

/**
 * Run one call at a time. Of the calls made meanwhile, only the last is run; the others resolve to null.
 *
 * @template T
 * @param {(...values: any[]) => Promise<T>} work
 * @returns {(...values: any[]) => Promise<T|null>}
 */
export function newestWins(work) {
  let running = null;
  let waiting = null;
  const run = async (values) => {
    try {
      return await work(...values);
    } finally {
      running = null;
      if (waiting) {
        const { values: next, resolve, reject } = waiting;
        waiting = null;
        running = run(next).then(resolve, reject);
      }
    }
  };
  return (...values) => {
    if (!running) return (running = run(values));
    waiting?.resolve(null);
    return new Promise((resolve, reject) => (waiting = { values, resolve, reject }));
  };
}

// ---------------------------------------------------------------- server
let token = null; // in memory only

async function serverEngine(onState, askToken) {
  const about = await fetchVersion(askToken);
  const engine = {
    side: "server",
    model: about.model,
    labels: about.reading ?? about.model?.labels ?? "",
    emotions: about.labels ?? [],
    threads: 0,
    explains: false,
    analyze: async (image, options = {}) => {
      const result = await analyzeOnServer(image, options, onState, askToken);
      if (!engine.labels && result.labels) {
        engine.labels = result.labels;
        onState({ phase: "ready" });
      }
      return result;
    },
    video: (file, options) => videoOnServer(file, options, askToken),
    explain: async () => {
      throw new EngineError("server", "heat maps are not available on the server: read in this browser");
    },
  };
  const stream = createStream(askToken);
  engine.frame = newestWins(stream.frame);
  engine.close = stream.close;
  return engine;
}

async function fetchVersion(askToken) {
  const reply = await authorized("version", {}, askToken).catch((error) => {
    if (error instanceof EngineError) throw error;
    throw new EngineError("server", String(error.message ?? error), { cause: error });
  });
  if (!reply.ok) throw new EngineError("server", `the server answered ${reply.status}`);
  const about = await reply.json();
  if (!about.model) throw new EngineError("notReady", "the model is still being loaded");
  return about;
}

/** Fetch with the token, if any; asks for a token if the server requires one. */
async function authorized(path, options, askToken) {
  let wrong = token !== null;
  for (;;) {
    const headers = { ...options.headers, ...(token === null ? {} : { Authorization: `Bearer ${token}` }) };
    const reply = await fetch(new URL(path, BASE), { cache: "no-store", ...options, headers });
    if (reply.status !== 401) return reply;
    const entered = await askToken(wrong);
    if (!entered) throw new EngineError("token", "the server requires a token");
    token = entered;
    wrong = true;
  }
}

/** Analyse a picture on the server; retries while it is busy or unreachable. */
async function analyzeOnServer(image, { source, signal, onWait = () => {} }, onState, askToken) {
  const blob = await asBlob(image);
  for (let attempt = 0; ; attempt += 1) {
    signal?.throwIfAborted();
    const form = new FormData();
    form.append("image", blob, source ?? "picture");
    let reply = null;
    try {
      reply = await authorized("v1/analyze", { method: "POST", body: form, signal }, askToken);
    } catch (error) {
      if (signal?.aborted || error instanceof EngineError) throw error;
    }
    if (reply && reply.status !== 503) return toResult(reply, source ?? null);
    const seconds = retryDelay(reply, attempt);
    const reason = reply ? "busy" : "offline";
    onWait(seconds, reason);
    onState({ phase: reason, seconds });
    await pause(seconds, signal);
    onState({ phase: "ready" });
  }
}

function retryDelay(reply, attempt) {
  const requested = Number(reply?.headers.get("Retry-After"));
  return Math.min(MAX_WAIT_S, Math.max(1, requested || 0, 2 ** attempt / 2));
}

/** Stream results and events of a video; `every` is the interval of frames in seconds, null for all frames. */
async function* videoOnServer(file, { every = null, signal } = {}, askToken) {
  const body = new FormData();
  body.append("video", file, file.name);
  const reply = await authorized(`v1/video${every === null ? "" : `?every=${every}`}`, { method: "POST", body, signal }, askToken);
  if (!reply.ok) {
    const { error = `the server answered ${reply.status}` } = await reply.json().catch(() => ({}));
    throw new EngineError("server", error);
  }
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (let { value, done } = await reader.read(); !done; { value, done } = await reader.read()) {
    const lines = (text + value).split("\n");
    text = lines.pop();
    for (const line of lines) yield JSON.parse(line);
  }
}

/** Convert a response to a result; errors get the status that `mien predict` would give. */
async function toResult(reply, source) {
  const content = await reply.json().catch(() => ({}));
  if (reply.ok) return { ...content, source: source ?? content.source };
  return errorResult({ error: `the server answered ${reply.status}`, ...content }, source);
}

const UNREADABLE = ["too_large", "unsupported_type", "undecodable", "too_long", "malformed"];

/** Result of a picture that could not be analysed. */
export function errorResult({ code, error }, source = null) {
  const status = UNREADABLE.includes(code) ? "unreadable" : "error";
  return { schema: "mien/1", source, frame: null, time_s: null, status, width: null, height: null, faces: [], error, code };
}

/** Wait, at most until the network is available again. */
function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const end = () => {
      clearTimeout(timer);
      removeEventListener("online", end);
      signal?.removeEventListener("abort", end);
      if (signal?.aborted) reject(signal.reason);
      else resolve();
    };
    const timer = setTimeout(end, 1000 * seconds);
    addEventListener("online", end);
    signal?.addEventListener("abort", end);
  });
}

/** Encode an image: files are unchanged, others become a JPEG of at most `FRAME_SIDE` pixels. */
async function asBlob(image) {
  if (image instanceof Blob) return image;
  const bitmap = image instanceof ImageBitmap ? image : await createImageBitmap(image);
  const scale = Math.min(1, FRAME_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = new OffscreenCanvas(Math.max(1, Math.round(bitmap.width * scale)), Math.max(1, Math.round(bitmap.height * scale)));
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  if (bitmap !== image) bitmap.close();
  return canvas.convertToBlob({ type: "image/jpeg", quality: FRAME_QUALITY });
}

const RECONNECT_MS = 5000;

/** Live frames over a WebSocket, one at a time; falls back to POST. */
function createStream(askToken) {
  let socket = null; // a promise
  let notBefore = 0;

  function open() {
    const url = new URL("v1/stream", BASE);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    const opened = new WebSocket(url, ["mien", ...(token === null ? [] : [`bearer.${token}`])]);
    return new Promise((resolve, reject) => {
      opened.onopen = () => resolve(opened);
      opened.onclose = () => reject(new EngineError("server", "no live connection"));
    });
  }

  async function send(blob) {
    socket ??= open();
    const opened = await socket;
    return new Promise((resolve, reject) => {
      opened.onmessage = ({ data }) => resolve(JSON.parse(data));
      opened.onclose = () => reject(new EngineError("server", "the live connection was closed"));
      if (opened.readyState === WebSocket.OPEN) opened.send(blob);
      else opened.onclose();
    });
  }

  async function streamed(blob) {
    if (performance.now() < notBefore) return null;
    try {
      return await send(blob);
    } catch {
      socket = null;
      notBefore = performance.now() + RECONNECT_MS;
      return null;
    }
  }

  return {
    async frame(image, time_s) {
      const blob = await asBlob(image);
      const result = (await streamed(blob)) ?? (await analyzeOnServer(blob, {}, () => {}, askToken));
      if (result.schema !== "mien/1") return result.code === "busy" ? null : { ...errorResult(result), time_s };
      return { ...result, source: null, time_s };
    },
    close() {
      notBefore = Infinity;
      socket?.then(
        (opened) => opened.close(),
        () => {},
      );
    },
  };
}
