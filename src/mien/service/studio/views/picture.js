/** Picture view: a queue of dropped, pasted or selected pictures, as a grid or as one picture with its faces. */

import { annotatedPng } from "../components/annotate.js";
import { drawFaces, emotionName, colourOf, faceName, readingText, resultSummary } from "../components/faces.js";
import { fill, h, isFocusLost } from "../components/dom.js";
import { icon, iconButton, mark } from "../components/icons.js";
import { filesOf, mayBePicture } from "../components/files.js";
import { createFacePanel } from "../components/face_panel.js";
import { createMenu } from "../components/menu.js";
import { createViewer } from "../components/viewer.js";
import { createWhereLine } from "../components/where.js";
import { zip } from "../components/zip.js";
import { EngineError, engineKey, errorResult } from "../engine.js";
import { counted, format } from "../strings.js";

const SAMPLE = new URL("../sample.jpg", import.meta.url);
const MAX_RUNNING = { browser: 2, server: 4 };
const THUMBNAIL_SIDE = 440; // longer side in pixels
const DONE = ["ok", "no_face", "unreadable", "error", "cancelled"];

/**
 * @typedef {object} Item
 * @property {number} id
 * @property {string} name
 * @property {Blob} blob
 * @property {string} state a key of strings.picture.status
 * @property {object|null} result
 * @property {string} reader key of the engine and settings that produced the result, from `readerKey`
 * @property {string|null} thumb URL of a thumbnail with face boxes
 * @property {object} focus CSS that crops the thumbnail to its faces
 * @property {boolean} sample
 * @property {{element: HTMLElement, update: () => void}} card
 */

