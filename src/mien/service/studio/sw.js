/**
 * Keeps the studio at hand without a network. While there is one, every file is asked for anew (what has not changed
 * is not sent again), so that nobody reads with an old page; without one, or where it takes too long, what was kept
 * answers. Answers of the service, such as readings, are never kept.
 */

importScripts("studio/files.js"); // the server makes it of all files; a change of any is a new version of this worker

const BASE = new URL("./", self.location.href);
const PREFIX = `mien-studio ${BASE.pathname} `;
const CACHE = PREFIX + self.STUDIO.version;
const PATIENCE_MS = 4000;

const addresses = (paths) => new Set(paths.map((path) => new URL(path, BASE).href));
const FIRST = addresses(self.STUDIO.first);
const KNOWN = addresses([...self.STUDIO.first, ...self.STUDIO.later]);

// What lets a page use threads; a host of plain files does not send it.
const ISOLATION = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
};

self.addEventListener("install", (event) => {
  event.waitUntil(fill().then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => {
  event.waitUntil(removeOlder().then(() => self.clients.claim()));
});

self.addEventListener("fetch", (event) => {
  const address = addressOf(event.request.url);
  if (event.request.method === "GET" && KNOWN.has(address)) event.respondWith(answer(address));
});

/** The address that a file is kept by: without its query and fragment, and the page's under one name. */
function addressOf(url) {
  const address = new URL(url);
  address.hash = "";
  address.search = "";
  return address.href === new URL("index.html", BASE).href ? BASE.href : address.href;
}

async function fill() {
  const cache = await caches.open(CACHE);
  await Promise.all([...FIRST, ...(await chosenBefore())].map((address) => keep(cache, address)));
}

/** What somebody chose with an older version, such as the larger model. */
async function chosenBefore() {
  const chosen = new Set();
  for (const name of await olderCaches()) {
    for (const { url } of await (await caches.open(name)).keys()) {
      if (KNOWN.has(url) && !FIRST.has(url)) chosen.add(url);
    }
  }
  return chosen;
}

async function olderCaches() {
  return (await caches.keys()).filter((name) => name.startsWith(PREFIX) && name !== CACHE);
}

async function removeOlder() {
  await Promise.all((await olderCaches()).map((name) => caches.delete(name)));
}

async function keep(cache, address) {
  const reply = await fetch(address, { cache: "no-cache" });
  if (!reply.ok) throw new Error(`${address} cannot be kept: ${reply.status}`);
  await cache.put(address, isolated(reply));
}

async function answer(address) {
  const cache = await caches.open(CACHE);
  const kept = await cache.match(address);
  const tag = kept?.headers.get("ETag");
  const asked = fetch(address, tag ? { headers: { "If-None-Match": tag }, cache: "no-store" } : { cache: "no-cache" });
  const reply = await (kept ? Promise.race([asked, patience()]) : asked).catch(() => null);
  if (reply?.ok) {
    const fresh = isolated(reply);
    // A full disk is no reason not to answer.
    cache.put(address, fresh.clone()).catch(() => {});
    return fresh;
  }
  const isGone = !reply || reply.status === 304 || reply.status >= 500;
  return isGone && kept ? kept : (reply ?? Response.error());
}

function patience() {
  return new Promise((resolve) => setTimeout(resolve, PATIENCE_MS, null));
}

/** The same answer with the headers that let a page use threads. */
function isolated(reply) {
  const headers = new Headers(reply.headers);
  for (const [name, value] of Object.entries(ISOLATION)) {
    if (!headers.has(name)) headers.set(name, value);
  }
  return new Response(reply.body, { status: reply.status, statusText: reply.statusText, headers });
}
