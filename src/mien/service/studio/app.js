/** Application shell: header, tabs, engine, status line. Views are loaded on demand from views/. */

import { PALETTE } from "../mien-web/index.js";
import { openAbout } from "./components/about.js";
import { fill, h } from "./components/dom.js";
import { icon, iconButton, mark } from "./components/icons.js";
import { createNotices } from "./components/notices.js";
import { openSettings } from "./components/settings_dialog.js";
import { askToken } from "./components/token_dialog.js";
import { EngineError, HOST, createEngine, engineKey } from "./engine.js";
import { createSettings } from "./settings.js";
import { LANGUAGE, counted, format, percent, strings } from "./strings.js";

const VIEWS = ["picture", "webcam", "video", "compare"];
const THEMES = { system: { next: "light", icon: "system" }, light: { next: "dark", icon: "sun" }, dark: { next: "system", icon: "moon" } };

const settings = createSettings();
const notices = createNotices();
const readyCallbacks = new Set();

/** Context passed to every view. */
const context = {
  engine,
  settings,
  strings,
  palette: PALETTE,
  host: HOST,
  announce: notices.announce,
  notify: notices.notify,
  openAbout,
  openSettings: () => openSettings(settings),
  /** Call back whenever an engine has started; returns a function that unsubscribes. */
  onReady(callback) {
    readyCallbacks.add(callback);
    return () => readyCallbacks.delete(callback);
  },
};

// ---------------------------------------------------------------- the engine
let current = null; // {key, promise, engine?}

/** The engine for the current settings; started if necessary. */
function engine() {
  const { side, model, labels } = settings.get();
  const key = engineKey({ side, model, labels });
  if (current?.key === key) return current.promise;
  closeEngine();
  const entry = { key };
  current = entry;
  entry.promise = createEngine({ side, model, labels, onState: (state) => entry === current && onEngineState(entry, state), askToken });
  entry.promise.then(
    (started) => {
      entry.engine = started;
      if (entry !== current) return;
      showState({ phase: "ready" });
      for (const callback of readyCallbacks) callback(started);
    },
    (error) => {
      if (entry !== current) return;
      current = null; // so that the next call tries again
      showFailure(error);
    },
  );
  return entry.promise;
}

function onEngineState(entry, state) {
  if (state.phase !== "ready" || entry.engine) showState(state);
}

function closeEngine() {
  current?.promise.then(
    (old) => old.close(),
    () => {},
  );
  current = null;
}

function startEngine() {
  failure.hidden = true;
  engine().catch(() => {}); // shown by showFailure
}

// ---------------------------------------------------------------- status line
const stateDot = h("span.dot");
const stateText = h("span");
const stateLine = h("div.state", { data: { phase: "loading" } }, stateDot, stateText);
const headProgress = h("div.progress.head-progress", { hidden: true }, h("span"));
const failure = h("div.failure", { hidden: true });

function showState({ phase, share = null, seconds = 0 }) {
  if (phase === "ready") failure.hidden = true;
  stateLine.dataset.phase = phase;
  stateText.textContent = stateMessage(phase, share, seconds);
  headProgress.hidden = phase !== "loading";
  headProgress.classList.toggle("unknown", share === null);
  headProgress.style.setProperty("--share", share ?? 0);
}

function stateMessage(phase, share, seconds) {
  const { side, model } = settings.get();
  const words = strings.state;
  const running = current?.engine;
  if (phase === "loading" && side === "server") return words.starting;
  if (phase === "loading" && share >= 1) return format(words.warming, { model });
  if (phase === "loading") return share === null ? format(words.loading, { model }) : format(words.loadingShare, { model, percent: percent(share) });
  if (phase === "busy") return format(words.busy, { seconds: Math.ceil(seconds) });
  if (phase === "offline") return side === "server" ? words.offlineServer : words.offline;
  if (phase === "failed") return format(words.failed, { action: strings.failure.short });
  const values = {
    model: running?.model?.name ?? "",
    version: running?.model?.version ?? "",
    reading: strings.readings[running?.labels] ?? "",
    side: strings.side[side].replace(/^./, (first) => first.toLowerCase()),
  };
  const line = format(values.reading ? words.ready : words.readyPlain, values);
  return running?.threads > 1 ? `${line} · ${counted(words.threads, running.threads)}` : line;
}

function showFailure(error) {
  showState({ phase: "failed" });
  const { side, model } = settings.get();
  const words = strings.failure;
  const kind = error instanceof EngineError && error.kind in words ? error.kind : side === "server" ? "server" : "model";
  const isToken = error instanceof EngineError && error.kind === "token";
  const other = side === "server" ? "browser" : "server";
  fill(
    failure,
    h(
      "div.message.error",
      { role: "alert" },
      icon("warn"),
      h("h2", null, isToken ? strings.token.title : words.title),
      h("p", null, isToken ? format(strings.token.text, { host: HOST }) : format(words[kind], { model, host: HOST })),
      !isToken && kind !== "wasm" && h("p.hint", null, format(words.detail, { error: error.message })),
      h(
        "div.row",
        null,
        kind !== "wasm" && h("button.button.primary", { type: "button", onClick: startEngine }, words.retry),
        h("button.button", { type: "button", onClick: () => settings.set({ side: other }) }, other === "server" ? words.useServer : words.useBrowser),
      ),
    ),
  );
  failure.hidden = false;
}

// ---------------------------------------------------------------- header and footer
const themeButton = h("button.button.quiet.round", { type: "button", onClick: () => settings.set({ theme: THEMES[settings.get().theme].next }) });
const sideIcon = h("span.row");
const sideButton = h("button.button.quiet.side-pill", { type: "button", onClick: context.openSettings }, sideIcon);
const sent = h("aside.sent", { hidden: true, "aria-label": strings.settings.side });
const systemDark = matchMedia("(prefers-color-scheme: dark)");

