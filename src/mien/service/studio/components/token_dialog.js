/** Asks for the token of a server that wants one; whoever asks keeps it in memory only. */

import { HOST } from "../engine.js";
import { format, strings } from "../strings.js";
import { openDialog } from "./dialog.js";
import { h, newId } from "./dom.js";

let asking = null;

/**
 * @param {boolean} wrong whether a token was refused just now
 * @returns {Promise<string|null>} the token, or null
 */
export function askToken(wrong) {
  asking ??= ask(wrong).finally(() => (asking = null)); // many pictures ask at once
  return asking;
}

function ask(wrong) {
  const words = strings.token;
  const id = newId("token");
  return new Promise((resolve) => {
    let given = null;
    const input = h("input.input", { id, type: "password", autocomplete: "off", required: true, spellcheck: false });
    const form = h(
      "form.stack",
      {
        onSubmit: (event) => {
          event.preventDefault();
          given = input.value.trim() || null;
          dialog.close();
        },
      },
      h("p", null, format(words.text, { host: HOST })),
      wrong && h("p.chip.error", { role: "alert" }, words.wrong),
      h("div.field", null, h("label", { htmlFor: id }, words.label), input),
      h(
        "div.row",
        null,
        h("button.button.primary", { type: "submit" }, words.use),
        h("button.button.quiet", { type: "button", onClick: () => dialog.close() }, words.cancel),
      ),
    );
    const dialog = openDialog({ title: words.title, content: form, onClose: () => resolve(given) });
    input.focus();
  });
}