export function createView(context) {
  const { palette, settings, announce, notify, strings } = context;
  const words = strings.picture;

  /** @type {Item[]} */
  let items = [];
  let open = null; // the item shown large
  let bitmap = null; // pixels of the open item
  let face = null; // index of the selected face
  let abort = new AbortController();
  let running = 0;
  let count = 0;
  let visible = false;

  const input = h("input", { type: "file", accept: "image/*", multiple: true, hidden: true, onChange: () => (add([...input.files]), (input.value = "")) });
  const choose = () => input.click();
  const viewer = createViewer({ palette, onSelect: selectFace });
  const panel = createFacePanel({ palette, onSelect: selectFace, announce, engine: context.engine });
  const welcome = createWelcome();
  const toolbar = h("div.toolbar.row", { hidden: true });
  const toolbarTitle = h("h1");
  const toolbarFaces = h("p.hint");
  const progress = h("div.progress", { hidden: true }, h("span"));
  const grid = h("ul.grid", { "aria-label": words.grid, hidden: true });
  const side = h("div.panel.side.stack");
  const single = h("div.single", { hidden: true }, viewer.element, side);
  const veil = h("div.veil", { hidden: true, "aria-hidden": true }, h("div", null, icon("upload"), words.dropNow));
  const element = h("div.picture.stack", { onKeydown: onKey }, input, welcome.element, toolbar, progress, single, grid, veil);

  addEventListener("paste", onPaste);
  addEventListener("dragenter", onDrag);
  addEventListener("dragover", onDrag);
  addEventListener("dragleave", (event) => event.relatedTarget === null && (veil.hidden = true));
  addEventListener("drop", onDrop);
  context.onReady(() => {
    for (const item of items.filter(({ state }) => state === "waiting")) setState(item, "queued");
    pump();
  });
  settings.subscribe(render);

  // ---------------------------------------------------------------- input
  function add(files, { sample = false } = {}) {
    const pictures = files.filter(mayBePicture);
    if (!pictures.length) {
      notify("error", words.noImages);
      return;
    }
    if (pictures.length < files.length) notify("info", counted(words.leftOut, files.length - pictures.length));
    if (abort.signal.aborted) abort = new AbortController();
    const added = pictures.map((file) => {
      count += 1;
      const item = { id: count, name: file.name || words.pasted, blob: file, state: "queued", result: null, reader: "", thumb: null, focus: {}, sample };
      item.card = createCard(item);
      return item;
    });
    items = [...items, ...added];
    grid.append(...added.map(({ card }) => card.element));
    show(items.length === 1 ? items[0] : null);
    pump();
  }

  async function addSample() {
    try {
      const reply = await fetch(SAMPLE);
      if (!reply.ok) throw new Error(String(reply.status));
      add([new File([await reply.blob()], words.sampleName, { type: "image/jpeg" })], { sample: true });
    } catch {
      notify("error", words.sampleFailed);
    }
  }

  function onPaste(event) {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!visible || !files.length) return;
    event.preventDefault();
    add(files);
  }

  function onDrag(event) {
    if (!visible || !event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
    veil.hidden = false;
  }

  async function onDrop(event) {
    veil.hidden = true;
    if (!visible || !event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    add(await filesOf(event.dataTransfer));
  }

  // ---------------------------------------------------------------- analysis queue
  function pump() {
    const limit = MAX_RUNNING[settings.get().side];
    while (running < limit) {
      const item = items.find(({ state }) => state === "queued");
      if (!item) return;
      read(item);
    }
  }

  async function read(item) {
    running += 1;
    const { signal } = abort;
    const requested = settings.get();
    setState(item, "reading");
    try {
      const engine = await context.engine();
      const onWait = (_, reason) => setState(item, reason);
      const result = await engine.analyze(item.blob, { source: item.name, minFace: requested.minFace, signal, onWait });
      if (!items.includes(item)) return;
      item.reader = readerKey(requested);
      await finish(item, result);
    } catch (error) {
      if (!items.includes(item)) return;
      // The engine was replaced meanwhile; the new one analyses the picture.
      if (!signal.aborted && engineKey(requested) !== engineKey(settings.get())) setState(item, "queued");
      else fail(item, error, signal);
    } finally {
      running -= 1;
      pump();
      announceIfDone();
    }
  }

  async function finish(item, result) {
    item.result = result;
    await drawThumb(item).catch(() => {}); // a server may read formats that the browser cannot show
    setState(item, result.status);
    if (item === open) await show(item);
  }

  /** Handle an error; if the engine is not available, the picture waits for it. */
  function fail(item, error, signal) {
    if (signal.aborted) setState(item, "cancelled");
    else if (error instanceof EngineError && error.kind !== "token") setState(item, "waiting");
    else {
      item.result = errorResult({ error: error instanceof EngineError ? strings.token.missing : error.message }, item.name);
      setState(item, "error");
    }
    if (item === open) show(item);
  }

  function setState(item, state) {
    item.state = state;
    item.card.update();
    if (item === open) renderSide();
    render();
  }

  function announceIfDone() {
    if (running || !items.length || items.some(({ state }) => !DONE.includes(state))) return;
    if (items.length === 1) announce(format(words.announceDone, { name: items[0].name, summary: summaryOf(items[0]) }));
    else announce(format(words.announceAll, { done: counted(words.done, items.length), faces: counted(words.faces, facesOf(items)) }));
  }

  function readAgain(selection) {
    if (abort.signal.aborted) abort = new AbortController();
    for (const item of selection) Object.assign(item, { state: "queued", result: null });
    for (const item of selection) item.card.update();
    render();
    if (open) show(open);
    pump();
  }

  function stop() {
    abort.abort();
    for (const item of items.filter(({ state }) => !DONE.includes(state))) setState(item, "cancelled");
  }

  function clear() {
    abort.abort();
    for (const item of items) release(item);
    items = [];
    grid.replaceChildren();
    show(null);
    welcome.focus();
  }

  function remove(item) {
    const index = items.indexOf(item);
    release(item);
    items = items.filter((other) => other !== item);
    item.card.element.remove();
    if (!items.length) {
      clear();
      return;
    }
    if (open === item) show(items[Math.min(index, items.length - 1)]);
    else items[Math.min(index, items.length - 1)].card.focus();
    render();
  }

  function release(item) {
    if (item.thumb) URL.revokeObjectURL(item.thumb);
    item.thumb = null;
  }

  async function drawThumb(item) {
    const pixels = await createImageBitmap(item.blob);
    const scale = Math.min(1, THUMBNAIL_SIDE / Math.max(pixels.width, pixels.height));
    const canvas = new OffscreenCanvas(Math.max(1, Math.round(pixels.width * scale)), Math.max(1, Math.round(pixels.height * scale)));
    const thumbnail = canvas.getContext("2d");
    thumbnail.imageSmoothingQuality = "high";
    thumbnail.fillStyle = "white"; // the background on which transparent pictures are analysed
    thumbnail.fillRect(0, 0, canvas.width, canvas.height);
    thumbnail.drawImage(pixels, 0, 0, canvas.width, canvas.height);
    pixels.close();
    drawFaces(thumbnail, item.result.faces, { palette, scale, labels: false, ratio: 1.2 });
    item.focus = focusOf(item.result);
    release(item);
    item.thumb = URL.createObjectURL(await canvas.convertToBlob({ type: "image/jpeg", quality: 0.85 }));
  }

  // ---------------------------------------------------------------- rendering
  async function show(item) {
    const same = item !== null && item === open;
    const hadFocus = element.contains(document.activeElement);
    open = item;
    render();
    if (hadFocus && isFocusLost()) (item ? viewer : (items[0]?.card ?? welcome)).focus();
    if (!same) {
      viewer.show({ name: "", summary: "", bitmap: null, faces: [] }); // before its bitmap is closed
      bitmap?.close();
      bitmap = null;
      face = null;
    }
    if (!item) {
      renderSide();
      return;
    }
    const pixels = bitmap ?? (await createImageBitmap(item.blob).catch(() => null));
    if (open !== item) {
      pixels?.close();
      return;
    }
    bitmap = pixels;
    viewer.show({ name: item.name, summary: summaryOf(item), bitmap, faces: item.result?.faces ?? [] });
    renderSide();
  }

  function selectFace(index) {
    const selected = open?.result?.faces[index];
    if (!selected) return;
    face = index;
    viewer.select(index);
    panel.select(index);
    announce(`${faceName(selected)}: ${readingText(selected)}`);
  }

  function render() {
    const many = items.length > 1;
    welcome.element.hidden = items.length > 0;
    toolbar.hidden = items.length === 0;
    grid.hidden = !many || open !== null;
    single.hidden = open === null;
    renderToolbar(many);
    const done = items.filter(({ state }) => DONE.includes(state)).length;
    progress.hidden = !many || done === items.length;
    progress.style.setProperty("--share", items.length ? done / items.length : 0);
  }

  function renderToolbar(many) {
    const done = items.filter(({ state }) => DONE.includes(state));
    const busy = done.length < items.length;
    toolbarTitle.textContent = open ? open.name : busy ? format(words.progress, { done: done.length, total: items.length }) : counted(words.done, items.length);
    toolbarTitle.title = open?.name ?? "";
    toolbarFaces.textContent = open ? "" : counted(words.faces, facesOf(items));
    const stopped = many && !busy && items.some(isStopped);
    const outdated = !busy && items.some(isOutdated);
    const saved = open ? [open.result?.status] : [items.some(({ result }) => result), items.some(({ result }) => result?.status === "ok")];
    // Rebuild only after changes, so that an open menu stays open during analysis.
    const key = JSON.stringify([open?.id, items.length, busy, stopped, outdated, saved]);
    if (key === toolbar.dataset.shown) return;
    toolbar.dataset.shown = key;
    const focused = toolbar.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    fill(toolbar, toolbarContent({ many, busy, stopped, outdated }));
    if (focused) toolbar.querySelector(`[data-key="${focused}"]`)?.focus();
  }

  function toolbarContent({ many, busy, stopped, outdated }) {
    const index = items.indexOf(open);
    const step = (offset) => show(items[(index + offset + items.length) % items.length]);
    const title = h("div.toolbar-title", null, toolbarTitle, toolbarFaces);
    if (open && many) {
      return [
        button("back", "back", words.all, () => (show(null), items[index].card.focus()), "quiet"),
        title,
        h(
          "div.pager",
          null,
          iconButton("previous", words.previous, () => step(-1), { data: { key: "previous" } }),
          h("span.number.small", null, format(words.position, { index: index + 1, total: items.length })),
          iconButton("next", words.next, () => step(1), { data: { key: "next" } }),
        ),
        h("span.grow"),
        outdated && button("again", "wait", words.readAgainNew, () => readAgain(items.filter(isOutdated))),
        downloads(),
      ];
    }
    return [
      title,
      h("span.grow"),
      busy && many && button("stop", "stop", words.cancel, stop),
      stopped && button("rest", "play", words.readRest, () => readAgain(items.filter(isStopped))),
      outdated && button("again", "wait", words.readAgainNew, () => readAgain(items.filter(isOutdated))),
      button("add", "plus", words.add, choose),
      downloads(),
      button("clear", "trash", words.clear, clear, "quiet"),
    ];
  }

  function isStopped({ state }) {
    return state === "cancelled";
  }

  /** Whether a result was produced with other settings. */
  function isOutdated({ result, reader }) {
    return Boolean(result && reader && reader !== readerKey(settings.get()));
  }

  function button(key, iconName, label, onClick, className = "") {
    return h("button.button", { type: "button", class: className, data: { key }, onClick }, icon(iconName), h("span", null, label));
  }

  function renderSide() {
    if (!open) return;
    const { state, result } = open;
    const faces = result?.faces ?? [];
    const source = open.sample && h("p.hint", null, words.sampleSource);
    if (state === "ok" && faces.length) {
      panel.show({ bitmap, blob: open.blob, result });
      fill(side, panel.element, source);
      face = Math.min(face ?? mainFace(faces), faces.length - 1);
      viewer.select(face);
      panel.select(face);
    } else {
      fill(side, stateMessage(open, { words, settings: settings.get(), again: () => readAgain([open]) }), source);
    }
  }

  // ---------------------------------------------------------------- parts
  function createWelcome() {
    const zone = h(
      "div.drop",
      null,
      mark(palette, "mark drop-mark"),
      h("p.drop-title.needs-mouse", null, words.drop),
      h("p.soft.needs-mouse", null, pasteHint(words)),
      h("div.row", null, h("button.button.primary", { type: "button", onClick: choose }, icon("upload"), words.choose)),
      createWhereLine(settings, words),
    );
    const sample = h(
      "button.sample",
      { type: "button", onClick: addSample },
      h("img", { src: SAMPLE.href, alt: "", width: 512, height: 512 }),
      h("span.sample-text", null, h("strong", null, words.sample), h("span.hint", null, words.sampleSource)),
    );
    return {
      focus: () => zone.querySelector("button").focus(),
      element: h(
        "div.welcome",
        null,
        h("div.welcome-head", null, h("h1", null, words.heading), h("p.lead", null, words.lead)),
        h("div.welcome-body", null, zone, sample),
        h("p.hint.formats", null, words.formats),
      ),
    };
  }

  function createCard(item) {
    const image = h("div.card-image");
    const caption = h("div.card-text");
    const opener = h("button.card-open", { type: "button", onClick: () => show(item) }, image, caption);
    const remover = h("button.button.quiet.round.card-remove", { type: "button", "aria-label": format(words.remove, { name: item.name }), onClick: () => remove(item) }, icon("close"));
    const element = h("li.card", null, opener, remover);
    const update = () => {
      const summary = summaryOf(item);
      opener.setAttribute("aria-label", format(words.open, { name: item.name, status: summary }));
      element.dataset.state = item.state;
      fill(image, item.thumb ? h("img", { src: item.thumb, alt: "", loading: "lazy", decoding: "async", style: item.focus }) : icon(item.state === "unreadable" || item.state === "error" ? "warn" : "picture"));
      fill(caption, h("span.card-name.hint", { title: item.name }, item.name), cardStatus(item, palette, words));
    };
    update();
    return { element, update, focus: () => opener.focus() };
  }

  /** Menu to save the results shown; null if there are none. */
  function downloads() {
    const shown = () => (open ? [open] : items).filter(({ result }) => result);
    const pictures = () => shown().filter(({ result }) => result.status === "ok");
    const results = () => shown().map(({ result }) => result);
    if (!shown().length) return null;
    const texts = strings.download;
    const stem = open ? open.name.replace(/\.[^.]*$/, "") : "mien";
    const picture = open
      ? { label: texts.png, hint: texts.pngHint, action: () => save(`${stem}.annotated.png`, () => png(open)) }
      : { label: texts.pngAll, hint: texts.pngAllHint, action: () => save("mien-pictures.zip", () => archive(pictures())) };
    const entries = [
      pictures().length > 0 && { ...picture, iconName: "picture" },
      { label: texts.json, hint: texts.jsonHint, iconName: "code", action: () => save(`${stem}.json`, () => jsonBlob(open ? results()[0] : results())) },
      { label: texts.csv, hint: texts.csvHint, iconName: "table", action: () => save(`${stem}.csv`, () => csvBlob(results())) },
    ];
    const menu = createMenu({ label: open ? texts.open : texts.openAll, iconName: "download", items: entries.filter(Boolean) });
    menu.querySelector("button").dataset.key = "download";
    return menu;
  }

  async function save(name, make) {
    try {
      const [{ download }, content] = await Promise.all([import("../components/download.js"), make()]);
      download(name, content, content.type);
      announce(format(strings.download.saved, { name }));
    } catch (error) {
      notify("error", format(strings.download.failed, { name, error: error.message }));
    }
  }

  async function png(item) {
    const picture = await createImageBitmap(item.blob);
    try {
      return await annotatedPng(picture, item.result.faces, { palette, charts: settings.get().charts });
    } finally {
      picture.close();
    }
  }

  async function archive(pictures) {
    const files = [];
    for (const item of pictures) {
      announce(format(strings.download.preparing, { done: files.length + 1, total: pictures.length }));
      files.push({ name: `${item.name.replace(/\.[^.]*$/, "")}.annotated.png`, blob: await png(item) });
    }
    return zip(files);
  }

  function onKey(event) {
    if (event.key !== "Escape" || !open || items.length < 2 || event.defaultPrevented) return;
    const { card } = open;
    show(null);
    card.focus();
  }

  return {
    id: "picture",
    title: words.title,
    element,
    show: () => (visible = true),
    hide: () => (visible = false),
  };

  function summaryOf(item) {
    return item.state === "ok" ? resultSummary(item.result) : words.status[item.state];
  }
}

// ---------------------------------------------------------------- states and results
/** Key of the settings that determine a result. */
function readerKey(settings) {
  return settings.side === "server" ? settings.side : `${engineKey(settings)} ${settings.minFace}`;
}

function facesOf(items) {
  return items.reduce((sum, { result }) => sum + (result?.faces.length ?? 0), 0);
}

/** CSS that crops a thumbnail to 4:3 with all faces visible, or shows it uncropped if they do not fit. */
function focusOf({ faces, width, height }) {
  if (!faces.length) return {};
  const [left, top] = [Math.min(...faces.map(({ box }) => box.x)), Math.min(...faces.map(({ box }) => box.y))];
  const [right, bottom] = [Math.max(...faces.map(({ box }) => box.x + box.w)), Math.max(...faces.map(({ box }) => box.y + box.h))];
  const [w, h] = width / height > 4 / 3 ? [(height * 4) / 3, height] : [width, (width * 3) / 4];
  if (right - left > w || bottom - top > h) return { "object-fit": "contain", "object-position": "center" };
  const position = (centre, visible, total) => (total - visible < 1 ? 50 : (100 * Math.min(Math.max(centre - visible / 2, 0), total - visible)) / (total - visible));
  return { "object-position": `${position((left + right) / 2, w, width)}% ${position((top + bottom) / 2, h, height)}%` };
}

/** Index of the largest face. */
function mainFace(faces) {
  const areas = faces.map(({ box }) => box.w * box.h);
  return areas.indexOf(Math.max(...areas));
}

function pasteHint(words) {
  const mac = /Mac|iPhone|iPad/.test(navigator.userAgent);
  const [before, after] = words.paste.split("{key}");
  return [before, h("kbd", null, mac ? "⌘ V" : "Ctrl V"), after];
}

function cardStatus(item, palette, words) {
  const { state, result } = item;
  if (state !== "ok") {
    const kind = { unreadable: "error", error: "error", no_face: "warn", busy: "warn", offline: "warn" }[state] ?? "";
    return h("span.chip", { class: kind }, words.status[state]);
  }
  const [first] = result.faces;
  const dot = (face) => h("span.dot", { style: { "--color": colourOf(palette, face.emotion, Object.keys(face.scores)) } });
  if (result.faces.length === 1) return h("span.card-reading.row", null, dot(first), readingText(first));
  const emotions = [...new Map(result.faces.map((face) => [face.emotion, face])).values()];
  return h("span.card-reading.row", null, h("span", null, counted(words.faces, result.faces.length)), emotions.map(dot), h("span.visually-hidden", null, emotions.map(({ emotion }) => emotionName(emotion)).join(", ")));
}

/** Message for a picture without faces. */
function stateMessage(item, { words, settings, again }) {
  const { state, result } = item;
  const retry = (primary = false) => h("div.row", null, h("button.button", { type: "button", class: primary ? "primary" : "", onClick: again }, words.readAgain));
  const reported = result?.error && h("p.small", null, format(words.reported, { error: result.error }));
  if (state === "no_face") {
    return h("div.message", null, icon("info"), h("h2", null, words.noFaceTitle), h("ul", null, words.noFace.map((text) => h("li", null, text))));
  }
  if (state === "unreadable") {
    const large = result?.code === "too_large" || /too large|too many pixels|megapixel/i.test(result?.error ?? "");
    const text = large ? words.large : settings.side === "server" ? words.unreadableServer : words.unreadable;
    return h("div.message.error", { role: "alert" }, icon("warn"), h("h2", null, large ? words.largeTitle : words.unreadableTitle), h("p", null, text), reported);
  }
  if (state === "error") return h("div.message.error", { role: "alert" }, icon("warn"), h("h2", null, words.errorTitle), reported, retry(true));
  if (state === "cancelled") return h("div.message", null, icon("stop"), h("h2", null, words.cancelledTitle), retry(true));
  if (state === "busy" || state === "offline") {
    const text = words[`${state}Text`];
    return h("div.message.warn", { role: "status" }, icon(state === "busy" ? "wait" : "offline"), h("h2", null, words.status[state]), h("p", null, text));
  }
  const waiting = state === "waiting";
  return h("div.working", { role: "status" }, h("p", null, words.status[state]), !waiting && h("div.progress.unknown", null, h("span")));
}

// ---------------------------------------------------------------- files
function jsonBlob(content) {
  return new Blob([JSON.stringify(content, null, 2), "\n"], { type: "application/json" });
}

async function csvBlob(results) {
  const { toCsv } = await import("../../mien-web/analysis/index.js");
  return new Blob([toCsv(results)], { type: "text/csv" });
}
