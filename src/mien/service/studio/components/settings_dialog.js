/** Settings dialog; changes apply immediately. */

import { HOST } from "../engine.js";
import { MIN_FACE } from "../settings.js";
import { format, strings } from "../strings.js";
import { openDialog } from "./dialog.js";
import { h, newId } from "./dom.js";

/** Download size of each model. */
const MEGABYTES = { "mien-nano": 1.7, "mien-b0": 19.4 };

/** @param {ReturnType<import("../settings.js").createSettings>} settings */
export function openSettings(settings) {
  const words = strings.settings;
  const fixed = h("p.hint", null, words.serverFixed);
  const browserFields = h("div.stack", null, modelChoices(settings), readingChoices(settings), minFaceField(settings));
  const showSide = () => {
    const onServer = settings.get().side === "server";
    fixed.hidden = !onServer;
    browserFields.hidden = onServer;
  };
  showSide();
  const unsubscribe = settings.subscribe(showSide);
  openDialog({
    title: words.title,
    content: h(
      "div.stack.settings",
      null,
      choices(settings, "side", words.side, [
        { value: "browser", label: strings.side.browser, hint: words.sideBrowser },
        { value: "server", label: strings.side.server, hint: format(words.sideServer, { host: HOST }) },
      ]),
      fixed,
      browserFields,
      chartsField(settings),
      h("p.hint", null, words.kept),
    ),
    onClose: unsubscribe,
  });
}

function modelChoices(settings) {
  const words = strings.settings;
  const options = Object.entries(words.models).map(([value, text]) => {
    const size = format(words.megabytes, { size: MEGABYTES[value] });
    return { value, label: value, hint: format(text, { size }) };
  });
  return choices(settings, "model", words.model, options);
}

function readingChoices(settings) {
  const words = strings.settings;
  return choices(settings, "labels", words.labels, [
    { value: "people", label: words.labelsPeople, hint: words.labelsPeopleHint },
    { value: "fer2013", label: words.labelsFer2013, hint: words.labelsFer2013Hint },
  ]);
}

function choices(settings, name, legend, options) {
  const group = newId(name);
  return h(
    "fieldset",
    null,
    h("legend.legend", null, legend),
    h(
      "div.choices",
      null,
      options.map(({ value, label, hint }) =>
        h(
          "label.choice",
          null,
          h("input", { type: "radio", name: group, value, checked: settings.get()[name] === value, onChange: () => settings.set({ [name]: value }) }),
          h("span", null, label),
          h("span.hint", null, hint),
        ),
      ),
    ),
  );
}

function minFaceField(settings) {
  const words = strings.settings;
  const id = newId("min-face");
  const input = h("input.input.short", {
    id,
    type: "number",
    inputMode: "numeric",
    min: MIN_FACE.min,
    max: MIN_FACE.max,
    step: 1,
    value: settings.get().minFace,
    "aria-describedby": `${id}-hint`,
    onChange: () => {
      if (input.checkValidity()) settings.set({ minFace: input.valueAsNumber });
      else input.value = settings.get().minFace;
    },
  });
  return h("div.field", null, h("label", { htmlFor: id }, words.minFace), input, h("p.hint", { id: `${id}-hint` }, format(words.minFaceHint, { least: MIN_FACE.min, most: MIN_FACE.max })));
}

function chartsField(settings) {
  return h(
    "label.choice",
    null,
    h("input", { type: "checkbox", checked: settings.get().charts, onChange: ({ target }) => settings.set({ charts: target.checked }) }),
    h("span", null, strings.settings.charts),
  );
}