function showTheme() {
  const { theme } = settings.get();
  const dark = theme === "dark" || (theme === "system" && systemDark.matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  fill(themeButton, icon(THEMES[theme].icon));
  const label = format(strings.theme.label, { name: strings.theme[theme], next: strings.theme[THEMES[theme].next] });
  themeButton.setAttribute("aria-label", label);
  themeButton.title = label;
}

function showSide() {
  const { side } = settings.get();
  fill(sideIcon, icon(side === "server" ? "server" : "lock"), h("span.side-text", null, strings.side[side]));
  sideButton.setAttribute("aria-label", format(strings.side.pill, { side: strings.side[side] }));
  sent.hidden = side !== "server";
  fill(
    sent,
    h(
      "div.row",
      null,
      h("p", null, format(strings.side.sent, { host: HOST })),
      h("button.button.quiet", { type: "button", onClick: () => settings.set({ side: "browser" }) }, strings.side.back),
    ),
  );
}

function header() {
  return h(
    "header.head",
    null,
    h(
      "div.head-inner.row",
      null,
      h("a.brand", { href: "#picture" }, mark(PALETTE), h("span", null, "mien")),
      h("div.tabs", { role: "tablist", "aria-label": strings.tabs.label, onKeydown: onTabKey }, VIEWS.map((id) => tabs[id])),
      h(
        "div.head-actions",
        null,
        sideButton,
        themeButton,
        iconButton("sliders", strings.settings.open, context.openSettings),
        iconButton("question", strings.about.open, openAbout),
      ),
    ),
    headProgress,
  );
}

function footer() {
  return h(
    "footer.foot.hint",
    null,
    h(
      "div.foot-inner.row",
      null,
      stateLine,
      h("div.row", null, h("span", null, strings.about.line), h("button.link", { type: "button", onClick: openAbout }, strings.about.open)),
    ),
  );
}

// ---------------------------------------------------------------- tabs and views
const tabs = Object.fromEntries(
  VIEWS.map((id) => [
    id,
    h("button.tab", { type: "button", role: "tab", id: `tab-${id}`, "aria-controls": `view-${id}`, onClick: () => go(id) }, icon(id), h("span", null, strings.tabs[id])),
  ]),
);
const panels = Object.fromEntries(
  VIEWS.map((id) => [id, h("section.view.stack", { role: "tabpanel", id: `view-${id}`, "aria-labelledby": `tab-${id}`, hidden: true })]),
);
const views = {}; // id → promise, of the views visited so far
let shown = null; // id

function go(id) {
  location.hash = id;
  showView();
}

function onTabKey(event) {
  const index = VIEWS.indexOf(shown);
  const target = { ArrowRight: (index + 1) % VIEWS.length, ArrowLeft: index - 1, Home: 0, End: -1 }[event.key];
  if (target === undefined) return;
  event.preventDefault();
  const id = VIEWS.at(target);
  go(id);
  tabs[id].focus();
}

async function showView() {
  const requested = location.hash.slice(1);
  const id = VIEWS.includes(requested) ? requested : VIEWS[0];
  if (id === shown) return;
  const previous = shown;
  const hadFocus = panels[previous]?.contains(document.activeElement);
  shown = id;
  for (const name of VIEWS) {
    tabs[name].setAttribute("aria-selected", String(name === id));
    tabs[name].tabIndex = name === id ? 0 : -1;
    panels[name].hidden = name !== id;
  }
  if (hadFocus) tabs[id].focus({ preventScroll: true }); // after a link in a view, or history navigation
  document.title = id === VIEWS[0] ? strings.title : `${strings.tabs[id]} · ${strings.title}`;
  if (previous) views[previous]?.then((view) => view?.hide());
  views[id] ??= loadView(id);
  const view = await views[id];
  if (shown === id) view?.show();
}

async function loadView(id) {
  try {
    const { createView } = await import(`./views/${id}.js`);
    const view = createView(context);
    fill(panels[id], view.element);
    return view;
  } catch (error) {
    delete views[id];
    console.error(error);
    fill(panels[id], h("div.message.error", { role: "alert" }, icon("warn"), h("p", null, strings.failure.view)));
    return null;
  }
}

// ---------------------------------------------------------------- start
function start() {
  document.documentElement.lang = LANGUAGE;
  document.title = strings.title;
  fill(
    document.body,
    h("a.button.skip", { href: "#main", onClick: (event) => (event.preventDefault(), main.focus()) }, strings.skip),
    header(),
    sent,
    main,
    footer(),
    notices.element,
  );
  showTheme();
  showSide();
  systemDark.addEventListener("change", showTheme);
  settings.subscribe((_, changed) => {
    if (changed.includes("theme")) showTheme();
    if (changed.includes("side")) showSide();
    if (["side", "model", "labels"].some((name) => changed.includes(name))) startEngine();
  });
  for (const name of ["dragover", "drop"]) addEventListener(name, (event) => event.preventDefault()); // a dropped file must not replace the page
  addEventListener("hashchange", showView);
  addEventListener("offline", () => current?.engine && showState({ phase: "offline" }));
  addEventListener("online", () => current?.engine && showState({ phase: "ready" }));
  showView();
  startEngine();
  navigator.serviceWorker?.register(new URL("../sw.js", import.meta.url), { scope: new URL("../", import.meta.url).pathname }).catch(() => {});
}

const main = h("main.main", { id: "main", tabIndex: -1 }, failure, VIEWS.map((id) => panels[id]));
start();
