/**
 * Sessions: results of a camera or video with markers and baseline. They are kept in memory until
 * saved; the page asks before an unsaved session is lost.
 *
 * @typedef {object} Session
 * @property {number} id unique in this page
 * @property {"webcam"|"video"|"file"} kind source; "file" is an opened saved session
 * @property {string} name
 * @property {string} created ISO 8601
 * @property {string} labels "people" or "fer2013"
 * @property {string[]} emotions of the model, in order
 * @property {{name: string, version: string, sha256: string}} model
 * @property {object[]} results in order of time, tracked and smoothed
 * @property {{start: number, end: number, label: string}[]} markers
 * @property {object|null} baseline from `measureBaseline`
 * @property {boolean} saved whether the current state was saved as CSV or JSON
 */

let count = 0;

/**
 * Create a session.
 *
 * @param {Partial<Session>} fields at least kind, name, labels, emotions and model
 * @returns {Session}
 */
export function createSession(fields) {
  count += 1;
  const defaults = { created: new Date().toISOString(), results: [], markers: [], baseline: null, saved: false };
  return { ...defaults, ...fields, id: count };
}

/** Create an observable list of sessions. */
export function createSessionList() {
  const open = [];
  const callbacks = new Set();
  const changed = () => callbacks.forEach((callback) => callback());
  return {
    all: () => [...open],
    unsaved: () => open.filter((session) => !session.saved && session.results.length > 0),
    add(session) {
      open.push(session);
      changed();
    },
    remove(session) {
      const index = open.indexOf(session);
      if (index >= 0) open.splice(index, 1);
      changed();
    },
    /** Report a change of a session, or that it was saved. */
    touch(session, { saved = false } = {}) {
      session.saved = saved;
      changed();
    },
    subscribe(callback) {
      callbacks.add(callback);
      return () => callbacks.delete(callback);
    },
  };
}

/** The open sessions, shared by the views. */
export const openSessions = createSessionList();

// Makes the browser ask before it closes the page.
window.addEventListener("beforeunload", (event) => {
  if (openSessions.unsaved().length > 0) event.preventDefault();
});

/** Track ids of all people with the seconds they are visible, longest first. */
export function peopleOf(results) {
  const seconds = new Map();
  results.forEach((result, index) => {
    const until = results[index + 1]?.time_s ?? result.time_s;
    for (const { track_id: track } of result.faces) {
      if (track != null) seconds.set(track, (seconds.get(track) ?? 0) + Math.min(1, until - result.time_s));
    }
  });
  return [...seconds].map(([track, visible]) => ({ track, seconds: visible })).sort((a, b) => b.seconds - a.seconds);
}

/** Index of the last result at or before a time, -1 if there is none. */
export function indexAt(results, time_s) {
  let [low, high] = [0, results.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (results[middle].time_s <= time_s) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

/** File name for a session, without characters that file systems do not allow. */
export function fileName(name, suffix) {
  const stem = name.replace(/\.[a-z0-9]{2,4}$/i, "").replace(/[^\p{L}\p{N}._-]+/gu, "-").replace(/^[-.]+|[-.]+$/g, "");
  return `${stem || "session"}${suffix}`;
}
