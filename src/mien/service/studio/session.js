/**
 * Sessions: what was read from a camera or a video. They live in this page's memory alone, until
 * somebody saves them; a session that would be lost unsaved is asked about.
 *
 * @typedef {object} Session
 * @property {number} id of this page
 * @property {"webcam"|"video"|"file"} kind where it comes from; "file": a saved session, opened
 * @property {string} name
 * @property {string} created ISO 8601
 * @property {string} labels "people" or "fer2013"
 * @property {string[]} emotions the model's, in its order
 * @property {{name: string, version: string, sha256: string}} model
 * @property {object[]} results in order of time, with `time_s` set and faces tracked and smoothed
 * @property {{start: number, end: number, label: string}[]} markers
 * @property {object|null} baseline as analysis' `measureBaseline` gives it
 * @property {boolean} saved whether all of it was saved as JSON
 */

let count = 0;

/**
 * Begin a session.
 *
 * @param {Partial<Session>} parts at least kind, name, labels, emotions and model
 * @returns {Session}
 */
export function createSession(parts) {
  count += 1;
  const rest = { created: new Date().toISOString(), results: [], markers: [], baseline: null, saved: false };
  return { ...rest, ...parts, id: count };
}

/** The sessions that are open in this page. */
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
    /** To be called when a session is not what it was; `saved` says that it is as its file is. */
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

/** The one list of this page: the views share it. */
export const openSessions = createSessionList();

// A browser asks before it closes a page whose listener objects.
window.addEventListener("beforeunload", (event) => {
  if (openSessions.unsaved().length > 0) event.preventDefault();
});

/** The numbers of everybody in results, with the seconds that they were seen, longest first. */
export function peopleOf(results) {
  const seconds = new Map();
  results.forEach((result, index) => {
    const until = results[index + 1]?.time_s ?? result.time_s;
    for (const { track_id: track } of result.faces) {
      if (track != null) seconds.set(track, (seconds.get(track) ?? 0) + Math.min(1, until - result.time_s));
    }
  });
  return [...seconds].map(([track, seen]) => ({ track, seconds: seen })).sort((a, b) => b.seconds - a.seconds);
}

/** The place of the last result at or before a moment, in results in order of time; -1 for none. */
export function placeAt(results, time_s) {
  let [low, high] = [0, results.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (results[middle].time_s <= time_s) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

/** A file's name from a session's, without what file systems refuse. */
export function fileName(name, suffix) {
  const plain = name.replace(/\.[a-z0-9]{2,4}$/i, "").replace(/[^\p{L}\p{N}._-]+/gu, "-").replace(/^[-.]+|[-.]+$/g, "");
  return `${plain || "session"}${suffix}`;
}
