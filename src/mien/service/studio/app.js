/** The page: header, tabs, settings, the line on what reads; the views are modules of their own. */

import { PALETTE } from "../mien-web/index.js";
import { openAbout } from "./components/about.js";
import { fill, h } from "./components/dom.js";
import { icon, mark } from "./components/icons.js";
import { createNotices } from "./components/notices.js";
import { openSettings } from "./components/settings_dialog.js";
import { askToken } from "./components/token_dialog.js";
import { EngineError, HOST, createEngine, engineOf } from "./engine.js";
import { createSettings } from "./settings.js";
import { LANGUAGE, counted, format, percent, strings } from "./strings.js";

const VIEWS = ["picture", "webcam", "video", "compare"];
const THEMES = { system: { next: "light", icon: "system" }, light: { next: "dark", icon: "sun" }, dark: { next: "system", icon: "moon" } };

const settings = createSettings();
const notices = createNotices();
const readers = new Set(); // callbacks of views that wait for an engine

/** What every view is given. */
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
  /** Call back whenever an engine has started; returns what ends that. */
  onReady(callback) {
    readers.add(callback);
    return () => readers.delete(callback);
  },
};

// ---------------------------------------------------------------- the engine
let current = null; // {key, promise}

/** The engine that the settings ask for; starts it where it does not run. */
function engine() {
  const { side, model, labels } = settings.get();
  const key = engineOf({ side, model, labels });
  if (current?.key === key) return current.promise;
  closeEngine();
  const mine = { key };
  current = mine;
  mine.promise = createEngine({ side, model, labels, onState: (state) => mine === current && onEngine(mine, state), askToken });
  mine.promise.then(
    (started) => {
      mine.engine = started;
      if (mine !== current) return;
      showState({ phase: "ready" });
      for (const callback of readers) callback(started);
    },
    (error) => {
      if (mine !== current) return;
      current = null; // the next one who asks tries again
      showFailure(error);
    },
  );
  return mine.promise;
}

function onEngine(mine, state) {
  if (state.phase !== "ready" || mine.engine) showState(state);
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
  engine().catch(() => {}); // shown where it fails
}

// ---------------------------------------------------------------- the line on what reads
const stateDot = h("span.dot");
const stateText = h("span");
const stateLine = h("div.state", { data: { phase: "loading" } }, stateDot, stateText);
const headProgress = h("div.progress.head-progress", { hidden: true }, h("span"));
const failure = h("div.failure", { hidden: true });

function showState({ phase, share = null, seconds = 0 }) {
  if (phase === "ready") failure.hidden = true;
  stateLine.dataset.phase = phase;
  stateText.textContent = stateWords(phase, share, seconds);
  headProgress.hidden = phase !== "loading";
  headProgress.classList.toggle("unknown", share === null);
  headProgress.style.setProperty("--share", share ?? 0);
}

function stateWords(phase, share, seconds) {
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
      !isToken && kind !== "wasm" && h("p.small.soft", null, format(words.detail, { error: error.message })),
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
      "div",
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
      "div.head-inner",
      null,
      h("a.brand", { href: "#picture" }, mark(PALETTE), h("span", null, "mien")),
      h("div.tabs", { role: "tablist", "aria-label": strings.tabs.label, onKeydown: onTabKey }, VIEWS.map((id) => tabs[id])),
      h(
        "div.head-actions",
        null,
        sideButton,
        themeButton,
        roundButton("sliders", strings.settings.open, context.openSettings),
        roundButton("question", strings.about.open, openAbout),
      ),
    ),
    headProgress,
  );
}

function roundButton(name, label, onClick) {
  return h("button.button.quiet.round", { type: "button", "aria-label": label, title: label, onClick }, icon(name));
}

function footer() {
  return h(
    "footer.foot",
    null,
    h(
      "div.foot-inner",
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
  VIEWS.map((id) => [id, h("section.view", { role: "tabpanel", id: `view-${id}`, "aria-labelledby": `tab-${id}`, hidden: true })]),
);
const views = {}; // promises of those that were visited
let shown = null;

function go(id) {
  location.hash = id;
  showView();
}

function onTabKey(event) {
  const at = VIEWS.indexOf(shown);
  const to = { ArrowRight: (at + 1) % VIEWS.length, ArrowLeft: at - 1, Home: 0, End: -1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  const id = VIEWS.at(to);
  go(id);
  tabs[id].focus();
}

async function showView() {
  const asked = location.hash.slice(1);
  const id = VIEWS.includes(asked) ? asked : VIEWS[0];
  if (id === shown) return;
  const before = shown;
  const hadFocus = panels[before]?.contains(document.activeElement);
  shown = id;
  for (const each of VIEWS) {
    tabs[each].setAttribute("aria-selected", String(each === id));
    tabs[each].tabIndex = each === id ? 0 : -1;
    panels[each].hidden = each !== id;
  }
  if (hadFocus) tabs[id].focus({ preventScroll: true }); // a link in a view, or the way back
  document.title = id === VIEWS[0] ? strings.title : `${strings.tabs[id]} · ${strings.title}`;
  if (before) views[before]?.then((view) => view?.hide());
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
  for (const name of ["dragover", "drop"]) addEventListener(name, (event) => event.preventDefault()); // no file replaces the page
  addEventListener("hashchange", showView);
  addEventListener("offline", () => current?.engine && showState({ phase: "offline" }));
  addEventListener("online", () => current?.engine && showState({ phase: "ready" }));
  showView();
  startEngine();
  navigator.serviceWorker?.register(new URL("../sw.js", import.meta.url), { scope: new URL("../", import.meta.url).pathname }).catch(() => {});
}

const main = h("main.main", { id: "main", tabIndex: -1 }, failure, VIEWS.map((id) => panels[id]));
start();
